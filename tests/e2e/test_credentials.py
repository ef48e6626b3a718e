"""The running stack keeps credentials to itself, and to the tenant whose they are: log files, broker, pages, dump."""

import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
import redis
import requests

from tests.connections.canaries import TOKEN, dump, echo, found
from tests.e2e.running import PROJECT, RunningUp
from tests.polling import eventually, patient
from tests.receivers import receiver

LOOPBACK = {
    "MESHES_OUTBOUND_ALLOW_NETS": "127.0.0.0/8",
    "MESHES_OUTBOUND_ALLOW_HTTP": "1",
    "MESHES_OUTBOUND_PORTS": "*",
}
SERVICES = ("postgres", "valkey", "web", "fanout", "deliver", "sweep", "flower")
SCHEDULE = {"schedule": [0, 1, 1]}


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    with RunningUp(tmp_path_factory.mktemp("credentials") / "data", LOOPBACK) as up:
        yield up


@pytest.fixture(scope="module")
def endpoint():
    with receiver() as here:
        here.answers = echo
        yield here


@pytest.fixture
def database(up):
    """As its superuser."""
    connection = psycopg2.connect(up.state["administrator_url"])
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield cursor
    connection.close()


class Tenant:
    """A workspace whose every event goes to one connection with a token; the endpoint answers `status`."""

    def __init__(self, up: RunningUp, url: str, status: int) -> None:
        self.up = up
        self.workspace = self.make("workspaces", {"name": "Canary"})["id"]
        given = {"type": "webhook", "name": "C", "credentials": {"token": TOKEN}, "retry": SCHEDULE}
        given |= {"config": {"url": f"{url.removesuffix('/hook')}/say/{status}"}}
        self.connection = self.make("connections", given | {"workspace": self.workspace})["id"]
        self.make("rules", {"workspace": self.workspace, "connection": self.connection, "event": "*", "enabled": True})

    def make(self, path: str, body: dict[str, Any], status: int = 201) -> dict[str, Any]:
        answer = self.up.call("POST", f"/api/v1/{path}", json=body)
        assert answer.status_code == status, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def send(self) -> None:
        self.make("events", {"workspace": self.workspace, "event": "canary.sent", "payload": {"n": 1}}, 202)

    def deliveries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.up.get(f"/api/v1/deliveries?connection={self.connection}").json()["data"]
        return found

    def statuses(self) -> list[str]:
        return [delivery["status"] for delivery in self.deliveries()]

    def access_log(self, **query: str) -> list[dict[str, Any]]:
        answer = self.up.get(f"/api/v1/workspaces/{self.workspace}/access-log", params=query)
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows


def log_of(up: RunningUp, service: str) -> str:
    return "".join(path.read_text(errors="replace") for path in sorted((up.folder / "logs").glob(f"{service}.*")))


@contextmanager
def browsing(up):
    """A browser in which the user admin is logged in."""
    state = up.state
    with requests.Session() as browser:
        login = state["admin_url"] + "login/"
        browser.get(login, timeout=patient(10))
        form = {"username": state["admin_user"], "password": state["admin_password"], "next": "/admin/"}
        form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        assert browser.post(login, data=form, headers={"Referer": login}, timeout=patient(10)).url == state["admin_url"]
        yield browser


@pytest.fixture(scope="module")
def used(up, endpoint):
    """Tenants whose token has been sent, tested and said back, with every outcome."""
    tenants = [Tenant(up, endpoint.url, status) for status in (200, 400, 401, 500)]
    for tenant in tenants:
        tenant.send()
    ends = [["succeeded"], ["dead"], ["held"], ["dead"]]
    eventually(lambda: [tenant.statuses() for tenant in tenants] == ends, 60)
    for tenant in tenants:
        tenant.make(f"connections/{tenant.connection}/test", {}, 200)
    assert {got.headers["authorization"] for got in endpoint.got} == {f"Bearer {TOKEN}"}
    return tenants


@pytest.mark.parametrize("service", SERVICES)
def test_no_log_file_has_the_secret(up, used, service):
    text = log_of(up, service)
    assert len(text) > 0
    assert found(text, TOKEN) == set()


