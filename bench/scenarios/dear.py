"""Ninety ordinary tenants beside ten whose rules cost all that an event may: their p99, divided by their p99 alone.

The ten have 500 rules each, a payload of the largest size, and two events a second. A calm part stands before and after
each kind of dear rules; the mean of the p99 of these two divides. Every dear event must end routed, each of its rules
with a result. The rules are compiled before, by an event of each tenant.
"""

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.extensions

from bench.cpu import load_average
from bench.load import Template
from bench.report import Results
from bench.rig import BenchError, Rig
from bench.scenarios import delays, settle
from bench.spread import percentile
from bench.systems import Tenant, event_template, single
from bench.systems.meshes import Meshes

NAME = "dear"
CALM, DEAR = 90, 10
"""Tenants; the calm ones are the first, also as destinations."""
CALM_PER_SECOND, DEAR_PER_SECOND = 0.5, 2.0
"""Events of each tenant."""
RULES = 500
SECONDS, QUICK_SECONDS = 60, 3
GRACE_SECONDS = 15.0
DRAIN_SECONDS = 900.0
"""The longest that dear events are waited for after the measurement."""
RESULTS = ("matched", "filtered", "held", "mapping_failed", "evaluation_limit")

KINDS: dict[str, dict[str, Any]] = {
    "arrays": {"filter": {"$and": [{"payload.list": {"$neq": [1, 2, index]}} for index in range(22)]}},
    "regex": {"filter": {"payload.text": {"$regex": "a.{100}c"}}},
    "mapping": {
        "mapping": [
            {"to": f"out.n{index}", "from": f"payload.list[?@ == `[{index}]`]", "on_error": "skip"}
            for index in range(20)
        ]
    },
    "not_or": {"filter": {"$not": {"$or": [{"payload.list": {"$eq": {"a": index}}} for index in range(60)]}}},
}

INSERT = """
INSERT INTO rules (id, workspace_id, connection_id, event, filter, mapping, action, enabled, version, created_at,
    updated_at)
SELECT uuidv7(), workspace_id, connection_id, %(event)s, %(filter)s::jsonb, %(mapping)s::jsonb, action, true, 1, now(),
    now()
FROM rules JOIN workspaces w ON w.id = rules.workspace_id
CROSS JOIN generate_series(1, %(number)s)
WHERE w.external_id LIKE 'dear-%%' AND rules.event = 'lead.*'
"""
ENDED = """
SELECT count(*) FILTER (WHERE l.event_id IS NOT NULL), count(*), coalesce(sum(jsonb_array_length(l.entries)), 0),
    coalesce(sum((SELECT count(*) FROM jsonb_array_elements(l.entries) e WHERE e->>'result' = 'evaluation_limit')), 0),
    coalesce(sum((SELECT count(*) FROM jsonb_array_elements(l.entries) e WHERE e->>'result' = ANY(%(results)s))), 0)
FROM events e LEFT JOIN routing_ledgers l ON l.event_id = e.id WHERE e.type = %(type)s
"""


@dataclass(frozen=True, slots=True)
class Part:
    """Seconds of each calm event, and what became of the dear ones beside it."""

    kind: str
    delays: list[float]
    events: int = 0
    limited: float = 0.0
    """Share of the rules that ran out."""
    drain_seconds: float = 0.0


def record(rig: Rig, results: Results) -> None:
    before = load_average()
    system = Meshes(rig)
    try:
        system.start()
        results.add(NAME, "meshes", figures(measure(system, rig)), before)
    finally:
        system.stop()


def measure(system: Meshes, rig: Rig) -> list[Part]:
    calm = [Tenant(f"calm-{index}", (rig.url("ok", index),)) for index in range(CALM)]
    dear = [Tenant(f"dear-{index}", (rig.url("ok", CALM + index),)) for index in range(DEAR)]
    system.connect(calm + dear)
    parts = [_beside(system, rig, calm, [], "calm")]
    for kind, rule in KINDS.items():
        _make_rules(system, kind, rule)
        _compile_rules(system, rig, dear, kind)
        parts.append(_beside(system, rig, calm, dear, kind))
        parts.append(_beside(system, rig, calm, [], "calm"))
    return parts


def _beside(system: Meshes, rig: Rig, calm: list[Tenant], dear: list[Tenant], kind: str) -> Part:
    settle(system)
    templates = [single(system, tenant) for tenant in calm]
    templates += [_largest(system, tenant, kind) for tenant in dear]
    seconds = rig.options.sized(SECONDS, QUICK_SECONDS)
    schedule = plan(len(calm), len(dear), seconds)
    rig.reset()
    answers, _ = rig.load(system.port, templates, connections=4, schedule=schedule, seconds=seconds + 60)
    until = _wait(rig, sum(template < CALM for _, template in schedule))
    taken = delays(answers, rig.arrived(), range(CALM), until)
    rig.say(f"{NAME}: beside {kind}: p99 {1000 * percentile(taken, 0.99):.0f} ms")
    if not dear:
        return Part(kind, taken)
    posted = sum(
        status == 202 and template >= CALM for status, template in zip(answers.status, answers.template, strict=True)
    )
    return _drained(system, rig, Part(kind, taken, events=DEAR + posted))


