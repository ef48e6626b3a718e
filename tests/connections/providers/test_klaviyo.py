import json

import pytest

from connections.messages import Request
from connections.providers.base import Account, NotAuthorized, Unsendable
from connections.providers.klaviyo import PROFILE_BYTES, PROVIDER
from tests.connections.providers.exchanges import exchanges, judged, reply, shaped
from tests.connections.providers.shipments import as_secrets, shipment

ROOT = "https://a.klaviyo.com"
OWN = (
    ("authorization", "Klaviyo-API-Key pk_abc"),
    ("accept", "application/vnd.api+json"),
    ("revision", "2026-07-15"),
)
HEADERS = (("content-type", "application/vnd.api+json"), *OWN)
ADA = {
    "email": "a@b.co",
    "first_name": "A",
    "last_name": "B",
    "phone_number": "+15551234567",
    "organization": "C",
    "properties": {"source": "web"},
}
REFUSED = ("rejected", "rejected", None)


def of(action: str = "upsert_profile", fields: dict | None = None, **changes):
    values = {"config": {}, "frozen": {}, "credentials": as_secrets({"api_key": "pk_abc"})}
    return shipment(action=action, body=json.dumps(ADA if fields is None else fields), **{**values, **changes})


def error(status: int, code: str, detail: str = "d"):
    row = {"id": "1", "status": status, "code": code, "title": "t", "detail": detail, "source": {"pointer": "/data"}}
    return reply(status, {"errors": [row]})


def test_a_profile_is_imported():
    assert PROVIDER.build_request(of()) == Request(
        "POST",
        f"{ROOT}/api/profile-import",
        HEADERS,
        b'{"data":{"type":"profile","attributes":{"email":"a@b.co","first_name":"A","last_name":"B",'
        b'"phone_number":"+15551234567","organization":"C","properties":{"source":"web"}}}}',
    )


def test_null_clears_a_field_of_a_profile():
    request = PROVIDER.build_request(of(fields={"email": "a@b.co", "title": None}))
    assert request.body == b'{"data":{"type":"profile","attributes":{"email":"a@b.co","title":null}}}'


def test_an_event_carries_the_delivery_s_id_by_which_a_second_one_is_dropped():
    fields = {
        "metric": "lead.created", "properties": {"source": "web"}, "value": 9.5, "email": "a@b.co", "last_name": None,
    }  # fmt: skip
    assert PROVIDER.build_request(of("track_event", fields)) == Request(
        "POST",
        f"{ROOT}/api/events",
        HEADERS,
        b'{"data":{"type":"event","attributes":{"properties":{"source":"web"},'
        b'"time":"2026-03-04T05:06:00.250000+00:00","value":9.5,"unique_id":"dlv_01h455vb4pex5vsknk084sn02q",'
        b'"metric":{"data":{"type":"metric","attributes":{"name":"lead.created"}}},'
        b'"profile":{"data":{"type":"profile","attributes":{"email":"a@b.co"}}}}}}',
    )
    bare = json.loads(PROVIDER.build_request(of("track_event", {"metric": "m", "phone_number": "+15551234567"})).body)
    assert bare["data"]["attributes"]["properties"] == {}
    assert "value" not in bare["data"]["attributes"]


@pytest.mark.parametrize("identifier", ["email", "phone_number", "external_id", "anonymous_id"])
def test_one_identifier_is_enough(identifier):
    fields = {identifier: "+15551234567"}
    assert json.loads(PROVIDER.build_request(of(fields=fields)).body)["data"]["attributes"] == fields


def sent(fields, country=None, action="upsert_profile"):
    """The attributes of the profile, and what was left out."""
    frozen = {"phone_country": country} if country else {}
    request = PROVIDER.build_request(of(action, {"email": "a@b.co", "metric": "m", **fields}, frozen=frozen))
    document = json.loads(request.body)["data"]
    profile = document["attributes"]["profile"]["data"] if action == "track_event" else document
    return {
        key: value for key, value in profile["attributes"].items() if key not in ("email", "metric")
    }, request.omitted


@pytest.mark.parametrize("action", ["upsert_profile", "track_event"])
@pytest.mark.parametrize(
    ("phone", "country", "own_country", "number"),
    [
        ("+1 (555) 123-4567", None, None, "+15551234567"),
        (" +15551234567 ", "DE", None, "+15551234567"),
        ("0171 1234567", "DE", None, "+491711234567"),
        ("0171 1234567", "US", "de", "+491711234567"),
        (15551234567, "US", None, "+15551234567"),
        ("0049 171 1234567", "DE", None, "+491711234567"),
    ],
)
def test_a_number_is_written_as_e_164(phone, country, own_country, number, action):
    assert sent({"phone_number": phone, "phone_country": own_country}, country, action) == (
        {"phone_number": number},
        (),
    )


