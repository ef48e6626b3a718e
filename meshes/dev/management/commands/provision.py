"""``manage.py provision``: what a fresh stack needs before its services start. Safe to run again."""

import os
import secrets
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from meshes.console.signin.models import FirstPassword
from meshes.console.signin.passwords import complaint_of
from meshes.dev.stack import ADMIN_USER
from meshes.dev.stack_folder import NEW_KEYS, StackFolder
from meshes.environment import data_folder
from meshes.kit import clock
from workspaces import keys
from workspaces.keys import CredentialError
from workspaces.models import ApiKey, Installation
from workspaces.vault import stored_keys

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
        known = folder.read_env() | os.environ
        key = known.get("MESHES_ACCOUNT_KEY", "")
        if is_full_account_key(key):
            Installation.objects.filter(account_key_id=None).update(account_key_id=keys.parse(key))
        elif stored_keys.open_nothing() and not new_keys:
            raise CommandError(LOST_KEYS_WORDS)
        else:
            for key_id in stored_keys.find_missing() if new_keys else ():
                given_up = stored_keys.give_up(key_id, actor="make up NEW_KEYS=1")
                self.stdout.write(f"{len(given_up)} documents of the lost key {key_id} were emptied.")
            folder.update_env({"MESHES_ACCOUNT_KEY": replace_account_key()})
        provide_admin(folder, os.environ.get("MESHES_ADMIN_PASSWORD", ""))
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


GIVEN = "ADMIN_PASSWORD_GIVEN"
"""In stack.env: a hash of the password that MESHES_ADMIN_PASSWORD gave last. It is set once: it may be changed then."""


@transaction.atomic
def provide_admin(folder: StackFolder, given: str) -> None:
    """The user ``admin``, with the password that is given, else with that of stack.env. One that was changed stays.

    stack.env tells the present one, and nothing where that is known to its user alone. Raises CommandError.
    """
    kept = folder.read_env()
    password = given or kept.get("MESHES_ADMIN_PASSWORD") or secrets.token_urlsafe(18)
    user = User.objects.filter(username=ADMIN_USER).first()
    if user is None or (given and not check_password(given, kept.get(GIVEN, ""))):
        user = user or User(username=ADMIN_USER, is_staff=True, is_superuser=True)
        set_password(user, password)
        if not given:
            FirstPassword.objects.create(user=user, origin=FirstPassword.Origin.STACK)
        folder.update_env({"MESHES_ADMIN_PASSWORD": password, GIVEN: make_password(given) if given else None})
    elif not user.check_password(kept.get("MESHES_ADMIN_PASSWORD", "")):
        folder.update_env({"MESHES_ADMIN_PASSWORD": ""})
    elif GIVEN not in kept:  # generated, perhaps by an earlier version
        FirstPassword.objects.get_or_create(user=user, defaults={"origin": FirstPassword.Origin.STACK})


def set_password(user: User, password: str) -> None:
    complaint = complaint_of(password, user)
    if complaint or not password.isprintable():
        raise CommandError(f"MESHES_ADMIN_PASSWORD: {complaint or 'It must be of one line.'}")
    user.set_password(password)
    user.save()


def is_full_account_key(text: str) -> bool:
    """Whether it is a live account key with all scopes in this database."""
    try:
        record = keys.verify(text)
    except CredentialError:
        return False
    return record.kind == ApiKey.Kind.ACCOUNT and set(record.scopes) >= set(keys.SCOPES)
