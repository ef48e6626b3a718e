"""How often a key may ask, and how many of its searches that no index serves may be at it at a time."""

import threading
import uuid
from contextlib import ExitStack

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from meshes.api.problems import Problem
from meshes.kit import ids
from tests.factories import make_connection, make_deliveries, make_workspace
from tests.polling import eventually
from tests.workspaces.callers import bearer, caller, issue, post
from workspaces import endpoints, limits
from workspaces.endpoints import TURN_SECONDS, bounded_search

pytestmark = pytest.mark.django_db

POSTING_EVENTS = {("post", "/api/v1/events"), ("post", "/api/v1/events/bulk")}
PATHS = ("/healthz", "/readyz", "/api/schema", "/")


@pytest.fixture(autouse=True)
def shared(redis_client):
    """Buckets and turns on this test's own server."""
    for kept in (limits._shared, limits._turns):
        kept.cache_clear()
    yield
    for kept in (limits._shared, limits._turns):
        kept.cache_clear()


def operations():
    document = Client().get("/api/schema", headers={"accept": "application/json"}).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in {"get", "post", "put", "patch", "delete"}:
                yield method, path, operation


def drained(key_id):
    """The key has asked a thousand times more than it may, so that no machine is slow enough to fill its bucket."""
    assert limits._shared().take({f"meshes:api:key:{key_id}": (1, 1)}, 1000) is None


def call(key, method, path):
    named = dict.fromkeys(("id", "type", "field"), "x")
    return bearer(key.key).generic(method.upper(), path.format(**named), "{}", content_type="application/json")


# --- the rate -------------------------------------------------------------------------------------------------------


def test_every_route_but_the_posting_of_events_has_the_rate(settings):
    settings.MESHES_API_RATE = 1
    key = issue()
    drained(key.row.pk)
    refused = set()
    for method, path, operation in operations():
        answer = call(key, method, path)
        assert "Retry-After" in operation["responses"]["429"]["headers"], (method, path)
        if answer.status_code == 429:
            assert answer.json()["type"] == "urn:meshes:problem:rate-limited"
            assert "1 requests a second" in answer.json()["detail"]
            assert int(answer["Retry-After"]) > 1
            refused.add((method, path))
    everything = {(method, path) for method, path, _ in operations()}
    assert everything - refused == POSTING_EVENTS
    assert len(everything) > 40


def test_pages_without_a_key_have_no_rate(settings):
    settings.MESHES_API_RATE = 1
    for path in PATHS:
        assert {Client().get(path).status_code for _ in range(5)} == {200}, path


def test_a_key_s_rate_is_its_own(settings):
    settings.MESHES_API_RATE = 1
    key, other = issue(), issue()
    drained(key.row.pk)
    assert bearer(key.key).get("/api/v1/workspaces").status_code == 429
    assert bearer(other.key).get("/api/v1/workspaces").status_code == 200


def test_what_a_key_may_not_do_counts_too(settings):
    settings.MESHES_API_RATE = 1
    key = issue("account", ["events:write"])
    drained(key.row.pk)
    assert bearer(key.key).get("/api/v1/api-keys").status_code == 429


def test_a_second_s_worth_of_asking_passes_at_once():
    key_id = ids.uuid7()
    assert [limits.take_request(key_id) for _ in range(200)] == [None] * 200


def test_a_rate_of_one_lets_one_pass(settings):
    settings.MESHES_API_RATE = 1
    key_id = ids.uuid7()
    assert limits.take_request(key_id) is None
    assert 0 < limits.take_request(key_id) <= 1


def test_posting_events_is_held_back_by_no_rate_of_asking(settings):
    settings.MESHES_API_RATE = 1
    key = issue()
    drained(key.row.pk)
    assert post(bearer(key.key), "/api/v1/events", {}).status_code == 422


# --- searches -------------------------------------------------------------------------------------------------------

UNINDEXED = [
    "/api/v1/events?status=accepted",
    "/api/v1/events?event=lead.created",
    "/api/v1/deliveries?outcome=retry",
    "/api/v1/deliveries?status=in_flight",
    "/api/v1/dead-letters?cause=exhausted",
    "/api/v1/connections?type=webhook",
    "/api/v1/connections?status=paused",
    "/api/v1/rules?event=lead.created",
]
INDEXED = [
    "/api/v1/events",
    "/api/v1/deliveries?status=dead",
    "/api/v1/dead-letters",
    "/api/v1/connections",
    "/api/v1/rules",
    "/api/v1/replays",
    "/api/v1/workspaces",
    "/api/v1/api-keys",
]


@pytest.fixture
def searching_key(monkeypatch):
    """A key whose two searches are running, in another process."""
    monkeypatch.setattr(endpoints, "WAIT_SECONDS", 0.1)
    key = issue()
    with ExitStack() as stack:
        for _ in range(2):
            assert stack.enter_context(limits.turn(f"searches:{key.row.pk}", 2, TURN_SECONDS))
        yield key


