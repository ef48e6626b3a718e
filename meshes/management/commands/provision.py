"""``manage.py provision``: what a fresh stack needs before its services start. Safe to run again."""

import os
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from connections import stored_keys
from meshes.stack import ADMIN_USER
from meshes.stack_folder import NEW_KEYS, StackFolder, data_folder
from workspaces import clock, keys
from workspaces.keyring import CredentialError
from workspaces.models import ApiKey, Installation

KEY_NAME = "account key of this stack"
LOST_KEYS_WORDS = (
    "FERNET_KEYS are not the keys that sealed the credentials in this database. Put stack.env back from your backup"
    " (docs/backup.md), or set FERNET_KEYS in the environment. To give up the credentials in it, start it by"
    " `make up NEW_KEYS=1`."
)


class Command(BaseCommand):
    help = "Migrate; make the user admin and an account key with all scopes, and keep both secrets in stack.env."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(NEW_KEYS, action="store_true", help="give up stored credentials whose keys are lost")

    def handle(self, *args: Any, new_keys: bool, **options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=options["verbosity"])
        folder = StackFolder(data_folder())
        secrets = folder.read_env() | os.environ
        key = secrets.get("MESHES_ACCOUNT_KEY", "")
        if is_full_account_key(key):
            Installation.objects.filter(account_key_id=None).update(account_key_id=keys.parse(key))
        elif stored_keys.open_nothing() and not new_keys:
            raise CommandError(LOST_KEYS_WORDS)
        else:
            folder.update_env({"MESHES_ACCOUNT_KEY": replace_account_key()})
        ensure_admin(secrets["MESHES_ADMIN_PASSWORD"])
        stored_keys.tell_unopenable()


@transaction.atomic
def replace_account_key() -> str:
    """A new account key of this stack's own. The one before ends, whose secret is lost; keys of others stay.

    Stacks of earlier versions did not note which was theirs, and know it by its name.
    """
    noted = Installation.objects.select_for_update().get()
    live = ApiKey.objects.filter(kind=ApiKey.Kind.ACCOUNT, revoked_at=None)
    before = live.filter(pk=noted.account_key_id) if noted.account_key_id else live.filter(name=KEY_NAME)
    for key_id in before.values_list("pk", flat=True):
        keys.revoke_key(key_id, clock.database_now())
    issued = keys.create_key(name=KEY_NAME, kind=ApiKey.Kind.ACCOUNT, scopes=keys.SCOPES)
    noted.account_key_id = issued.row.pk
    noted.save(update_fields=["account_key_id"])
    return issued.key


def ensure_admin(password: str) -> None:
    """The user ``admin`` with this password, which stack.env keeps: a changed one is set back."""
    user, _created = get_user_model().objects.get_or_create(
        username=ADMIN_USER, defaults={"is_staff": True, "is_superuser": True}
    )
    if not user.check_password(password):
        user.set_password(password)
        user.save(update_fields=["password"])


def is_full_account_key(text: str) -> bool:
    """Whether it is a live account key with all scopes in this database."""
    try:
        record = keys.verify(text)
    except CredentialError:
        return False
    return record.kind == ApiKey.Kind.ACCOUNT and record.scopes >= set(keys.SCOPES)
