"""`manage.py sweep`: the sweeper, a service of its own."""

import signal
import threading
from argparse import ArgumentParser
from contextlib import suppress
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import connections

from delivery import sweep
from delivery.sessions import DIRECT
from delivery.warm import warm_up


class Command(BaseCommand):
    help = "Run the sweeps that guarantee delivery, until SIGTERM. Safe to run several times over."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="run every sweep once, show what it moved, and end")

    def handle(self, *args: Any, once: bool, **options: Any) -> None:
        if settings.MESHES_DIRECT_DATABASE_URL != settings.DATABASE_URL:  # sweeps hold locks for as long as they run
            connections.settings["default"] = connections.settings[DIRECT]
        if once:
            for each in sweep.sweeps():
                self.stdout.write(f"{each.name:<12} {sweep.run_once(each)}")
            return
        warm_up()
        stopping = threading.Event()

        def stop(signum: int, frame: FrameType | None) -> None:
            stopping.set()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        threads = [
            threading.Thread(target=sweep.run_until, args=(each, stopping), name=f"sweep-{each.name}", daemon=True)
            for each in sweep.sweeps()
        ]
        for thread in threads:
            thread.start()
        with suppress(OSError):  # the log's volume may be full: no reason not to sweep
            names = ", ".join(each.name for each in sweep.sweeps())
            self.stdout.write(f"{datetime.now(UTC):%H:%M:%S} sweeping: {names}")
            self.stdout.flush()
        stopping.wait()
        for thread in threads:
            thread.join(timeout=10)
