"""Every answer is of one moment, however fast the rows below it change."""

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from django.db import connection, connections, transaction
from django.urls import reverse

from connections.models import Connection
from connections.providers.base import Outcome, Verdict
from delivery.dispatch import attempts, claims, replays, settling
from delivery.models import Delivery, Event, Replay
from delivery.rules import routing
from meshes.kit import ids
from meshes.kit.clock import snapshot
from tests.access_routes import ROUTES
from tests.access_world import World
from tests.delivery.api import account
from tests.factories import fan_out, make_connection, make_deliveries, make_event, make_rule, make_workspace
from tests.operators import superuser, words
from tests.statements import counted_statements

pytestmark = pytest.mark.django_db(transaction=True)

LEVEL = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
ROUNDS = 40


def read(sql: str) -> tuple[object, ...]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return tuple(cursor.fetchone())


@contextmanager
def meanwhile(change: Callable[[], None]):
    """`change` runs over and over in a thread of its own until the block ends; what it raises, the block raises."""
    ended = threading.Event()

    def run() -> None:
        try:
            while not ended.is_set():
                change()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run)
        try:
            yield
        finally:
            ended.set()
    running.result()


# --- the snapshot itself --------------------------------------------------------------------------------------------


def test_a_snapshot_is_one_state_that_is_only_read():
    with snapshot():
        assert read(LEVEL) == ("repeatable read", "on")
    with snapshot(is_read_only=False):
        assert read(LEVEL) == ("repeatable read", "off")
    assert read(LEVEL) == ("read committed", "off")


def test_within_a_transaction_it_is_that_transaction():
    with snapshot(), snapshot(is_read_only=False):
        assert read(LEVEL) == ("repeatable read", "on")


# --- every route ----------------------------------------------------------------------------------------------------


def test_no_answer_to_a_get_writes_and_each_is_of_one_moment():
    """Every route of the API, by a caller who may: those that ask a vendor, or nobody, are named."""
    things = World().things["own"]
    api, apart = account(), set()
    for route in (route for route in ROUTES if route.verb == "GET"):
        path = route.path.removeprefix("/api/v1").format(**dataclasses.asdict(things))
        with counted_statements() as statements:
            answer = api.get(path)
        assert answer.status_code == route.answers, (route.name, answer.content)
        selects = [each for each in statements if each.startswith("SELECT") and '"api_keys"."id" = ' not in each]
        if not any("REPEATABLE READ" in each for each in statements):
            apart.add(route.name)
            assert len(selects) <= 1, route.name
    assert apart == {
        "GET /integrations",
        "GET /integrations/webhook",
        "GET /connections/{connection}/options/list_id",
    }


def test_every_page_of_the_admin_is_of_one_moment():
    World()
    root, pages = superuser(), [reverse("admin:index")]
    models = {"delivery_event": Event, "delivery_delivery": Delivery, "connections_connection": Connection}
    for name, model in models.items():
        pages += [reverse(f"admin:{name}_changelist"), reverse(f"admin:{name}_change", args=[model.objects.first().pk])]
    for page in pages:
        with counted_statements() as statements:
            assert root.client.get(page).status_code == 200
        begins = [place for place, each in enumerate(statements) if "REPEATABLE READ" in each]
        assert len(begins) == 1, page
        assert not [each for each in statements[: begins[0]] if "deliveries" in each or "events" in each], page


# --- under load -----------------------------------------------------------------------------------------------------


def test_an_event_is_never_routed_without_what_became_of_it():
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    api, seen = account(), set()
    for _ in range(ROUNDS):
        event = make_event(workspace)
        with meanwhile(lambda event=event: fan_out([event.pk])):
            for _ in range(1000):
                shown = api.get(f"/events/{event.public_id}").json()
                parts = shown["status"], len(shown["routing"]), len(shown["deliveries"])
                seen.add(parts)
                if shown["status"] == "routed":
                    break
        assert parts == ("routed", 1, 1)
    assert seen <= {("accepted", 0, 0), ("routed", 1, 1)}


def test_the_page_of_an_event_is_never_routed_without_its_delivery():
    workspace = make_workspace()
    rule = make_rule(make_connection(workspace))
    root = superuser()
    for _ in range(ROUNDS // 4):
        event = make_event(workspace)
        delivery = ids.encode(ids.DELIVERY, routing.delivery_id(event.pk, rule.pk))
        with meanwhile(lambda event=event: fan_out([event.pk])):
            for _ in range(1000):
                text = words(root.page("delivery_event", event.pk))
                assert delivery in text or "routing ledger is not kept" not in text, text
                if delivery in text:
                    break
        assert delivery in text


def settle_over_and_over(delivery: Delivery) -> Callable[[], None]:
    """One attempt after the other, each of which is to be tried again."""

    def attempt() -> None:
        Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=datetime.now(UTC), budget_used=0)
        (job,) = claims.claim([delivery.pk], "worker")
        if job is not None:
            verdict = Verdict(Outcome.RETRY, "server_error", "It failed.", is_counted=False)
            settling.settle([attempts.Result(job, verdict, job.clock.moment, 1)], "worker")

    return attempt


def is_whole(shown):
    """As many attempts as were claimed and ended; one more was claimed where it is in flight."""
    return shown["attempt_count"] == len(shown["attempts"]) + (shown["status"] == "in_flight")


@pytest.mark.parametrize("of", ["delivery", "event"])
def test_a_delivery_is_never_in_flight_beside_the_attempt_that_ended(of):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    api, states = account(), set()
    with meanwhile(settle_over_and_over(delivery)):
        for _ in range(ROUNDS * 5):
            path = f"/deliveries/{delivery.public_id}" if of == "delivery" else f"/events/{event_id(delivery)}"
            shown = api.get(path).json()
            shown = shown if of == "delivery" else shown["deliveries"][0]
            assert is_whole(shown), (shown["status"], shown["attempt_count"], len(shown["attempts"]))
            states.add(shown["status"])
    assert "pending" in states


def event_id(delivery: Delivery) -> str:
    return ids.encode(ids.EVENT, delivery.event_id)


def test_a_replay_says_as_many_as_its_deliveries_are():
    destination = make_connection(make_workspace())
    deliveries = make_deliveries(destination, 30)
    asked = Replay.objects.create(workspace=destination.workspace, requested_by="test")
    waiting = [delivery.pk for delivery in deliveries]
    Delivery.objects.update(status="dead", cause="exhausted")

    def reopen_one() -> None:
        if waiting:
            with transaction.atomic():
                sent = replays.send_again([waiting.pop()], replays.Terms(replay_id=asked.pk))
                Replay.objects.filter(pk=asked.pk).update(reopened=30 - len(waiting))
                assert len(sent.made) == 1

    api = account()
    with meanwhile(reopen_one):
        for _ in range(1000):
            shown = api.get(f"/replays/{asked.public_id}").json()
            assert sum(shown["deliveries"].values()) == shown["reopened"]
            if shown["reopened"] == 30:
                break
    assert shown["reopened"] == 30
