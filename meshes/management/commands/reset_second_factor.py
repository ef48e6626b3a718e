"""`manage.py reset_second_factor`: let an operator in who has lost the app and the recovery codes."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from meshes.console.signin import factors
from workspaces import security_log


class Command(BaseCommand):
    help = (
        "Removes the second factor and the recovery codes of an operator and ends all sessions of that operator,"
        " who then logs in by password, and sets up another where MESHES_SECOND_FACTOR is 1. Make sure who asks."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")

    def handle(self, *args: Any, username: str, **options: Any) -> None:
        user = User.objects.filter(username=username).first()
        if user is None:
            raise CommandError(f"There is no operator {username!r}.")
        if not factors.reset(user):
            raise CommandError(f"{username} has no second factor.")
        security_log.log_second_factor_change(None, user, "removed")
        self.stdout.write(self.style.SUCCESS(f"The second factor of {username} is removed; all sessions have ended."))
