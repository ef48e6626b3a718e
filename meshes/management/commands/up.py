"""``manage.py up``: the whole stack on this machine, kept running until Ctrl-C."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from meshes.embedded import ServerStartError
from meshes.stack import Stack, StackError
from meshes.stack_folder import FolderInUseError, StackFolder, data_folder

TEND_SECONDS = 0.2


class Command(BaseCommand):
    help = "Run PostgreSQL, Valkey, web, workers, sweeper and Flower on this machine until Ctrl-C."
    requires_system_checks = []  # the services check themselves, once the servers run

    def handle(self, *args: Any, **options: Any) -> None:
        stack = self._stack()
        stop_on_signals()
        try:
            self._start(stack)
            self._show(stack)
            while True:
                stack.tend()
                time.sleep(TEND_SECONDS)
        except KeyboardInterrupt:
            self.stdout.write("Stopping: deliveries in flight may take up to 30 s. Ctrl-C again kills them.")
        except (FolderInUseError, StackError, ServerStartError) as error:
            raise CommandError(str(error)) from error
        except subprocess.CalledProcessError as error:
            raise CommandError(f"{' '.join(error.cmd)} failed. {error.stderr or ''}") from error
        finally:
            stack.stop()

    def _stack(self) -> Stack:
        port = os.environ.get("MESHES_PORT") or "8000"
        if not port.isdecimal() or int(port) > 65_535:
            raise CommandError(f"MESHES_PORT must be a port number, or 0 for any free one, not {port!r}.")
        folder = StackFolder(data_folder())
        return Stack(folder, os.environ, port=int(port), durable=True, report=self._report)

    def _start(self, stack: Stack) -> None:
        try:
            stack.start()
        except OSError as error:
            raise CommandError(f"{stack.folder.path} cannot be written: {error.strerror}.") from error

    def _report(self, sentence: str) -> None:
        with suppress(OSError):  # the output may be a file on the volume that is full, or nobody's any more
            self.stdout.write(f"{time.strftime('%H:%M:%S')}  {sentence}")
            self.stdout.flush()

    def _show(self, stack: Stack) -> None:
        folder = stack.folder.path
        lines = (
            "",
            "Meshes is ready.",
            f"  API       {stack.api_url}/api/v1",
            f"  API docs  {stack.api_url}/api/docs",
            f"  Admin     {stack.api_url}/admin/  (user admin)",
            f"  Flower    {stack.flower_url}  (user admin)",
            f"  Secrets   {folder / 'stack.json'}  (passwords, and an account key for the API)",
            f"  Logs      {folder / 'logs'}",
            "Ctrl-C stops it; the data stays.",
        )
        self.stdout.write("\n".join(lines))


def stop_on_signals() -> None:
    """SIGINT, SIGTERM and, unless ignored, SIGHUP raise KeyboardInterrupt, once."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means: outlive the terminal
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Only the first: the second ends this process at once, and the kernel then ends the children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt
