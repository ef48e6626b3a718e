from datetime import timedelta

import pytest

from connections.conversation import Redactor
from connections.messages import NetworkError
from connections.providers.base import InvalidFields, Outcome, Unsendable
from connections.providers.ga4 import PROVIDER
from tests.connections.providers.exchanges import PAYLOAD, document_of, headers_of, order, reply, shaped
from tests.connections.providers.shipments import PLAIN
from workspaces.vault.secret import MASK

SECRET = "canary/9f3c&x=1"
CONFIG = {"measurement_id": "G-ABC1234567"}
TRACKED = {"client_id": "123.456", "name": "lead.created", "params": {"source": "web", "value": 9.5, "currency": "EUR"}}


def track(config=None, secret=SECRET, **fields):
    return order(PROVIDER, "track", {**TRACKED, **fields}, {"api_secret": secret}, {**CONFIG, **(config or {})})


def judged(status, **headers):
    return PROVIDER.classify(reply(status, b"", **headers), "track")


def test_an_event_goes_to_its_stream():
    request = PROVIDER.build_request(track(user_id="user-1", session_id=17))
    assert (request.method, request.url) == (
        "POST",
        "https://www.google-analytics.com/mp/collect?measurement_id=G-ABC1234567&api_secret=canary%2F9f3c%26x%3D1",
    )
    assert headers_of(request) == {"content-type": "application/json"}
    assert document_of(request) == {
        "client_id": "123.456",
        "user_id": "user-1",
        "timestamp_micros": 1_772_600_760_250_000,
        "events": [
            {
                "name": "lead_created",
                "params": {
                    "engagement_time_msec": 100,
                    "source": "web",
                    "value": 9.5,
                    "currency": "EUR",
                    "session_id": "17",
                },
            }
        ],
    }


def test_the_secret_in_the_url_is_masked_in_what_is_recorded():
    made = track()
    request = PROVIDER.build_request(made)
    recorded = Redactor(made.credentials, request).url(request.url)
    assert recorded == f"https://www.google-analytics.com/mp/collect?measurement_id={MASK}&api_secret={MASK}"
    assert "canary" not in f"{request!r} {request}"


def test_the_eu_has_a_host_of_its_own():
    request = PROVIDER.build_request(track({"region": "eu"}))
    assert request.url.startswith("https://region1.google-analytics.com/mp/collect?measurement_id=G-ABC1234567&")


def test_defaults_hold_nothing_that_identifies_a_person():
    payload = {**PAYLOAD, "client_id": "123.456", "phone": "+1555", "currency": "EUR"}
    made = shaped(PROVIDER, "track", payload)
    assert made == {
        "client_id": "123.456",
        "user_id": "user-1",
        "name": "lead.created",
        "params": {"source": "web", "medium": None, "campaign": None, "value": None, "currency": None},
    }
    (event,) = document_of(PROVIDER.build_request(track(**made)))["events"]
    assert event["params"] == {"engagement_time_msec": 100, "source": "web"}
    assert shaped(PROVIDER, "track", {**payload, "value": 5})["params"]["value"] == 5
    assert shaped(PROVIDER, "track", {**payload, "value": 5, "currency": ""})["params"].get("value") is None


@pytest.mark.parametrize(
    ("given", "name"),
    [("lead.created", "lead_created"), ("Order Placed!", "Order_Placed_"), ("a" * 40, "a" * 40), ("café", "caf_")],
)
def test_names_are_written_as_google_takes_them(given, name):
    (event,) = document_of(PROVIDER.build_request(track(name=given)))["events"]
    assert event["name"] == name


@pytest.mark.parametrize(
    "name", ["session.start", "session_start", "first_visit", "user_engagement", "ad_click", "error"]
)
def test_names_that_google_keeps_for_itself_are_refused(name):
    with pytest.raises(Unsendable, match=r"reserves the event name .* Map name"):
        PROVIDER.build_request(track(name=name))
    assert PROVIDER.build_request(track(name=f"{name}ed")).method == "POST"


