"""``manage.py up``: the whole stack on this machine, kept running until Ctrl-C."""

import os
import subprocess
import time
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from meshes.dev.children import stop_on_signals
from meshes.dev.embedded import ServerStartError
from meshes.dev.stack import Stack, StackError
from meshes.dev.stack_folder import NEW_KEYS, FolderInUseError, StackFolder
from meshes.environment import data_folder
from meshes.logs import hide

TEND_SECONDS = 0.2
PORT = 8000
DELIVERS = {
    True: "to public https addresses, and to any port of this machine but the stack's own (LOOPBACK=1)",
    False: "as MESHES_OUTBOUND_* says, by default to public https addresses only; make up LOOPBACK=1 adds this machine",
}


class Command(BaseCommand):
    help = "Run PostgreSQL, Valkey, web, workers, sweeper and Flower on this machine until Ctrl-C."
    requires_system_checks = []  # the services check themselves, once the servers run

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--loopback", action="store_true", help="deliver to this machine too, in this run")
        parser.add_argument("--only-database", action="store_true", help="PostgreSQL alone: for a restore")
        parser.add_argument(NEW_KEYS, action="store_true", help="give up stored credentials whose keys are lost")

    def handle(self, *args: Any, **options: Any) -> None:
        stack = self._stack(**{name: options[name] for name in ("loopback", "new_keys", "only_database")})
        stop_on_signals()
        try:
            self._start(stack)
            if stack.only_database:
                self._report("PostgreSQL is ready, and nothing else runs; Ctrl-C stops it.")
            else:
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

    def _stack(self, **chosen: bool) -> Stack:
        port, flower_port = _port("MESHES_PORT"), _port("MESHES_FLOWER_PORT")
        return Stack(
            StackFolder(data_folder()),
            os.environ,
            port=PORT if port is None else port,
            flower_port=flower_port,
            durable=True,
            report=self._report,
            **chosen,
        )

    def _start(self, stack: Stack) -> None:
        try:
            stack.start()
        except OSError as error:
            raise CommandError(f"{stack.folder.path} cannot be written: {error.strerror}.") from error

    def _report(self, sentence: str) -> None:
        with suppress(OSError):  # the output may be a file on the volume that is full, or nobody's any more
            self.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}  {hide(sentence)}")
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
            f"  Delivers  {DELIVERS[stack.loopback]}",
            "Ctrl-C stops it; the data stays.",
        )
        self.stdout.write("\n".join(lines))
        self.stdout.flush()


def _port(name: str) -> int | None:
    """A port that the environment chooses; None where it does not. Raises CommandError."""
    text = os.environ.get(name) or ""
    if text and not (text.isdecimal() and int(text) <= 65_535):
        raise CommandError(f"{name} must be a port number, or 0 for any free one, not {text!r}.")
    return int(text) if text else None