@pytest.mark.parametrize("path", UNINDEXED)
def test_a_third_search_that_no_index_serves_is_told_to_wait(searching_key, path):
    answer = bearer(searching_key.key).get(path)
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) > 0
    assert answer.json()["type"] == "urn:meshes:problem:rate-limited"
    assert answer.json()["detail"].startswith("2 searches of this key that no index serves are running.")
    assert caller().get(path).status_code == 200  # another key's


@pytest.mark.parametrize("path", INDEXED)
def test_what_an_index_serves_waits_for_nobody(searching_key, path):
    assert bearer(searching_key.key).get(path).status_code == 200


@pytest.mark.parametrize("path", ["deliveries?status=dead", "dead-letters?", "deliveries?outcome=retry"])
def test_the_connection_of_a_stranger_is_not_searched_for(path):
    """An index would read all that the stranger has, to leave it out."""
    stranger, own = make_connection(make_workspace()), make_workspace()
    delivery = make_deliveries(stranger)[0]
    type(delivery).objects.filter(pk=delivery.pk).update(status="dead", outcome="retry")
    url = f"/api/v1/{path}&connection={stranger.public_id}"
    for api, rows, reads in ((caller("workspace", workspace=own), 0, 0), (caller(), 1, 1)):
        with CaptureQueriesContext(connection) as queries:
            answer = api.get(url)
        assert (answer.status_code, len(answer.json()["data"])) == (200, rows)
        assert sum('FROM "deliveries"' in query["sql"] for query in queries) == reads


def test_the_count_of_a_replay_is_a_search(searching_key):
    api = bearer(searching_key.key)
    workspace = post(api, "/api/v1/workspaces", {"name": "Acme"}).json()["id"]
    asked = {"workspace": workspace, "filter": {}, "dry_run": True}
    assert post(api, "/api/v1/replays", asked).status_code == 429
    assert post(caller(), "/api/v1/replays", asked).status_code == 200


def test_the_access_log_is_searched_in_turns(searching_key):
    api = bearer(searching_key.key)
    workspace = post(api, "/api/v1/workspaces", {"name": "Acme"}).json()["id"]
    path = f"/api/v1/workspaces/{workspace}/access-log"
    assert api.get(path).status_code == 200
    assert api.get(path, {"actor": "somebody"}).status_code == 429


def test_a_search_waits_for_the_end_of_another(monkeypatch):
    monkeypatch.setattr(endpoints, "WAIT_SECONDS", 60.0)
    key = issue()
    path, first = f"searches:{key.row.pk}", ExitStack()
    for _ in range(2):
        first.enter_context(limits.turn(path, 2, TURN_SECONDS))
    done: list[int] = []

    def search():
        with bounded_search_elsewhere(key.row.pk):
            done.append(1)

    waiting = threading.Thread(target=search)
    waiting.start()
    eventually(lambda: endpoints._threads[key.row.pk] == 1, seconds=10)
    assert done == []
    first.close()
    waiting.join(60)
    assert done == [1]


def bounded_search_elsewhere(key_id):
    """Only the turn: a thread's own connection would see no rows of this test."""
    return endpoints._turn_of(key_id)


def test_turns_are_given_back_however_a_search_ends(settings):
    settings.MESHES_SEARCHES = 1
    key_id = uuid.uuid4()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), bounded_search(key_id):
            raise ZeroDivisionError
        with pytest.raises(Problem), bounded_search(key_id):
            raise Problem(422)
    with bounded_search(key_id):
        pass
    assert not endpoints._threads


def test_the_turn_of_a_process_that_was_lost_lapses(monkeypatch, settings):
    settings.MESHES_SEARCHES = 1
    monkeypatch.setattr(endpoints, "WAIT_SECONDS", 60.0)
    key_id = uuid.uuid4()
    assert limits._turns().enter(f"meshes:turns:searches:{key_id}", 1, 0.2) is not None
    with bounded_search(key_id):
        pass


def test_of_one_key_as_many_wait_in_a_process_as_may_search(settings):
    settings.MESHES_SEARCHES = 1
    key_id = uuid.uuid4()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(endpoints._thread_for(key_id, 1))
        with pytest.raises(Problem) as refused, bounded_search(key_id):
            pass
    assert refused.value.status == 429


def test_searches_of_all_keys_leave_half_of_the_threads(settings):
    settings.MESHES_WEB_THREADS = 4
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(bounded_search(uuid.uuid4()))
        with pytest.raises(Problem) as refused, bounded_search(uuid.uuid4()):
            pass
        with bounded_search():
            pass
    assert (refused.value.status, int(refused.value.headers["Retry-After"])) == (503, 2)
    with bounded_search(uuid.uuid4()):
        pass


def test_without_valkey_each_process_counts_for_itself(settings, monkeypatch):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    for kept in (limits._shared, limits._turns):
        kept.cache_clear()
    monkeypatch.setattr(endpoints, "WAIT_SECONDS", 0.1)
    settings.MESHES_SEARCHES = 1
    api = caller()
    assert api.get("/api/v1/deliveries?outcome=retry").status_code == 200
    key_id = uuid.uuid4()
    with bounded_search(key_id), pytest.raises(Problem) as refused, bounded_search(key_id):
        pass
    assert refused.value.status == 429