@pytest.mark.parametrize(
    "name", ["query_id_x", "a" * 41, "2fa.enabled", "_private", "ga_x", "google.ads", "firebase_x", "."]
)
def test_names_that_google_would_drop_are_refused(name):
    with pytest.raises(Unsendable, match=r"does not take the event name .* Map name"):
        PROVIDER.build_request(track(name=name))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"client_id": None}, "field client_id is required"),
        ({"name": None}, "field name is required"),
        ({"params": [1]}, "params must be an object"),
        ({"params": {"a": {"b": 1}}}, "parameter a must be a text or a number"),
        ({"params": {"a": [1]}}, "parameter a must be a text or a number"),
        ({"params": {"a" * 41: 1}}, "does not take the parameter name .* at most 40 letters"),
        ({"params": {"lead.source": "web"}}, "does not take the parameter name “lead.source”"),
        ({"params": {"ga_source": "web"}}, "does not take the parameter name “ga_source”"),
        ({"params": {"value": "abc", "currency": "EUR"}}, "params.value must be a number"),
        ({"params": {"value": True, "currency": "EUR"}}, "params.value must be a number"),
        ({"params": {"items": [{"item_id": "1", "price": "cheap"}]}}, "params.price must be a number"),
        ({"params": {"value": "5"}}, "takes a value with its currency only"),
        ({"params": {"value": 5}}, "takes a value with its currency only"),
        ({"params": {"items": "x"}}, "items must be an array of objects"),
        ({"params": {"items": [1]}}, "items must be an array of objects"),
        ({"params": {"items": [{"item_id": "1"}] * 201}}, "has 201 items; Google Analytics takes at most 200"),
        ({"params": {"items": [{"price": 5}]}}, "needs an item_id or an item_name"),
        ({"params": {"items": [{"item_id": "1", "tags": ["a"]}]}}, "parameter tags must be a text or a number"),
        ({"params": {"items": [{"item_id": "1", "ga_x": "a"}]}}, "does not take the parameter name “ga_x”"),
        ({"params": {"page_location": "x" * 1001}}, "page_location is longer than 1000 characters"),
        ({"params": {"a": "x" * 101}}, "parameter a is longer than 100 characters. Shorten it by substring"),
        ({"params": {f"p{n}": n for n in range(25)}}, "has 26 parameters; Google Analytics takes at most 25"),
        ({"client_id": "x" * 130_000}, "Google Analytics takes at most 130,000"),
    ],
)
def test_what_google_would_drop_is_not_sent(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.prepare(track(**fields))


def test_items_are_objects_and_some_values_may_be_longer():
    items = [{"item_id": "1", "item_name": "Engine", "price": 9.5, "quantity": 2, "item_brand": None}]
    params = {"items": items, "page_location": "x" * 1000, "page_referrer": "x" * 420, "page_title": "x" * 300}
    (event,) = document_of(PROVIDER.build_request(track(params=params)))["events"]
    assert event["params"]["items"] == [{"item_id": "1", "item_name": "Engine", "price": 9.5, "quantity": 2}]
    assert len(event["params"]["page_location"]) == 1000


def test_a_number_in_a_text_is_sent_as_a_number():
    items = [{"item_id": "1", "price": "9.5", "quantity": " 2 ", "discount": ""}]
    params = {"value": "12.5", "currency": "EUR", "tax": "", "items": items}
    (event,) = document_of(PROVIDER.build_request(track(params=params)))["events"]
    assert event["params"] == {
        "engagement_time_msec": 100, "value": 12.5, "currency": "EUR",
        "items": [{"item_id": "1", "price": 9.5, "quantity": 2}],
    }  # fmt: skip


def test_25_parameters_and_booleans_are_taken():
    params = {f"p{n}": n for n in range(22)} | {"is_new": True, "note": "x" * 100}
    (event,) = document_of(PROVIDER.build_request(track(params=params)))["events"]
    assert event["params"] == {"engagement_time_msec": 100, **params, "is_new": "true"}


def test_analytics_360_takes_longer_values():
    request = PROVIDER.build_request(track({"max_value_length": 500}, params={"note": "x" * 500}))
    assert len(document_of(request)["events"][0]["params"]["note"]) == 500
    with pytest.raises(InvalidFields):
        PROVIDER.clean_config({**CONFIG, "max_value_length": 501})


@pytest.mark.parametrize(("hours", "is_sent"), [(72, True), (73, False)])
def test_an_event_that_is_too_old_is_refused(hours, is_sent):
    later = PLAIN.occurred_at + timedelta(hours=hours)
    made = order(PROVIDER, "track", TRACKED, {"api_secret": SECRET}, CONFIG, now=later)
    if is_sent:
        assert PROVIDER.build_request(made).method == "POST"
    else:
        with pytest.raises(Unsendable, match="last 72 hours"):
            PROVIDER.build_request(made)


@pytest.mark.parametrize("measurement_id", ["UA-1234-1", "G-abc", "G-A&api_secret=x", ""])
def test_a_measurement_id_begins_with_g(measurement_id):
    with pytest.raises(InvalidFields):
        PROVIDER.clean_config({"measurement_id": measurement_id})


ANSWERS = [
    (200, "", Outcome.DELIVERED, None, "", ""),
    (204, "", Outcome.DELIVERED, None, "", ""),
    (400, "", Outcome.REJECTED, None, "rejected", "Mend the rule's mapping, then replay"),
    (401, "", Outcome.BROKEN, "needs_reauth", "unauthorized", "Replace them"),
    (403, "", Outcome.BROKEN, "needs_reauth", "forbidden", "Give them the permission"),
    (404, "", Outcome.REJECTED, None, "rejected", "refuses"),
    (413, "", Outcome.REJECTED, None, "rejected", "refuses"),
    (429, "", Outcome.REJECTED, None, "rejected", "then replay"),
    (500, "", Outcome.UNCERTAIN, None, "server_error", "may have been done, or not"),
    (503, "", Outcome.RETRY, None, "server_error", "just now"),
]


def test_no_4xx_is_tried_again_unchanged():
    assert {judged(status).outcome for status in range(400, 500)} == {Outcome.REJECTED, Outcome.BROKEN}


def test_doubles_are_not_dropped_so_a_lost_answer_stays_uncertain():
    assert not PROVIDER.action("track").idempotent
    assert PROVIDER.classify(NetworkError("connection_lost", "w", sent=True), "track").outcome == Outcome.UNCERTAIN


def test_a_currency_without_a_value_is_left_out_and_said():
    request = PROVIDER.prepare(track(params={"currency": "EUR", "source": "web"}))
    (event,) = document_of(request)["events"]
    assert event["params"] == {"engagement_time_msec": 100, "source": "web"}
    assert request.omitted == (("params.currency", "Google Analytics takes a currency with its value only."),)
