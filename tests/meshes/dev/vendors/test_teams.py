from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from meshes.dev.vendors.teams import CARD, Teams

CONTENT = {"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlock", "text": "New lead"}]}


@pytest.fixture
def teams() -> Iterator[Teams]:
    with Teams() as server:
        yield server


def message(content: Any = CONTENT, kind: str = CARD) -> dict[str, Any]:
    return {"type": "message", "attachments": [{"contentType": kind, "contentUrl": None, "content": content}]}


def trigger(teams: Teams, document: Any, url: str = "") -> requests.Response:
    parts = urlsplit(url or teams.webhook_url)
    return requests.post(f"{teams.url}{parts.path}?{parts.query}", json=document, timeout=10)


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_card_is_accepted_and_posted(teams):
    answer = trigger(teams, message())
    assert (answer.status_code, answer.content) == (202, b"")
    assert (teams.state.cards, teams.state.failed) == ([CONTENT], [])


@pytest.mark.parametrize(
    "document",
    [
        {"text": "an old connector's message"},
        {"type": "message", "attachments": []},
        {"type": "message", "attachments": ["x"]},
        message({"type": "MessageCard", "body": [1]}),
        message({**CONTENT, "body": []}),
        message(kind="application/json"),
    ],
)
def test_what_the_flow_cannot_post_is_accepted_too(teams, document):
    assert trigger(teams, document).status_code == 202
    assert (teams.state.cards, teams.state.failed) == ([], [document])


def test_the_url_is_the_secret(teams):
    wrong = teams.webhook_url.replace(teams.token, "wrong")
    assert code(trigger(teams, message(), wrong)) == (401, "DirectApiAuthorizationRequired")
    gone = teams.webhook_url.replace(teams.account, "gone")
    assert code(trigger(teams, message(), gone)) == (404, "WorkflowNotFound")
    old = f"https://x.logic.azure.com/workflows/{teams.account}/triggers/manual/paths/invoke?sig={teams.token}"
    assert code(trigger(teams, message(), old)) == (404, "WorkflowNotFound")
    assert teams.state.cards == []


def test_a_suspended_flow_and_a_large_message(teams):
    large = message({**CONTENT, "body": [{"type": "TextBlock", "text": "x" * 28 * 1024}]})
    assert code(trigger(teams, large)) == (413, "RequestEntityTooLarge")
    teams.state.is_enabled = False
    assert code(trigger(teams, message())) == (400, "WorkflowTriggerIsNotEnabled")
    assert teams.state.cards == teams.state.failed == []


def test_a_body_that_is_no_json_is_refused(teams):
    parts = urlsplit(teams.webhook_url)
    headers = {"content-type": "application/json"}
    answer = requests.post(f"{teams.url}{parts.path}?{parts.query}", data=b"{", headers=headers, timeout=10)
    assert code(answer) == (400, "InvalidRequestContent")
