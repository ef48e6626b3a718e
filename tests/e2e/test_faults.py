"""Faults under load: whatever dies, nothing answered with 202 is lost, and a receiver that sees an event twice sees
the same `webhook-id` and the same bytes."""

import os
import re
import signal
import threading
import time
from typing import Any

import psutil
import pytest
import redis
import requests

from delivery.lanes.control import Lanes
from tests.e2e.running import RunningUp
from tests.polling import eventually
from tests.receivers import Answer, Got, receiver

pytestmark = pytest.mark.fault

ROUNDS = int(os.environ.get("MESHES_FAULT_ROUNDS", "1"))
PATIENCE_SECONDS = 90.0
QUICK = {
    "MESHES_OUTBOUND_ALLOW_NETS": "127.0.0.0/8",
    "MESHES_OUTBOUND_ALLOW_HTTP": "1",
    "MESHES_OUTBOUND_PORTS": "*",
    "MESHES_LEASE_SECONDS": "5",
    "MESHES_LANE_LEASE_SECONDS": "7",
    "MESHES_INGEST_RATE": "100000",
}
"""Loopback, and leases short enough that a lost worker is noticed within a test; deadlines below are shorter still."""


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    with RunningUp(tmp_path_factory.mktemp("faults") / "data", QUICK) as up:
        yield up


@pytest.fixture
def endpoint():
    with receiver() as here:
        yield here


