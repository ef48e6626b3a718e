"""What is told to whoever asks: the headers of every answer, and what workers tell of their settings.

Imports nothing of Django: Flower has none of our settings.
"""

from collections.abc import Mapping
from typing import Any

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
    " connect-src 'self'; form-action 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""For every page that has no stricter one: our own files only, nothing inline. `data:` is for icons in style sheets."""

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every answer that does not say otherwise: connect pages have a stricter policy and tell no referrer, and files are
kept by browsers."""


# --- workers' settings ------------------------------------------------------------------------------------------------

# What workers answer to whoever asks over the broker: Flower, or `celery inspect`. Celery would answer with all of
# them, Django's too, and hide those whose name it takes for a secret's. Broker URLs hold a password, and apps at
# vendors a client secret, under names that it does not take so.

SHOWN_SETTINGS = (
    "broker_connection_retry_on_startup",
    "broker_pool_limit",
    "task_acks_late",
    "task_ignore_result",
    "task_publish_retry",
    "timezone",
    "worker_concurrency",
    "worker_prefetch_multiplier",
    "worker_send_task_events",
)
SHOWN_OF_BROKER = ("transport", "hostname", "port", "virtual_host")


def show_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that may be shown, of Celery's settings by their names."""
    return {name: settings[name] for name in SHOWN_SETTINGS if name in settings}


def install() -> None:
    """Put it in the place of Celery's own answers; in each worker, before it takes commands."""
    from celery.worker.control import Panel, inspect_command  # heavy, and publishers need none of it

    @inspect_command(name="conf", alias="dump_conf")  # type: ignore[untyped-decorator]  # Celery has no types
    def _conf(state: Any, **kwargs: Any) -> dict[str, Any]:
        return show_settings(state.app.conf)

    Panel.data.pop("report", None)  # which shows the settings too
