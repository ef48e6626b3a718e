"""Connections to one vendor account share its limits on the running stack, whoever owns them; others are not slowed."""

import threading
import time
from typing import Any

import pytest

from meshes.dev.vendors.slack import Slack
from tests.e2e.running import RunningUp
from tests.polling import eventually

EVENTS = 5
IN_FLIGHT, RATE = 2, 1
"""What Slack allows an account, by its declaration."""


class GatedSlack(Slack):
    """Messages of the developer's team wait at a gate. `arrivals` are the moments at which messages came, by team."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.arrivals: dict[str, list[float]] = {}

    def respond(self, call: Any) -> Any:
        team = self.tokens.get(self.token_of(call), "")
        if call.path == "/api/chat.postMessage":
            self.arrivals.setdefault(team, []).append(time.monotonic())
            if team == self.account:
                self.gate.wait()
        return super().respond(call)

    def stop(self) -> None:
        self.gate.set()
        super().stop()

    def came(self, team: str) -> int:
        return len(self.arrivals.get(team, []))


@pytest.fixture(scope="module")
def slack():
    with GatedSlack() as server:
        server.tokens["xoxb-second"] = server.account
        server.open_account("T0OTHER", "xoxb-other")
        yield server


@pytest.fixture(scope="module")
def up(tmp_path_factory, slack):
    allowed = {"MESHES_OUTBOUND_ALLOW_NETS": "127.0.0.0/8", "MESHES_OUTBOUND_ALLOW_HTTP": "1"}
    vendors = {"MESHES_OUTBOUND_PORTS": "*", "MESHES_VENDOR_URLS": f"slack={slack.url}"}
    up = RunningUp(tmp_path_factory.mktemp("budgets") / "data", allowed | vendors)
    try:
        up.start()
        yield up
    finally:
        slack.gate.set()
        up.end()


def make(up: RunningUp, path: str, body: dict[str, Any], status: int = 201) -> dict[str, Any]:
    answer = up.call("POST", f"/api/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    made: dict[str, Any] = answer.json()
    return made


def tenant(up: RunningUp, token: str, team: str) -> str:
    """A workspace whose every event is a message, over a connection whose test has learnt the team."""
    workspace: str = make(up, "workspaces", {"name": token})["id"]
    given = {"workspace": workspace, "type": "slack", "name": "S", "config": {}}
    given |= {"credentials": {"access_token": token}}
    connection = make(up, "connections", given)["id"]
    rule = {"workspace": workspace, "connection": connection, "event": "*", "action": "post_message", "enabled": True}
    make(up, "rules", rule | {"mapping": [{"to": "channel", "value": "C0LEADS"}]})
    assert make(up, f"connections/{connection}/test", {}, 200)["account"]["id"] == team
    return workspace


def test_two_connections_to_one_account_have_its_limits_together_and_a_third_to_another_its_own(up, slack):
    shared, other = slack.account, "T0OTHER"
    owners = [tenant(up, *each) for each in ((slack.token, shared), ("xoxb-second", shared), ("xoxb-other", other))]
    for _ in range(EVENTS):
        for workspace in owners:
            make(up, "events", {"workspace": workspace, "event": "lead.created", "payload": {"email": "a@b.co"}}, 202)

    eventually(lambda: slack.came(other) == EVENTS, 60)
    assert slack.came(shared) == IN_FLIGHT  # for the seconds that the other took; each alone would have as many open
    slack.gate.set()
    eventually(lambda: slack.came(shared) == 2 * EVENTS, 60)
    rest = slack.arrivals[shared][IN_FLIGHT:]
    assert rest[-1] - rest[0] > 0.8 * (len(rest) - 2) / RATE  # each by itself would need half of it
    assert slack.arrivals[other][-1] < rest[0]
    assert {message["channel"] for message in slack.state.messages} == {"C0LEADS"}
