"""Whoever guesses at the running stack is slowed and seen, and keeps nobody out."""

import json
import re
import time
from urllib.parse import quote

import pytest
import requests

from tests.e2e.browser import Browser
from tests.e2e.running import PROJECT, RunningUp
from tests.polling import eventually, patient

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR|CRITICAL) [\w.]+ ")
BEFORE_SETTINGS = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000\] \[\d+\] \[INFO\] ")
"""How gunicorn writes until it has loaded the application."""
WRONG = "wrong password no. 1"
SERVICES = ("postgres", "valkey", "web", "fanout", "deliver", "sweep", "flower")
WRONG_KEY = "mesh_live_wrong"
FORGED = "198.51.100.77"


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    with RunningUp(tmp_path_factory.mktemp("guessers") / "data") as up:
        yield up


def come_from_elsewhere(up):
    """A browser that says so; nobody believes it."""
    return Browser(up, {"X-Forwarded-For": FORGED})


def log_of(up, service="web"):
    return (up.folder / "logs" / f"{service}.log").read_text()


def security_lines(up):
    return [line.partition(" meshes.security ")[2] for line in log_of(up).splitlines() if " meshes.security " in line]


def test_thirty_wrong_passwords_are_slowed_and_logged_and_then_the_right_one_gets_in(up):
    guesser = come_from_elsewhere(up)
    began_at = time.monotonic()
    answers = [guesser.log_in("admin", WRONG) for _ in range(30)]
    tried = [answer for answer in answers if answer.status_code == 200]
    untried = [answer for answer in answers if answer.status_code == 429]
    assert len(tried) + len(untried) == 30
    assert 10 <= len(tried) <= 10 + (time.monotonic() - began_at) / 6 + 1
    assert all(0 < int(answer.headers["Retry-After"]) <= 36 for answer in untried)
    assert len(untried) > 0
    answer = eventually(lambda: has_been_tried(come_from_elsewhere(up).log_in("admin", up.state["admin_password"])), 60)
    lines = security_lines(up)
    assert lines.count('login_failed user="admin" address="127.0.0.1"') == len(tried)
    assert lines[-1].endswith('login_succeeded user="admin" address="127.0.0.1"')
    secrets = [WRONG, up.state["admin_password"], *guesser.session.cookies.values()]
    secrets += [cookie.value for cookie in answer.cookies]
    for service in SERVICES:
        assert [secret for secret in [FORGED, *secrets] if secret in log_of(up, service)] == []


def has_been_tried(answer):
    assert answer.status_code in (302, 429)
    return answer if answer.status_code == 302 else None


def test_a_name_of_two_lines_is_one_line_of_the_log(up):
    before = len(security_lines(up))
    name = 'eve\n2026-11-28 12:00:00,000 INFO meshes.security login_succeeded user="admin"\r\x1b[2J\u2028\x85'
    come_from_elsewhere(up).log_in(name, WRONG)
    assert set(security_lines(up)[before:]) <= {'login_failed user="(no such user)" address="127.0.0.1"'}
    assert "eve" not in log_of(up)


def test_what_would_forge_a_line_is_one_line_wherever_it_is_sent(up):
    """The last test here looks at all lines of all services."""
    line = "2026-11-28T12:00:00.000Z CRITICAL forged"
    forged = f"x\r\n{line}\x85\u2028{line}"
    path, flower = quote(forged, safe=""), up.state["flower_url"]
    account = {"Authorization": f"Bearer {up.state['account_key']}"}
    body = {"workspace": forged, "name": forged, "event": forged, "external_id": forged}
    for address in (up.state["api_url"], flower):
        requests.get(f"{address}/{path}?a={path}", headers={"User-Agent": "x\tforged"}, timeout=patient(30))
        requests.get(address, auth=(forged.encode(), WRONG), timeout=patient(30))
        requests.get(address, headers={"Host": "x\tforged"}, timeout=patient(30))
    for place in ("workspaces", "events", "connections", f"events/{path}"):
        requests.post(f"{up.state['api_url']}/api/v1/{place}", json=body, headers=account, timeout=patient(30))
    login = (up.state["flower_user"], up.state["flower_password"])
    requests.get(f"{flower}/api/workers?workername={path}&refresh=1", auth=login, timeout=patient(30))
    requests.post(f"{flower}/api/task/revoke/{path}", auth=login, timeout=patient(30))
    told = [entry for service in SERVICES for entry in log_of(up, service).splitlines() if line in entry]
    assert [entry for entry in told if r"\r\n2026-11-28T12:00:00.000Z CRITICAL forged" not in entry] == []
    assert "tornado.general" in {entry.split(" ")[2] for entry in told}


def test_the_apis_refusals_are_told_by_key_before_the_process_ends(up):
    url = up.state["api_url"] + "/api/v1/workspaces"
    headers = {"Authorization": f"Bearer {WRONG_KEY}", "X-Forwarded-For": FORGED}
    statuses = {requests.get(url, headers=headers, timeout=patient(30)).status_code for _ in range(30)}
    assert statuses == {401}
    made = {"name": "weak", "kind": "account", "scopes": ["events:write"]}
    weak = up.call("POST", "/api/v1/api-keys", json=made).json()
    login = {"Authorization": f"Bearer {weak['key']}"}
    assert requests.get(url, headers=login, timeout=patient(30)).status_code == 403
    up.end()  # what was gathered of the minute is written
    lines = security_lines(up)
    malformed = [line for line in lines if line.startswith('refused kind="401 malformed" address="127.0.0.1" count=')]
    assert sum(json.loads(line.rpartition("count=")[2]) for line in malformed) == 30
    assert len(malformed) <= 4  # a process and a minute each
    assert f'refused kind="403 forbidden" address="127.0.0.1" key="{weak["id"]}" count=1' in lines
    assert WRONG_KEY not in log_of(up)
    assert weak["key"] not in log_of(up)


@pytest.mark.parametrize("service", ["web", "fanout", "deliver", "sweep", "flower"])
def test_every_line_of_every_service_is_one_event_at_a_moment_of_utc(up, service):
    """After all of the above, and the stack's end. A worker has a banner at first, and a word at the end."""
    up.end()
    lines = re.split("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", log_of(up, service).rstrip("\n"))
    if service in ("fanout", "deliver"):
        lines = lines[next(number for number, line in enumerate(lines) if LINE.match(line)) :]
        lines = [line for line in lines if line not in ("", "worker: Warm shutdown (MainProcess)")]
    if service == "web":
        lines = [line for line in lines if not BEFORE_SETTINGS.match(line)]
    assert [line for line in lines if not LINE.match(line) and not line.startswith("    ")] == []
    assert len([line for line in lines if LINE.match(line)]) > 0


def test_every_log_stands_in_the_page_of_logs(up):
    page = (PROJECT / "docs/logs.md").read_text()
    assert {log.stem for log in (up.folder / "logs").glob("*.log")} == set(SERVICES)
    assert [service for service in SERVICES if f"`{service}.log`" not in page] == []
