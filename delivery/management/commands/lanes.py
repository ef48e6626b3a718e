"""`manage.py lanes`: what the lanes are doing."""

import json
import uuid
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import IO, Any, cast
from urllib.parse import urlsplit

import redis
from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error
from rich.console import Console
from rich.table import Table
from rich.text import Text

from connections.models import Connection
from delivery.lanes import steering
from delivery.lanes.control import MOST_LOOKED_AT, RINGS, LaneStats, Survey
from meshes.kit.database_faults import describe
from meshes.kit.ids import as_uuid
from workspaces.models import Workspace

PLAIN_WIDTH = 140
"""Columns where the output is no terminal."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a lane is: public ids and names. A workspace's own lane, for fan-out, has no connection."""

    workspace_id: str
    workspace_name: str
    connection_id: str | None = None
    connection_name: str | None = None


NOBODY = dict.fromkeys(field.name for field in fields(Owner))


def owners_of(lanes: Iterable[str]) -> dict[str, Owner]:
    """The owners of these lanes, as far as they are known."""
    keys: dict[str, dict[uuid.UUID, str]] = {"conn": {}, "fanout": {}}
    for lane in lanes:
        kind, _, text = lane.partition(".")
        if pk := as_uuid(text):
            keys[kind][pk] = lane
    owners: dict[str, Owner] = {}
    if keys["conn"]:
        found = Connection.objects.filter(pk__in=keys["conn"]).select_related("workspace")
        for row in found.only("name", "workspace__name"):
            ws = row.workspace
            owners[keys["conn"][row.pk]] = Owner(ws.public_id, ws.name, row.public_id, row.name)
    if keys["fanout"]:
        for ws in Workspace.objects.filter(pk__in=keys["fanout"]).only("name"):
            owners[keys["fanout"][ws.pk]] = Owner(ws.public_id, ws.name)
    return owners


class Command(BaseCommand):
    help = "Show the busiest lanes, the paused ones, and those whose messages wait for longest."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="write one JSON document")
        parser.add_argument("--most", type=int, default=10, help="lanes of each kind (10)")

    def handle(self, *args: Any, json: bool, most: int, **options: Any) -> None:
        if not 1 <= most <= 1000:
            raise CommandError("--most is from 1 to 1000.")
        try:
            found = [
                (address(url), steering.lanes_at(url).survey(ring, most))
                for url in steering.shards()
                for ring in sorted(RINGS)
            ]
        except redis.RedisError as error:
            raise CommandError(f"A broker does not answer: {error}") from error
        owners = self._owners({lane for _, each in found for lane, _ in [*each.busiest, *each.paused, *each.oldest]})
        if json:
            self.stdout.write(as_json(found, owners))
            return
        console = Console(file=cast(IO[str], self.stdout), width=None if self.stdout.isatty() else PLAIN_WIDTH)
        for broker, each in found:
            print_survey(console, broker, each, owners, datetime.now(UTC))

    def _owners(self, lanes: set[str]) -> dict[str, Owner]:
        try:
            return owners_of(lanes)
        except Error as error:
            self.stderr.write(f"The database does not tell whose the lanes are: {describe(error)}")
            return {}


def address(url: str) -> str:
    """A broker's URL without anything that may be a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def as_json(found: Sequence[tuple[str, Survey]], owners: Mapping[str, Owner]) -> str:
    """`{"rings": [{"broker", "ring", "stats", "busiest", "paused", "oldest", "is_whole"}]}`; moments in ISO 8601.

    A lane has its owner's ids and names beside its figures; they are null where they are not known.
    """
    rings = []
    for broker, each in found:
        document = {"broker": broker} | asdict(each)
        for kind in ("busiest", "paused", "oldest"):
            document[kind] = [
                {"lane": lane} | (asdict(owners[lane]) if lane in owners else NOBODY) | stats
                for lane, stats in document[kind]
            ]
        rings.append(document)
    return json.dumps({"rings": rings}, cls=DjangoJSONEncoder, indent=2)


def print_survey(console: Console, broker: str, found: Survey, owners: Mapping[str, Owner], now: datetime) -> None:
    stats = found.stats
    console.print(
        f"[bold]{found.ring}[/bold] on {broker}: {stats.busy:,} lanes with waiting messages, {stats.ready:,} ready,"
        f" {stats.paused:,} paused, {stats.throttled:,} out of tokens, {stats.troubled:,} in trouble;"
        f" {stats.in_flight:,} messages in flight",
        highlight=False,
    )
    if not found.is_whole:
        console.print(f"Of the {MOST_LOOKED_AT:,} lanes that have been busy for longest, and the first to wake:")
    kinds = [("Busiest", found.busiest), ("Paused", found.paused), ("Oldest", found.oldest)]
    for title, lanes in kinds:
        if lanes:
            console.print(lanes_table(title, lanes, owners, now))


def lanes_table(
    title: str, found: Sequence[tuple[str, LaneStats]], owners: Mapping[str, Owner], now: datetime
) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    table.add_column("lane, its connection, its workspace", no_wrap=True)
    for column in ("waiting", "in flight", "limit", "rate/s", "oldest"):
        table.add_column(column, justify="right")
    table.add_column("runs")
    for lane, stats in found:
        rate = "" if stats.rate is None else f"{stats.rate:g}"
        cells = (f"{stats.waiting:,}", f"{stats.in_flight:,}", f"{stats.limit:,}", rate, age(stats.oldest_at, now))
        table.add_row(lane_cell(lane, owners.get(lane)), *cells, runs(stats, now))
    return table


def lane_cell(lane: str, owner: Owner | None) -> Text:
    """The lane, and below it the ids and names by which the API and the admin know whose it is."""
    lines = [lane]
    if owner is not None:
        pairs = [(owner.connection_id, owner.connection_name), (owner.workspace_id, owner.workspace_name)]
        lines += [f"{public_id} {name}" for public_id, name in pairs if public_id]
    text = "\n".join("".join(sign if sign.isprintable() else "\ufffd" for sign in line) for line in lines)
    return Text(text, overflow="ellipsis", no_wrap=True)


def runs(stats: LaneStats, now: datetime) -> str:
    """In words, whether the lane runs, and if not, what it waits for."""
    trouble = ", in trouble" if stats.is_troubled else ""
    if stats.paused_until:
        return f"paused for {age(now, stats.paused_until)} more{trouble}"
    if stats.throttled_until:
        return f"next token in {age(now, stats.throttled_until)}{trouble}"
    if stats.is_in_ring:
        return f"ready{trouble}"
    if stats.in_flight >= stats.limit:
        return f"at its limit{trouble}"
    return (f"waits for bucket {stats.bucket}" if stats.bucket and stats.waiting else "idle") + trouble


def age(since: datetime | None, until: datetime) -> str:
    """The span between two moments in its largest unit; '' where there is none."""
    if since is None:
        return ""
    seconds = max(0.0, (until - since).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
