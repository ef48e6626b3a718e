"""Routes × headers × settings: what every answer says, and how it may have been asked for."""

from contextlib import contextmanager

import pytest
from django.test import Client, override_settings
from django.urls import Resolver404, resolve

from meshes import urls
from meshes.answers import CONTENT_SECURITY_POLICY
from tests.meshes.routing_table import paths
from tests.operators import superuser
from tests.workspaces.callers import caller, issue
from workspaces import limits, security_log

HSTS = "max-age=31536000; includeSubDomains"
HTTPS = {"MESHES_HTTPS": True, "SECURE_HSTS_SECONDS": 31_536_000, "SESSION_COOKIE_SECURE": True}
"""What the settings are with MESHES_HTTPS=1, but for the names of cookies, which test_web_process.py has."""
PROXY, ELSEWHERE = "10.0.0.1", "203.0.113.7"
OTHERS = ["/nothing", "/api/nothing", "/api/v1/nothing", "/static/meshes/docs.js", "/static/nothing.js"]
HEALTH = ("/healthz", "/readyz")
ROUTES = [path for path in paths() if not path.startswith("/admin/")] + OTHERS
ADMIN = [path for path in paths() if path.startswith("/admin/")]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]


@pytest.fixture(autouse=True)
def _fresh_limits():
    limits._shared.cache_clear()
    security_log.write_refusals()


def ask(path, client=None, method="GET", **meta):
    client = client or Client(raise_request_exception=False)
    answer = client.generic(method, path, **meta)
    if answer.streaming:  # a file, which is open; to close any other answer would end the test's transaction
        answer.close()
    return answer


def is_api(path):
    return path.startswith("/api")


def has_all(answer, path):
    """The headers that each answer has, whatever it says."""
    policy = answer["Content-Security-Policy"]
    for part in ("default-src 'none'", "object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"):
        assert part in policy.split("; "), (path, policy)
    assert "unsafe" not in policy
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] in ("same-origin", "no-referrer")
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer["Cross-Origin-Resource-Policy"] == "same-origin"
    is_file = path.startswith("/static/") and answer.status_code == 200
    assert ("no-store" in answer["Cache-Control"]) != is_file, (path, answer["Cache-Control"])
    assert "Server" not in answer


def test_the_table_has_every_route():
    """Also those that are written as regular expressions: each sample leads to a view of its own pattern."""
    unknown = []
    for path in paths():
        try:
            resolve(path)
        except Resolver404:
            unknown.append(path)
    assert unknown == []
    assert {"/", "/healthz", "/api/v1/events", "/api/docs", "/connect/x", "/oauth/callback", "/admin/login/"} <= {
        *paths()
    }
    assert len(paths()) > 150


@pytest.mark.parametrize("path", ROUTES)
def test_without_https_each_answer_has_the_headers_and_binds_nobody_to_https(path):
    for client in (None, caller()):
        for method in ("GET", "POST", "PUT", "FOO"):
            answer = ask(path, client, method)
            has_all(answer, path)
            assert "Strict-Transport-Security" not in answer


@pytest.mark.parametrize("path", ROUTES)
@override_settings(**HTTPS)
def test_over_https_each_answer_has_them_and_binds_browsers(path):
    for client in (None, caller()):
        for method in ("GET", "POST", "FOO"):
            answer = ask(path, client, method, HTTP_X_FORWARDED_PROTO="https")
            has_all(answer, path)
            assert answer["Strict-Transport-Security"] == HSTS
            assert answer.status_code != 301
            assert b"https_required" not in getattr(answer, "content", b"")


@pytest.mark.parametrize("path", ROUTES)
@override_settings(**HTTPS)
def test_over_http_the_api_refuses_and_pages_are_redirected(path):
    for client in (None, caller()):
        for method in ("GET", "POST", "FOO"):
            answer = ask(f"{path}?a=b", client, method, REMOTE_ADDR=ELSEWHERE)
            has_all(answer, path)
            assert "Strict-Transport-Security" not in answer  # RFC 6797, 7.2: not over http
            if path in HEALTH:
                assert answer.status_code in (200, 405, 503)
            elif is_api(path):
                assert (answer.status_code, answer.json()["errors"][0]["rule"]) == (403, "https_required")
            else:
                assert (answer.status_code, answer["Location"]) == (301, f"https://testserver{path}?a=b")


