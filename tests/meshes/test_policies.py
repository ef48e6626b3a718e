"""A content security policy on every answer, pages that keep to it, and methods that nothing has."""

import re

import pytest
from django.contrib.staticfiles import finders
from django.test import Client

from meshes.policies import CONTENT_SECURITY_POLICY
from tests.operators import superuser

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

INLINE = re.compile(rb"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=\"|javascript:", re.IGNORECASE)
OPEN = ["/", "/healthz", "/readyz", "/api/schema", "/api/docs", "/api/nothing", "/api/v1/events", "/nothing",
        "/admin/login/", "/connect/x", "/oauth/callback", "/static/meshes/docs.js"]  # fmt: skip
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

UNKNOWN = ["FOO", "TRACE", "CONNECT", "PROPFIND"]


@pytest.mark.parametrize("method", UNKNOWN)
@pytest.mark.parametrize("path", ["/api/schema", "/api/docs", "/healthz", "/readyz"])
def test_an_unknown_method_is_a_problem_below_the_api(method, path):
    answer = Client().generic(method, path)
    assert (answer.status_code, answer["Content-Type"]) == (405, "application/problem+json")
    assert answer["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("method", UNKNOWN)
@pytest.mark.parametrize(
    ("path", "status"), [("/api/v1/workspaces", 401), ("/api/v1/events", 401), ("/api/nothing", 404), ("/api", 404)]
)
def test_an_unknown_method_without_a_key_is_a_problem_too(method, path, status):
    answer = Client().generic(method, path)
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("method", [*UNKNOWN, "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/admin/", "/admin/login/", "/admin/auth/user/", "/connect/x", "/nothing",
                                  "/oauth/callback", "/static/meshes/docs.js"])  # fmt: skip
def test_elsewhere_it_is_a_plain_405(method, path):
    answer = superuser().client.generic(method, path)
    assert (answer.status_code, answer["Content-Type"]) == (405, "text/plain; charset=utf-8")
    assert answer["Allow"] == "GET, HEAD, POST"
