"""Rows for tests, with the least that each test must say."""

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from django.conf import settings
from django.db import transaction

from connections import lifecycle
from connections.models import Connection
from connections.providers.webhook import new_signing_secret
from delivery.dispatch import attempts, claims, settling
from delivery.events import setting_aside
from delivery.events.setting_aside import Claim
from delivery.lanes import brokers
from delivery.lanes.control import Lanes
from delivery.models import Delivery, Event, Payload, Rule, Unrouted
from delivery.rules import fanout
from delivery.rules.routing import Fact, evaluate
from meshes.kit import ids
from workspaces.models import Workspace
from workspaces.vault import vault

_numbers = count(1)


def make_workspace(**values: Any) -> Workspace:
    number = next(_numbers)
    return Workspace.objects.create(**{"name": f"Workspace {number}", "external_id": f"tenant_{number}"} | values)


def make_connection(workspace: Workspace, *, url: str = "https://example.com/hook", **values: Any) -> Connection:
    """An active webhook connection with a sealed signing secret."""
    values = {"type": "webhook", "name": f"Hook {next(_numbers)}", "config": {"url": url}} | values
    secret = values.pop("secret", None) or {"signing_secret": new_signing_secret(), "previous": []}
    connection = Connection.objects.create(workspace=workspace, **values)
    vault.seal(
        secret,
        workspace_id=workspace.pk,
        owner_kind="connection",
        owner_id=connection.pk,
        kind=vault.CREDENTIALS,
    )
    return connection


def create_connection(
    workspace_id: uuid.UUID, type: str, name: str, config: dict[str, Any], credentials: dict[str, Any]
) -> lifecycle.Change:
    """A connection as the API makes it."""
    return lifecycle.prepare_create(workspace_id, type, name=name, config=config, credentials=credentials)()


def make_rule(connection: Connection, **values: Any) -> Rule:
    """A rule for every event."""
    values = {"event": "*", "action": "send"} | values
    return Rule.objects.create(workspace=connection.workspace, connection=connection, **values)


def make_event(workspace: Workspace, payload: dict[str, Any] | None = None, *, type: str = "lead.created") -> Event:
    """An event that waits for fan-out."""
    now, event_id = datetime.now(UTC), ids.uuid7()
    body = json.dumps({"email": "ada@example.com"} if payload is None else payload)
    event = Event.objects.create(id=event_id, workspace=workspace, type=type, payload_bytes=len(body), created_at=now)
    Payload.objects.create(event=event, workspace=workspace, body=body)
    Unrouted.objects.create(event=event, workspace=workspace, created_at=now)
    return event


def make_deliveries(connection: Connection, number: int = 1) -> list[Delivery]:
    """Pending deliveries of as many events, because of one rule of the connection's."""
    rule = Rule.objects.filter(connection=connection, deleted_at=None).first() or make_rule(connection)
    events = [make_event(connection.workspace) for _ in range(number)]
    fan_out([event.pk for event in events])
    return list(Delivery.objects.filter(rule=rule, event__in=events).order_by("id"))


def lapse_lease(delivery: Delivery) -> None:
    """Let a claim's lease end, as if its worker had been lost a while ago."""
    ended = datetime.now(UTC) - timedelta(seconds=1)
    Delivery.objects.filter(pk=delivery.pk).update(lease_until=ended)


def own_lanes() -> Lanes:
    """The lanes of the one broker that tests have, unless they say otherwise."""
    return brokers.lanes_at(settings.REDIS_URL)


def deliver(*deliveries: Delivery) -> int:
    """One round, as tasks and their groups would make it: claim, attempt and settle; how many were claimed."""
    jobs = [job for job in claims.claim([delivery.pk for delivery in deliveries], "worker") if job]
    if jobs:
        settling.settle([attempts.attempt(job) for job in jobs], "worker")
    for delivery in deliveries:
        delivery.refresh_from_db()
    return len(jobs)


def fan_out(event_ids: list[uuid.UUID]) -> list[brokers.DeliveryHint]:
    """Route these events as tasks and their groups would, in this thread; what is not ours to route is passed over.

    Returns the hints to publish. If one event fails, each is routed by itself, and what fails then is handed back.
    """
    claims = [Claim(event_id, ids.uuid7()) for event_id in event_ids]
    claimed = zip(claims, fanout.claim_events(claims), strict=True)
    facts = {claim: fact for claim, fact in claimed if fact is not None}
    began_at = time.monotonic()
    try:
        return _fan_out(list(facts.values()))
    except Exception:  # noqa: BLE001  (judged below, event by event)
        hints: list[brokers.DeliveryHint] = []
    for claim, fact in facts.items():
        try:
            hints += _fan_out([fact])
        except Exception as error:  # noqa: BLE001  (judged by whose fault it is)
            setting_aside.hand_back([setting_aside.judge(claim, error, began_at)])
    return hints


def _fan_out(facts: list[Fact]) -> list[brokers.DeliveryHint]:
    with transaction.atomic():
        routed = [evaluate(fact, rules) for fact, rules in zip(facts, fanout.load_rules(facts), strict=True)]
        return [hint for hints in fanout.write(routed) for hint in hints]
