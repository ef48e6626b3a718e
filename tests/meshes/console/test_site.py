"""The operators' site as a whole: every page opens, no list counts, and the overview tells what matters."""

from datetime import UTC, datetime, timedelta

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext

from connections.models import Connection, ConnectionHealth, OAuthApp, OAuthGrant, OAuthState
from delivery.events import setting_aside
from delivery.models import (
    Attempt,
    DeadLetter,
    Delivery,
    Event,
    Payload,
    Replay,
    RoutingLedger,
    RoutingStamp,
    Rule,
    SweepRun,
    Unrouted,
    WorkerSession,
)
from meshes.console import overview
from meshes.console.display import PAGES
from meshes.console.overview import WAITING_SECONDS
from meshes.console.site import GROUPS
from meshes.kit import ids
from tests.factories import make_connection, make_deliveries, make_event, make_workspace
from tests.operators import operator, said, superuser, words
from workspaces import keys
from workspaces.models import ApiKey, IdempotencyRecord, Installation, JournalEntry, Workspace
from workspaces.vault.models import AccessLogSeal, AccessRecord, SealedDocument

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

MODELS = (
    Workspace, ApiKey, Connection, OAuthGrant, OAuthApp, AccessRecord, Event, Unrouted, Rule, Replay, Delivery,
    DeadLetter, Attempt, LogEntry,
)  # fmt: skip
PLUMBING = {
    ConnectionHealth, OAuthState, SealedDocument, AccessLogSeal, Payload, RoutingLedger, RoutingStamp, WorkerSession,
    SweepRun, IdempotencyRecord, Installation, JournalEntry,
}  # fmt: skip
"""Without a page: what one needs of them is on the pages of what they belong to, or told by /readyz."""


def name_of(model):
    return model._meta.label_lower.replace(".", "_")


def make_authorization(target):
    owned = {"workspace_id": target.workspace_id}
    OAuthGrant.objects.create(connection=target, **owned)
    OAuthApp.objects.create(type="hubspot", client_id="app", secret_hint="••••", **owned)
    OAuthState.objects.create(
        state_hash=target.pk.hex, connection=target, session=f"key:{target.pk}", expires_at=datetime.now(UTC), **owned
    )


@pytest.fixture
def world():
    """A row of every model."""
    now, workspace = datetime.now(UTC), make_workspace()
    target = make_connection(workspace)
    dead, delivery = make_deliveries(target, 2)
    Delivery.objects.filter(pk=dead.pk).update(status="dead", cause="exhausted", finished_at=now)
    owned = {"workspace_id": workspace.pk}
    Attempt.objects.create(delivery=delivery, number=1, started_at=now, outcome="retry", **owned)
    ConnectionHealth.objects.create(connection=target, **owned)
    make_authorization(target)
    AccessRecord.objects.create(
        owner_kind="connection", owner_id=target.pk, kind="credentials", version=1, actor="me", purpose="x", **owned
    )
    Replay.objects.create(requested_by="me", **owned)
    keys.create_key(name="Backend", kind="account", scopes=["config"])
    make_event(workspace)
    root = superuser()
    LogEntry.objects.log_actions(root.user.pk, [workspace], 2, "Changed.")
    return root


def test_every_model_of_ours_has_a_page_or_is_plumbing():
    ours = {
        model for app in ("workspaces", "connections", "delivery") for model in apps.get_app_config(app).get_models()
    }
    assert ours | {LogEntry} == set(MODELS) | PLUMBING
    assert {model for model in ours | {LogEntry} if admin.site.is_registered(model)} == set(MODELS)


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_no_list_counts_and_every_row_has_a_page(world, model):
    with CaptureQueriesContext(connection) as queries:
        listed = world.list(name_of(model))
    assert listed.status_code == 200
    statements = [query["sql"].upper() for query in queries]
    assert not [sql for sql in statements if "COUNT(" in sql]
    assert not [sql for sql in statements if "OFFSET" in sql]
    first = model._default_manager.first()
    assert world.page(name_of(model), first.pk).status_code == (302 if model is DeadLetter else 200)


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_no_list_asks_more_for_more_rows(world, model):
    with CaptureQueriesContext(connection) as few:
        world.list(name_of(model))
    make_more()
    with CaptureQueriesContext(connection) as many:
        world.list(name_of(model))
    assert len(many) == len(few)


