"""`manage.py sweep`: the sweeper, a service of its own."""

import logging
import signal
import threading
import time
from argparse import ArgumentParser
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from delivery.apps import warm_up
from delivery.dispatch import sweep
from delivery.dispatch.sessions import DIRECT
from workspaces import installation

logger = logging.getLogger(__name__)

STOP_SECONDS = 30.0
"""The longest that sweeps are waited for at the end. One that is ended in the middle is rolled back."""


class Command(BaseCommand):
    help = "Run the sweeps that guarantee delivery, until SIGTERM. Safe to run several times over."

    def add_arguments(self, parser: ArgumentParser) -> None:
        only = parser.add_mutually_exclusive_group()
        only.add_argument("--once", action="store_true", help="run every sweep once, show what it moved, and end")
        only.add_argument("--check", action="store_true", help="show when each sweep last succeeded; 1 if one is late")

    def handle(self, *args: Any, once: bool, check: bool, **options: Any) -> None:
        if check:
            self._check()
            return
        if settings.MESHES_DIRECT_DATABASE_URL != settings.DATABASE_URL:  # sweeps hold locks for as long as they run
            connections.settings["default"] = connections.settings[DIRECT]
        with connections["default"].cursor() as cursor:
            installation.hold_if_moved(cursor)
        if once:
            for each in sweep.sweeps():
                moved = sweep.run_once(each)
                if moved is not None:
                    sweep.note_success(each.name)
                self.stdout.write(f"{each.name:<12} {'another sweeper is at it' if moved is None else moved}")
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
        logger.info("sweeping: %s", ", ".join(each.name for each in sweep.sweeps()))
        stopping.wait()
        ended = time.monotonic() + STOP_SECONDS
        for thread in threads:
            thread.join(timeout=max(0.0, ended - time.monotonic()))

    def _check(self) -> None:
        runs = sweep.last_runs()
        for run in runs:
            when = "never" if run.seconds_ago is None else f"{run.seconds_ago:.0f} s ago"
            self.stdout.write(f"{run.name:<12} {when}{'  late' if run.is_late else ''}")
        if any(run.is_late for run in runs):
            raise CommandError("A sweep is late: is the sweeper running?")
