import base64

import pytest

from connections.providers.base import Outcome, Unsendable
from connections.providers.segment import PROVIDER
from tests.connections.providers.exchanges import PAYLOAD, document_of, headers_of, order, shaped

KEY = "canary9f3cWriteKey"
WHEN = {"messageId": "dlv_01h455vb4pex5vsknk084sn02q", "timestamp": "2026-03-04T05:06:00.250Z"}
HEADERS = {
    "content-type": "application/json",
    "authorization": "Basic " + base64.b64encode(f"{KEY}:".encode()).decode(),
}
TRACKED = {"user_id": "user-1", "event": "lead.created", "properties": {"source": "web"}}


def track(config=None, **fields):
    return order(PROVIDER, "track", {**TRACKED, **fields}, {"write_key": KEY}, config)


def test_an_event_carries_the_delivery_s_id_against_doubles():
    request = PROVIDER.build_request(track())
    assert (request.method, request.url) == ("POST", "https://api.segment.io/v1/track")
    assert headers_of(request) == HEADERS
    assert document_of(request) == {
        "userId": "user-1", "event": "lead.created", "properties": {"source": "web"}, **WHEN,
    }  # fmt: skip


def test_traits_are_identified():
    fields = {"user_id": 42, "anonymous_id": "a-1", "traits": {"email": "ada@example.com"}}
    request = PROVIDER.build_request(order(PROVIDER, "identify", fields, {"write_key": KEY}))
    assert (request.method, request.url) == ("POST", "https://api.segment.io/v1/identify")
    assert headers_of(request) == HEADERS
    assert document_of(request) == {
        "userId": "42", "anonymousId": "a-1", "traits": {"email": "ada@example.com"}, **WHEN,
    }  # fmt: skip


def test_an_eu_workspace_is_addressed_there():
    assert PROVIDER.build_request(track({"region": "eu"})).url == "https://events.eu1.segmentapis.com/v1/track"


def test_an_anonymous_id_is_enough():
    document = document_of(PROVIDER.build_request(track(user_id=None, anonymous_id="a-1", properties=None)))
    assert document == {"anonymousId": "a-1", "event": "lead.created", "properties": {}, **WHEN}


def test_defaults_come_from_event_and_payload():
    assert shaped(PROVIDER, "track", PAYLOAD) == {"user_id": "user-1", "event": "lead.created", "properties": PAYLOAD}
    person = {"email": "ada@example.com", "anonymous_id": "a-1"}
    assert shaped(PROVIDER, "identify", person) == {
        "user_id": "ada@example.com", "anonymous_id": "a-1", "traits": person,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"user_id": None}, "needs a user_id or an anonymous_id"),
        ({"user_id": " "}, "needs a user_id or an anonymous_id"),
        ({"user_id": True}, "user_id must be text"),
        ({"event": None}, "field event is required"),
        ({"properties": [1]}, "properties must be an object"),
        ({"properties": {"a": "x" * 32_000}}, "Segment takes at most 32,000"),
    ],
)
def test_what_segment_would_refuse_or_drop_is_not_sent(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.prepare(track(**fields))


ANSWERS = [
    (200, {"success": True}, Outcome.DELIVERED, None, "", ""),
    (200, "", Outcome.RETRY, None, "unproven", "does not say that it was done"),
    (200, {"success": False}, Outcome.REJECTED, None, "rejected", "Mend the rule's mapping"),
    (400, "malformed JSON", Outcome.REJECTED, None, "rejected", "larger than 32 KB"),
    (401, "", Outcome.BROKEN, "needs_reauth", "unauthorized", "Replace them"),
    (408, "", Outcome.RETRY, None, "server_error", "just now"),
    (410, "", Outcome.RETRY, None, "server_error", "just now"),
    (429, "", Outcome.RETRY, None, "rate_limited", "fewer requests"),
    (460, "", Outcome.RETRY, None, "server_error", "just now"),
    (500, "", Outcome.RETRY, None, "server_error", "just now"),
    (501, "", Outcome.REJECTED, None, "rejected", "does not take"),
    (503, "", Outcome.RETRY, None, "server_error", "just now"),
    (505, "", Outcome.REJECTED, None, "rejected", "does not take"),
]


@pytest.mark.parametrize("action", ["track", "identify"])
def test_the_person_s_address_is_mapped_and_ours_never_sent(action):
    fields = {"user_id": 42, "event": "x", "context": {"ip": "203.0.113.7"}}
    made = order(PROVIDER, action, fields, {"write_key": "k"})
    assert document_of(PROVIDER.build_request(made))["context"] == {"ip": "203.0.113.7"}
    bare = order(PROVIDER, action, {"user_id": 42, "event": "x"}, {"write_key": "k"})
    assert "context" not in document_of(PROVIDER.build_request(bare))
    assert document_of(PROVIDER.build_request(bare))["userId"] == "42"
