"""Which workspaces a reference names, for whom."""

import uuid
from datetime import UTC, datetime

import pytest
from django.http import Http404

from connections.models import Connection
from meshes.kit import ids
from tests.factories import make_connection, make_workspace
from workspaces import endpoints
from workspaces.authentication import Identity
from workspaces.endpoints import resolve_workspace, scope, visible_workspaces
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db


def account():
    return Identity(uuid.uuid4(), "account", None, frozenset({"config"}), "account")


def tenant(workspace):
    return Identity(uuid.uuid4(), "workspace", workspace.pk, frozenset({"config"}), "tenant")


def test_by_id_and_by_external_id():
    workspace = make_workspace(external_id="ws_tenant_abc")
    for reference in (workspace.public_id, "ws_tenant_abc"):
        assert resolve_workspace(account(), reference) == workspace
        assert resolve_workspace(tenant(workspace), reference) == workspace


@pytest.mark.parametrize("reference", [None, 5, "", [], {"id": "x"}, "a b", "\x00", "é", "x" * 129, True])
def test_what_is_no_reference_is_unknown(reference):
    with pytest.raises(Http404):
        resolve_workspace(account(), reference)


def test_foreign_is_unknown():
    own, foreign = make_workspace(), make_workspace()
    for reference in (foreign.public_id, foreign.external_id, ids.encode(ids.WORKSPACE, ids.uuid7())):
        with pytest.raises(Http404):
            resolve_workspace(tenant(own), reference)


def test_a_deleted_one_is_unknown_unless_asked_for():
    workspace = make_workspace(deleted_at=datetime.now(UTC))
    with pytest.raises(Http404):
        resolve_workspace(account(), workspace.public_id)
    assert resolve_workspace(account(), workspace.external_id, include_deleted=True) == workspace


def test_the_live_one_has_the_external_id_before_deleted_ones():
    make_workspace(external_id="acme", deleted_at=datetime.now(UTC))
    live = make_workspace(external_id="acme")
    make_workspace(external_id="acme", deleted_at=datetime.now(UTC))
    assert resolve_workspace(account(), "acme", include_deleted=True) == live


def test_of_deleted_ones_the_last_has_it():
    last = make_workspace(external_id="acme", deleted_at=datetime(2026, 2, 1, tzinfo=UTC))
    make_workspace(external_id="acme", deleted_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert resolve_workspace(account(), "acme", include_deleted=True) == last


def test_rows_are_narrowed_to_who_asks_and_what_is_asked_for():
    own, foreign = make_workspace(), make_workspace()
    mine, theirs = make_connection(own), make_connection(foreign)
    rows = Connection.objects.order_by("pk")
    assert list(scope(rows, account())) == [mine, theirs]
    assert list(scope(rows, account(), foreign)) == [theirs]
    assert list(scope(rows, tenant(own))) == [mine]
    assert list(scope(rows, tenant(own), foreign)) == []


def test_visible_workspaces():
    own, _ = make_workspace(), make_workspace()
    assert list(visible_workspaces(tenant(own))) == [own]
    assert visible_workspaces(account()).count() == Workspace.objects.count() == 2


def test_a_workspace_that_was_seen_costs_no_query_until_it_is_forgotten(django_assert_num_queries):
    workspace = make_workspace(external_id="acme")
    endpoints.forget_workspaces()
    assert endpoints.find_workspaces(account(), ["acme", "other"]) == {"acme": workspace}
    with django_assert_num_queries(0):
        assert endpoints.find_workspaces(account(), ["acme"]) == {"acme": workspace}
    endpoints.forget_workspaces()
    with django_assert_num_queries(1):
        assert endpoints.find_workspaces(account(), ["acme"]) == {"acme": workspace}
