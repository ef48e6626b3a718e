import pytest

from connections.providers.amplitude import PROVIDER
from connections.providers.base import InvalidFields, Outcome, Unsendable
from tests.connections.providers.exchanges import PAYLOAD, document_of, headers_of, order, reply, shaped

KEY = "canary9f3c0123456789"
TRACKED = {"user_id": "user-1", "event_type": "lead.created", "event_properties": {"source": "web"}}
EVENT = {
    "user_id": "user-1",
    "event_type": "lead.created",
    "time": 1_772_600_760_250,
    "insert_id": "dlv_01h455vb4pex5vsknk084sn02q",
    "event_properties": {"source": "web"},
}


def track(config=None, **fields):
    return order(PROVIDER, "track", {**TRACKED, **fields}, {"api_key": KEY}, config)


def judged(status, body=b"", **headers):
    return PROVIDER.classify(reply(status, body, **headers), "track")


def test_an_event_carries_the_delivery_s_id_against_doubles():
    request = PROVIDER.build_request(track())
    assert (request.method, request.url) == ("POST", "https://api2.amplitude.com/2/httpapi")
    assert headers_of(request) == {"content-type": "application/json"}
    assert document_of(request) == {"api_key": KEY, "events": [EVENT]}


def test_an_eu_project_is_addressed_there():
    assert PROVIDER.build_request(track({"region": "eu"})).url == "https://api.eu.amplitude.com/2/httpapi"


def test_a_device_and_the_user_s_properties_can_be_mapped():
    fields = {"user_id": None, "device_id": "device-1", "user_properties": {"plan": "pro"}}
    (event,) = document_of(PROVIDER.build_request(track(**fields)))["events"]
    expected = {**EVENT, "device_id": "device-1", "user_properties": {"plan": "pro"}}
    del expected["user_id"]
    assert event == expected


def test_shorter_ids_are_asked_for_where_the_connection_says_so():
    document = document_of(PROVIDER.build_request(track({"min_id_length": 2}, user_id=42)))
    assert document["options"] == {"min_id_length": 2}
    assert document["events"][0]["user_id"] == "42"


@pytest.mark.parametrize("length", [0, 6, "3"])
def test_the_shortest_id_has_one_to_five_characters(length):
    with pytest.raises(InvalidFields):
        PROVIDER.clean_config({"min_id_length": length})


def test_the_shortest_id_is_that_of_the_event_s_routing():
    made = order(PROVIDER, "track", TRACKED, {"api_key": KEY}, {"min_id_length": 1}, frozen={"min_id_length": 5})
    assert "options" not in document_of(PROVIDER.build_request(made))


