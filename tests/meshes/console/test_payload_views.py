"""Whoever looks at what an event carried leaves a record: every page of the admin is opened, and searched for it."""

from datetime import UTC, datetime

import pytest
from django.contrib import admin
from django.urls import NoReverseMatch, reverse

from connections.models import Connection, ConnectionHealth
from delivery.models import Attempt, Delivery, Event, RoutingLedger
from meshes.kit import ids
from tests.factories import make_connection, make_deliveries, make_event, make_rule, make_workspace
from tests.operators import operator, superuser
from tests.workspaces.callers import caller, post
from workspaces.vault.models import AccessRecord

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

CANARY = "canary-of-a-payload-5d1f"
SAID = f"The vendor says: “no such person as {CANARY}”"


@pytest.fixture
def world():
    """An event whose payload stands wherever one may come to: bodies, answers, errors, clauses of filters, reasons."""
    now, workspace = datetime.now(UTC), make_workspace()
    owned = {"workspace_id": workspace.pk}
    target = make_connection(workspace, status="needs_reauth", status_reason=SAID)
    ConnectionHealth.objects.create(connection=target, last_failure_at=now, consecutive_failures=1, **owned)
    event = make_event(workspace, {"name": CANARY})
    rule = make_rule(target)
    delivery = Delivery.objects.create(
        id=ids.uuid7(), event=event, event_type=event.type, rule=rule, connection=target, action="send", status="dead",
        body=f'{{"name":"{CANARY}"}}', cause="rejected", detail=SAID, finished_at=now, created_at=now, **owned,
    )  # fmt: skip
    body = CANARY.encode()
    Attempt.objects.create(
        delivery=delivery, number=1, started_at=now, outcome="rejected", error=SAID, request_method="POST",
        request_url=f"https://example.com/{CANARY}", request_body=body, response_body=body, status_code=422,
        steps=[{"method": "POST", "url": "https://example.com/", "request_body": CANARY, "status": 200}], **owned,
    )  # fmt: skip
    clause = {"path": "payload.name", "operator": "$eq", "expected": "x", "actual": CANARY, "found": True}
    entry = {"rule": rule.public_id, "connection": target.public_id, "version": 1, "result": "filtered"}
    RoutingLedger.objects.create(event=event, entries=[entry | {"clause": clause}], created_at=now, **owned)
    lead = {"workspace": workspace.public_id, "event": "lead.created", "payload": {"name": CANARY}}
    assert post(caller(), "/api/v1/events", lead, headers={"Idempotency-Key": "k"}).status_code == 202
    return superuser(), workspace


def pages():
    """The address of every page of the site, those of every row of every table among them."""
    yield reverse("admin:index")
    for model in admin.site._registry:
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        yield reverse(f"admin:{name}_changelist")
        for row in model._default_manager.order_by("pk")[:20]:
            for page in ("change", "history"):
                with_page = f"admin:{name}_{page}"
                try:
                    yield reverse(with_page, args=[row.pk])
                except NoReverseMatch:
                    continue


def views():
    rows = AccessRecord.objects.filter(kind="action", purpose="viewed", actor="operator root").order_by("number")
    return [(row.workspace_id, row.owner_kind, row.owner_id) for row in rows]


def test_every_page_that_shows_what_an_event_carried_leaves_a_record(world):
    root, workspace = world
    showing = set()
    for page in list(pages()):
        before = len(views())
        answer = root.client.get(page, follow=True)
        assert answer.status_code == 200, page
        if CANARY in answer.content.decode():
            showing.add(page.split("/")[3])
            new = views()[before:]
            assert new, page
            assert {each[0] for each in new} == {workspace.pk}, page
    assert showing >= {"event", "delivery", "deadletter", "attempt", "connection"}


PAGES = [
    (Event, "event"), (Delivery, "delivery"), (Attempt, "attempt"), (Connection, "connection"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "kind"), PAGES)
def test_the_record_says_whose_and_what(world, model, kind):
    root, workspace = world
    row = model.objects.order_by("pk").first()
    assert root.page(f"{model._meta.app_label}_{model._meta.model_name}", row.pk).status_code == 200
    assert views() == [(workspace.pk, kind, row.pk)]
    api = caller("workspace", workspace=workspace)
    (told,) = api.get(f"/api/v1/workspaces/{workspace.public_id}/access-log", {"purpose": "viewed"}).json()["data"]
    assert (told["actor"], told["kind"], told["version"]) == ("operator root", "action", 0)


def test_lists_record_the_rows_whose_words_they_show(world):
    root, workspace = world
    make_deliveries(make_connection(workspace))
    root.list("delivery_delivery")
    assert views() == []
    root.list("delivery_deadletter")
    assert views() == [(workspace.pk, "delivery", Delivery.objects.get(status="dead").pk)]
    root.list("connections_connection")
    held = Connection.objects.get(status="needs_reauth")
    assert views()[1:] == [(workspace.pk, "connection", held.pk)]


def test_who_may_not_look_leaves_no_record(world):
    _, workspace = world
    stranger = operator("connections.view_oauthgrant")
    for model in (Event, Delivery, Attempt):
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        row = model.objects.filter(workspace_id=workspace.pk).first()
        assert stranger.page(name, row.pk).status_code == 403
    assert not AccessRecord.objects.filter(kind="action").exists()


def test_the_api_shows_an_operator_s_session_no_payload(world):
    """Programs have keys, whose use is recorded; a browser that is signed in to the admin is nobody to the API."""
    root, _ = world
    for path in ("events", "deliveries"):
        assert root.client.get(f"/api/v1/{path}").status_code == 401
    event = Event.objects.first()
    assert root.client.get(f"/api/v1/events/{event.public_id}").status_code == 401
