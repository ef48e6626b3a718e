"""Cursor pages: newest first, stable while rows are added, never counted, never a way around who asks."""

import uuid

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from meshes.api.pages import decode_cursor, encode_cursor
from meshes.kit import ids
from tests.factories import make_workspace
from tests.workspaces.callers import caller, issue

PATH = "/api/v1/workspaces"

pytestmark = pytest.mark.django_db


def numbers(page):
    return [int(row["name"]) for row in page["data"]]


@pytest.fixture
def seven():
    for number in range(1, 8):
        make_workspace(name=str(number))


def walk(client, page, direction):
    pages = []
    while page[direction] is not None:
        page = client.get(PATH, {"limit": 3, "cursor": page[direction]}).json()
        pages.append(numbers(page))
    return page, pages


def test_pages_lead_to_the_end_and_back(seven):
    client = caller()
    first = client.get(PATH, {"limit": 3}).json()
    assert numbers(first) == [7, 6, 5]
    assert first["previous"] is None
    last, pages = walk(client, first, "next")
    assert pages == [[4, 3, 2], [1]]
    again, pages = walk(client, last, "previous")
    assert pages == [[4, 3, 2], [7, 6, 5]]
    assert again["previous"] is None
    assert again["next"] is not None


def test_a_page_that_is_just_full_is_the_last(seven):
    page = caller().get(PATH, {"limit": 7}).json()
    assert numbers(page) == [7, 6, 5, 4, 3, 2, 1]
    assert page["next"] is None


def test_rows_that_come_meanwhile_move_nothing(seven):
    client = caller()
    first = client.get(PATH, {"limit": 3}).json()
    make_workspace(name="8")
    second = client.get(PATH, {"limit": 3, "cursor": first["next"]}).json()
    assert numbers(second) == [4, 3, 2]
    assert numbers(client.get(PATH, {"limit": 3, "cursor": second["previous"]}).json()) == [7, 6, 5]


def test_an_empty_list_is_a_page():
    assert caller().get(PATH).json() == {"data": [], "next": None, "previous": None}


def test_fifty_by_default_and_no_count():
    for number in range(51):
        make_workspace(name=str(number))
    client = caller()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        page = client.get(PATH).json()
    assert len(page["data"]) == 50
    assert not any("COUNT(" in query["sql"].upper() for query in queries)


@pytest.mark.parametrize("limit", ["0", "-1", "201", "1.5", "x", "", "9" * 5000, "٣", "1e1", " 5"])
def test_other_limits_are_refused(limit):
    answer = caller().get(PATH, {"limit": limit})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "limit"


@pytest.mark.parametrize("cursor", ["", "x", "é", "\x00", "A" * 44, "A" * 5000, "=", "AAAA===="])
def test_other_cursors_are_refused(cursor):
    answer = caller().get(PATH, {"cursor": cursor})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "cursor"


def test_a_changed_cursor_is_refused(seven):
    cursor = caller().get(PATH, {"limit": 3}).json()["next"]
    for position in range(len(cursor) - 1):
        changed = cursor[:position] + ("A" if cursor[position] != "A" else "B") + cursor[position + 1 :]
        assert caller().get(PATH, {"cursor": changed}).status_code == 422


def test_a_cursor_of_another_list_is_refused(seven):
    cursor = caller().get(PATH, {"limit": 3}).json()["next"]
    assert caller().get("/api/v1/api-keys", {"cursor": cursor}).status_code == 422


def test_a_cursor_is_given_twice_or_not_at_all(seven):
    assert caller().get(f"{PATH}?limit=3&limit=4").status_code == 422


def test_another_callers_cursor_shows_own_rows_only(seven):
    cursor = caller().get(PATH, {"limit": 3}).json()["next"]
    own = make_workspace(name="9")
    page = caller("workspace", ["config"], own).get(PATH, {"cursor": cursor}).json()
    assert page["data"] == []


def test_a_cursor_is_not_made_with_the_wrong_secret(settings):
    cursor = ids.uuid7(), False
    text = encode_cursor(cursor, PATH)
    assert decode_cursor(text, PATH) == cursor
    settings.SECRET_KEY = "another"
    assert decode_cursor(text, PATH) is None


def test_a_cursor_that_an_earlier_version_gave_is_good(settings):
    settings.SECRET_KEY = "a secret key"
    cursor = uuid.UUID("01976e5e-c400-7000-8000-000000000001"), False
    assert decode_cursor("AAGXbl7EAHAAgAAAAAAAAAGn5Dc8YvEPyASUEomGORQL", PATH) == cursor


def test_unknown_parameters_are_refused():
    issue()
    answer = caller().get(PATH, {"worksapce": "x"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "worksapce"