def test_defaults_come_from_event_and_payload():
    assert shaped(PROVIDER, "track", PAYLOAD) == {
        "user_id": "user-1", "event_type": "lead.created", "event_properties": PAYLOAD,
    }  # fmt: skip
    assert shaped(PROVIDER, "track", {"email": "ada@example.com"})["user_id"] == "ada@example.com"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (track(user_id=None), "needs a user_id or a device_id"),
        (track(user_id="four"), "ids of at least 5 characters. Map a longer one"),
        (track(device_id="four"), "ids of at least 5 characters"),
        (track({"min_id_length": 3}, user_id="42"), "ids of at least 3 characters"),
        (track(event_type=None), "field event_type is required"),
        (track(event_properties=[1]), "event_properties must be an object"),
        (track(user_properties="x"), "user_properties must be an object"),
        (track(event_properties={"a": "x" * 1_000_000}), "Amplitude takes at most 1,000,000"),
    ],
)
def test_what_amplitude_would_refuse_is_not_sent(made, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.prepare(made)


LENGTHS = {"code": 400, "error": "Invalid id length", "events_with_invalid_id_lengths": {"user_id": [0]}}
QUOTA = {"code": 429, "exceeded_daily_quota_users": {"user-1": 500_200}, "throttled_users": {"user-1": 1}}
ANSWERS = [
    (200, {"code": 200, "events_ingested": 1, "payload_size_bytes": 50}, Outcome.DELIVERED, None, "", ""),
    (200, {"code": 200, "events_ingested": 0}, Outcome.REJECTED, None, "rejected", "has not stored the event"),
    (400, LENGTHS, Outcome.REJECTED, None, "rejected", "mapping. Amplitude: “Invalid id length”"),
    (400, {"error": "Invalid API key: x"}, Outcome.BROKEN, "needs_reauth", "unauthorized", "project's settings"),
    (
        400,
        {"error": "Request missing required field", "missing_field": "api_key"},
        Outcome.BROKEN,
        "needs_reauth",
        "unauthorized",
        "project's settings",
    ),
    (400, {"error": "e", "silenced_events": [0]}, Outcome.REJECTED, None, "rejected", "has blocked it there"),
    (400, {"error": "e", "silenced_devices": ["d"]}, Outcome.REJECTED, None, "rejected", "has blocked it there"),
    (413, {"error": "Payload too large"}, Outcome.REJECTED, None, "rejected", "Map fewer properties"),
    (429, {"throttled_users": {"user-1": 31}}, Outcome.RETRY, None, "rate_limited", "of this user or device"),
    (429, {"throttled_devices": {"d": 31}}, Outcome.RETRY, None, "rate_limited", "of this user or device"),
    (429, {"throttled_users": {}, "throttled_events": [0]}, Outcome.RETRY, None, "rate_limited", "fewer events"),
    (429, QUOTA, Outcome.REJECTED, None, "daily_limit", "quota for the day"),
    (429, {"exceeded_daily_quota_devices": {"d": 1}}, Outcome.REJECTED, None, "daily_limit", "quota for the day"),
    (500, "", Outcome.RETRY, None, "server_error", "just now"),
    (503, "", Outcome.RETRY, None, "server_error", "just now"),
]


def test_one_throttled_user_does_not_rest_the_others():
    verdict = judged(429, {"throttled_users": {"user-1": 31}})
    assert (verdict.throttled, verdict.retry_after_seconds) == (False, 30)


def test_any_other_429_rests_the_lane():
    assert (judged(429).throttled, judged(429).retry_after_seconds) == (True, 30)


@pytest.mark.parametrize("person", ["anonymous", "UNDEFINED", "00000000-0000-0000-0000-000000000000", "unknown"])
def test_an_id_that_stands_for_nobody_is_refused(person):
    with pytest.raises(Unsendable, match="stands for nobody"):
        PROVIDER.build_request(track(user_id=person))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"event_type": "$identify"}, "is Amplitude's own"),
        ({"event_type": "[Amplitude] Start Session"}, "is Amplitude's own"),
        ({"event_type": "x" * 1025}, "event_type has 1,025 characters; Amplitude takes at most 1,024"),
        ({"user_id": "x" * 1025}, "user_id has 1,025 characters"),
    ],
)
def test_names_that_amplitude_keeps_or_cuts_are_refused(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(track(**fields))


def test_a_place_is_found_by_the_person_s_address_and_never_by_ours():
    assert "ip" not in document_of(PROVIDER.build_request(track()))["events"][0]
    assert document_of(PROVIDER.build_request(track(ip="203.0.113.7")))["events"][0]["ip"] == "203.0.113.7"


def test_a_property_that_amplitude_takes_none_like_is_left_out_and_said():
    properties = {
        "plan": "pro",
        "matrix": [[1]],
        "gaps": [1, None],
        "deep": {"a": [[2]]},
        "items": [{"id": 1}],
        "none": None,
    }
    request = PROVIDER.prepare(track(event_properties=properties))
    (event,) = document_of(request)["events"]
    assert event["event_properties"] == {"plan": "pro", "items": [{"id": 1}], "none": None}
    words = "Amplitude takes no array in an array, and no null in one."
    assert request.omitted == tuple((f"event_properties.{key}", words) for key in ("matrix", "gaps", "deep"))
