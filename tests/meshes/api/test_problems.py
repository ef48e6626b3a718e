"""Every error is problem+json (RFC 9457), whoever raises it."""

import json
import logging
import uuid

import pytest
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import DatabaseError, InterfaceError, OperationalError, transaction
from django.http import Http404
from django.test import Client, RequestFactory
from rest_framework import exceptions

from meshes.api import problems
from meshes.api.problems import Problem, to_problem
from tests.faults import raise_sqlstate
from tests.workspaces.callers import bearer, caller


def is_problem(answer, status, slug):
    assert answer.status_code == status
    assert answer["Content-Type"] == "application/problem+json"
    document = json.loads(answer.content)
    assert document["type"] == f"urn:meshes:problem:{slug}"
    assert document["status"] == status
    assert document["title"]
    return document


def test_without_a_key():
    answer = Client().get("/api/v1/workspaces")
    is_problem(answer, 401, "unauthenticated")
    assert answer["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer x y", "Bearer é", "Bearer " + "x" * 9000]
)
def test_with_something_else_than_a_key(header):
    is_problem(Client(headers={"authorization": header}).get("/api/v1/workspaces"), 401, "unauthenticated")


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api/v1", "/api/v1/nothing", "/api/v1/workspaces/", "/api/v2/events"]
)
def test_no_such_route(path):
    answer = Client().get(path)
    if path == "/api":
        assert answer.status_code == 404  # not below /api/, but not found all the same
    else:
        is_problem(answer, 404, "not-found")


@pytest.mark.django_db
@pytest.mark.parametrize("method", ["put", "options", "trace", "patch", "delete"])
def test_a_method_that_is_not_there(method):
    answer = getattr(caller(), method)("/api/v1/workspaces")
    is_problem(answer, 405, "method-not-allowed")
    assert answer["Allow"] == "GET, POST, HEAD"


@pytest.mark.parametrize("path", ["/api/schema", "/healthz", "/readyz"])
def test_a_method_that_is_not_there_outside_the_resources(path):
    answer = Client(enforce_csrf_checks=True).post(path)
    is_problem(answer, 405, "method-not-allowed")
    assert answer["Allow"] == "GET, HEAD"


@pytest.mark.django_db
def test_a_form_that_is_not_there():
    is_problem(caller().get("/api/v1/workspaces", headers={"accept": "text/csv"}), 406, "not-acceptable")


@pytest.mark.django_db
def test_a_scope_that_is_lacking():
    document = is_problem(caller(scopes=["events:write"]).get("/api/v1/workspaces"), 403, "forbidden")
    assert document["detail"] == "The key lacks the scope config or admin."


@pytest.mark.django_db
def test_a_format_in_the_query_is_just_an_unknown_parameter():
    document = is_problem(caller().get("/api/v1/workspaces?format=xml"), 422, "invalid")
    assert document["errors"] == [
        {
            "parameter": "format",
            "detail": 'This parameter is not known here: "format" is none of cursor, limit.',
            "rule": "unknown_parameter",
        }
    ]


def test_a_foreign_host():
    is_problem(Client(headers={"host": "evil.example"}).get("/api/v1/workspaces"), 400, "bad-request")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Http404(), 404),
        (PermissionDenied(), 403),
        (exceptions.ParseError(), 400),
        (exceptions.UnsupportedMediaType("text/plain"), 415),
        (OperationalError("server closed the connection"), 503),
        (InterfaceError("connection already closed"), 503),
        (Problem(409), 409),
    ],
    ids=repr,
)
def test_each_error_has_its_status(error, status):
    assert to_problem(error).status == status


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("state", "status"),
    [("53100", 503), ("40P01", 503), ("57P01", 503), ("57014", 503), ("54000", 500), ("22P05", 500), ("42P01", 500)],
)
def test_an_error_of_the_database_is_answered_by_its_state(state, status):
    with pytest.raises(DatabaseError) as failed, transaction.atomic():
        raise_sqlstate(state)
    problem = to_problem(failed.value)
    assert (problem.status, problem.headers) == (status, {"Retry-After": "5"} if status == 503 else {})


def test_nested_mistakes_are_found():
    error = exceptions.ValidationError({"events": [{}, {"a/b": ["bad"]}], "non_field_errors": ["whole"]})
    assert to_problem(error).errors == [
        {"pointer": "/events/1/a~1b", "detail": "bad", "rule": "invalid"},
        {"pointer": "", "detail": "whole", "rule": "invalid"},
    ]


def test_only_so_many_mistakes_are_named():
    error = exceptions.ValidationError({f"field{number}": ["bad"] for number in range(1000)})
    assert len(to_problem(error).errors) == problems.MAX_ERRORS


def test_an_unforeseen_error_tells_its_id_only(caplog):
    document = to_problem(ZeroDivisionError("secret inside")).document()
    assert document["status"] == 500
    assert "secret" not in json.dumps(document)
    assert uuid.UUID(document["instance"].removeprefix("urn:uuid:"))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert document["instance"] in record.getMessage()
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.django_db
def test_an_unforeseen_error_in_a_view(monkeypatch):
    def fail(*args):
        raise ZeroDivisionError("secret inside")

    monkeypatch.setattr("workspaces.views.visible_workspaces", fail)
    answer = caller().get("/api/v1/workspaces")
    is_problem(answer, 500, "internal")
    assert b"secret" not in answer.content


@pytest.mark.django_db
def test_an_unforeseen_error_in_a_middleware(monkeypatch):
    def fail(*args):
        raise ZeroDivisionError("secret inside")

    monkeypatch.setattr("workspaces.authentication.read_credential", fail)
    client = bearer("mesh_live_x")
    client.raise_request_exception = False
    answer = client.post("/api/v1/events", headers={"origin": "https://a.example"})
    is_problem(answer, 500, "internal")
    assert b"secret" not in answer.content


def test_djangos_own_refusal_of_a_large_body():
    request = RequestFactory().post("/api/v1/events")
    is_problem(problems.handler400(request, RequestDataTooBig()), 413, "body-too-large")


@pytest.mark.django_db
def test_the_admin_keeps_its_pages():
    answer = Client().get("/admin/nothing")
    assert answer["Content-Type"].startswith("text/html")
