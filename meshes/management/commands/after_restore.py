"""`manage.py after_restore`: what stands between a restored database and the first delivery that leaves it."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from delivery.dispatch import restoring
from delivery.dispatch.restoring import Applied, Question, State
from meshes.kit import clock, ids
from workspaces import installation
from workspaces.models import Installation
from workspaces.vault import access_log

DID = {
    "erased": "events erased",
    "workspace_deleted": "workspaces deleted",
    "connection_deleted": "connections deleted",
    "connection_disconnected": "connections disconnected",
    "key_revoked": "API keys revoked",
    "key_rotated": "API keys whose secret was replaced end when that was to end",
}


class Command(BaseCommand):
    help = (
        "After a restore: hold everything, apply what journals tell of, and list what is in question; then"
        " --release lets deliveries go out. Safe to run again. See docs/backup.md."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--release", action="store_true", help="let everything run again")
        parser.add_argument(
            "--journal", action="append", default=[], metavar="FILE",
            help="the journal of another host, beside MESHES_JOURNAL; may be repeated",
        )  # fmt: skip
        parser.add_argument(
            "--seal-heads", action="append", default=[], metavar="FILE",
            help="the MESHES_SEAL_HEADS of another host; may be repeated",
        )  # fmt: skip

    def handle(self, *args: Any, release: bool, journal: list[str], seal_heads: list[str], **options: Any) -> None:
        if release:
            self._release()
            return
        installation.hold()
        try:
            self._mark({*filter(None, [settings.MESHES_SEAL_HEADS]), *seal_heads})
            call_command("end_sessions", all=True, stdout=self.stdout)  # as some were ended since
            ended = restoring.end_what_was_running()
            applied = restoring.apply({*self._own_journal(), *journal})
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}. Everything is held; run it again.") from error
        self._tell_applied(applied, ended, bool(settings.MESHES_JOURNAL or journal))
        self._tell_state(restoring.read_state())
        if applied.busy:
            raise CommandError(f"Being sent or routed by a worker that runs: {', '.join(applied.busy)}. Stop it, and"
                               " run this again after a minute.")  # fmt: skip
        installation.note_check()
        self.stdout.write("\nEverything is held. To let it run: manage.py after_restore --release")

    def _release(self) -> None:
        if installation.release():
            self.stdout.write("Released: events are routed and deliveries go out.")
        elif installation.is_held():
            raise CommandError("Run after_restore without --release first: it applies and lists what is in question.")
        else:
            raise CommandError("Nothing is held.")

    def _own_journal(self) -> list[str]:
        path = settings.MESHES_JOURNAL
        if not path or Path(path).exists():
            return [path] if path else []
        words = f"{path} is not there: nothing was erased, deleted or revoked while it was set, or it is lost."
        self.stdout.write(self.style.WARNING(words))
        return []

    def _mark(self, heads: set[str]) -> None:
        """Once for each restore, before a new segment is sealed."""
        if Installation.objects.filter(checked_at=None).exists():
            tip = access_log.record_restore(heads, clock.database_now())
            self.stdout.write(f"The access log goes on after segment {tip.segment}.")

    def _tell_applied(self, applied: Applied, ended: int, has_journal: bool) -> None:
        self.stdout.write(f"Attempts that ran when the dump was made, and count as lost: {ended}")
        if not has_journal:
            self.stdout.write(self.style.WARNING(
                "No journal (MESHES_JOURNAL, --journal): what was erased, deleted and revoked since the dump is not"
                " known, and has to be done again by hand."
            ))  # fmt: skip
            return
        self.stdout.write(f"Entries of the journal: {applied.entries}. Done again, as this database did not know it:")
        for did, words in DID.items():
            self.stdout.write(f"  {applied.counts[did]:>6}  {words}")
        if applied.unreadable:
            self.stdout.write(self.style.WARNING(f"Lines of the journal that cannot be read: {applied.unreadable}"))

    def _tell_state(self, state: State) -> None:
        newest = state.newest_event_at.isoformat(timespec="seconds") if state.newest_event_at else "none"
        self.stdout.write(
            f"\nNewest event in the dump: {newest}. Those that were accepted later are lost: their senders have to post"
            " them again."
            f"\nEvents not routed yet: {state.unrouted}. They are routed after the release, by the rules of the dump."
        )
        open_ones = [each for each in state.questions if each.pending or each.held]
        total = sum(each.pending + each.held for each in open_ones)
        self.stdout.write(
            f"\nDeliveries that were open at the dump: {total}. They may have been delivered since, and go out (again)"
            " after the release, with the same webhook-id and body; connections that are held release theirs when they"
            " are resumed:"
        )
        for each in open_ones:
            counts = f"{each.pending} pending, {each.held} held, {each.attempted} of them tried before"
            self.stdout.write(f"  {_name(each)}: {counts}")
        self._tell_authorizations([each for each in state.questions if each.is_authorized])
        self.stdout.write(
            "\nAPI keys that are valid in the dump; those made or rotated since are gone, and what was revoked since is"
            f" valid unless a journal told of it: {state.live_workspace_keys} of workspaces, and of the account"
        )
        for key in state.live_account_keys:
            self.stdout.write(f"  {key}")

    def _tell_authorizations(self, authorized: list[Question]) -> None:
        now = clock.database_now()
        self.stdout.write(
            f"\nAuthorizations (OAuth): {len(authorized)}. A refresh since the dump may have spent the refresh token;"
            " such a connection needs to be authorized again when its vendor says so, and holds its deliveries:"
        )
        for each in authorized:
            is_over = each.expires_at is not None and each.expires_at <= now
            words = "its token has expired: it is refreshed at the first use" if is_over else "its token may be good"
            self.stdout.write(f"  {_name(each)}: {words}")


def _name(each: Question) -> str:
    workspace, public_id = ids.encode(ids.WORKSPACE, each.workspace_id), ids.encode(ids.CONNECTION, each.connection_id)
    return f"{public_id} {each.name} ({each.type}, {each.status}) of {workspace}"