NO_COUNTRY = "it names no country: write it as +15551234567, or set phone_country"


@pytest.mark.parametrize("action", ["upsert_profile", "track_event"])
@pytest.mark.parametrize(
    ("phone", "country", "reason"),
    [
        (15551234567, None, NO_COUNTRY),
        ("0171 1234567", None, NO_COUNTRY),
        ("call me", "DE", "it is not a telephone number"),
        ({"home": "+15551234567"}, "DE", "it is not a text"),
        (["+15551234567"], None, "it is not a text"),
        (False, None, "it is not a text"),
        (0, "DE", "it is not a telephone number"),
        ("+15550100", None, "it has too few or too many digits for a number of its country"),
        ("0171 1234567", "XX", "its country is not a code of two letters, such as US"),
    ],
)
def test_a_number_that_is_no_e_164_is_left_out_with_the_reason(phone, country, reason, action):
    assert sent({"phone_number": phone}, country, action) == ({}, (("phone_number", reason),))


@pytest.mark.parametrize("country", [True, {"code": "US"}, 49, "Germany"])
def test_a_country_that_is_none_fails_no_profile(country):
    reason = "its country is not a code of two letters, such as US"
    assert sent({"phone_number": "0171 1234567", "phone_country": country}) == ({}, (("phone_number", reason),))


def test_a_blank_number_or_email_of_the_rule_s_own_clears_the_field():
    fields = {"external_id": 42, "email": " ", "phone_number": ""}
    attributes = json.loads(PROVIDER.build_request(of(fields=fields)).body)["data"]["attributes"]
    assert attributes == {"external_id": "42", "email": None, "phone_number": None}


def test_a_number_that_klaviyo_refuses_does_not_fail_the_profile():
    made = of(fields={"email": "a@b.co", "phone_number": "+15551234567"})
    pointer = {"pointer": "/data/attributes/phone_number"}
    refusal = reply(400, {"errors": [{"code": "invalid", "detail": "Invalid phone number", "source": pointer}]})
    first = PROVIDER.build_request(made)
    second = PROVIDER.follow(made, exchanges((first, refusal)))
    assert isinstance(second, Request)
    assert json.loads(second.body)["data"]["attributes"] == {"email": "a@b.co"}
    assert second.omitted == (("phone_number", "Klaviyo does not take it: phone_number: Invalid phone number"),)
    assert PROVIDER.follow(made, exchanges((first, refusal), (second, refusal))) is None
    alone = of(fields={"phone_number": "+15551234567"})
    assert PROVIDER.follow(alone, exchanges((first, refusal))) is None
    assert PROVIDER.follow(made, exchanges((first, error(400, "invalid", "Invalid email address")))) is None


def test_a_connection_names_a_country_that_exists():
    assert PROVIDER.clean_config({"phone_country": "DE"}) == {"phone_country": "DE"}
    assert PROVIDER.check({"phone_country": "DE"}, {}) == PROVIDER.check({}, {}) == ()
    (problem,) = PROVIDER.check({"phone_country": "XX"}, {})
    assert (problem.pointer, problem.rule) == ("/config/phone_country", "options")


def test_an_error_is_named_by_its_field_and_speaks_of_phones_only_where_it_is_about_one():
    pointer = {"pointer": "/data/attributes/profile/data/attributes/email"}
    answer = reply(400, {"errors": [{"code": "invalid", "detail": "Invalid email address", "source": pointer}]})
    words = PROVIDER.classify(answer, "track_event").words
    assert words.endswith("Klaviyo: “email: Invalid email address”")
    assert "E.164" not in words


def test_a_metric_has_a_name_that_klaviyo_takes():
    with pytest.raises(Unsendable, match="metric has 128 characters; Klaviyo takes at most 127"):
        PROVIDER.build_request(of("track_event", {"email": "a@b.co", "metric": "x" * 128}))


def test_klaviyo_s_own_id_stands_beside_the_attributes():
    data = json.loads(PROVIDER.build_request(of(fields={"id": "01GX", "first_name": "A"})).body)["data"]
    assert data == {"type": "profile", "id": "01GX", "attributes": {"first_name": "A"}}


