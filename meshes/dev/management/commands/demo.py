"""`manage.py demo`: the whole main job on servers of its own; exit code 0 only if every claim it prints held."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.status import Status

from meshes.dev.children import stop_on_signals
from meshes.dev.demo import copied, proof, second_proof, show
from meshes.dev.demo.act import Act
from meshes.dev.demo.client import Api
from meshes.dev.demo.receivers import Receivers
from meshes.dev.demo.second_act import SecondAct
from meshes.dev.demo.vendors import Vendors
from meshes.dev.embedded import ServerStartError
from meshes.dev.stack import Stack, StackError
from meshes.dev.stack_folder import StackFolder
from meshes.environment import data_folder

TEND_SECONDS = 0.1
PLAIN_WIDTH = 120
"""Columns where the output is no terminal, such as a log."""


class Command(BaseCommand):
    help = "Run the whole main job on servers of its own: events in, deliveries out, every claim checked."
    requires_system_checks = []  # the services check themselves, once the servers run

    def handle(self, *args: Any, **options: Any) -> None:
        self.console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        self.started = time.monotonic()
        folder = StackFolder(data_folder())
        stop_on_signals()
        vendors = Vendors(_environment())
        stack = Stack(folder, _environment() | vendors.settings, port=0, durable=False, report=self.say, loopback=True)
        try:
            self.say("PostgreSQL, Valkey and the services, on free ports and in a folder of their own")
            stack.start()
            held = self._play_beside(stack, vendors)
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None
        except (StackError, ServerStartError) as error:
            raise CommandError(str(error)) from error
        finally:
            self.say("Stopping everything")
            stack.stop()
            vendors.stop()
            shutil.rmtree(folder.path, ignore_errors=True)
        self.say(f"Done in {time.monotonic() - self.started:.0f} s")
        if not held:
            raise CommandError("A claim did not hold.")
        show.show_next(self.console)

    def say(self, sentence: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self.started:5.1f} s[/dim]  {sentence}", highlight=False)

    def _play_beside(self, stack: Stack, vendors: Vendors) -> bool:
        """Play in a thread while the main one, whose children the services are, tends them."""
        played: list[bool | BaseException] = []
        thread = threading.Thread(target=lambda: played.append(self._play(stack, vendors)), daemon=True)
        thread.start()
        while thread.is_alive():
            stack.tend()
            time.sleep(TEND_SECONDS)
        return bool(played and played[0] is True)

    def _play(self, stack: Stack, vendors: Vendors) -> bool:
        with Status("", console=self.console) as status:
            progress, api = _progress_to(status), Api(stack.api_url, stack.account_key)
            act = Act(api, self.say, progress)
            with Receivers(act.make_endpoints()) as receivers:
                act.set_up()
                act.post_in_turns()
                status.update("reckoning")
                rows, claims = self._reckon(act)
                rescue = act.mend_the_dead(receivers)
                second = SecondAct(api, vendors, self.say, progress, act.own_endpoints())
                second.play()
                copy = copied.play(second, stack.environment["DATABASE_URL"], stack.folder.logs)
                outlets = second_proof.rows(second)
                claims += second_proof.claims(second, outlets, copy)
        self._show(act, rows, rescue)
        self.console.print()
        show.show_outlets(self.console, outlets)
        calm, troubled, isolated = proof.isolation(act)
        show.show_isolation(self.console, calm, troubled)
        return show.show_claims(self.console, [*claims, isolated, *proof.rescue_claims(act, rescue)])

    def _reckon(self, act: Act) -> tuple[list[proof.Row], list[proof.Claim]]:
        rows = proof.table(act)
        return rows, proof.claims(act, rows)

    def _show(self, act: Act, rows: list[proof.Row], rescue: Any) -> None:
        self.console.print()
        show.show_table(self.console, rows)
        show.show_words(self.console)
        if rescue is not None:
            names = {each.connection: each.endpoint.name for each in act.destinations}
            event: Mapping[str, Any] = act.api.get(f"/events/{rescue.letter['event']}")
            self.console.print()
            show.show_timeline(self.console, event, names)


def _environment() -> dict[str, str]:
    """Of this process, less what would lead the demo to other servers or other limits."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "REDIS_URL"} and not name.startswith("MESHES_OUTBOUND")
    }


def _progress_to(status: Status) -> Any:
    """Progress on a terminal as one living line, elsewhere as a line now and then."""
    last = [0.0]

    def progress(what: str, done: int, of: int) -> None:
        status.update(f"{what}: {done} of {of}")
        if not status.console.is_terminal and (done >= of or time.monotonic() - last[0] > 2):
            last[0] = time.monotonic()
            status.console.print(f"          {what}: {done} of {of}", highlight=False)

    return progress
