"""`manage.py lanes`: what the lanes are doing."""

import json
import uuid
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any
from urllib.parse import urlsplit

import redis
from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error

from connections.models import Connection
from delivery.lanes import brokers
from delivery.lanes.control import MOST_LOOKED_AT, RINGS, LaneStats, Survey
from meshes.kit.database_faults import describe
from meshes.kit.ids import as_uuid
from workspaces.models import Workspace

COLUMNS = ("lane, its connection, its workspace", "waiting", "in flight", "limit", "rate/s", "oldest", "runs")
NUMBERS = slice(1, 6)
"""The columns that are aligned to the right."""
NAME_WIDTH = 76
"""The longest line about a lane's owner; what is longer ends in an ellipsis."""


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
                (address(url), brokers.lanes_at(url).survey(ring, most))
                for url in brokers.shards()
                for ring in sorted(RINGS)
            ]
        except redis.RedisError as error:
            raise CommandError(f"A broker does not answer: {error}") from error
        owners = self._owners({lane for _, each in found for lane, _ in [*each.busiest, *each.paused, *each.oldest]})
        if json:
            self.stdout.write(as_json(found, owners))
            return
        for broker, each in found:
            for line in survey_lines(broker, each, owners, datetime.now(UTC)):
                self.stdout.write(line)

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


def survey_lines(broker: str, found: Survey, owners: Mapping[str, Owner], now: datetime) -> Iterator[str]:
    stats = found.stats
    yield (
        f"{found.ring} on {broker}: {stats.busy:,} lanes with waiting messages, {stats.ready:,} ready,"
        f" {stats.paused:,} paused, {stats.throttled:,} out of tokens, {stats.troubled:,} in trouble;"
        f" {stats.in_flight:,} messages in flight"
    )
    if not found.is_whole:
        yield f"Of the {MOST_LOOKED_AT:,} lanes that have been busy for longest, and the first to wake:"
    for title, lanes in (("Busiest", found.busiest), ("Paused", found.paused), ("Oldest", found.oldest)):
        if lanes:
            yield from ("", title)
            yield from table_lines([lane_row(lane, stats, owners.get(lane), now) for lane, stats in lanes])
    yield ""


def lane_row(lane: str, stats: LaneStats, owner: Owner | None, now: datetime) -> list[list[str]]:
    """The cells of a lane. Below its name are the ids and names by which the API and the admin know its owner."""
    names = [lane]
    if owner is not None:
        pairs = [(owner.connection_id, owner.connection_name), (owner.workspace_id, owner.workspace_name)]
        names += [f"{public_id} {name}" for public_id, name in pairs if public_id]
    rate = "" if stats.rate is None else f"{stats.rate:g}"
    figures = (f"{stats.waiting:,}", f"{stats.in_flight:,}", f"{stats.limit:,}", rate, age(stats.oldest_at, now))
    return [[printable(name) for name in names], *([each] for each in figures), [runs(stats, now)]]


def table_lines(rows: Sequence[Sequence[list[str]]]) -> Iterator[str]:
    """A table of plain text, in which a cell may have several lines."""
    head = [[name] for name in COLUMNS]
    widths = [max(len(line) for cell in column for line in cell) for column in zip(head, *rows, strict=True)]
    rule = "─┼─".join("─" * width for width in widths)
    for place, row in enumerate([head, *rows]):
        if place == 1:
            yield rule
        for cells in zip_longest(*row, fillvalue=""):
            padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
            padded[NUMBERS] = [cell.rjust(width) for cell, width in zip(cells[NUMBERS], widths[NUMBERS], strict=True)]
            yield " │ ".join(padded).rstrip()


def printable(text: str) -> str:
    """Without characters that control a terminal, and not too long."""
    text = "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
    return text if len(text) <= NAME_WIDTH else f"{text[: NAME_WIDTH - 1]}…"


def runs(stats: LaneStats, now: datetime) -> str:
    """In words, whether the lane runs, and if not, what it waits for."""
    words = f"waits for bucket {stats.bucket}" if stats.bucket and stats.waiting else "idle"
    if stats.paused_until:
        words = f"paused for {age(now, stats.paused_until)} more"
    elif stats.throttled_until:
        words = f"next token in {age(now, stats.throttled_until)}"
    elif stats.is_in_ring:
        words = "ready"
    elif stats.in_flight >= stats.limit:
        words = "at its limit"
    return f"{words}, in trouble" if stats.is_troubled else words


def age(since: datetime | None, until: datetime) -> str:
    """The span between two moments in its largest unit; '' where there is none."""
    if since is None:
        return ""
    seconds = max(0.0, (until - since).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
