"""`manage.py rotate_encryption_keys`: seal every stored secret with the newest of `FERNET_KEYS`."""

import uuid
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from meshes.console.signin import factors
from workspaces.vault import sealing, stored_keys

MOST_NAMED = 1_000
ACTOR = "manage.py rotate_encryption_keys"


class Command(BaseCommand):
    help = (
        "Seals every stored secret with the newest of FERNET_KEYS, in the format of MESHES_SEALING. Safe while"
        " deliveries run, and to stop and run again: what is done is done. All processes must know the new key first;"
        " see docs/vault.md."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--batch-size", type=int, default=200, help="documents of one transaction (default: 200)")
        parser.add_argument(
            "--give-up",
            metavar="KEY_ID",
            help="a key that is lost for good, as /readyz names it: empty what it sealed, so that its owners can enter"
            " their credentials anew; nothing else is done",
        )
        parser.add_argument("--dry-run", action="store_true", help="count only, change nothing")

    def handle(self, *args: Any, batch_size: int, dry_run: bool, give_up: str | None, **options: Any) -> None:
        if give_up:
            self._give_up(give_up)
            return
        if batch_size < 1:
            raise CommandError("--batch-size must be at least 1")
        waiting = stored_keys.count_to_reseal()
        operators = factors.to_reseal().count()
        words = f"newest key: {sealing.newest_key_id()}; format: {settings.MESHES_SEALING}"
        self.stdout.write(f"{words}; to re-seal: {waiting + operators}")
        if dry_run:
            for key_id, count in sorted(stored_keys.count_by_key().items()):
                self.stdout.write(f"  key {key_id}: {count}")
            if operators:
                self.stdout.write(f"  second factors of operators to re-seal: {operators}")
            return
        names = [f"the second factor of {user}" for user in factors.reseal_secrets()]
        unreadable = self._reseal_all(waiting, batch_size)
        names += stored_keys.name_owners(unreadable[:MOST_NAMED])
        for name in names:
            self.stdout.write(self.style.ERROR(f"does not open: {name}"))
        if number := len(names) + len(unreadable[MOST_NAMED:]):
            more = f", of which {len(names)} are named" if number > len(names) else ""
            raise CommandError(f"{number} documents open with none of the keys and were left{more}.")
        self.stdout.write(self.style.SUCCESS("Every document is sealed with the newest key."))

    def _give_up(self, key_id: str) -> None:
        try:
            given_up = stored_keys.give_up(key_id, actor=ACTOR)
        except ValueError as error:
            raise CommandError(f"{key_id}: {error}, and opens what it sealed.") from None
        for name in stored_keys.name_owners(given_up[:MOST_NAMED]):
            self.stdout.write(f"emptied: {name}")
        self.stdout.write(f"{len(given_up)} documents that the key {key_id} sealed were emptied.")

    def _reseal_all(self, waiting: int, batch_size: int) -> list[uuid.UUID]:
        """Rounds until one finds nothing to do: a process that does not know the new key yet may go on sealing."""
        unreadable: list[uuid.UUID] = []
        resealed = 0
        while True:
            count, unreadable = self._one_round(waiting, resealed, batch_size)
            resealed += count
            if count == 0:
                return unreadable

    def _one_round(self, waiting: int, resealed: int, batch_size: int) -> tuple[int, list[uuid.UUID]]:
        unreadable: list[uuid.UUID] = []
        after, number, damaged = stored_keys.reseal_batch(None, batch_size, actor=ACTOR)
        count = 0
        while after is not None:
            count += number
            unreadable += damaged
            done = resealed + count
            self.stdout.write(f"{done} of {max(waiting, done)} re-sealed; {len(unreadable)} do not open")
            self.stdout.flush()
            after, number, damaged = stored_keys.reseal_batch(after, batch_size, actor=ACTOR)
        return count, unreadable