def make_more():
    for _ in range(2):
        target = make_connection(make_workspace())
        for delivery in make_deliveries(target, 2):
            Attempt.objects.create(
                workspace_id=target.workspace_id,
                delivery=delivery,
                number=1,
                started_at=datetime.now(UTC),
                outcome="retry",
            )
        ConnectionHealth.objects.create(connection=target, workspace=target.workspace)
        make_authorization(target)
        make_event(target.workspace)


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_an_empty_list_says_so(model):
    LogEntry.objects.all().delete()
    assert "There is nothing here yet" in words(superuser().list(name_of(model)))


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_nothing_is_added_or_deleted(world, model):
    app, _, name = name_of(model).partition("_")
    first = model._default_manager.first()
    assert world.client.get(f"/admin/{app}/{name}/add/").status_code == 403
    assert world.client.post(f"/admin/{app}/{name}/{first.pk}/delete/", {"post": "yes"}).status_code == 403
    assert model._default_manager.filter(pk=first.pk).exists()


# --- the front page -------------------------------------------------------------------------------------------------


def test_models_stand_in_an_operators_order():
    groups = admin.site.get_app_list(superuser().client.get("/admin/").wsgi_request)
    assert [group["name"] for group in groups] == list(GROUPS)
    assert [model["object_name"] for model in groups[2]["models"]] == [
        "Event",
        "Delivery",
        "DeadLetter",
        "Replay",
        "Unrouted",
    ]


def test_the_overview_is_all_green_where_nothing_is_wrong():
    text = superuser().client.get("/admin/").content.decode()
    assert text.count("tile-good") == 6
    assert "tile-bad" not in text


def test_the_overview_counts_what_is_wrong():
    now, workspace = datetime.now(UTC), make_workspace()
    target = make_connection(workspace)
    make_connection(workspace, status="disabled")
    make_connection(workspace, status="needs_reauth")
    make_connection(workspace, status="deleted")
    ConnectionHealth.objects.create(connection=target, workspace=workspace, breaker="open")
    today, yesterday, overdue = make_deliveries(target, 3)
    rows = Delivery.objects
    rows.filter(pk=today.pk).update(status="dead", finished_at=now)
    rows.filter(pk=yesterday.pk).update(status="dead", finished_at=now - timedelta(hours=25))
    rows.filter(pk=overdue.pk).update(next_attempt_at=now - timedelta(minutes=5))
    waiting, poisoned = make_event(workspace), make_event(workspace)
    Unrouted.objects.filter(pk=waiting.pk).update(created_at=now - timedelta(minutes=30))
    Unrouted.objects.filter(pk=poisoned.pk).update(poisoned_at=now, cause="refused", created_at=now - timedelta(days=1))
    text = words(superuser().client.get("/admin/"))
    for shown in (
        "1 Dead letters, last 24 h",
        "2 Connections not active: 1 disabled, 1 needs reauth",
        "1 Circuit breakers open",
        "5 min Longest overdue delivery",
        "30 min Oldest event before fan-out",
        "1 Events set aside: 1 refused",
        "0 Deliveries in flight",
    ):
        assert shown in text, shown


def test_a_delivery_that_waits_for_its_connection_is_not_overdue():
    now = datetime.now(UTC)
    target = make_connection(make_workspace(), paused_until=now + timedelta(minutes=5))
    (delivery,) = make_deliveries(target)
    Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=now - timedelta(minutes=5))
    assert overview.overdue_since(now) is None
    Connection.objects.filter(pk=target.pk).update(paused_until=None)
    assert overview.overdue_since(now) == now - timedelta(minutes=5)


def test_counting_ends_at_its_bound(monkeypatch):
    monkeypatch.setattr(overview, "MOST_COUNTED", 2)
    made = make_deliveries(make_connection(make_workspace()), 3)
    rows = Delivery.objects.filter(pk__in=[row.pk for row in made])
    rows.update(status="dead", finished_at=datetime.now(UTC))
    assert overview.dead_letters(datetime.now(UTC)) == "≥ 2"


def test_a_figure_that_takes_too_long_is_not_known(monkeypatch):
    monkeypatch.setattr(overview, "STATEMENT_TIMEOUT_MS", 50)
    monkeypatch.setattr(setting_aside, "COUNT_BY_CAUSE", "SELECT 'refused', pg_sleep(30) WHERE 1 < %s")
    assert overview.set_aside() is None
    assert "not known Events set aside" in words(superuser().client.get("/admin/"))


def test_the_overview_stands_while_the_broker_is_away(settings):
    settings.MESHES_REDIS_SHARDS = ["redis://127.0.0.1:1/0"]
    assert "does not answer Broker" in words(superuser().client.get("/admin/"))


