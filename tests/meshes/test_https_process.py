"""The web server with MESHES_HTTPS=1, in a process of its own, behind a proxy that the test plays."""

import os
import re
import socket
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest
import requests
from django.contrib.auth.models import User
from django.db import connection as database

from meshes import services
from meshes.answers import HEADERS
from meshes.dev.embedded import free_port
from tests.polling import patient
from tests.processes import serving
from tests.workspaces.callers import issue

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_client")]

PASSWORD = "correct horse battery staple"
HSTS = "max-age=31536000; includeSubDomains"
OVER_HTTPS = {"X-Forwarded-Proto": "https"}


@contextmanager
def web(**environment):
    """The address of a process with these settings beside MESHES_HTTPS=1."""
    port = free_port()
    server = urlsplit(os.environ["DATABASE_URL"])
    url = urlunsplit(server._replace(path=f"/{database.settings_dict['NAME']}"))
    own = {"DATABASE_URL": url, "WEB_CONCURRENCY": "1", "MESHES_HTTPS": "1"}
    with serving(services.web(f"127.0.0.1:{port}"), port, "/healthz", own | environment) as address:
        yield address


@pytest.fixture
def address():
    with web() as address:
        yield address


def ask(address, path, **headers):
    return requests.get(
        address + path,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        timeout=patient(60),
        allow_redirects=False,
    )


def test_cookies_are_bound_to_the_host_and_to_https(address):
    User.objects.create_superuser("ada", password=PASSWORD)
    page = requests.get(f"{address}/admin/login/", headers=OVER_HTTPS, timeout=patient(60))
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    data = {"username": "ada", "password": PASSWORD, "csrfmiddlewaretoken": token[1]}
    headers = OVER_HTTPS | {
        "Cookie": page.headers["Set-Cookie"].partition(";")[0],
        "Referer": address.replace("http://", "https://") + "/admin/login/",
    }
    answer = requests.post(f"{address}/admin/login/", data, headers=headers, timeout=patient(60), allow_redirects=False)
    assert (page.status_code, answer.status_code) == (200, 302)
    assert answer.headers["Strict-Transport-Security"] == HSTS
    cookies = [*page.raw.headers.getlist("Set-Cookie"), *answer.raw.headers.getlist("Set-Cookie")]
    assert {cookie.partition("=")[0] for cookie in cookies} == {
        "__Host-csrftoken",
        "__Host-sessionid",
        "__Host-meshes_device",
    }
    for cookie in cookies:
        attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"secure", "httponly", "path=/"} <= attributes, cookie
        assert attributes & {"samesite=lax", "samesite=strict"}, cookie
        assert not [each for each in attributes if each.startswith("domain")], cookie


def test_over_http_there_is_health_and_nothing_else(address):
    login = {"Authorization": f"Bearer {issue().key}"}
    assert ask(address, "/healthz").json() == {"status": "ok"}
    assert ask(address, "/readyz").status_code == 200
    page = ask(address, "/admin/login/")
    assert (page.status_code, page.headers["Location"]) == (301, address.replace("http:", "https:") + "/admin/login/")
    assert "Set-Cookie" not in page.headers
    refused = ask(address, "/api/v1/workspaces", **login)
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:meshes:problem:https_required")
    assert ask(address, "/api/v1/workspaces", **login, **OVER_HTTPS).status_code == 200
    for header in ("X_Forwarded_Ssl", "X_Forwarded_Protocol"):  # which gunicorn would believe of this machine
        assert ask(address, "/api/v1/workspaces", **login, **{header: "on"}).status_code == 403
        assert ask(address, "/api/v1/workspaces", **login, **{header: "ssl"}).status_code == 403


@pytest.mark.parametrize(("trusted", "status"), [("127.0.0.1,10.0.0.0/8", 200), ("10.0.0.0/8", 403)])
def test_once_proxies_are_named_nobody_else_says_that_it_was_https(trusted, status):
    login = {"Authorization": f"Bearer {issue().key}"}
    with web(MESHES_TRUSTED_PROXIES=trusted) as address:
        assert ask(address, "/api/v1/workspaces", **login, **OVER_HTTPS).status_code == status


def send(address, header, path):
    """Ask with a header as it is, and read the whole answer."""
    with socket.create_connection(("127.0.0.1", urlsplit(address).port), timeout=patient(60)) as connection:
        fields = f"Host: 127.0.0.1\r\nConnection: close\r\nX-Forwarded-Proto: https\r\n{header}"
        connection.sendall(f"GET {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_what_the_web_server_refuses_by_itself_binds_browsers_to_https_too(address):
    answer = send(address, "no field", "/")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert f"\r\nStrict-Transport-Security: {HSTS}\r\n".encode() in answer
    for name, value in HEADERS.items():
        assert f"\r\n{name}: {value}\r\n".encode() in answer


def test_the_admin_is_under_its_own_host_alone():
    with web(MESHES_ADMIN_HOSTS="admin.example", MESHES_HTTPS="0") as address:
        statuses = {
            (host, path): ask(address, path, Host=host).status_code
            for host in ("admin.example", "127.0.0.1")
            for path in ("/admin/login/", "/api/v1/workspaces", "/api/docs", "/connect/x", "/healthz")
        }
    assert statuses == {
        ("admin.example", "/admin/login/"): 200,
        ("admin.example", "/api/v1/workspaces"): 404,
        ("admin.example", "/api/docs"): 404,
        ("admin.example", "/connect/x"): 404,
        ("admin.example", "/healthz"): 200,
        ("127.0.0.1", "/admin/login/"): 404,
        ("127.0.0.1", "/api/v1/workspaces"): 401,
        ("127.0.0.1", "/api/docs"): 200,
        ("127.0.0.1", "/connect/x"): 404,
        ("127.0.0.1", "/healthz"): 200,
    }


@pytest.mark.parametrize("name", ["PATH_INFO", "SCRIPT_NAME"])
def test_no_header_changes_what_path_was_asked_for(address, name):
    """Gunicorn takes both from any peer on its machine, such as a proxy that passes them on, unless told not to."""
    answer = send(address, f"{name}: /api", "/api/docs")
    assert answer.startswith(b"HTTP/1.1 200 OK"), answer[:300]
    assert b"/static/meshes/docs.js" in answer


def test_several_headers_are_one_list_and_what_is_gathered_is_written_at_the_end(capfd):
    """The last address that is not a proxy's own is the client's, in whichever header it stands."""
    forwarded = "X-Forwarded-For: 192.0.2.66\r\nX-Forwarded-For: 198.51.100.7, 10.0.0.9\r\nX_Forwarded_For: 192.0.2.99"
    with web(MESHES_TRUSTED_PROXIES="127.0.0.1,10.0.0.0/8") as address:
        for _ in range(3):
            assert send(address, forwarded, "/api/v1/workspaces").startswith(b"HTTP/1.1 401")
    logged = [line for line in capfd.readouterr().err.splitlines() if " meshes.security " in line]
    assert [line.partition(" meshes.security ")[2] for line in logged] == [
        'refused kind="401 missing" address="198.51.100.7" count=3'
    ]
