"""Every route × every kind of caller × own, foreign and unknown things: foreign is unknown, a refusal changes nothing.

The routes are taken from the URLconf, so a route that the table does not know fails here.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admindocs.views import simplify_regex
from django.db import transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from tests.access_routes import CROSSED, NAMED, OPEN, ROUTES, Route
from tests.access_world import Caller, Things, World, snapshot

pytestmark = pytest.mark.django_db

TARGETS = ("own", "foreign", "unknown")


@pytest.fixture(scope="module")
def world(django_db_setup, django_db_blocker):
    """One world for all tests, because making it takes longer than using it; each test leaves it as it was."""
    with django_db_blocker.unblock(), transaction.atomic():
        yield World()
        transaction.set_rollback(True)


@pytest.fixture(autouse=True)
def untouched(world, settings):
    settings.MESHES_WRONG_KEYS = settings.MESHES_CONNECTION_TESTS = 1_000_000  # each route is tried with some
    before = snapshot()
    yield
    assert snapshot() == before


# --- the table knows every route ------------------------------------------------------------------------------------


def walk(resolver: URLResolver, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for entry in resolver.url_patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLPattern):
            yield path, entry.callback
        else:
            yield from walk(entry, path)


def verbs(callback: Any) -> set[str]:
    """What a view answers to; a view that is not DRF's is taken to answer GET."""
    view = getattr(callback, "cls", None)
    if view is None:
        return {"GET"}
    methods = getattr(callback, "actions", None) or {name for name in view.http_method_names if hasattr(view, name)}
    return {method.upper() for method in methods} - {"HEAD", "OPTIONS"}


def plain(path: str) -> str:
    return re.sub(r"[<{][^>}]+[>}]", "*", path.split("?")[0])


def served() -> set[str]:
    routes = [(simplify_regex(path), callback) for path, callback in walk(get_resolver())]
    return {
        f"{verb} {plain(path)}"
        for path, callback in routes
        if not path.startswith("/admin/")
        for verb in verbs(callback)
    }


def test_the_table_knows_every_route():
    known = {f"{route.verb} {plain(route.path)}" for route in ROUTES} | {plain(route) for route in OPEN}
    for example, pattern in NAMED.items():
        known = {route.replace(example, pattern) for route in known}
    assert served() == known


@pytest.mark.parametrize("route", sorted(OPEN))
def test_open_routes_need_no_key(route):
    assert Client().get(route.removeprefix("GET ")).status_code == OPEN[route]


def test_keys_open_no_page_of_the_admin(world):
    key = next(caller for caller in world.callers if caller.kind == "account")
    pages = [re.sub(r"<[^>]+>", "1", simplify_regex(path)) for path, _ in walk(get_resolver())]
    without_a_session = {"/admin/login/", "/admin/away/"}  # the second shows nothing, to anybody
    pages = [page for page in pages if page.startswith("/admin/") and page not in without_a_session]
    assert len(pages) > 10
    for page in pages:
        for client in (Client(), key.client):
            answer = client.get(page)
            assert answer.status_code in {302, 404, 405}, page
            assert answer.status_code != 302 or answer["Location"].startswith("/admin/"), page


# --- the matrix -----------------------------------------------------------------------------------------------------


def send(caller: Caller, route: Route, things: Things) -> HttpResponse:
    path = route.path.format(**dataclasses.asdict(things))
    body = route.body(things) if route.body else None
    ask = getattr(caller.client, route.verb.lower())
    bodiless = route.verb in {"GET", "DELETE"}
    answer: HttpResponse = ask(path) if bodiless else ask(path, body, content_type="application/json")
    return answer


def expected(route: Route, caller: Caller, target: str) -> int:
    if caller.kind == "nobody":
        return 401
    if caller.kind == "publishable" and not route.publishable:
        return 403
    if caller.kind != "account" and route.account_only:
        return 403
    if caller.scopes.isdisjoint(route.scopes):
        return 403
    seen = {caller.home} if caller.home else {"own", "foreign"}
    return route.answers if route.names == "nowhere" or target in seen else route.refusal


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_route(world, route):
    targets = TARGETS if route.names != "nowhere" else ("own",)
    cases = [(caller, target, expected(route, caller, target)) for caller in world.callers for target in targets]
    assert any(status == route.answers for _, _, status in cases)
    _refused(world, route, [case for case in cases if case[2] >= 400])
    _answered(world, route, [case for case in cases if case[2] < 400])


def _refused(world: World, route: Route, cases: list[tuple[Caller, str, int]]) -> None:
    before = snapshot()
    told: dict[str, set[bytes]] = {}
    for caller, target, status in cases:
        answer = send(caller, route, world.things[target])
        assert answer.status_code == status, f"{caller.name}, {target}: {answer.content!r}"
        assert answer["Content-Type"] == "application/problem+json"
        told.setdefault(caller.name, set()).add(answer.content)
    assert snapshot() == before
    assert all(len(answers) == 1 for answers in told.values()), "foreign and unknown differ"


def _answered(world: World, route: Route, cases: list[tuple[Caller, str, int]]) -> None:
    for caller, target, status in cases:
        with transaction.atomic():
            answer = send(caller, route, world.things[target])
            transaction.set_rollback(True)
        assert answer.status_code == status, f"{caller.name}, {target}: {answer.content!r}"
        if caller.home and "json" in answer.get("Content-Type", ""):
            other = world.things["foreign" if caller.home == "own" else "own"]
            assert not [value for value in dataclasses.astuple(other)[2:] if value.encode() in answer.content]


@pytest.mark.parametrize("name", CROSSED)
def test_a_body_may_not_join_two_workspaces(world, name):
    route = next(route for route in ROUTES if route.name == name)
    able = [caller for caller in world.callers if caller.scopes & set(route.scopes) and caller.home != "foreign"]
    assert {caller.kind for caller in able} == {"account", "workspace"}
    for caller in able:
        told = set()
        for other in ("foreign", "unknown"):
            crossed = CROSSED[name]
            body = dataclasses.replace(
                route, body=lambda own, crossed=crossed, other=other: crossed(own, world.things[other])
            )
            answer = send(caller, body, world.things["own"])
            assert answer.status_code == 422, f"{caller.name}, {other}: {answer.content!r}"
            assert answer.json()["errors"][0]["pointer"]
            told.add(answer.content)
        assert len(told) == 1


def test_lists_show_a_tenant_its_own_rows_only(world):
    tenant = next(caller for caller in world.callers if caller.kind == "workspace" and len(caller.scopes) == 4)
    lists = [route for route in ROUTES if route.verb == "GET" and route.names == "nowhere"]
    for route in lists:
        rows = send(tenant, route, world.things["foreign"]).json()
        owners = {row.get("workspace") for row in rows.get("data", [])} - {None}
        assert owners <= {world.foreign.public_id}, route.name
