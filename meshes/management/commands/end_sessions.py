"""`manage.py end_sessions`: sign operators out."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from meshes.console.signin.models import OperatorSession
from workspaces import security_log


class Command(BaseCommand):
    help = "Ends the sessions of one operator, or of all. Whoever had one is asked to log in again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        whose = parser.add_mutually_exclusive_group(required=True)
        whose.add_argument("username", nargs="?", help="whose sessions end")
        whose.add_argument("--all", action="store_true", help="all sessions end")

    def handle(self, *args: Any, username: str | None = None, **options: Any) -> None:
        user = None
        if username is not None:
            user = User.objects.filter(username=username).first()
            if user is None:
                raise CommandError(f"There is no operator {username!r}.")
        number = OperatorSession.objects.end(**({"user": user} if user else {}))
        security_log.log_ended_sessions(None, user, number)
        self.stdout.write(self.style.SUCCESS(f"{number} session{'s' if number != 1 else ''} ended."))