def _drained(system: Meshes, rig: Rig, part: Part) -> Part:
    """Wait until every dear event is routed. Raises BenchError where one is not, or a rule of it has no result."""
    started = time.monotonic()
    with _database(system) as cursor:
        while True:
            cursor.execute(ENDED, {"type": f"dear.{part.kind}", "results": list(RESULTS)})
            routed, events, rules, limited, known = (int(value) for value in cursor.fetchone() or ())
            if routed == events == part.events:
                break
            if time.monotonic() - started > DRAIN_SECONDS:
                raise BenchError(f"{NAME}: {part.kind}: {routed} of {part.events} dear events were routed")
            time.sleep(2.0)
    if rules != RULES * part.events or known != rules:
        raise BenchError(f"{NAME}: {part.kind}: {known} of {RULES * part.events} results")
    took = time.monotonic() - started
    rig.say(f"{NAME}: {part.kind}: {events} events are routed, {took:.0f} s later")
    return Part(part.kind, part.delays, events=events, limited=limited / max(1, rules), drain_seconds=took)


def _make_rules(system: Meshes, kind: str, rule: dict[str, Any]) -> None:
    """Straight into the database: to post thousands of rules would take minutes."""
    with _database(system) as cursor:
        documents = {name: json.dumps(rule[name]) if name in rule else None for name in ("filter", "mapping")}
        cursor.execute("DELETE FROM rules WHERE event LIKE 'dear.%%' AND NOT EXISTS"
                       " (SELECT FROM deliveries WHERE rule_id = rules.id)")  # fmt: skip
        cursor.execute(INSERT, {"event": f"dear.{kind}", "number": RULES, **documents})


def _compile_rules(system: Meshes, rig: Rig, dear: list[Tenant], kind: str) -> None:
    """One event of each tenant. Rules are compiled once, which is not what the scenario asks about."""
    templates = [_largest(system, tenant, kind) for tenant in dear]
    rig.load(system.port, templates, connections=4, count=DEAR)
    _drained(system, rig, Part(kind, [], events=DEAR))


@contextmanager
def _database(system: Meshes) -> Iterator[psycopg2.extensions.cursor]:
    connection: psycopg2.extensions.connection = psycopg2.connect(system.state["database_url"])
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def _largest(system: Meshes, tenant: Tenant, kind: str) -> Template:
    """Close to the 256 KB that a request may have."""
    numbers = ",".join(map(str, range(28_000)))
    text = "".join(random.Random(7).choices("ab", k=90_000))
    return event_template(system, tenant, f"dear.{kind}", f'{{"list":[{numbers}],"text":"{text}","seq":')


def _wait(rig: Rig, wanted: int) -> float:
    """Wait for the calm ones' events. Returns the moment when waiting ended."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        if sum(destination < CALM for destination in rig.arrived().destinations) >= wanted:
            break
        time.sleep(0.25)
    return time.monotonic()


def plan(calm: int, dear: int, seconds: float) -> list[tuple[float, int]]:
    """When each tenant posts: evenly, from a moment of its own, the same in every run."""
    chance = random.Random(4711)
    moments = []
    for tenant in range(calm + dear):
        gap = 1 / (CALM_PER_SECOND if tenant < calm else DEAR_PER_SECOND)
        moment = chance.uniform(0, gap)
        while moment < seconds:
            moments.append((moment, tenant))
            moment += gap
    return sorted(moments)


def figures(parts: list[Part]) -> dict[str, float]:
    """`parts` begins and ends with a calm one, and every second one is calm."""
    p99 = [1000 * percentile(part.delays, 0.99) for part in parts]
    calm = [value for part, value in zip(parts, p99, strict=True) if part.kind == "calm"]
    made = {"calm_p99_ms_least": min(calm), "calm_p99_ms_most": max(calm)}
    for index, part in enumerate(parts):
        if part.kind != "calm":
            made[f"{part.kind}_p99_ms"] = p99[index]
            made[f"{part.kind}_p50_ms"] = 1000 * percentile(part.delays, 0.5)
            made[f"{part.kind}_ratio"] = p99[index] / ((p99[index - 1] + p99[index + 1]) / 2)
            made[f"{part.kind}_events"] = float(part.events)
            made[f"{part.kind}_limited_share"] = part.limited
            made[f"{part.kind}_drain_seconds"] = part.drain_seconds
    return made
