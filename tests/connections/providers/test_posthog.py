import uuid

import pytest

from connections.providers.base import Outcome, Unsendable
from connections.providers.posthog import PROVIDER
from tests.connections.providers.exchanges import PAYLOAD, document_of, headers_of, order, reply, shaped

KEY = "phc_canary9f3c"
TRACKED = {"distinct_id": "user-1", "event": "lead.created", "properties": {"source": "web"}}


def track(config=None, **fields):
    return order(PROVIDER, "track", {**TRACKED, **fields}, {"api_key": KEY}, config)


def judged(status, body=b"", **headers):
    return PROVIDER.classify(reply(status, body, **headers), "track")


def test_an_event_carries_a_uuid_of_the_delivery_against_doubles():
    request = PROVIDER.build_request(track())
    assert (request.method, request.url) == ("POST", "https://us.i.posthog.com/i/v0/e/")
    assert headers_of(request) == {"content-type": "application/json"}
    assert document_of(request) == {
        "api_key": KEY,
        "event": "lead.created",
        "distinct_id": "user-1",
        "properties": {"$geoip_disable": True, "source": "web"},
        "timestamp": "2026-03-04T05:06:00.250Z",
        "uuid": "9cfa70c7-9dd0-53e4-ba13-26205e8f2688",
    }


def uuid_of(**changes):
    made = order(PROVIDER, "track", TRACKED, {"api_key": KEY}, **changes)
    return uuid.UUID(document_of(PROVIDER.build_request(made))["uuid"])


def test_the_uuid_is_the_same_over_all_attempts_and_no_other_delivery_s():
    assert uuid_of() == uuid_of(attempt_number=7)
    assert uuid_of() != uuid_of(delivery_id="dlv_01h455vb4pex5vsknk084sn02r")
    assert (uuid_of().version, uuid_of().variant) == (5, uuid.RFC_4122)


@pytest.mark.parametrize(
    ("properties", "sent"),
    [
        ({}, {"$geoip_disable": True}),
        ({"$ip": "203.0.113.7"}, {"$ip": "203.0.113.7"}),
        ({"$ip": None}, {"$geoip_disable": True, "$ip": None}),
        ({"$geoip_disable": False}, {"$geoip_disable": False}),
    ],
)
def test_an_event_is_not_placed_where_our_server_stands(properties, sent):
    assert document_of(PROVIDER.build_request(track(properties=properties)))["properties"] == sent


@pytest.mark.parametrize("key", ["distinct_id", "event"])
def test_what_posthog_would_cut_is_refused(key):
    assert PROVIDER.build_request(track(**{key: "x" * 200})).method == "POST"
    with pytest.raises(Unsendable, match=f"{key} has 201 characters; PostHog takes at most 200"):
        PROVIDER.build_request(track(**{key: "x" * 201}))


def test_an_eu_project_is_addressed_there():
    assert PROVIDER.build_request(track({"region": "eu"})).url == "https://eu.i.posthog.com/i/v0/e/"


def test_defaults_come_from_event_and_payload():
    assert shaped(PROVIDER, "track", PAYLOAD) == {
        "distinct_id": "user-1", "event": "lead.created", "properties": PAYLOAD,
    }  # fmt: skip
    assert shaped(PROVIDER, "track", {"email": "ada@example.com"})["distinct_id"] == "ada@example.com"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"distinct_id": None}, "field distinct_id is required"),
        ({"event": " "}, "field event is required"),
        ({"properties": 7}, "properties must be an object"),
        ({"properties": {"a": "x" * 921_600}}, "PostHog takes at most 921,600"),
    ],
)
def test_what_posthog_would_refuse_is_not_sent(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.prepare(track(**fields))


ANSWERS = [
    (200, {"status": "Ok"}, Outcome.DELIVERED, None, "", ""),
    (200, {"status": 1, "quota_limited": []}, Outcome.DELIVERED, None, "", ""),
    (
        200,
        {"status": "Ok", "quota_limited": ["events"]},
        Outcome.RETRY,
        None,
        "quota_limited",
        "Raise its billing limit",
    ),
    (400, {"detail": "no event"}, Outcome.REJECTED, None, "rejected", "mapping. PostHog: “no event”"),
    (400, "request holds no event", Outcome.REJECTED, None, "rejected", "Mend the rule's mapping"),
    (401, {"error": "bad token"}, Outcome.BROKEN, "needs_reauth", "unauthorized", "phc_…). Copy it"),
    (413, "", Outcome.REJECTED, None, "rejected", "Map fewer properties"),
    (429, "", Outcome.RETRY, None, "rate_limited", "fewer requests"),
    (503, "", Outcome.RETRY, None, "server_error", "just now"),
]


def test_a_used_up_quota_rests_the_lane_for_an_hour():
    verdict = judged(200, {"status": "Ok", "quota_limited": ["events"]})
    assert (verdict.throttled, verdict.retry_after_seconds) == (True, 3600)