def test_no_page_of_operators_has_the_secret(up, used):
    site = up.state["api_url"]
    with browsing(up) as browser:
        index = browser.get(up.state["admin_url"], timeout=patient(10))
        pages = set(re.findall(r'href="(/admin/[a-z]+/[a-z]+/)"', index.text))
        lists = [index, *(browser.get(site + page, timeout=patient(10)) for page in sorted(pages))]
        links = {link for answer in lists for link in re.findall(r'href="(/admin/[^"?]+/change/)"', answer.text)}
        answers = [*lists, *(browser.get(site + link, timeout=patient(10)) for link in sorted(links))]
    assert {answer.status_code for answer in answers} == {200}
    assert (len(pages) >= 17, len(links) > 40) == (True, True)
    assert found("".join(answer.text for answer in answers), TOKEN) == set()


def test_no_page_of_flower_or_health_has_the_secret(up, used):
    state = up.state
    login = (state["flower_user"], state["flower_password"])
    pages = ("/api/tasks", "/workers", "/metrics")
    answers = [requests.get(f"{state['flower_url']}{page}", auth=login, timeout=patient(10)) for page in pages]
    assert "delivery.deliver" in {task["name"] for task in answers[0].json().values()}
    answers += [up.get(page) for page in ("/healthz", "/readyz", "/api/schema")]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert found("".join(answer.text for answer in answers), TOKEN) == set()


def test_no_answer_of_the_api_has_the_secret(up, used):
    paths = [f"connections/{tenant.connection}" for tenant in used]
    paths += [f"workspaces/{tenant.workspace}/access-log" for tenant in used]
    paths += [f"deliveries/{each['id']}" for tenant in used for each in tenant.deliveries()]
    answers = [up.get(f"/api/v1/{path}") for path in ("connections", "deliveries", "events", *paths)]
    answers += [up.call("POST", f"/api/v1/connections/{tenant.connection}/test", json={}) for tenant in used]
    assert {answer.status_code for answer in answers} == {200}
    assert found("".join(answer.text for answer in answers), TOKEN) == set()


def test_no_message_in_the_broker_has_the_secret(up, used, endpoint):
    client = redis.Redis.from_url(up.state["redis_url"])
    worker = psutil.Process(up.state["pids"]["deliver"])
    tenant = Tenant(up, endpoint.url, 200)
    worker.suspend()
    try:
        tenant.send()
        eventually(lambda: tenant.statuses() == ["pending"], 20)
        lane = eventually(lambda: [key for key in client.scan_iter() if client.type(key) == b"list"], 20)
        values = [client.dump(key) for key in client.scan_iter()]
    finally:
        worker.resume()
    eventually(lambda: tenant.statuses() == ["succeeded"], 30)
    assert lane
    assert found("".join(value.decode("latin-1") for value in values if value), TOKEN) == set()
    client.close()


def secrets_of(up: RunningUp) -> list[str]:
    """What the stack made for itself: keys, passwords, its account key; and what one can log in to the admin with."""
    lines = (up.folder / "stack.env").read_text().splitlines()
    kept = dict(line.split("=", 1) for line in lines if "=" in line)
    return [value.strip("'\"") for name, value in kept.items() if not name.endswith("_URL")]


def test_a_dump_of_the_database_without_the_keys_has_no_secret(up, used, database):
    tenant = used[0]
    rotated = tenant.make(f"connections/{tenant.connection}/rotate-secret", {}, 200)
    body = {"kind": "workspace", "workspace": tenant.workspace, "name": "Backend", "scopes": ["config"]}
    key = tenant.make("api-keys", body)
    with browsing(up) as browser:
        session = browser.cookies["sessionid"]
        text = dump(database)
    secrets = [rotated["signing_secret"].removeprefix("whsec_"), key["key"], key["signing_secret"], session]
    secrets += secrets_of(up)
    assert len(secrets) > 8
    assert "canary.sent" in text
    assert found(text, TOKEN, *secrets) == set()


def test_no_log_file_has_a_secret_of_the_stack(up, used):
    text = "".join(log_of(up, service) for service in SERVICES)
    assert found(text, *secrets_of(up)) == set()


