"""``manage.py provision``: what a fresh stack needs before its services start. Safe to run again."""

import os
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand

from connections import stored_keys
from meshes.stack import ADMIN_USER
from meshes.stack_folder import StackFolder, data_folder
from workspaces import keys
from workspaces.keyring import CredentialError
from workspaces.models import ApiKey

KEY_NAME = "account key of this stack"


class Command(BaseCommand):
    help = "Migrate; make the user admin and an account key with all scopes, and keep both secrets in stack.env."

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=options["verbosity"])
        folder = StackFolder(data_folder())
        secrets = folder.read_env() | os.environ
        ensure_admin(secrets["MESHES_ADMIN_PASSWORD"])
        if not is_full_account_key(secrets.get("MESHES_ACCOUNT_KEY", "")):
            issued = keys.create_key(name=KEY_NAME, kind=ApiKey.Kind.ACCOUNT, scopes=keys.SCOPES)
            folder.update_env({"MESHES_ACCOUNT_KEY": issued.key})
        stored_keys.tell_unopenable()


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
