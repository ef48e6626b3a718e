from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from meshes.dev.vendors.slack import Slack
from tests.meshes.dev.vendors.calling import call, connect

POST = "/api/chat.postMessage"
BLOCK = {"type": "section", "text": {"type": "mrkdwn", "text": "hello"}}


@pytest.fixture
def slack() -> Iterator[Slack]:
    with Slack() as server:
        yield server


def post(slack: Slack, **message: Any) -> requests.Response:
    return call(slack, "POST", POST, {"channel": "C0LEADS", **message})


def error(answer: requests.Response) -> str:
    """The error of the Web API, which is a 200."""
    assert (answer.status_code, answer.json()["ok"]) == (200, False)
    return str(answer.json()["error"])


def test_a_message_is_posted(slack):
    document = post(slack, text="hello", blocks=[BLOCK]).json()
    (message,) = slack.state.messages
    assert message == {"channel": "C0LEADS", "ts": document["ts"], "text": "hello", "blocks": [BLOCK]}
    assert (document["ok"], document["channel"], document["message"]["text"]) == (True, "C0LEADS", "hello")


def test_an_answer_begins_with_ok_and_warns_of_a_missing_charset(slack):
    answer = post(slack, text="hello")
    assert answer.content.startswith(b'{"ok":true,')
    assert answer.json()["warning"] == "missing_charset"
    headers = {"content-type": "application/json; charset=utf-8"}
    assert "warning" not in call(slack, "POST", POST, {"channel": "#leads", "text": "x"}, headers=headers).json()


def test_a_form_is_as_good_as_json(slack):
    assert call(slack, "POST", POST, data={"channel": "leads", "text": "hello"}).json()["ok"] is True
    assert slack.state.messages[0]["channel"] == "C0LEADS"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({}, "no_text"),
        ({"text": ""}, "no_text"),
        ({"text": "x" * 40_001}, "msg_too_long"),
        ({"blocks": {}}, "invalid_blocks"),
        ({"blocks": ["x"]}, "invalid_blocks"),
        ({"blocks": [BLOCK] * 51}, "invalid_blocks"),
        ({"text": "x", "channel": "C0NOWHERE"}, "channel_not_found"),
        ({"text": "x", "channel": ""}, "channel_not_found"),
        ({"text": "x", "channel": "C0OLD"}, "is_archived"),
        ({"text": "x", "channel": "C0FOREIGN"}, "not_in_channel"),
    ],
)
def test_a_wrong_message_is_a_200_that_is_not_ok(slack, message, expected):
    assert error(post(slack, **message)) == expected
    assert slack.state.messages == []


def test_wrong_requests_are_a_200_that_is_not_ok(slack):
    assert error(call(slack, "POST", POST, {"text": "x"}, token="")) == "not_authed"
    assert error(call(slack, "POST", POST, {"text": "x"}, token="xoxb-other")) == "invalid_auth"
    assert error(call(slack, "POST", "/api/chat.shout", {})) == "unknown_method"
    assert error(call(slack, "POST", POST, data=b"{", headers={"content-type": "application/json"})) == "invalid_json"
    assert error(call(slack, "POST", POST, data=b"x", headers={"content-type": "text/plain"})) == "invalid_post_type"


def test_whose_token_it_is(slack):
    document = call(slack, "POST", "/api/auth.test").json()
    assert document == {
        "ok": True,
        "url": "https://acme.slack.com/",
        "team": "Acme",
        "team_id": "T0ACME",
        "user": "meshes",
        "user_id": "U0BOT",
        "bot_id": "B0BOT",
    }


def test_channels_are_listed_in_pages(slack):
    path = "/api/conversations.list?exclude_archived=true&limit=2"
    first = call(slack, "GET", path).json()
    second = call(slack, "GET", f"{path}&cursor={first['response_metadata']['next_cursor']}").json()
    assert [each["name"] for each in first["channels"] + second["channels"]] == ["general", "leads", "elsewhere"]
    assert second["response_metadata"]["next_cursor"] == ""
    assert len(call(slack, "GET", "/api/conversations.list").json()["channels"]) == 4


def test_a_token_may_do_what_its_scopes_say(slack):
    token = connect(slack, "/oauth/v2/authorize", "/api/oauth.v2.access", scope="chat:write")["access_token"]
    assert call(slack, "POST", POST, {"channel": "C0LEADS", "text": "x"}, token=token).json()["ok"] is True
    answer = call(slack, "GET", "/api/conversations.list", token=token)
    assert answer.json() == {"ok": False, "error": "missing_scope", "needed": "channels:read", "provided": "chat:write"}


def hook(slack: Slack, document: Any = None, path: str = "", **options: Any) -> tuple[int, str]:
    url = slack.url + (path or urlsplit(slack.webhook_url).path)
    answer = requests.post(url, json=document, timeout=10, **options)
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.status_code, answer.text


def test_an_incoming_webhook_answers_in_plain_text(slack):
    assert slack.webhook_url.startswith("https://hooks.slack.com/services/T0ACME/B0WEBHOOK/")
    assert hook(slack, {"text": "hello"}) == (200, "ok")
    assert [(each["channel"], each["text"]) for each in slack.state.messages] == [("C0LEADS", "hello")]


@pytest.mark.parametrize(
    ("document", "expected"), [({}, "no_text"), ({"blocks": "x"}, "invalid_blocks"), (["x"], "invalid_payload")]
)
def test_a_wrong_message_to_a_webhook(slack, document, expected):
    assert hook(slack, document) == (400, expected)
    assert hook(slack, data=b"{") == (400, "invalid_payload")
    assert hook(slack, data=b"{", headers={"content-type": "application/json"}) == (400, "invalid_payload")
    assert slack.state.messages == []


def test_a_webhook_that_is_no_more(slack):
    assert hook(slack, {"text": "x"}, "/services/T0NOBODY/B0WEBHOOK/x") == (404, "no_team")
    assert hook(slack, {"text": "x"}, "/services/T0ACME/B0OTHER/x") == (404, "no_service")
    assert hook(slack, {"text": "x"}, "/services/T0ACME/B0WEBHOOK/x") == (403, "invalid_token")
    slack.state.channels["C0LEADS"]["is_archived"] = True
    assert hook(slack, {"text": "x"}) == (410, "channel_is_archived")
    assert slack.state.messages == []


def test_the_limit_asks_for_patience(slack):
    slack.limit(1, 30)
    answers = [post(slack, text="x") for _ in range(2)]
    assert (answers[1].status_code, answers[1].json()) == (429, {"ok": False, "error": "ratelimited"})
    assert 1 <= int(answers[1].headers["retry-after"]) <= 30
    assert len(slack.state.messages) == 1


@pytest.mark.parametrize("fault", ["internal_error", "fatal_error", "account_inactive", "restricted_action"])
def test_troubles_of_the_web_api(slack, fault):
    slack.fail_next(fault)
    assert error(post(slack, text="x")) == fault


@pytest.mark.parametrize(("fault", "status"), [("rollup_error", 500), ("action_prohibited", 403)])
def test_troubles_of_webhooks(slack, fault, status):
    slack.fail_next(fault)
    assert hook(slack, {"text": "x"}) == (status, fault)
