"""A running stack with MESHES_HTTPS=1, spoken to over HTTP alone as by a TLS proxy, and as by whoever is none."""

import re
import signal

import pytest
import requests

from meshes.answers import HEADERS
from tests.e2e.running import RunningUp
from tests.polling import patient

HSTS = "max-age=31536000; includeSubDomains"
OVER_HTTPS = {"X-Forwarded-Proto": "https"}
POLICY = {"default-src 'none'", "object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"}
PAGES = ("/", "/admin/login/", "/connect/x", "/oauth/callback/slack", "/nothing", "/static/meshes/docs.js")
API = ("/api/v1/workspaces", "/api/v1/nothing", "/api/docs", "/api/schema")
HEALTH = ("/healthz", "/readyz")


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    with RunningUp(tmp_path_factory.mktemp("https") / "data", {"MESHES_HTTPS": "1"}) as up:
        yield up


def ask(up, path, method="GET", **headers):
    url = up.state["api_url"] + path
    return requests.request(method, url, headers=headers, timeout=patient(30), allow_redirects=False)


def login_of(up):
    return {"Authorization": f"Bearer {up.state['account_key']}"}


def assert_headers(answer):
    assert set(answer.headers["Content-Security-Policy"].split("; ")) >= POLICY, answer.url
    for name in HEADERS.keys() - {"Cache-Control", "Content-Security-Policy", "Referrer-Policy"}:
        assert answer.headers[name] == HEADERS[name], (answer.url, name)


def test_every_answer_over_https_has_the_headers_and_binds_browsers(up):
    for path in (*PAGES, *API, *HEALTH):
        for method in ("GET", "POST", "FOO"):
            answer = ask(up, path, method, **OVER_HTTPS)
            assert_headers(answer)
            assert answer.headers["Strict-Transport-Security"] == HSTS, path
            assert (answer.status_code == 301, "https_required" in answer.text) == (False, False), path


def test_over_http_the_api_refuses_pages_redirect_and_health_answers(up):
    here = up.state["api_url"]
    for path in PAGES:
        answer = ask(up, path)
        assert (answer.status_code, answer.headers["Location"]) == (301, here.replace("http:", "https:") + path)
        assert_headers(answer)
    for path in API:
        for said in ({}, {"X-Forwarded-Proto": "http"}, {"X-Forwarded-Ssl": "on"}, {"Forwarded": "proto=https"}):
            answer = ask(up, path, **login_of(up), **said)
            assert (answer.status_code, answer.json()["type"]) == (403, "urn:meshes:problem:https_required"), said
            assert "Strict-Transport-Security" not in answer.headers
    assert [ask(up, path).status_code for path in HEALTH] == [200, 200]
    assert ask(up, "/api/v1/workspaces", **login_of(up), **OVER_HTTPS).status_code == 200


def test_cookies_of_a_login_are_of_this_host_and_https_alone(up):
    page = ask(up, "/admin/login/", **OVER_HTTPS)
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    data = {"username": "admin", "password": up.state["admin_password"], "csrfmiddlewaretoken": token[1]}
    url = up.state["api_url"] + "/admin/login/"
    headers = OVER_HTTPS | {
        "Cookie": page.headers["Set-Cookie"].partition(";")[0],
        "Referer": url.replace("http:", "https:"),
    }
    answer = requests.post(url, data, headers=headers, timeout=patient(30), allow_redirects=False)
    assert answer.status_code == 302
    cookies = [*page.raw.headers.getlist("Set-Cookie"), *answer.raw.headers.getlist("Set-Cookie")]
    names = {cookie.partition("=")[0] for cookie in cookies}
    assert names == {"__Host-csrftoken", "__Host-sessionid", "__Host-meshes_device"}
    for cookie in cookies:
        attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"secure", "httponly", "path=/"} <= attributes, cookie
        assert not [each for each in attributes if each.startswith("domain")], cookie


def test_once_proxies_are_named_nobody_else_is_believed(up):
    """The last one here: it stops the stack, and starts it with a proxy elsewhere."""
    up.send(signal.SIGINT)
    up.environment["MESHES_TRUSTED_PROXIES"] = "10.0.0.0/8"
    up.start()
    assert ask(up, "/api/v1/workspaces", **login_of(up), **OVER_HTTPS).status_code == 403
    assert ask(up, "/admin/login/", **OVER_HTTPS).status_code == 301
    assert "Set-Cookie" not in ask(up, "/admin/login/", **OVER_HTTPS).headers
