"""Access that is taken away at the vendor while events come in: everything waits, and goes out after a reconnection."""

import json
import logging

import pytest
from django.utils import timezone

from connections.models import Connection, OAuthGrant
from delivery.dispatch import attempts, claims, hold, settling
from delivery.models import Attempt, Delivery
from tests.connections.oauth.test_at_vendors import agree, every_refreshing, every_vendor, server  # noqa: F401  (a fixture)
from tests.factories import create_connection, deliver, fan_out, make_event, make_rule, make_workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_client")]

CONFIG = {"salesforce": {"external_id_field": "LeadKey__c"}, "mailchimp": {"list_id": "a1b2c3d4e5"}}
ACTION = {
    "hubspot": "upsert_contact",
    "salesforce": "upsert_lead",
    "mailchimp": "upsert_member",
    "intercom": "upsert_contact",
    "slack": "post_message",
    "pipedrive": "upsert_person",
    "zoho": "upsert_lead",
}
MAPPING = {"slack": [{"to": "channel", "value": "C0LEADS"}, {"to": "text", "from": "payload.email"}]}
LEAD = {"first_name": "Ada", "last_name": "Lovelace", "company": "Analytical Engines", "phone": "+15550100"}


def connected(server) -> Connection:  # noqa: F811
    config = CONFIG.get(server.slug, {})
    connection = create_connection(make_workspace().pk, server.slug, "Theirs", config, {}).connection
    make_rule(connection, action=ACTION[server.slug], mapping=MAPPING.get(server.slug))
    assert agree(connection).status_code == 200
    return connection


def lead(connection, number) -> Delivery:
    event = make_event(connection.workspace, {"email": f"lead-{number}@example.com", **LEAD})
    fan_out([event.pk])
    return Delivery.objects.get(event=event)


def claim(*deliveries) -> list[claims.Job]:
    return [job for job in claims.claim([delivery.pk for delivery in deliveries], "worker-7") if job]


def statuses(deliveries) -> list[tuple[str, str, int]]:
    rows = Delivery.objects.filter(pk__in=[delivery.pk for delivery in deliveries]).order_by("pk")
    return list(rows.values_list("status", "cause", "budget_used"))


def held_by(server) -> str:  # noqa: F811
    return json.dumps(server.state, default=vars)


@every_vendor
def test_what_comes_while_access_is_taken_away_waits_for_a_reconnection(server, caplog):  # noqa: F811
    connection = connected(server)
    assert deliver(lead(connection, 0)) == 1
    assert "lead-0@example.com" in held_by(server)

    server.uninstall(server.account)
    asked = server.token_requests
    waiting = [lead(connection, number) for number in range(1, 6)]
    jobs = claim(*waiting[:3])
    assert settling.settle([attempts.attempt(job) for job in jobs], "worker-7") == [True] * 3
    assert deliver(*waiting[3:]) == 0
    hold.hold([connection.pk])
    connection.refresh_from_db()
    assert connection.status == "needs_reauth"
    assert statuses(waiting) == [("held", "needs_reauth", 0)] * 5
    assert server.token_requests - asked == server.gives_refresh_tokens
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(told) == 1
    assert connection.public_id in told[0]

    assert agree(connection).status_code == 200
    connection.refresh_from_db()
    assert connection.status == "active"
    asked = server.token_requests
    assert hold.release_held(timezone.now()) == 5
    assert deliver(*waiting) == 5
    assert statuses(waiting) == [("succeeded", "", 0)] * 5
    assert server.token_requests == asked
    assert all(f"lead-{number}@example.com" in held_by(server) for number in range(6))


@every_refreshing
def test_trouble_at_the_token_endpoint_holds_and_loses_nothing(server):  # noqa: F811
    connection = connected(server)
    server.expire_access_tokens()
    server.fail_token(503)
    delivery = lead(connection, 1)
    assert deliver(delivery) == 1
    assert statuses([delivery]) == [("pending", "token_unavailable", 0)]
    now = timezone.now()
    OAuthGrant.objects.update(not_before=now)
    Connection.objects.update(paused_until=now)
    Delivery.objects.update(next_attempt_at=now)
    assert deliver(delivery) == 1
    assert statuses([delivery]) == [("succeeded", "", 0)]
    assert Attempt.objects.filter(delivery=delivery).count() == 2
    assert server.token_requests == 3
