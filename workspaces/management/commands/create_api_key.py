"""`manage.py create_api_key --name … --kind account --scopes all`: the first key, which makes all others by the API."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils.dateparse import parse_datetime

from meshes.api.problems import Problem
from meshes.kit import clock
from workspaces import keys
from workspaces.authentication import ORIGIN
from workspaces.endpoints import is_named
from workspaces.models import ApiKey, Workspace


class Command(BaseCommand):
    help = "Makes an API key and prints it: it cannot be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--name", required=True, help="Who will use it.")
        parser.add_argument("--kind", choices=ApiKey.Kind.values, default=ApiKey.Kind.ACCOUNT.value)
        parser.add_argument("--scopes", default="", help=f'Comma separated, or "all": {",".join(keys.SCOPES)}.')
        parser.add_argument("--workspace", help="Id or external id; for workspace and publishable keys.")
        parser.add_argument("--expires", help="ISO 8601 with a time zone, such as 2027-01-31T00:00:00Z.")
        parser.add_argument("--origin", action="append", default=[], help="Web origin of a publishable key.")
        parser.add_argument("--quiet", action="store_true", help="Print the key alone, for scripts.")

    def handle(self, *args: Any, **options: Any) -> None:
        kind, origins, quiet = options["kind"], options["origin"], options["quiet"]
        if origins and kind != ApiKey.Kind.PUBLISHABLE:
            raise CommandError("--origin belongs to publishable keys.")
        for origin in origins:
            if not ORIGIN.fullmatch(origin):
                raise CommandError(f"{origin} is no web origin such as https://app.example.com.")
        try:
            issued = keys.create_key(
                name=options["name"],
                kind=kind,
                scopes=_read_scopes(options["scopes"], kind),
                workspace=_read_workspace(options["workspace"], kind),
                expires_at=_read_expiry(options["expires"]),
                allowed_origins=origins,
            )
        except Problem as full:
            raise CommandError(full.errors[0]["detail"]) from None
        if quiet:
            self.stdout.write(issued.key)
            return
        lines = [f"id:             {issued.row.public_id}", f"scopes:         {', '.join(issued.row.scopes)}"]
        lines.append(f"key:            {issued.key}")
        if issued.signing_secret is not None:
            lines.append(f"signing secret: {issued.signing_secret}")
        self.stdout.write("\n".join([*lines, "Keep them now: they cannot be shown again."]))


def _read_scopes(text: str, kind: str) -> tuple[str, ...]:
    if kind == ApiKey.Kind.PUBLISHABLE:
        if text not in {"", *keys.PUBLISHABLE_SCOPES}:
            raise CommandError("A publishable key has the scope events:write only.")
        return keys.PUBLISHABLE_SCOPES
    scopes = keys.SCOPES if text == "all" else tuple(name.strip() for name in text.split(",") if name.strip())
    if not scopes or set(scopes) - set(keys.SCOPES):
        raise CommandError(f"--scopes takes some of {', '.join(keys.SCOPES)}, or all.")
    return scopes


def _read_workspace(reference: str | None, kind: str) -> Workspace | None:
    if (reference is None) != (kind == ApiKey.Kind.ACCOUNT):
        raise CommandError("--workspace belongs to workspace and publishable keys, and only to them.")
    if reference is None:
        return None
    workspace = Workspace.objects.filter(is_named(reference), deleted_at=None).first()
    if workspace is None:
        raise CommandError(f"There is no workspace {reference}.")
    return workspace


def _read_expiry(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = parse_datetime(text)
    except ValueError as error:
        raise CommandError(f"--expires: {error}.") from error
    if moment is None or moment.tzinfo is None or moment <= clock.database_now():
        raise CommandError("--expires takes a future moment in ISO 8601 with a time zone.")
    return moment
