"""Every list and search of the API at a million rows: none reads a large table from end to end."""

import re
from datetime import UTC, datetime, time, timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from delivery.models import Delivery, Event
from meshes.kit import partitions
from tests.delivery.api import account, tenant
from tests.factories import make_connection, make_rule, make_workspace

pytestmark = pytest.mark.django_db

ROWS = 1_000_000
ATTEMPTS = 100_000
TABLES = ("events", "deliveries", "attempts")
WEEK = partitions.week_of(datetime.now(UTC)) - 2 * partitions.WEEK
"""A week that has no partition yet: rows go into bare tables, whose indexes are built when they are attached."""
START = int(datetime.combine(WEEK, time(), tzinfo=UTC).timestamp() * 1000)
STEP = 7 * 86_400_000 // ROWS

ID = "(lpad(to_hex(%(start)s::bigint + i * %(step)s), 12, '0') || '70008000' || lpad(to_hex(i), 12, '0'))::uuid"
FILL = f"""
INSERT INTO events_p{WEEK:%Y%m%d} (id, workspace_id, type, payload_bytes, created_at)
SELECT {ID}, (%(workspaces)s::uuid[])[1 + i %% 10], 'type.' || i %% 7, 2, now() FROM generate_series(0, %(last)s) AS i;
INSERT INTO deliveries_p{WEEK:%Y%m%d} (id, workspace_id, event_id, rule_id, connection_id, event_type, action, frozen,
    status, cause, detail, outcome, attempt_number, budget_used, losses, next_attempt_at, claimed_by, created_at)
SELECT {ID}, (%(workspaces)s::uuid[])[1 + i %% 10], {ID}, (%(rules)s::uuid[])[1 + i %% 100],
    (%(connections)s::uuid[])[1 + i %% 100], 'type.' || i %% 7, 'send', '{{}}', state,
    CASE state WHEN 'dead' THEN 'exhausted' ELSE '' END, '', 'delivered', 1, 1, 0, now(), '', now()
FROM (SELECT i, coalesce((ARRAY['dead', 'pending', 'held', 'cancelled'])[1 + i %% 97], 'succeeded') AS state
      FROM generate_series(0, %(last)s) AS i) AS numbers;
INSERT INTO attempts_p{WEEK:%Y%m%d} (id, workspace_id, delivery_id, number, started_at, outcome, error_class, error,
    request_method, request_url, request_headers, response_headers, response_truncated, worker)
SELECT {ID}, (%(workspaces)s::uuid[])[1 + i %% 10], {ID}, 1, now(), 'delivered', '', '', 'POST', '', '[]', '[]', false,
    ''
FROM generate_series(0, %(attempts)s) AS i;
"""
LARGE = re.compile(rf"Seq Scan on (?:\w+\.)?((?:events|deliveries|attempts)_p{WEEK:%Y%m%d})")


@pytest.fixture(scope="module")
def world(django_db_setup, django_db_blocker):
    """Ten workspaces with a hundred thousand events and deliveries each, gone with the module."""
    with django_db_blocker.unblock(), transaction.atomic():
        workspaces = [make_workspace() for _ in range(10)]
        connections = [make_connection(workspaces[number % 10]) for number in range(100)]
        rules = [make_rule(each) for each in connections]
        with connection.cursor() as cursor:
            for table in TABLES:
                name = partitions.Partition(table, WEEK).name
                cursor.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
            cursor.execute(
                FILL,
                {
                    "start": START, "step": STEP, "last": ROWS - 1, "attempts": ATTEMPTS - 1,
                    "workspaces": [each.pk for each in workspaces],
                    "connections": [each.pk for each in connections],
                    "rules": [each.pk for each in rules],
                },
            )  # fmt: skip
            for table in TABLES:
                partition = partitions.Partition(table, WEEK)
                cursor.execute(
                    f"ALTER TABLE {table} ATTACH PARTITION {partition.name} FOR VALUES FROM (%s) TO (%s)",
                    list(partition.bounds),
                )
            cursor.execute("ANALYZE events, deliveries, attempts, unrouted, workspaces, connections, rules")
        yield workspaces[0]
        transaction.set_rollback(True)


def scans(path, caller, **query):
    """The large tables that this request reads from end to end."""
    with CaptureQueriesContext(connection) as queries:
        answer = caller.get(path, **query)
    assert answer.status_code == 200, answer.content
    found = []
    with connection.cursor() as cursor:
        for query in queries:
            if query["sql"].lstrip("(").startswith("SELECT") and "set_config" not in query["sql"]:
                cursor.execute(f"EXPLAIN {query['sql']}")
                plan = "\n".join(row[0] for row in cursor.fetchall())
                found += [f"{table}: {plan}" for table in LARGE.findall(plan)]
    return found, answer.json()


PERIOD = {"from": f"{WEEK}", "to": f"{WEEK + timedelta(days=2)}"}
SEARCHES = [
    ("/events", {}),
    ("/events", PERIOD),
    ("/events", {"event": "type.3"}),
    ("/events", {"status": "accepted"}),
    ("/events", {"status": "routed"}),
    ("/events", {"connection": True}),
    ("/deliveries", {}),
    ("/deliveries", PERIOD),
    *(("/deliveries", {"status": status}) for status in (*Delivery.Status.values, "in_flight")),
    ("/deliveries", {"outcome": "delivered"}),
    ("/deliveries", {"connection": True}),
    ("/deliveries", {"connection": True, "status": "held"}),
    ("/deliveries", {"event": "type.3"}),
    ("/deliveries", {"event": True}),
    ("/dead-letters", {}),
    ("/dead-letters", PERIOD),
    ("/dead-letters", {"cause": "exhausted"}),
    ("/dead-letters", {"connection": True}),
    ("/replays", {}),
    ("/rules", {}),
    ("/connections", {}),
    ("/workspaces", {}),
    ("/api-keys", {}),
]


@pytest.mark.parametrize("who", ["account", "account, one workspace", "tenant"])
@pytest.mark.parametrize(("path", "query"), SEARCHES, ids=str)
def test_no_list_reads_a_large_table_from_end_to_end(world, path, query, who):
    query = dict(query)
    if query.get("connection"):
        query["connection"] = Delivery.objects.filter(workspace=world)[:1].get().connection.public_id
    if query.get("event") is True:
        query["event"] = Event.objects.filter(workspace=world)[:1].get().public_id
    if who == "account, one workspace" and path != "/workspaces":
        query["workspace"] = world.external_id
    caller = tenant(world) if who == "tenant" else account()
    found, page = scans(path, caller, **query)
    assert found == []
    if page["next"]:
        assert scans(path, caller, **query, cursor=page["next"])[0] == []


def test_an_event_and_a_delivery_are_found_by_indexes(world):
    delivery = Delivery.objects.filter(workspace=world)[:1].get()
    caller = tenant(world)
    for path in (f"/events/{delivery.event.public_id}", f"/deliveries/{delivery.public_id}"):
        assert scans(path, caller)[0] == []
