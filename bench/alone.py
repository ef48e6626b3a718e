"""A measurement in this process, on a PostgreSQL and a Valkey of its own."""

import json
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshes.dev.embedded import EmbeddedServers

RESULTS = Path(__file__).parent / "results"


def run(name: str, measure: Callable[[], dict[str, Any]], **environment: str) -> None:
    """Measure on fresh servers; the figures are printed, and kept as `results/<name>.json`."""
    servers = EmbeddedServers()
    servers.start()
    try:
        os.environ.update(
            DATABASE_URL=servers.postgres.url, REDIS_URL=servers.valkey.url, DJANGO_SETTINGS_MODULE="meshes.settings",
            SECRET_KEY="bench", FERNET_KEYS=secrets.token_urlsafe(32), **environment,
        )  # fmt: skip
        set_up()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        figures = measure()
    finally:
        servers.stop()
    text = json.dumps(figures, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)


def set_up() -> None:
    """Django, for this process and this environment; only warnings are logged."""
    import django

    django.setup()
    logging.disable(logging.INFO)