def test_who_may_not_see_deliveries_sees_no_figures():
    text = words(operator("workspaces.view_workspace").client.get("/admin/"))
    assert "Workspaces" in text
    assert "Dead letters" not in text


def test_a_delay_within_the_sweeps_promise_is_no_alarm():
    event = make_event(make_workspace())
    moment = datetime.now(UTC) - timedelta(seconds=WAITING_SECONDS - 5)
    Unrouted.objects.filter(pk=event.pk).update(created_at=moment)
    assert "tile-warn" not in superuser().client.get("/admin/").content.decode()


# --- finding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", sorted(PAGES))
def test_any_id_leads_to_its_page(prefix):
    pk = ids.uuid7()
    answer = superuser().client.get("/admin/find/", {"id": f" {ids.encode(prefix, pk)} "})
    assert answer.url == f"/admin/{PAGES[prefix].replace('_', '/')}/{pk}/change/"


def test_an_external_id_leads_to_its_workspace():
    workspace = make_workspace(external_id="northwind")
    answer = superuser().client.get("/admin/find/", {"id": "northwind"})
    assert answer.url == f"/admin/workspaces/workspace/{workspace.pk}/change/"


@pytest.mark.parametrize("text", ["nobody", "evt_x", "<script>", "\x00", "x" * 10_000])
def test_what_is_not_known_leads_back(text):
    answer = superuser().client.get("/admin/find/", {"id": text})
    assert answer.url == "/admin/"
    assert said(answer)[0].startswith("Nothing is known by")


def test_a_bare_uuid_leads_to_the_page_of_whatever_has_it():
    event, workspace = make_event(make_workspace()), make_workspace()
    target = make_connection(workspace)
    (delivery,) = make_deliveries(target)
    root = superuser()
    for row, page in (
        (event, "delivery/event"), (workspace, "workspaces/workspace"), (target, "connections/connection"),
        (delivery, "delivery/delivery"),
    ):  # fmt: skip
        for text in (str(row.pk), row.pk.hex, f" {str(row.pk).upper()} "):
            assert root.client.get("/admin/find/", {"id": text}).url == f"/admin/{page}/{row.pk}/change/"


def test_a_lane_s_name_leads_to_whose_it_is():
    target, root = make_connection(make_workspace()), superuser()
    lanes = {f"conn.{target.pk}": f"connections/connection/{target.pk}"}
    lanes[f"fanout.{target.workspace_id}"] = f"workspaces/workspace/{target.workspace_id}"
    for lane, page in lanes.items():
        assert root.client.get("/admin/find/", {"id": lane}).url == f"/admin/{page}/change/"
    for lane in (f"fanout.{target.pk}", f"conn.{ids.uuid7()}", f"other.{target.pk}", "conn.", "conn.x"):
        answer = root.client.get("/admin/find/", {"id": lane})
        assert (answer.url, said(answer)[-1]) == ("/admin/", f"Nothing is known by {lane!r}.")


@pytest.mark.parametrize("prefix", sorted(PAGES))
def test_an_id_of_nothing_is_answered_by_what_was_typed(prefix):
    root, typed = superuser(), ids.encode(prefix, ids.uuid7())
    answer = root.client.get("/admin/find/", {"id": typed}, follow=True)
    assert [str(message) for message in answer.context["messages"]] == [f"Nothing is known by {typed!r}."]
    bare = str(ids.uuid7())
    assert said(root.client.get("/admin/find/", {"id": bare})) == [f"Nothing is known by {bare!r}."]


def test_a_bare_uuid_tells_nobody_what_they_may_not_see():
    target, clerk = make_connection(make_workspace()), operator("workspaces.view_workspace")
    for text in (str(target.pk), f"conn.{target.pk}"):
        answer = clerk.client.get("/admin/find/", {"id": text})
        assert (answer.url, said(answer)[-1]) == ("/admin/", f"Nothing is known by {text!r}.")
    assert clerk.client.get("/admin/find/", {"id": str(target.workspace_id)}).url.endswith("/change/")


def test_an_external_id_tells_nobody_what_they_may_not_see():
    make_workspace(external_id="northwind")
    answer = operator("delivery.view_event").client.get("/admin/find/", {"id": "northwind"})
    assert (answer.url, said(answer)[-1]) == ("/admin/", "Nothing is known by 'northwind'.")


def test_finding_needs_a_login():
    stranger = superuser()
    stranger.client.logout()
    assert stranger.client.get("/admin/find/", {"id": "x"}).url.startswith("/admin/login/")
