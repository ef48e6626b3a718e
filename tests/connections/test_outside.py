"""Requests to the outside leave most threads of a web process free, and one workspace leaves most places to others."""

import ast
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from django.core.cache import cache
from django.db import connections as databases

from connections import outside, providers
from tests.factories import make_connection, make_workspace
from tests.polling import eventually
from tests.receivers import Answer
from tests.workspaces.callers import caller, post
from workspaces import limits

PATIENCE = 60.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _fresh_limits(redis_client):
    cache.clear()
    for kept in (limits._shared, limits._turns, outside._places):
        kept.cache_clear()


@pytest.fixture
def all_places_taken():
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(outside.place())
        yield


def ask_for_test(key, connection):
    return post(key, f"/api/v1/connections/{connection.public_id}/test", {})


def is_refused(answer, status, words):
    assert answer.status_code == status
    assert answer["Content-Type"] == "application/problem+json"
    assert int(answer["Retry-After"]) >= 1
    assert words in answer.json()["detail"]


# --- places of a process --------------------------------------------------------------------------------------------


def test_a_quarter_of_the_threads_may_call(settings):
    assert settings.MESHES_WEB_THREADS == 16
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(outside.place())
        with pytest.raises(outside.OutsideBusyError), outside.place():
            pass
    with outside.place():
        pass


@pytest.mark.django_db
def test_a_test_without_a_place_is_answered_503_and_sends_nothing(endpoint, all_places_taken):
    connection = make_connection(make_workspace(), url=endpoint.url)
    is_refused(ask_for_test(caller(), connection), 503, "Too many requests")
    assert endpoint.got == []


@pytest.mark.django_db
def test_options_without_a_place_are_answered_503(endpoint, monkeypatch, all_places_taken):
    monkeypatch.setattr(providers.get("hubspot"), "override", endpoint.url.rpartition("/")[0])
    connection = make_connection(make_workspace(), type="hubspot", config={}, secret={"access_token": "pat-x"})
    answer = caller().get(f"/api/v1/connections/{connection.public_id}/options/list_id")
    is_refused(answer, 503, "Too many requests")
    assert endpoint.got == []


@pytest.mark.django_db(transaction=True)
def test_a_connection_without_tokens_is_deleted_without_a_place(all_places_taken):
    connection = make_connection(make_workspace())
    assert caller().delete(f"/api/v1/connections/{connection.public_id}").status_code == 204


# --- turns of a workspace -------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_two_tests_of_a_workspace_run_at_a_time_and_others_are_not_held_up(endpoint):
    busy, other = (make_connection(make_workspace(), url=endpoint.url) for _ in range(2))
    hung, key = threading.Event(), caller()
    endpoint.answers = lambda got: Answer() if hung.wait(PATIENCE) else Answer(500)

    def ask():
        try:
            return ask_for_test(key, busy)
        finally:
            databases.close_all()

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(ask) for _ in range(2)]
        try:
            eventually(lambda: len(endpoint.got) == 2, PATIENCE)
            is_refused(ask_for_test(key, busy), 429, "2 tests of this workspace are running")
            assert len(endpoint.got) == 2
            endpoint.answers = lambda got: Answer()
            assert ask_for_test(key, other).json()["ok"] is True
        finally:
            hung.set()
        assert [each.result(PATIENCE).status_code for each in running] == [200, 200]
    assert ask_for_test(key, busy).json()["ok"] is True


@pytest.mark.django_db
def test_a_workspace_tests_its_connections_ten_times_a_minute(endpoint, settings):
    assert settings.MESHES_CONNECTION_TESTS == 10
    workspace, key = make_workspace(), caller()
    first, second = (make_connection(workspace, url=endpoint.url) for _ in range(2))
    for number in range(10):
        assert ask_for_test(key, (first, second)[number % 2]).status_code == 200
    is_refused(ask_for_test(key, first), 429, "10 times a minute")
    assert len(endpoint.got) == 10
    assert ask_for_test(key, make_connection(make_workspace(), url=endpoint.url)).status_code == 200


@pytest.mark.django_db
def test_a_test_that_was_refused_does_not_count(endpoint, settings):
    connection, key = make_connection(make_workspace(), url=endpoint.url), caller()
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(outside.place())
        for _ in range(12):
            assert ask_for_test(key, connection).status_code == 503
    assert ask_for_test(key, connection).status_code == 200


@pytest.mark.django_db
def test_choices_that_are_kept_need_no_place(endpoint, monkeypatch):
    monkeypatch.setattr(providers.get("hubspot"), "override", endpoint.url.rpartition("/")[0])
    endpoint.answer(200, body=b'{"lists": []}')
    connection = make_connection(make_workspace(), type="hubspot", config={}, secret={"access_token": "pat-x"})
    key, path = caller(), f"/api/v1/connections/{connection.public_id}/options/list_id"
    assert key.get(path).status_code == 200
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(outside.place())
        assert key.get(path).status_code == 200


# --- what the source says -------------------------------------------------------------------------------------------

SOURCES = [
    path
    for folder in ("workspaces", "connections", "delivery", "meshes")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.parent.name != "demo"
]
CALLERS = {
    # of workers; and of tests and options: `outside.place_of`, in `connections.views` and `.calls`
    ("connections/conversation.py", "_call"),
    ("connections/oauth/tokens.py", "_send"),  # tokens, details, revocation: below
}
EXCHANGES = {
    ("connections/oauth/authorize.py", "by_code"),  # the callback, in its place
    ("connections/oauth/authorize.py", "read_details"),
    ("connections/oauth/authorize.py", "revoke"),
    ("connections/oauth/refresh.py", "renew"),  # of a worker, a test or options
    ("connections/oauth/refresh.py", "revoke"),
    ("connections/oauth/grants.py", "renew"),  # disconnect and delete, in the place of `connections.lifecycle`
    ("connections/oauth/grants.py", "revoke"),
}


def calls_in(path):
    """Every call of an attribute in a module: the innermost function it stands in, `name.attribute`, and the call."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            around = [each for each in functions if each.lineno <= node.lineno <= (each.end_lineno or 0)]
            name = max(around, key=lambda each: each.lineno).name if around else ""
            yield name, ast.unparse(node.func), node


def test_whoever_calls_the_outside_is_known_and_has_a_place():
    """A new caller says here where its place is, and joins `oauth/test_places.py` where a web thread may come to it."""
    names = [(str(path.relative_to(ROOT)), *call) for path in SOURCES for call in calls_in(path)]
    assert {(path, by) for path, by, name, _ in names if name in {"outbound.send", "outbound.session"}} == CALLERS
    tokens = ROOT / "connections/oauth/tokens.py"
    functions = [node for node in ast.walk(ast.parse(tokens.read_text())) if isinstance(node, ast.FunctionDef)]
    asking = {each.name for each in functions if re.search(r"\b(_send|_ask)\(", ast.unparse(each))}
    asked = {(path, name.partition(".")[2]) for path, _, name, _ in names if name.startswith("tokens.")}
    assert {each for each in asked if each[1] in asking} == EXCHANGES


def test_what_runs_after_a_commit_has_a_name():
    """Django reads the name of a robust hook that fails: a partial has none, and its error would be a 500."""
    hooks = [node.args[0] for path in SOURCES for _, name, node in calls_in(path) if name.endswith("on_commit")]
    assert len(hooks) >= 10
    assert [ast.unparse(hook) for hook in hooks if isinstance(hook, ast.Call)] == []