@pytest.mark.parametrize("action", ["upsert_profile", "track_event"])
@pytest.mark.parametrize("fields", [{}, {"email": "", "phone_number": None}, {"first_name": "A"}])
def test_somebody_must_be_named(action, fields):
    with pytest.raises(Unsendable, match="this event has none of them"):
        PROVIDER.build_request(of(action, {"metric": "m", **fields}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [({}, "metric"), ({"metric": " "}, "metric"), ({"metric": "m", "properties": ["x"]}, "properties")],
)
def test_an_event_has_a_metric_and_an_object_of_properties(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(of("track_event", {"email": "a@b.co", **fields}))


def test_a_profile_has_a_size_that_an_event_may_exceed():
    long = "x" * PROFILE_BYTES
    with pytest.raises(Unsendable, match="at most 100,000"):
        PROVIDER.prepare(of(fields={"email": "a@b.co", "title": long}))
    event = {"email": "a@b.co", "metric": "m", "properties": {"text": long}}
    assert len(PROVIDER.prepare(of("track_event", event)).body) > PROFILE_BYTES


def test_without_a_key_the_connection_must_be_authorized():
    with pytest.raises(NotAuthorized):
        PROVIDER.build_request(of(credentials={}))


@pytest.mark.parametrize(
    ("answer", "expected", "fix"),
    [
        (error(400, "invalid", "Invalid phone number format"), REFUSED, "E.164"),
        (error(401, "not_authenticated"), ("broken", "unauthorized", "needs_reauth"), "private API key"),
        (error(403, "permission_denied"), ("broken", "forbidden", "needs_reauth"), "profiles:write"),
        (error(404, "not_found"), REFUSED, "Map one of them"),
        (error(409, "duplicate_profile"), ("rejected", "conflict", None), "Merge them in Klaviyo"),
        (error(410, "gone"), ("broken", "retired", "disabled"), "Meshes must be updated"),
        (error(413, "too_large"), REFUSED, "413"),
        (error(429, "throttled"), ("retry", "rate_limited", None), "fewer requests"),
        (error(503, "service_unavailable"), ("retry", "server_error", None), "503"),
        (reply(504, b"<html>"), ("retry", "server_error", None), "504"),
        (reply(524, b"<html>"), ("retry", "server_error", None), "524"),
    ],
)
def test_every_answer_says_what_it_means_and_what_to_do(answer, expected, fix):
    assert judged(PROVIDER, answer) == expected
    assert fix in PROVIDER.classify(answer, "upsert_profile").words


def test_the_vendor_s_own_words_stand_beside_ours():
    words = PROVIDER.classify(error(400, "invalid", "Invalid phone number format"), "upsert_profile").words
    assert words.endswith("Klaviyo: “Invalid phone number format”")


@pytest.mark.parametrize("status", [200, 201, 202])
def test_what_is_taken_is_delivered(status):
    assert judged(PROVIDER, reply(status, {"data": {"type": "profile", "id": "01"}})) == ("delivered", "", None)


def test_a_429_rests_the_lane_for_as_long_as_it_asks():
    verdict = PROVIDER.classify(reply(429, None, retry_after="7"), "upsert_profile")
    assert (verdict.throttled, verdict.retry_after_seconds) == (True, 7.0)


@pytest.mark.parametrize(
    ("headers", "rest"),
    [
        ({"ratelimit_remaining": "699", "ratelimit_reset": "42"}, None),
        ({"RateLimit_Remaining": "0", "RateLimit_Reset": "42"}, 42.0),
        ({"ratelimit_remaining": "0"}, 1.0),
        ({}, None),
    ],
)
def test_a_used_up_window_rests_the_lane(headers, rest):
    assert PROVIDER.classify(reply(201, {}, **headers), "upsert_profile").rest_seconds == rest


def test_the_test_asks_for_the_account():
    assert PROVIDER.build_test(of()) == Request("GET", f"{ROOT}/api/accounts", OWN)
    attributes = {"contact_information": {"organization_name": "Acme"}}
    answer = reply(200, {"data": [{"type": "account", "id": "AbC123", "attributes": attributes}]})
    assert PROVIDER.read_account(answer) == Account("AbC123", "Acme")
    assert PROVIDER.read_account(reply(200, {"data": []})) is None


def test_the_default_mapping_takes_the_usual_names():
    payload = {"email": "a@b.co", "first_name": "A", "last_name": "B", "phone": "+15551234567", "company": "C"}
    profile = {"email": "a@b.co", "phone_number": "+15551234567", "first_name": "A", "last_name": "B"}
    assert shaped(PROVIDER, "upsert_profile", payload) == {**profile, "organization": "C"}
    assert shaped(PROVIDER, "track_event", payload) == {
        "metric": "lead.created", "properties": payload, **profile,
    }  # fmt: skip


def test_both_actions_may_be_sent_twice():
    assert [action.idempotent for action in PROVIDER.actions] == [True, True]
