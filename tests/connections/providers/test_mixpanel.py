import base64
import re

import pytest

from connections.providers.base import Outcome, Unsendable
from connections.providers.mixpanel import PLACEHOLDERS, PROVIDER
from tests.connections.providers.exchanges import PAYLOAD, document_of, headers_of, order, reply, shaped

TOKEN = "canary9f3c0123456789"
TRACKED = {"distinct_id": "user-1", "event": "lead.created", "properties": {"source": "web"}}


def track(config=None, **fields):
    return order(PROVIDER, "track", {**TRACKED, **fields}, {"project_token": TOKEN}, config)


def judged(status, body=b"", **headers):
    return PROVIDER.classify(reply(status, body, **headers), "track")


def test_an_event_is_imported_strictly():
    request = PROVIDER.build_request(track())
    assert (request.method, request.url) == ("POST", "https://api.mixpanel.com/import?strict=1&ip=0")
    assert headers_of(request) == {
        "content-type": "application/json",
        "authorization": "Basic " + base64.b64encode(f"{TOKEN}:".encode()).decode(),
    }
    assert document_of(request) == [
        {
            "event": "lead.created",
            "properties": {
                "source": "web",
                "time": 1_772_600_760_250,
                "distinct_id": "user-1",
                "$insert_id": "9cfa70c7-9dd0-53e4-ba13-26205e8f2688",
            },
        }
    ]


def insert_id(made):
    (event,) = document_of(PROVIDER.build_request(made))
    return event["properties"]["$insert_id"]


def test_the_insert_id_is_the_delivery_s_own_in_mixpanel_s_letters():
    made = track()
    assert re.fullmatch(r"[A-Za-z0-9-]{1,36}", insert_id(made))
    again = order(PROVIDER, "track", TRACKED, {"project_token": TOKEN}, attempt_number=7)
    other = order(PROVIDER, "track", TRACKED, {"project_token": TOKEN}, delivery_id="dlv_01h455vb4pex5vsknk084sn02r")
    assert insert_id(again) == insert_id(made) != insert_id(other)


def test_properties_cannot_write_over_what_drops_doubles():
    (event,) = document_of(PROVIDER.build_request(track(properties={"$insert_id": "x", "time": 1, "distinct_id": "y"})))
    assert event["properties"]["distinct_id"] == "user-1"
    assert event["properties"]["time"] == 1_772_600_760_250
    assert event["properties"]["$insert_id"] == insert_id(track())


def test_an_eu_project_is_addressed_there():
    assert PROVIDER.build_request(track({"region": "eu"})).url == "https://api-eu.mixpanel.com/import?strict=1&ip=0"
    assert PROVIDER.build_request(track({"region": "in"})).url == "https://api-in.mixpanel.com/import?strict=1&ip=0"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"event": "x" * 256}, "event has 256 characters; Mixpanel takes at most 255"),
        ({"distinct_id": "x" * 256}, "distinct_id has 256 characters"),
        ({"properties": {f"p{n}": n for n in range(252)}}, "fewer than 255 members; the event has 255"),
        ({"properties": {"a": {"b": [0] * 255}}}, "fewer than 255 members; b in a in the event has 255"),
    ],
)
def test_sizes_that_mixpanel_refuses_are_not_sent(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(track(**fields))


def test_defaults_come_from_event_and_payload():
    assert shaped(PROVIDER, "track", PAYLOAD) == {
        "distinct_id": "user-1", "event": "lead.created", "properties": PAYLOAD,
    }  # fmt: skip
    assert shaped(PROVIDER, "track", {"email": "ada@example.com"})["distinct_id"] == "ada@example.com"


@pytest.mark.parametrize("person", [*sorted(PLACEHOLDERS), "NULL", "Anonymous", 0])
def test_an_id_that_stands_for_nobody_is_refused(person):
    with pytest.raises(Unsendable, match=r"it stands for nobody\. Map a person's own id"):
        PROVIDER.build_request(track(distinct_id=person))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"distinct_id": None}, "field distinct_id is required"),
        ({"distinct_id": True}, "field distinct_id is required"),
        ({"event": ""}, "field event is required"),
        ({"properties": "x"}, "properties must be an object"),
        ({"properties": {"a": "x" * 1_000_000}}, "Mixpanel takes at most 1,000,000"),
    ],
)
def test_what_mixpanel_would_refuse_is_not_sent(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.prepare(track(**fields))


def failed(imported):
    record = {"index": 0, "insert_id": "x", "field": "properties.time", "message": "'properties.time' is invalid"}
    return {
        "code": 400,
        "error": "some data points failed",
        "failed_records": [record],
        "num_records_imported": imported,
    }


ANSWERS = [
    (200, {"code": 200, "num_records_imported": 1, "status": "OK"}, Outcome.DELIVERED, None, "", ""),
    (200, {"code": 200, "num_records_imported": 0}, Outcome.REJECTED, None, "rejected", "has not stored the event"),
    (400, failed(0), Outcome.REJECTED, None, "rejected", "mapping. Mixpanel: “'properties.time' is invalid”"),
    (400, failed(1), Outcome.DELIVERED, None, "", ""),
    (400, {"error": "bad request"}, Outcome.REJECTED, None, "rejected", "Mixpanel: “bad request”"),
    (401, {"error": "Invalid credentials"}, Outcome.BROKEN, "needs_reauth", "unauthorized", "project's settings"),
    (403, "", Outcome.BROKEN, "needs_reauth", "forbidden", "Give them the permission"),
    (413, "", Outcome.REJECTED, None, "rejected", "Map fewer properties"),
    (429, {"error": "rate limited"}, Outcome.RETRY, None, "rate_limited", "fewer events"),
    (502, "", Outcome.RETRY, None, "server_error", "just now"),
    (503, "", Outcome.RETRY, None, "server_error", "just now"),
]


def test_a_429_rests_the_lane_for_a_minute():
    assert (judged(429).throttled, judged(429).retry_after_seconds) == (True, 60)
    assert judged(429, retry_after="90").retry_after_seconds == 90.0