def test_a_replaced_credential_is_sent_by_the_next_attempt(up, endpoint):
    """By a worker that has just opened the one before."""
    tenant = Tenant(up, endpoint.url, 200)
    before = len(endpoint.got)
    for number, token in enumerate((TOKEN, "the-second-token", "the-third-token"), start=1):
        path = f"/api/v1/connections/{tenant.connection}"
        assert up.call("PATCH", path, json={"credentials": {"token": token}}).status_code == 200
        tenant.send()
        eventually(lambda number=number: tenant.statuses() == ["succeeded"] * number, 20)
    sent = [got.headers["authorization"] for got in endpoint.got[before:]]
    assert sent == [f"Bearer {token}" for token in (TOKEN, "the-second-token", "the-third-token")]


def test_each_opening_is_in_the_log_of_its_own_workspace(up, used):
    succeeded = used[0]
    (delivery,) = succeeded.deliveries()
    (row,) = succeeded.access_log(purpose="delivery")
    assert (row["delivery"], row["attempt"], row["granted"]) == (delivery["id"], 1, True)
    assert row["actor"].endswith(f":{up.state['pids']['deliver']}")
    assert {row["workspace"] for row in succeeded.access_log()} == {succeeded.workspace}


COPY = """
UPDATE sealed_documents mine SET document = other.document, version = other.version, key_id = other.key_id
FROM sealed_documents other, connections c, connections o
WHERE mine.connection_id = c.id AND other.connection_id = o.id AND c.name = 'victim' AND o.name = 'thief'
"""


def test_a_credential_copied_from_another_tenant_sends_nothing_and_sounds_the_alarm(up, endpoint, database):
    """Tenant by tenant: the document of the first one is written over that of the second."""
    source, target = Tenant(up, endpoint.url, 200), Tenant(up, endpoint.url, 200)
    for tenant, name in ((target, "victim"), (source, "thief")):
        assert up.call("PATCH", f"/api/v1/connections/{tenant.connection}", json={"name": name}).status_code == 200
    database.execute(COPY)
    assert database.rowcount == 1
    before = len(endpoint.got)
    target.send()
    eventually(lambda: target.statuses() == ["held"], 30)
    (delivery,) = target.deliveries()
    assert (delivery["cause"], len(endpoint.got)) == ("credential_error", before)
    assert up.get(f"/api/v1/connections/{target.connection}").json()["status"] == "credential_error"
    (refused,) = target.access_log(granted="false")
    assert (refused["connection"], refused["delivery"], refused["attempt"]) == (target.connection, delivery["id"], 1)
    alarm = f"credentials of {target.connection} of workspace {target.workspace} refused to open"
    line = eventually(lambda: [line for line in log_of(up, "deliver").splitlines() if alarm in line], 10)[0]
    assert " ERROR " in line
    source.send()
    eventually(lambda: source.statuses() == ["succeeded"], 30)  # its own is still its own


def manage(up: RunningUp, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command, output = [sys.executable, "manage.py", *arguments], subprocess.PIPE
    return subprocess.run(
        command, check=False, cwd=PROJECT, env=up.environment, text=True, stdout=output, stderr=subprocess.STDOUT
    )


def test_the_access_log_of_a_running_stack_is_sealed_and_checked(up, used, database, tmp_path: Path):
    swept = manage(up, "sweep", "--once")
    assert swept.returncode == 0, swept.stdout
    heads = tmp_path / "heads.log"
    heads.write_text(swept.stdout + log_of(up, "sweep"))
    checked = manage(up, "verify_access_log", "--log", str(heads))
    assert checked.returncode == 0, checked.stdout
    assert "The sealed access log is whole." in checked.stdout
    database.execute("SELECT number FROM access_records WHERE purpose = 'delivery' ORDER BY number LIMIT 1")
    (number,) = database.fetchone()
    with pytest.raises(psycopg2.errors.RestrictViolation):
        database.execute("DELETE FROM access_records WHERE number = %s", [number])
    database.execute("SET session_replication_role = replica")
    database.execute("DELETE FROM access_records WHERE number = %s", [number])
    checked = manage(up, "verify_access_log", "--log", str(heads))
    assert checked.returncode == 1
    assert f"the record with number {number} was removed" in checked.stdout
