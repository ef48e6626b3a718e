"""Which fields of a row a request may change: those that are documented, and no other, also with every scope."""

import re
from pathlib import Path

import pytest
from django.test import Client

from tests.access_world import World
from tests.workspaces.callers import caller

pytestmark = pytest.mark.django_db

PAGE = Path(__file__).parents[1] / "docs" / "authentication.md"
CHANGED = {
    "/api/v1/workspaces/{workspace}": {"name", "external_id", "ingest_rate", "backlog_limit"},
    "/api/v1/connections/{connection}": {"name", "config", "credentials", "retry", "limits"},
    "/api/v1/rules/{rule}": {"connection", "name", "event", "filter", "mapping", "action", "enabled"},
}
"""What PATCH may change."""


@pytest.fixture
def things():
    return World().things["own"]


@pytest.mark.parametrize("path", CHANGED)
def test_no_other_field_that_is_shown_can_be_set(things, path):
    api, path, changed = caller(), path.format(**vars_of(things)), CHANGED[path]
    before = api.get(path).json()
    assert changed < before.keys() | {"credentials"}
    for name in before.keys() - changed:
        answer = api.patch(path, {name: before[name]}, content_type="application/json")
        assert (answer.status_code, [each["pointer"] for each in answer.json()["errors"]]) == (422, [f"/{name}"]), name
    assert api.get(path).json() == before


def test_a_key_is_not_changed_at_all(things):
    """Its scopes, workspace and kind are those with which it was made."""
    path = f"/api/v1/api-keys/{things.key}"
    api = caller()
    before = api.get(path).json()
    assert api.patch(path, {"scopes": ["admin"]}, content_type="application/json").status_code == 405
    assert api.put(path, before, content_type="application/json").status_code == 405
    assert api.get(path).json() == before


@pytest.mark.parametrize("kind", ["workspace", "publishable"])
def test_a_workspace_s_own_rates_are_not_its_own_to_set(things, kind):
    from workspaces.models import Workspace

    own = caller(kind, workspace=Workspace.objects.get(external_id=things.external_id))
    path = f"/api/v1/workspaces/{things.workspace}"
    assert own.patch(path, {"ingest_rate": 1e6}, content_type="application/json").status_code == 403
    assert Workspace.objects.get(external_id=things.external_id).ingest_rate is None


def test_every_field_that_the_page_names_is_one():
    section = PAGE.read_text().partition("## Fields\n")[2].partition("\n## ")[0]
    named = {name for line in section.splitlines() if line.startswith("| `") for name in in_code(line.split("|")[1])}
    document = Client().get("/api/schema", headers={"accept": "application/json"}).json()
    known = {name for schema in document["components"]["schemas"].values() for name in schema.get("properties", {})}
    assert {"credentials", "scopes", "ingest_rate", "status"} <= named
    assert named - known == set()


def in_code(text):
    return re.findall(r"`([a-z_]+)`", text)


def vars_of(things):
    return {name: getattr(things, name) for name in ("workspace", "connection", "rule")}
