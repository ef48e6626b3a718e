"""Flower shows nothing without its password."""

import logging
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import requests
from flower.urls import handlers

from meshes import monitor, services
from meshes.dev.embedded import free_port
from tests.polling import eventually, patient
from tests.processes import serving

PATTERNS = [getattr(each, "regex", None) or re.compile(each[0]) for each in handlers]
PATHS = sorted({re.sub(r"\(\.[+*]\)|\.\*", "x", each.pattern.rstrip("$").removesuffix("/?")) for each in PATTERNS})


@pytest.fixture(scope="module")
def flower():
    port = free_port()
    environment = {"FLOWER_BASIC_AUTH": "ada:secret", "DJANGO_SETTINGS_MODULE": "meshes.settings"}
    environment["MESHES_WRONG_PASSWORDS"] = "1000"  # each page is asked for with a wrong one
    with serving(services.flower("127.0.0.1", port), port, "/healthcheck", environment) as address:
        yield address


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ("", (), "is not set: Flower would be open to everybody."),
        ("abc", (), "must be user:password, in ASCII, with a comma between two such."),
        ("ada:secret,bob", (), "must be user:password, in ASCII, with a comma between two such."),
        ("ada:secret", ("--basic-auth=abc",), "must be user:password, in ASCII, with a comma between two such."),
    ],
)
def test_flower_does_not_start_without_a_password_that_can_be_given(given, options, words):
    environment = os.environ | {"FLOWER_BASIC_AUTH": given, "DJANGO_SETTINGS_MODULE": "meshes.settings"}
    ended = subprocess.run(
        [sys.executable, *services.flower("127.0.0.1", free_port()), *options],
        env=environment, capture_output=True, text=True, check=False, timeout=patient(60),
    )  # fmt: skip
    lines = [line for line in ended.stderr.splitlines() if "cannot start" in line]
    assert lines == [f"Meshes cannot start: FLOWER_BASIC_AUTH {words}"]
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr


def test_the_routes_are_known():
    assert {"/", "/metrics", "/healthcheck", "/tasks", "/api/tasks", "/login"} <= set(PATHS)