def test_the_operators_site_too():
    operator = superuser().client
    for path in ADMIN:
        for client in (None, operator):
            answer = ask(path, client)
            has_all(answer, path)
            assert answer["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    with override_settings(**HTTPS):
        for path in ADMIN:
            assert ask(path, REMOTE_ADDR=ELSEWHERE)["Location"] == f"https://testserver{path}"
            answer = ask(path, HTTP_X_FORWARDED_PROTO="https")
            has_all(answer, path)
            assert answer["Strict-Transport-Security"] == HSTS


# --- errors -----------------------------------------------------------------------------------------------------------


@contextmanager
def breaking(name):
    def fail(*args, **kwargs):
        raise RuntimeError(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(urls, "render", fail)
        patch.setattr(urls, "_document", fail)
        yield


@pytest.mark.parametrize("options", [{}, HTTPS], ids=["http", "https"])
def test_errors_have_them_too(options):
    forwarded = {"HTTP_X_FORWARDED_PROTO": "https"} if options else {}
    login = caller()
    with override_settings(**options):
        with breaking("unforeseen"):
            errors = {500: [("/", ask("/", **forwarded)), ("/api/schema", ask("/api/schema", **forwarded))]}
        wrong_host = [(path, ask(path, HTTP_HOST="evil.example", **forwarded)) for path in ("/", "/api/v1/events")]
        body = login.generic("POST", "/api/v1/events", b"{", content_type="application/json", **forwarded)
        large = b" " * 300_000
        too_large = login.generic("POST", "/api/v1/events", large, content_type="application/json", **forwarded)
        errors |= {
            400: [*wrong_host, ("/api/v1/events", body)],
            404: [(path, ask(path, **forwarded)) for path in ("/nothing", "/api/nothing", "/static/nothing.js")],
            405: [(path, ask(path, method="FOO", **forwarded)) for path in ("/", "/api/docs")],
            413: [("/api/v1/events", too_large)],
        }
    for status, answers in errors.items():
        for path, answer in answers:
            assert answer.status_code == status, path
            has_all(answer, path)
            assert answer.get("Strict-Transport-Security") == (HSTS if options else None)


# --- who says that it was https ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "peer", "said", "is_https"),
    [
        ([], ELSEWHERE, "https", True),
        ([], ELSEWHERE, "HTTPS", True),
        ([], ELSEWHERE, "http", False),
        ([], ELSEWHERE, "", False),
        ([], ELSEWHERE, "https, http", False),
        ([], ELSEWHERE, "http,https", False),
        ([], ELSEWHERE, "https,https", True),
        (["10.0.0.0/8"], PROXY, "https", True),
        (["10.0.0.0/8"], f"::ffff:{PROXY}", "https", True),
        (["10.0.0.0/8"], PROXY, "http", False),
        (["10.0.0.0/8"], ELSEWHERE, "https", False),
        (["10.0.0.0/8"], "", "https", False),
    ],
)
def test_whose_word_is_taken_that_it_came_over_https(trusted, peer, said, is_https):
    forwarded = {"HTTP_X_FORWARDED_PROTO": said} if said else {}
    with override_settings(MESHES_TRUSTED_PROXIES=trusted, **HTTPS):
        answer = ask("/api/docs", REMOTE_ADDR=peer, **forwarded)
    assert answer.status_code == (200 if is_https else 403)
    with override_settings(MESHES_TRUSTED_PROXIES=trusted):
        assert not ask("/", REMOTE_ADDR=peer, **forwarded).wsgi_request.is_secure()


@pytest.mark.parametrize("header", ["HTTP_X_FORWARDED_SSL", "HTTP_X_FORWARDED_PROTOCOL", "HTTP_FORWARDED"])
@override_settings(**HTTPS)
def test_no_other_header_says_so(header):
    assert ask("/api/docs", **{header: "on"}).status_code == 403
    assert ask("/api/docs", **{header: "ssl"}).status_code == 403
    assert ask("/api/docs", **{header: "proto=https"}).status_code == 403


@override_settings(**HTTPS)
def test_a_key_that_came_over_http_does_nothing_and_is_told_to_the_operator(caplog):
    issued = issue()
    login = {"HTTP_AUTHORIZATION": f"Bearer {issued.key}", "REMOTE_ADDR": ELSEWHERE}
    answer = Client().post("/api/v1/workspaces", {"name": "A"}, "application/json", **login)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:meshes:problem:https_required")
    assert "rotate it" in answer.json()["detail"]
    assert "WWW-Authenticate" not in answer
    issued.row.refresh_from_db()
    assert issued.row.last_used_at is None
    security_log.write_refusals()
    (line,) = (record.getMessage() for record in caplog.records if record.name == "meshes.security")
    assert line == f'refused kind="403 https_required" address="{ELSEWHERE}" key="{issued.row.public_id}" count=1'
    login["HTTP_X_FORWARDED_PROTO"] = "https"
    answer = Client().post("/api/v1/workspaces", {"name": "A"}, "application/json", **login)
    assert answer.status_code == 201


# --- the admin under hosts of its own ---------------------------------------------------------------------------------

HOSTS = {"MESHES_ADMIN_HOSTS": ["admin.example"], "ALLOWED_HOSTS": ["admin.example", "api.example", "127.0.0.1"]}
BOTH = ("/", "/healthz", "/readyz", "/favicon.ico")


@pytest.mark.parametrize("path", [*ROUTES, *ADMIN])
@override_settings(**HOSTS)
def test_the_admin_answers_under_its_hosts_alone_and_all_else_under_the_others(path):
    with_setting = {host: ask(path, HTTP_HOST=host) for host in ("admin.example", "ADMIN.example:8443", "api.example")}
    with override_settings(MESHES_ADMIN_HOSTS=[]):
        without = ask(path, HTTP_HOST="api.example").status_code
    is_admin = path.startswith("/admin")
    there = without if is_admin or path in BOTH or path.startswith("/static/") else 404
    elsewhere = 404 if is_admin else without
    assert {host: answer.status_code for host, answer in with_setting.items()} == {
        "admin.example": there,
        "ADMIN.example:8443": there,
        "api.example": elsewhere,
    }
    for answer in with_setting.values():
        has_all(answer, path)
        if answer.status_code == 404 and is_api(path):
            assert answer["Content-Type"] == "application/problem+json"


@override_settings(**HOSTS)
def test_a_key_works_under_the_apis_host_and_not_under_the_admins():
    login = caller()
    assert login.get("/api/v1/workspaces", HTTP_HOST="api.example").status_code == 200
    assert login.get("/api/v1/workspaces", HTTP_HOST="admin.example").status_code == 404
    assert login.get("/administrators", HTTP_HOST="admin.example").status_code == 404
    assert login.get("/healthz", HTTP_HOST="127.0.0.1").status_code == 200
