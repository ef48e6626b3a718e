"""What workers answer of their settings to whoever asks over the broker: Flower, or `celery inspect`.

Celery would answer with all of them, Django's too, and hide those whose name it takes for a secret's. Broker URLs hold
a password, and apps at vendors a client secret, under names that it does not take so.
"""

from collections.abc import Mapping
from typing import Any

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