@pytest.mark.parametrize("path", [path for path in PATHS if path.startswith("/") and path != "/static/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_every_page_but_one_asks_for_the_password(flower, path, method):
    for login in (None, ("ada", "wrong")):
        status = requests.request(method, flower + path, auth=login, timeout=60, allow_redirects=False).status_code
        assert status in ({200, 405} if path == "/healthcheck" else {401, 405})  # 405: no such method, whoever asks


HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@pytest.mark.parametrize(
    "path", [path.replace("/static/x", "/static/css/flower.css") for path in PATHS if path[0] == "/"]
)
def test_every_answer_has_the_headers_of_all_of_meshes_and_tells_no_version(flower, path):
    for login in (None, ("ada", "secret")):
        answer = requests.get(flower + path, auth=login, timeout=patient(60), allow_redirects=False)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        policy = answer.headers["Content-Security-Policy"].split("; ")
        assert {"default-src 'none'", "object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"} <= {*policy}
        assert "Server" not in answer.headers
        assert ("no-store" in answer.headers.get("Cache-Control", "")) == (not path.startswith("/static/"))
        cookies = answer.headers.get("Set-Cookie", "")
        assert not cookies or "SameSite=Strict" in cookies


def test_the_one_says_nothing_but_that_it_lives(flower):
    assert requests.get(f"{flower}/healthcheck", timeout=60).text == "OK"


@pytest.mark.parametrize("path", ["/metrics", "/workers", "/tasks", "/broker"])
def test_with_the_password_there_are_pages_with_a_policy(flower, path):
    answer = requests.get(flower + path, auth=("ada", "secret"), timeout=60)
    assert answer.status_code == 200
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self' 'sha256-")
    for script in re.findall(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", answer.text, re.DOTALL):
        assert script == monitor.INLINE_SCRIPT
    assert not re.search(r"\son[a-z]+=\"", answer.text)


def test_logins_are_logged_once_and_wrong_ones_counted_with_their_address(capfd):
    port = free_port()
    with serving(services.flower("127.0.0.1", port), port, "/healthcheck", {"FLOWER_BASIC_AUTH": "ada:secret"}) as url:
        for login in [("ada", "secret")] * 3 + [("ada", "guess")] * 5 + [("guess\n", "x")] + [None] * 2:
            requests.get(f"{url}/metrics", auth=login, headers={"X-Forwarded-For": "192.0.2.1"}, timeout=patient(60))
    logged = [line for line in capfd.readouterr().err.splitlines() if " meshes.security " in line]
    assert [line.partition(" meshes.security ")[2] for line in logged] == [
        'login_succeeded service="flower" user="ada" address="127.0.0.1"',
        'login_failed service="flower" address="127.0.0.1" count=6',
    ]


def test_thirty_wrong_passwords_are_slowed_and_logged_and_then_the_right_one_gets_in(capfd):
    port = free_port()
    environment = {"FLOWER_BASIC_AUTH": "ada:secret", "MESHES_WRONG_PASSWORDS": "12"}
    with serving(services.flower("127.0.0.1", port), port, "/healthcheck", environment) as url, requests.Session() as s:
        began_at = time.monotonic()
        answers = [s.get(f"{url}/metrics", auth=("ada", f"guess-{n}"), timeout=patient(60)) for n in range(30)]
        seconds = time.monotonic() - began_at
        tried = [answer for answer in answers if answer.status_code == 401]
        slowed = [answer for answer in answers if answer.status_code == 429]
        assert len(tried) + len(slowed) == 30
        assert 12 <= len(tried) <= 13 + seconds / 5
        assert {answer.headers["Retry-After"] for answer in slowed} <= {"1", "2", "3", "4", "5"}
        assert slowed[-1].text.startswith("Too many wrong passwords. Try again in ")
        assert "guess" not in slowed[-1].text
        eventually(lambda: s.get(f"{url}/metrics", auth=("ada", "secret"), timeout=patient(60)).status_code == 200, 30)
        for _ in range(30):  # a right one takes no room
            assert s.get(f"{url}/metrics", auth=("ada", "secret"), timeout=patient(60)).status_code == 200
        assert s.get(f"{url}/metrics", timeout=patient(60)).status_code == 401
    logged = [line for line in capfd.readouterr().err.splitlines() if " meshes.security " in line]

    def count(words):
        return sum(
            int(line.rpartition("=")[2]) for line in logged if f'{words} service="flower" address="127.0.0.1"' in line
        )

    assert count("login_failed") == len(tried)
    assert count('refused kind="429 password"') >= len(slowed)  # and the right one that came too soon
    assert "guess" not in "".join(logged)


def test_many_addresses_cost_no_memory(monkeypatch, caplog):
    """As tornado calls it, within a loop that is not run."""

    def came_from(address):
        return SimpleNamespace(request=SimpleNamespace(remote_ip=address), get_status=lambda: 401)

    caplog.set_level(logging.INFO, "meshes.security")
    monkeypatch.setattr(monitor, "MOST_KEPT", 2)
    monkeypatch.setattr(monitor.IOLoop, "current", lambda: SimpleNamespace(call_later=lambda *_: None))
    for number in range(5):
        monitor.note_failure(came_from(f"192.0.2.{number}"))
        monitor.note_login(came_from(f"192.0.2.{number}"), "ada")
    assert len(monitor._seen) == 2
    monitor._seen.clear()
    caplog.clear()
    monitor.write_failures()
    assert caplog.messages == [
        'login_failed service="flower" address="192.0.2.0" count=1',
        'login_failed service="flower" address="192.0.2.1" count=1',
        'login_failed service="flower" address="(others)" count=3',
    ]
