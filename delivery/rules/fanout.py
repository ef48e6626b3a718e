"""Fan-out: an event becomes one delivery per matching rule, and a ledger that says what became of every rule.

Two statements around pure work (`routing.evaluate`): the first claims the events (so that an event that kills its
worker is counted), the second writes ledger and deliveries and takes the events off `Unrouted`. A delivery's id is a
pure function of event and rule, so running twice makes no doubles. Workspaces share the statements, batch by batch;
what an event's rules cost is spent between them, by its task alone. What fails is `delivery.events.setting_aside`'s.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django.conf import settings
from django.db import connection

from delivery.dispatch.sessions import Keeper
from delivery.events import setting_aside
from delivery.events.setting_aside import Claim
from delivery.lanes import brokers
from delivery.rules import routing
from delivery.rules.routing import Fact, Routed, Routing
from meshes.kit.batching import rows_of
from workspaces.installation import NOT_HELD

ALL_BYTES = 2**31 - 1

CLAIM = f"""
WITH wanted AS (SELECT * FROM unnest(%(events)s::uuid[], %(leases)s::uuid[]) AS w (event_id, lease_id)),
claimed AS (
    UPDATE unrouted u SET lease_id = w.lease_id, lease_until = clock_timestamp() + make_interval(secs => %(lease)s),
        lease_session = (SELECT s.id FROM worker_sessions s WHERE s.id = %(session)s AND s.ended_at IS NULL),
        tries = u.tries + CASE WHEN u.lease_id IS NULL OR u.lease_id = w.lease_id THEN 0 ELSE 1 END
    FROM wanted w
    WHERE u.event_id = w.event_id AND u.event_id = ANY(%(events)s::uuid[]) AND u.poisoned_at IS NULL
        AND (u.lease_until IS NULL OR u.lease_until < clock_timestamp() OR u.lease_id = w.lease_id)
        AND (u.lease_id IS NULL OR u.lease_id = w.lease_id OR u.tries + 1 < %(most)s) AND {NOT_HELD}
    RETURNING u.event_id, u.workspace_id, u.lease_id
)
SELECT c.lease_id, e.id, e.workspace_id, e.type, CASE WHEN e.payload_bytes <= %(large)s THEN p.body ELSE '' END,
    coalesce(s.stamp, 0)
FROM claimed c
JOIN events e ON e.id = c.event_id
JOIN payloads p ON p.event_id = c.event_id AND p.workspace_id = c.workspace_id
LEFT JOIN routing_stamps s ON s.workspace_id = c.workspace_id
WHERE e.id = ANY(%(events)s::uuid[]) AND p.event_id = ANY(%(events)s::uuid[])
"""
"""Only who takes over a lapsed lease counts a try; the fifth is left to `setting_aside.set_aside_lost`. The ids are
repeated so that PostgreSQL leaves out other partitions while it plans."""

READ_PAYLOADS = """
SELECT p.event_id, p.body
FROM unnest(%(events)s::uuid[], %(workspaces)s::uuid[]) AS wanted (event_id, workspace_id)
JOIN payloads p USING (event_id, workspace_id)
WHERE p.event_id = ANY(%(events)s::uuid[])
"""

WRITE = """
WITH ledgers AS (
    INSERT INTO routing_ledgers (event_id, workspace_id, entries, created_at) VALUES {ledgers}
    ON CONFLICT (event_id) DO NOTHING
){made}
DELETE FROM unrouted WHERE event_id = ANY(%s)
"""
INSERT_DELIVERIES = """, made AS (
    INSERT INTO deliveries (id, workspace_id, event_id, rule_id, connection_id, event_type, action, body, frozen,
        status, cause, detail, next_attempt_at, finished_at, created_at, outcome, attempt_number, budget_used, losses,
        claimed_by)
    VALUES {deliveries} ON CONFLICT (id) DO NOTHING
)"""
NOW_IF = "CASE WHEN %s THEN statement_timestamp() END"
DELIVERY_ROW = f"({'%s, ' * 12}{NOW_IF}, {NOW_IF}, statement_timestamp(), '', 0, 0, 0, '')"
LEDGER_ROW = "(%s, %s, %s, statement_timestamp())"


def claim_events(claims: Sequence[Claim], large_bytes: int = ALL_BYTES) -> list[Fact | None]:
    """The claimed events, in this order; None for one that is not ours to route. May be run twice.

    The payload of one that has more than `large_bytes` is not read: it is ''.
    """
    given: dict[str, Any] = {
        "events": [claim.event_id for claim in claims],
        "leases": [claim.lease_id for claim in claims],
        "lease": settings.MESHES_LEASE_SECONDS,
        "session": Keeper.current,
        "most": setting_aside.MOST_LOSSES,
        "large": large_bytes,
    }
    with connection.cursor() as cursor:
        cursor.execute(CLAIM, given)
        claimed = {row[0]: Fact(*row[1:]) for row in cursor.fetchall()}
    return [claimed.get(claim.lease_id) for claim in claims]


def read_payloads(facts: Sequence[Fact]) -> list[Fact | None]:
    """The claimed events with their payloads, in this order; None for one that was deleted meanwhile."""
    events, workspaces = [fact.event_id for fact in facts], [fact.workspace_id for fact in facts]
    with connection.cursor() as cursor:
        cursor.execute(READ_PAYLOADS, {"events": events, "workspaces": workspaces})
        found: dict[uuid.UUID, str] = dict(cursor.fetchall())
    return [replace(fact, payload=found[fact.event_id]) if fact.event_id in found else None for fact in facts]


def end_leases(session_id: uuid.UUID) -> int:
    """The leases of a worker that is gone lapse now; who takes one over counts the loss. Returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE unrouted SET lease_until = clock_timestamp() WHERE lease_session = %s AND lease_id IS NOT NULL"
            " AND lease_until > clock_timestamp()",
            [session_id],
        )
        return int(cursor.rowcount)


def load_rules(facts: Sequence[Fact]) -> list[Routing]:
    """The rules of each event's workspace, in this order."""
    stamps: dict[uuid.UUID, int] = {}
    for fact in facts:
        stamps[fact.workspace_id] = max(fact.stamp, stamps.get(fact.workspace_id, 0))
    found = routing.routings_of(stamps)
    return [found[fact.workspace_id] for fact in facts]


def write(routed: Sequence[Routed]) -> list[list[brokers.DeliveryHint]]:
    """Write ledgers and deliveries; the events wait no more. Returns the wake-ups of each event, in this order.

    All of it or nothing: a batch that is refused is written again event by event, by its group.
    """
    if routed:
        ledgers, parameters = rows_of(
            LEDGER_ROW, [(one.fact.event_id, one.fact.workspace_id, json.dumps(one.entries)) for one in routed]
        )
        made = ""
        if rows := [(*row, row.status == "pending", row.status == "dead") for one in routed for row in one.deliveries]:
            deliveries, values = rows_of(DELIVERY_ROW, rows)
            made = INSERT_DELIVERIES.format(deliveries=deliveries)
            parameters += values
        with connection.cursor() as cursor:  # one statement, hence one transaction
            parameters.append([one.fact.event_id for one in routed])
            cursor.execute(WRITE.format(ledgers=ledgers, made=made), parameters)
    setting_aside.suspects.note_passed([one.fact.event_id for one in routed])
    return [[made.hint for made in one.deliveries if made.status == "pending"] for one in routed]
