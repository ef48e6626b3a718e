"""Which searches take a turn: exactly those whose plan, where every index is taken that can be, leaves rows out."""

import json
import re
from datetime import UTC, datetime, time, timedelta
from itertools import chain, combinations

import pytest
from django.db import connection

from delivery.models import Delivery, Event
from delivery.search import (
    STATES,
    is_delivery_search_indexed,
    is_event_search_indexed,
    narrow_deliveries,
    narrow_events,
)
from meshes.kit import ids, partitions

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)
ROWS = 20_000
WORKSPACES, CONNECTIONS = [ids.uuid7() for _ in range(200)], [ids.uuid7() for _ in range(400)]
WORKSPACE, CONNECTION = WORKSPACES[0], CONNECTIONS[0]
BEGIN = datetime.combine(partitions.week_of(NOW), time(), tzinfo=UTC)
PERIOD = {"from": BEGIN + timedelta(hours=1), "to": BEGIN + timedelta(days=6)}
ID = "(lpad(to_hex(%(start)s::bigint + i * 20000), 12, '0') || '70008000' || lpad(to_hex(i), 12, '0'))::uuid"
FILL = f"""
SET LOCAL session_replication_role = replica;
INSERT INTO events (id, workspace_id, type, payload_bytes, created_at)
SELECT {ID}, (%(workspaces)s::uuid[])[1 + i %% 200], 'type.' || i %% 7, 2, now() FROM generate_series(1, %(rows)s) AS i;
INSERT INTO deliveries (id, workspace_id, event_id, rule_id, connection_id, event_type, action, frozen, status, cause,
    detail, outcome, attempt_number, budget_used, losses, next_attempt_at, claimed_by, created_at)
SELECT {ID}, (%(workspaces)s::uuid[])[1 + i %% 200], {ID}, {ID}, (%(connections)s::uuid[])[1 + i %% 400],
    'type.' || i %% 7, 'send', '{{}}', (ARRAY['dead', 'pending', 'held', 'cancelled', 'succeeded'])[1 + i / 400 %% 5],
    'exhausted', '', 'delivered', 1, 1, 0, now(), '', now() FROM generate_series(1, %(rows)s) AS i;
"""
"""In SQL that knows of no rules and connections: what is looked at is plans."""


@pytest.fixture(autouse=True)
def filled():
    with connection.cursor() as cursor:
        values = {"start": int(BEGIN.timestamp() * 1000), "rows": ROWS, "workspaces": WORKSPACES}
        cursor.execute(FILL, values | {"connections": CONNECTIONS})
        cursor.execute("ANALYZE events, deliveries, unrouted")


def choices(filters):
    """Every combination of these filters."""
    pairs = [(name, value) for name, values in filters.items() for value in values]
    for chosen in chain.from_iterable(combinations(pairs, size) for size in range(len(filters) + 1)):
        if len({name for name, _ in chosen}) == len(chosen):
            yield dict(chosen)


def nodes(plan):
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def is_served(rows, table, *, but=()):
    """Whether the plan neither sorts, nor reads and leaves out rows of the partition that is filled, `but` by these."""
    with connection.cursor() as cursor:
        for kind in ("seqscan", "sort", "bitmapscan"):
            cursor.execute(f"SET LOCAL enable_{kind} = off")
    (plan,) = json.loads(rows.order_by("-pk")[:51].explain(format="json"))
    found = list(nodes(plan["Plan"]))
    kinds = " ".join(node["Node Type"] for node in found)
    filled = f"{table}_p{partitions.week_of(NOW):%Y%m%d}"
    filters = [node.get("Filter", "") for node in found if node.get("Relation Name") == filled]
    assert filters, plan
    left_out = set(re.findall(r"[a-z_]+(?=\)?(?:::text)? (?:=|<|>|IS))", " ".join(filters))) - set(but)
    return not left_out and not re.search("Sort|Seq Scan|Loop|Join", kinds)


@pytest.mark.parametrize("in_one_workspace", [True, False])
def test_events(in_one_workspace):
    rows = Event.objects.filter(workspace_id=WORKSPACE) if in_one_workspace else Event.objects.all()
    found = {}
    for wanted in choices({"event": ["type.3"], "status": ["accepted", "routed"], "connection": [CONNECTION]}):
        for period in ({}, PERIOD):
            asked = wanted | period
            found[str(asked)] = is_served(narrow_events(rows, asked), "events")
            assert is_event_search_indexed(asked, in_one_workspace=in_one_workspace) == found[str(asked)], asked
    assert sum(found.values()) == (4 if in_one_workspace else 2)


@pytest.mark.parametrize("in_one_workspace", [True, False])
def test_deliveries(in_one_workspace):
    rows = Delivery.objects.filter(workspace_id=WORKSPACE) if in_one_workspace else Delivery.objects.all()
    event = Event.objects.all()[:1].get().pk
    filters = {
        "event": ["type.3", event],
        "connection": [CONNECTION],
        "status": STATES,
        "outcome": ["delivered"],
        "cause": ["exhausted"],
    }
    for wanted in choices(filters):
        # Hardly a pending one is in flight, and a connection that is named is one of the workspace's.
        but = ["lease_until"] if wanted.get("status") == "pending" else []
        but += ["workspace_id"] if "connection" in wanted else []
        found = wanted.get("event") == event or is_served(narrow_deliveries(rows, wanted, NOW), "deliveries", but=but)
        assert is_delivery_search_indexed(wanted, in_one_workspace=in_one_workspace) == found, wanted
