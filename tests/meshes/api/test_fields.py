"""Resources whose fields are declared once."""

import pytest
from django.core.exceptions import FieldDoesNotExist
from rest_framework import serializers

from meshes.api.fields import AnswerSerializer, FieldsOf, OneOfField, StrictSerializer, store
from meshes.kit import clock
from tests.factories import make_workspace
from tests.workspaces.callers import caller, post
from workspaces.models import ApiKey, Workspace
from workspaces.views import ApiKeyIn, WorkspaceIn


class PlanIn(StrictSerializer):
    name = serializers.CharField(max_length=5)
    color = OneOfField(["red", "blue"], required=False, allow_null=True)
    tags = serializers.ListField(child=serializers.CharField(max_length=3), required=False, max_length=2)
    seats = serializers.IntegerField(required=False, min_value=1, help_text="How many.")


class PlanOut(AnswerSerializer):
    id = serializers.CharField()
    of_body = FieldsOf(PlanIn)
    seats = serializers.IntegerField(help_text="How many are left.")


def test_an_answer_shows_what_the_body_declares_in_its_order_and_without_its_limits():
    fields = PlanOut().fields
    assert list(fields) == ["id", "name", "color", "tags", "seats"]
    assert (fields["name"].max_length, fields["name"].allow_null, fields["name"].required) == (None, False, True)
    assert (list(fields["color"].choices), fields["color"].allow_null) == (["red", "blue"], True)
    assert fields["tags"].child.max_length is None
    assert fields["seats"].help_text == "How many are left."
    shown = PlanOut({"id": "1", "name": "longer than a body's", "color": None, "tags": ["longer"], "seats": 0}).data
    assert shown == {"id": "1", "name": "longer than a body's", "color": None, "tags": ["longer"], "seats": 0}


@pytest.mark.django_db
def test_a_column_joins_a_resource_by_one_line_of_its_body(monkeypatch, schemas):
    column = serializers.DateTimeField(required=False, allow_null=True)
    monkeypatch.setitem(WorkspaceIn._declared_fields, "purged_at", column)
    made = post(caller(), "/api/v1/workspaces", {"name": "Acme", "purged_at": "2026-01-01T00:00:00Z"}).json()
    assert made["purged_at"] == "2026-01-01T00:00:00Z"
    path = f"/api/v1/workspaces/{made['id']}"
    changed = caller().patch(path, {"purged_at": "2026-02-02T00:00:00Z"}, content_type="application/json").json()
    assert changed["purged_at"] == "2026-02-02T00:00:00Z"
    assert caller().get(path).json() == changed
    assert Workspace.objects.get().purged_at.isoformat() == "2026-02-02T00:00:00+00:00"
    described = schemas()
    bodies = ("WorkspaceInRequest", "PatchedWorkspaceInRequest", "WorkspaceOut")
    assert [name for name in bodies if "purged_at" not in described[name]["properties"]] == []


@pytest.mark.django_db
def test_a_column_joins_the_keys_by_one_line_of_their_body(monkeypatch):
    column = serializers.IntegerField(required=False, allow_null=True)
    monkeypatch.setitem(ApiKeyIn._declared_fields, "audience_from_version", column)
    document = {"name": "CI", "kind": "account", "scopes": ["config"], "audience_from_version": 7}
    made = post(caller(), "/api/v1/api-keys", document).json()
    assert made["audience_from_version"] == 7
    assert caller().get(f"/api/v1/api-keys/{made['id']}").json()["audience_from_version"] == 7
    assert ApiKey.objects.get(name="CI").audience_from_version == 7


@pytest.mark.django_db
def test_only_what_is_given_is_written_and_the_moment_of_the_change():
    workspace = make_workspace(name="Acme")
    Workspace.objects.filter(pk=workspace.pk).update(name="changed meanwhile", updated_at="2020-01-01T00:00:00Z")
    store(workspace, backlog_limit=5)
    row = Workspace.objects.get()
    assert (row.name, row.backlog_limit) == ("changed meanwhile", 5)
    assert (clock.now() - row.updated_at).total_seconds() < 3600


@pytest.mark.django_db
def test_what_has_no_column_is_not_answered_as_if_it_were_stored():
    workspace = make_workspace(name="Acme")
    with pytest.raises(FieldDoesNotExist):
        store(workspace, name="Other", colour="red")
    assert Workspace.objects.get().name == "Acme"