class Tenant:
    """A workspace with one rule for everything to one endpoint, and the events of it that were answered 202."""

    def __init__(self, up: RunningUp, url: str, timeout: float = 2) -> None:
        self.up = up
        eventually(self._api_answers, 30)  # a service that is killed again and again is started again a little later
        self.accepted: list[str] = []
        self.refused = 0
        self.workspace = self._make("/api/v1/workspaces", {"name": "Faults"})["id"]
        config = {"url": url}
        limits, retry = {"timeout": timeout}, {"schedule": [0, *[1] * 15]}
        connection = {"type": "webhook", "name": "Hook", "config": config, "limits": limits, "retry": retry}
        self.connection = self._make("/api/v1/connections", connection | {"workspace": self.workspace})["id"]
        rule = {"workspace": self.workspace, "connection": self.connection, "event": "*", "enabled": True}
        self._make("/api/v1/rules", rule)

    def _api_answers(self) -> bool:
        try:
            return self.up.get("/readyz").status_code == 200
        except requests.ConnectionError:
            return False

    def _make(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.up.call("POST", path, json=body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def event(self, number: int) -> dict[str, Any]:
        return {"workspace": self.workspace, "event": "load.tested", "payload": {"number": number}}

    def post_for(self, seconds: float) -> None:
        """Post one event after another; what is not answered 202 is the caller's to post again, and is not counted."""
        until, number = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            number += 1
            try:
                answer = self.up.call("POST", "/api/v1/events", json=self.event(number))
            except requests.RequestException:
                self.refused += 1
                time.sleep(0.05)
                continue
            if answer.status_code == 202:
                self.accepted.append(answer.json()["id"])
            else:
                self.refused += 1
                time.sleep(0.05)

    def post_in_bulk(self, number: int) -> None:
        for start in range(0, number, 500):
            batch = [self.event(start + index) for index in range(min(500, number - start))]
            answer = self.up.call("POST", "/api/v1/events/bulk", json={"events": batch})
            assert answer.status_code == 202, answer.text
            self.accepted += [result["event"]["id"] for result in answer.json()["results"]]

    def deliveries(self) -> list[dict[str, Any]]:
        """All deliveries of the connection; none while the API is away, or says that its database is."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            try:
                answer = self.up.get(f"/api/v1/deliveries?limit=200&connection={self.connection}{cursor}")
            except requests.ConnectionError:
                return []
            if answer.status_code == 503:
                return []
            page = answer.json()
            found += page["data"]
            if page["next"] is None:
                return found
            cursor = f"&cursor={page['next']}"


def assert_nothing_lost(tenant, endpoint):
    """Every accepted event has one delivery, which arrived; what arrived twice did so under one id, in one form."""

    def all_succeeded():
        deliveries = tenant.deliveries()
        return len(deliveries) >= len(tenant.accepted) and {each["status"] for each in deliveries} == {"succeeded"}

    eventually(all_succeeded, PATIENCE_SECONDS)
    deliveries = {each["id"]: each["event"] for each in tenant.deliveries()}
    bodies: dict[str, set[bytes]] = {}
    for got in endpoint.got:
        bodies.setdefault(got.headers["webhook-id"], set()).add(got.body)
    assert set(tenant.accepted) <= set(deliveries.values())
    assert set(deliveries) <= set(bodies)
    assert {len(forms) for forms in bodies.values()} == {1}


@pytest.mark.parametrize("round_number", range(ROUNDS))
@pytest.mark.parametrize("service", ["web", "fanout", "deliver", "sweep", "valkey", "postgres"])
def test_kill_9_under_load_loses_nothing(up, endpoint, service, round_number):
    tenant = Tenant(up, endpoint.url)
    posting = threading.Thread(target=tenant.post_for, args=(5.0,))
    posting.start()
    eventually(lambda: len(tenant.accepted) > 20, 20)
    psutil.Process(up.state["pids"][service]).kill()
    posting.join()
    assert len(tenant.accepted) > 20
    assert_nothing_lost(tenant, endpoint)


def lanes_of(up):
    client = redis.Redis.from_url(up.state["redis_url"])
    return Lanes(client), client


@pytest.mark.parametrize("round_number", range(ROUNDS))
@pytest.mark.parametrize("way", ["emptied", "killed"])
def test_valkey_emptied_with_a_thousand_messages_queued_loses_nothing(up, endpoint, way, round_number):
    tenant = Tenant(up, endpoint.url)
    worker = psutil.Process(up.state["pids"]["deliver"])
    worker.suspend()
    try:
        tenant.post_in_bulk(1000)
        lanes, client = lanes_of(up)
        eventually(lambda: lanes.ring_stats("deliver").busy >= 1, 30)
        eventually(lambda: len(tenant.deliveries()) == 1000, 60)
        if way == "emptied":
            client.flushall()
        else:
            psutil.Process(up.state["pids"]["valkey"]).send_signal(signal.SIGKILL)
    finally:
        worker.resume()
    assert_nothing_lost(tenant, endpoint)


@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_a_worker_told_to_stop_finishes_what_it_has_and_hands_back_the_rest(up, endpoint, round_number):
    tenant = Tenant(up, endpoint.url)
    tenant.post_in_bulk(300)
    eventually(lambda: len(endpoint.got) > 20, 30)
    psutil.Process(up.state["pids"]["deliver"]).terminate()
    assert_nothing_lost(tenant, endpoint)
    assert len(endpoint.got) == 300  # a warm stop doubles nothing


def test_a_sweeper_that_has_stopped_is_told_within_a_minute(up):
    def told():
        answer = up.get("/readyz").json()
        return answer["status"], answer["checks"]["sweeps"]

    def late():
        return {name: int(ago) for name, ago in re.findall(r"([\w-]+) (\d+) s ago", told()[1])}

    eventually(lambda: told()[1] == "ok", 30)
    sweeper = psutil.Process(up.state["pids"]["sweep"])
    sweeper.suspend()
    try:
        first = eventually(late, 60)
        assert told()[0] == "degraded"
        assert min(first.values()) < 60
        eventually(lambda: {"due", "top-up", "fan-out", "release"} <= set(late()), 30)
    finally:
        sweeper.resume()
    eventually(lambda: told()[1] == "ok", 30)


def test_a_web_server_told_to_stop_answers_a_test_that_is_in_progress(up, endpoint):
    """Also one that takes longer than most requests."""

    def answer_late(got: Got) -> Answer:
        threading.Event().wait(12)
        return Answer()

    tenant = Tenant(up, endpoint.url, timeout=30)
    endpoint.answers = answer_late
    answers = []
    path = f"/api/v1/connections/{tenant.connection}/test"
    asking = threading.Thread(target=lambda: answers.append(up.call("POST", path, json={})))
    asking.start()
    eventually(lambda: endpoint.got, 10)
    psutil.Process(up.state["pids"]["web"]).terminate()
    asking.join()
    assert [(answer.status_code, answer.json()["ok"]) for answer in answers] == [(200, True)]
