"""Lists by primary key: every row once, in order, without counting, and never for long."""

import re

import pytest
from django.db import connection
from django.db.models import CharField, Func, Value
from django.db.models.functions import Cast
from django.test.utils import CaptureQueriesContext

from meshes.console import lists
from meshes.console.workspaces import WorkspaceAdmin
from tests.factories import make_workspace
from tests.operators import superuser, words
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(WorkspaceAdmin, "list_per_page", 2)


def shown(answer):
    return re.findall(r"Workspace no\. \d", words(answer))


def follow(root, answer, relation):
    found = re.search(rf'href="([^"]*)" rel="{relation}"', answer.content.decode())
    return found and root.client.get("/admin/workspaces/workspace/" + found[1].replace("&amp;", "&"))


@pytest.mark.usefixtures("small_pages")
def test_pages_lead_to_every_row_once_and_back():
    for number in range(5):
        make_workspace(name=f"Workspace no. {number}")
    root = superuser()
    first = root.list("workspaces_workspace")
    second = follow(root, first, "next")
    third = follow(root, second, "next")
    pages = [shown(page) for page in (first, second, third)]
    assert pages == [
        ["Workspace no. 4", "Workspace no. 3"],
        ["Workspace no. 2", "Workspace no. 1"],
        ["Workspace no. 0"],
    ]
    assert follow(root, third, "next") is None
    back = follow(root, third, "prev")
    assert shown(back) == pages[1]
    assert shown(follow(root, back, "prev")) == pages[0]


@pytest.mark.usefixtures("small_pages")
def test_filters_stay_while_paging():
    for number in range(3):
        make_workspace(name=f"Workspace no. {number}")
    make_workspace(name="Another")
    root = superuser()
    first = root.list("workspaces_workspace", q="no.")
    assert (shown(first), shown(follow(root, first, "next"))) == (
        ["Workspace no. 2", "Workspace no. 1"],
        ["Workspace no. 0"],
    )


@pytest.mark.parametrize("position", ["older.", "older.x", "newer.'; --", "sideways.1", "-1", "%00"])
def test_a_position_that_is_none_is_the_first_page(position):
    make_workspace(name="Workspace no. 1")
    assert shown(superuser().list("workspaces_workspace", p=position)) == ["Workspace no. 1"]


def test_no_page_counts():
    make_workspace()
    root = superuser()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert root.list("workspaces_workspace").status_code == 200
    assert not [query["sql"] for query in queries if "COUNT(" in query["sql"].upper()]


def test_a_query_that_takes_too_long_is_stopped(monkeypatch):
    def slow(self, request):
        return Workspace.objects.annotate(nap=Cast(Func(Value(30.0), function="pg_sleep"), CharField()))

    make_workspace()
    root = superuser()
    monkeypatch.setattr(WorkspaceAdmin, "get_queryset", slow)
    monkeypatch.setattr(lists, "LIST_TIMEOUT_MS", 50)
    answer = root.list("workspaces_workspace")
    assert answer.status_code == 200
    assert "it was stopped after five seconds" in words(answer)


def test_lookups_that_no_page_offers_are_refused():
    make_workspace(name="Workspace no. 1")
    answer = superuser().list("workspaces_workspace", name__contains="no")
    assert answer.status_code == 400
