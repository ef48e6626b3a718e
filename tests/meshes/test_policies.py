"""A content security policy on every answer, pages that keep to it, and methods that nothing has."""

import re

import pytest
from django.contrib.staticfiles import finders
from django.test import Client

from meshes.answers import CONTENT_SECURITY_POLICY
from tests.operators import superuser
from tests.workspaces.callers import caller

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

INLINE = re.compile(rb"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=\"|javascript:", re.IGNORECASE)
OPEN = ["/", "/favicon.ico", "/admin", "/api/docs/", "/healthz", "/readyz", "/api/schema", "/api/docs", "/api/nothing",
        "/api/v1/events", "/nothing", "/admin/login/", "/connect/x", "/oauth/callback", "/static/meshes/docs.js",
        "/static/meshes/favicon.svg"]  # fmt: skip
ADMIN = ["/admin/", "/admin/password_change/", "/admin/auth/user/", "/admin/auth/user/add/",
         "/admin/delivery/delivery/", "/admin/connections/connection/", "/admin/nothing/"]  # fmt: skip


@pytest.mark.parametrize("path", OPEN)
def test_every_answer_has_a_policy(path):
    answer = Client().get(path)
    answer.close()
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert (policy == CONTENT_SECURITY_POLICY) == (not path.startswith(("/connect", "/oauth")))


@pytest.mark.parametrize("path", ADMIN)
def test_the_operators_site_has_it_too_and_nothing_inline(path):
    answer = superuser().client.get(path)
    assert answer["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert INLINE.findall(answer.content) == []


def test_the_docs_page_runs_files_only():
    page = Client().get("/api/docs")
    assert page.status_code == 200
    assert INLINE.findall(page.content) == []
    files = re.findall(rb"(?:src|href)=\"/static/([^\"]+)\"", page.content)
    assert len(files) == 4
    assert [file for file in files if finders.find(file.decode()) is None] == []


# --- methods --------------------------------------------------------------------------------------------------------

UNKNOWN = ["FOO", "TRACE", "CONNECT", "PROPFIND", "foo", "get", "Post", "delete"]
"""Methods are case-sensitive (RFC 9110, 9.1)."""
WRITING = ["PUT", "PATCH", "DELETE", "OPTIONS"]


def send(method, path, client=None):
    """A request as a script makes it: without the CSRF token that Django's client forgives unless told not to."""
    client = client or Client()
    client.handler.enforce_csrf_checks = True
    return client.generic(method, path)


@pytest.mark.parametrize("method", [*UNKNOWN, *WRITING, "POST"])
@pytest.mark.parametrize("path", ["/api/schema", "/api/schema/", "/api/docs", "/api/docs/", "/healthz", "/readyz"])
def test_another_method_is_a_problem_below_the_api(method, path):
    answer = send(method, path)
    assert (answer.status_code, answer["Content-Type"]) == (405, "application/problem+json")
    assert answer["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("method", UNKNOWN)
@pytest.mark.parametrize(
    ("path", "status"), [("/api/v1/workspaces", 401), ("/api/v1/events", 401), ("/api/nothing", 404), ("/api", 404)]
)
def test_an_unknown_method_without_a_key_is_a_problem_too(method, path, status):
    answer = send(method, path)
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("method", UNKNOWN)
def test_an_unknown_method_with_a_key_does_nothing(method):
    answer = send(method, "/api/v1/workspaces", caller())
    assert (answer.status_code, answer["Allow"]) == (405, "GET, POST, HEAD")


@pytest.mark.parametrize("method", [*UNKNOWN, *WRITING])
@pytest.mark.parametrize("path", ["/", "/admin", "/admin/", "/admin/login/", "/admin/auth/user/", "/connect/x",
                                  "/nothing", "/oauth/callback", "/static/meshes/docs.js"])  # fmt: skip
def test_elsewhere_it_is_a_plain_405(method, path):
    answer = send(method, path, superuser().client)
    assert (answer.status_code, answer["Content-Type"]) == (405, "text/plain; charset=utf-8")
    assert answer["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("path", ["/", "/admin", "/favicon.ico"])
def test_a_page_without_a_form_takes_none(path):
    answer = send("POST", path)
    assert (answer.status_code, answer["Content-Type"]) == (405, "text/plain; charset=utf-8")
    assert answer["Allow"] == "GET, HEAD"


# --- forms and addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/admin/login/", "/admin/logout/", "/admin/auth/user/add/", "/admin/password_change/"]
)
def test_a_form_without_its_token_is_answered_by_a_page_that_keeps_to_the_policy(path):
    answer = send("POST", path, superuser().client)
    assert (answer.status_code, answer["Content-Type"]) == (403, "text/html; charset=utf-8")
    assert answer["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert b"MESHES_CSRF_TRUSTED_ORIGINS" in answer.content
    assert INLINE.findall(answer.content) == []


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/admin", "/admin/"),
        ("/api/docs/", "/api/docs"),
        ("/api/schema/", "/api/schema"),
        ("/favicon.ico", "/static/meshes/favicon.svg"),
    ],
)
def test_addresses_as_they_are_typed_lead_there(path, leads_to):
    answer = Client().get(path)
    assert (answer.status_code, answer["Location"]) == (302, leads_to)


def test_the_first_page_has_an_icon():
    page = Client().get("/")
    (icon,) = re.findall(r'<link rel="icon" type="image/svg\+xml" href="([^"]+)">', page.content.decode())
    served = Client().get(icon)
    assert (served.status_code, served["Content-Type"]) == (200, "image/svg+xml")
    served.close()
