"""`manage.py createsuperuser`, in the place of Django's, which lets a weak password pass on a word."""

import os
from argparse import ArgumentParser
from getpass import getpass
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from meshes.console.signin.passwords import complaint_of

PASSWORD_VARIABLE = "DJANGO_SUPERUSER_PASSWORD"  # noqa: S105 - its name, which is Django's


class Command(BaseCommand):
    help = "Makes an operator who may do everything."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--username")
        parser.add_argument("--email")
        parser.add_argument(
            "--noinput",
            "--no-input",
            action="store_true",
            help=f"ask nothing: --username is needed, and the password is in {PASSWORD_VARIABLE}",
        )

    def handle(self, *args: Any, username: str | None, email: str | None, noinput: bool, **options: Any) -> None:
        if not noinput:
            username = username or input("Username: ")
            email = email if email is not None else input("E-mail address (may be empty): ")
        user = User(username=username or "", email=email or "", is_staff=True, is_superuser=True)
        try:
            user.clean_fields(exclude=["password"])
            user.validate_unique()
        except ValidationError as error:
            raise CommandError(
                "; ".join(f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items())
            ) from None
        user.set_password(self._password_from_environment(user) if noinput else self._ask_for_password(user))
        user.save()
        self.stdout.write(self.style.SUCCESS(f"{user} was made, and may do everything."))

    def _password_from_environment(self, user: User) -> str:
        password = os.environ.get(PASSWORD_VARIABLE, "")
        if complaint := complaint_of(password, user):
            raise CommandError(f"{PASSWORD_VARIABLE}: {complaint}")
        return password

    def _ask_for_password(self, user: User) -> str:
        while True:
            password = getpass("Password: ")
            complaint = complaint_of(password, user)
            if not complaint and getpass("Password, again: ") == password:
                return password
            self.stderr.write(complaint or "These are not the same.")
