from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from meshes.dev.vendors.discord import Discord


@pytest.fixture
def discord() -> Iterator[Discord]:
    with Discord() as server:
        yield server


def ask(discord: Discord, document: Any = None, query: str = "", path: str = "") -> requests.Response:
    url = discord.url + (path or urlsplit(discord.webhook_url).path) + query
    return requests.request("GET" if document is None else "POST", url, json=document, timeout=10)


def test_a_message_is_posted_without_an_answer(discord):
    answer = ask(discord, {"content": "hello"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert discord.state.messages == [{"content": "hello"}]


def test_who_waits_gets_the_message(discord):
    answer = ask(discord, {"content": "hello"}, "?wait=true")
    document = answer.json()
    assert (answer.status_code, document["id"], document["content"]) == (200, "9000001", "hello")
    path = f"/api/v10/webhooks/{discord.account}/{discord.token}"
    assert ask(discord, {"embeds": [{"title": "a"}]}, "?wait=true", path).json()["embeds"] == [{"title": "a"}]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({}, 50006),
        ({"content": ""}, 50006),
        ({"content": "x" * 2001}, 50035),
        ({"content": 5}, 50035),
        ({"content": "x", "embeds": [{}] * 11}, 50035),
        ({"content": "x", "username": "x" * 81}, 50035),
    ],
)
def test_a_wrong_message_is_refused(discord, message, code):
    answer = ask(discord, message)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert discord.state.messages == []


@pytest.mark.parametrize(
    ("message", "pings"),
    [
        ({"content": "@everyone"}, 1),
        ({"content": "hello <@1>"}, 1),
        ({"content": "hello"}, 0),
        ({"content": "@everyone <@1>", "allowed_mentions": {"parse": []}}, 0),
        ({"content": "@everyone", "allowed_mentions": {"parse": ["users"]}}, 0),
    ],
)
def test_mentions_ping_unless_they_are_forbidden(discord, message, pings):
    ask(discord, message)
    assert len(discord.state.pings) == pings


def test_a_deleted_webhook_and_a_wrong_token(discord):
    gone = ask(discord, {"content": "x"}, path="/api/webhooks/1/x")
    assert (gone.status_code, gone.json()) == (404, {"message": "Unknown Webhook", "code": 10015})
    wrong = ask(discord, {"content": "x"}, path=f"/api/webhooks/{discord.account}/x")
    assert (wrong.status_code, wrong.json()["code"]) == (401, 50027)
    assert ask(discord).json()["name"] == "Leads"
    assert ask(discord, path="/api/webhooks/1/x").status_code == 404


def test_the_limit_tells_how_long(discord):
    discord.limit(1, 60)
    first, second = (ask(discord, {"content": "x"}) for _ in range(2))
    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("1", "0")
    assert 0 < float(first.headers["x-ratelimit-reset-after"]) <= 60
    document = second.json()
    assert (second.status_code, document["global"]) == (429, False)
    assert 0 < document["retry_after"] <= int(second.headers["retry-after"]) <= 60
    discord.no_limit()
    discord.fail_next("GLOBAL")
    assert ask(discord, {"content": "x"}).json()["global"] is True


def test_a_body_that_is_no_json_is_refused(discord):
    path = urlsplit(discord.webhook_url).path
    headers = {"content-type": "application/json"}
    answer = requests.post(discord.url + path, data=b"{", headers=headers, timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (400, 50109)
