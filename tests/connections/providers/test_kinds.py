"""Kinds of faults that vendors' own words found once, asked of every provider and of all its actions."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from connections import outbound
from connections.messages import Request, Response, Room
from connections.providers.base import Action, Exchange, Outcome, Provider, Verdict
from connections.providers.chat import SUMMARY
from connections.providers.vendor import Vendor
from connections.providers.verdicts import NOT_BEGUN
from tests.connections.providers.exchanges import reply, shaped
from tests.connections.providers.test_conformance import ACTIONS, ALL, example_shipment, flat, prepared
from tests.receivers import receiver

PORTAL = b"<html>portal</html>"
NUMBER = 15551234567
TEXTS = [
    (provider, action, field)
    for provider, action in ACTIONS
    for field in action.fields
    if field.type == "string" and not field.example
]
LEADS_ON: dict[str, dict[str, Any]] = {
    "add_tags": {"id": "1"},
    "add_to_list": {"results": [{"id": "1"}]},
    "create_note": {"results": [{"id": "1"}]},
    "tag_contact": {"data": [{"id": "1", "role": "user"}]},
    "upsert_contact": {"data": []},
    "upsert_person": {"success": True, "data": {"items": []}},
}
"""By these answers an action of several calls goes on to its last one."""
ALONE: dict[tuple[str, str], dict[str, object]] = {
    ("intercom", "external_id"): {"email": None},
    ("teams", "text"): {"card": None},
    ("teams", "title"): {"card": None},
}
"""What must not stand beside a field, lest that is sent in its place."""


def named(each: object) -> str | None:
    return getattr(each, "slug", None) or getattr(each, "key", None)


def calls(provider: Provider, action: Action, **fields: object) -> list[Request]:
    """Every request that an action makes where all goes well, with these fields beside the example's. Raises
    Unsendable."""
    example = example_shipment(provider, action)
    sending = replace(example, body=json.dumps({**json.loads(example.body), **fields}))
    exchanges: list[Exchange] = []
    following: Request | Verdict | None = provider.prepare(sending)
    while isinstance(following, Request):
        exchanges.append(Exchange(following, reply(200, LEADS_ON.get(action.slug, {}))))
        following = provider.follow(sending, exchanges)
    return [exchange.request for exchange in exchanges]


def values_of(requests: list[Request]) -> set[object]:
    """All values that are sent, a URL as one of them."""
    bodies = [flat(json.loads(request.body)) for request in requests if request.body]
    return {request.url for request in requests}.union(*bodies)


def shows(sent: set[object], text: str) -> bool:
    """Whether a value holds the text, or its MD5, by which Mailchimp knows an address."""
    key = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    return any(isinstance(value, str) and (text.partition("@")[0] in value or key in value) for value in sent)


NO_NUMBER = {("ga4", "name"), ("salesforce", "external_id_field"), ("salesforce", "object")}
"""Fields that take no text of digits: what is said is about the text."""


@pytest.mark.parametrize(("provider", "action", "field"), TEXTS, ids=named)
def test_a_number_is_sent_as_text_where_the_vendor_wants_text(provider, action, field):
    if (provider.slug, field.key) in NO_NUMBER:
        words = prepared(provider, action, **{field.key: str(NUMBER)})
        assert isinstance(words, str)
        assert prepared(provider, action, **{field.key: NUMBER}) == words
        return
    alone = ALONE.get((provider.slug, field.key), {})
    as_text = calls(provider, action, **alone, **{field.key: str(NUMBER)})
    assert NUMBER not in values_of(as_text)
    assert shows(values_of(as_text), str(NUMBER))
    assert calls(provider, action, **alone, **{field.key: NUMBER}) == as_text
    assert calls(provider, action, **alone, **{field.key: float(NUMBER)}) == as_text


@pytest.mark.parametrize(("provider", "action", "field"), TEXTS, ids=named)
def test_spaces_around_a_text_reach_neither_the_key_nor_the_property(provider, action, field):
    text = "nia@example.com" if field.key in ("email", "Email", "id") else "Lovelace"
    alone = ALONE.get((provider.slug, field.key), {})
    with_spaces = calls(provider, action, **alone, **{field.key: f" {text}\n"})
    assert f" {text}\n" not in values_of(with_spaces)
    assert shows(values_of(with_spaces), text)
    assert with_spaces == calls(provider, action, **alone, **{field.key: text})


COPIED = [each for each in ACTIONS if any(field.source == "payload" for field in each[1].fields)]


@pytest.mark.parametrize(("provider", "action"), COPIED, ids=named)
def test_a_key_and_its_copies_in_a_payload_are_one_text(provider, action):
    payload = {"email": " nia@example.com ", "note": " as it came ", "deep": [{"again": "nia@example.com\n"}]}
    fields = shaped(provider, action.slug, payload)
    sent = values_of([provider.prepare(replace(example_shipment(provider, action), body=json.dumps(fields)))])
    assert "nia@example.com" in sent
    assert " as it came " in sent
    assert not {" nia@example.com ", "nia@example.com\n"} & sent


def test_the_payload_is_copied_at_all_vendors_that_take_one_whole():
    assert {(provider.slug, action.slug) for provider, action in COPIED} == {
        ("amplitude", "track"), ("customerio", "track_event"), ("klaviyo", "track_event"), ("mixpanel", "track"),
        ("posthog", "track"), ("resend", "send_event"), ("segment", "identify"), ("segment", "track"),
    }  # fmt: skip


@pytest.mark.parametrize(("provider", "action"), [each for each in ACTIONS if each[1].fields], ids=named)
def test_what_cannot_be_text_is_refused_and_not_sent(provider, action):
    for field in action.fields:
        if field.type in ("string", "number", "boolean") and not field.markup:
            own_markup = {each.key: None for each in action.fields if each.markup}  # which may stand for the text
            assert isinstance(prepared(provider, action, **own_markup, **{field.key: {"a": 1}}), str), field.key


@pytest.mark.parametrize(("provider", "action"), [each for each in ACTIONS if each[1].fields], ids=named)
def test_a_blank_in_a_payload_is_as_good_as_nothing(provider, action):
    own = [{"to": field.key, "value": "1"} for field in action.fields if field.required and not field.source]
    blanks = dict.fromkeys(("company", "phone", "first_name", "last_name", "source", "anonymous_id", "device_id"), " ")
    lead = {"email": "ada@example.com", "user_id": "user-4711", "client_id": "1.2", "plan": {"name": "pro"}}
    with_blanks = {**lead, **blanks, "plan": {"name": "pro", "note": ""}}
    assert shaped(provider, action.slug, with_blanks, own) == shaped(provider, action.slug, lead, own)


BROKE_DOWN: Mapping[str, Any] = {
    "discord": {"message": "500: Internal Server Error", "code": 0},
    "hubspot": {"status": "error", "category": "INTERNAL_ERROR", "message": "m"},
    "intercom": {"type": "error.list", "errors": [{"code": "server_error", "message": "m"}]},
    "mailchimp": {"title": "Internal Server Error", "status": 500, "detail": "m"},
    "pipedrive": {"success": False, "error": "Internal error"},
    "resend": {"name": "application_error", "message": "m"},
    "slack": b"rollup_error",
    "teams": {"error": {"code": "InternalServerError", "message": "m"}},
    "zoho": {"code": "INTERNAL_ERROR", "message": "m"},
}
"""How vendors say it beside a 500."""


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=named)
def test_an_end_that_nobody_knows_is_uncertain_where_twice_would_double(provider, action):
    open_end = Outcome.RETRY if action.idempotent else Outcome.UNCERTAIN
    answers = [reply(status) for status in range(500, 600) if status not in NOT_BEGUN]
    answers += [reply(500, BROKE_DOWN.get(provider.slug)), reply(500, PORTAL)]
    for answer in answers:
        verdict = provider.classify(answer, action.slug)
        assert (verdict.outcome, bool(verdict.words)) == (open_end, True), answer
    for status in (429, *NOT_BEGUN):
        assert provider.classify(reply(status), action.slug).outcome in (Outcome.RETRY, Outcome.REJECTED), status
    assert provider.classify(reply(503), action.slug).outcome == Outcome.RETRY
    assert {500, 502, 504, 520, 522, 524}.isdisjoint(NOT_BEGUN)
    if provider.build_test(example_shipment(provider, action)) is not None:
        assert provider.classify_test(reply(502)).outcome == Outcome.RETRY


PROOFS: Mapping[tuple[str, str], tuple[int, Any, str]] = {
    ("amplitude", "track"): (200, {"code": 200, "events_ingested": 1}, "events_ingested"),
    ("discord", "send_message"): (200, {"id": "1", "content": "x"}, "id"),
    ("hubspot", "upsert_contact"): (200, {"status": "COMPLETE", "results": [{"id": "1"}]}, "results"),
    ("hubspot", "add_to_list"): (200, {"recordsIdsAdded": [], "recordIdsMissing": []}, "recordsIdsAdded"),
    ("hubspot", "create_note"): (201, {"id": "1", "properties": {}}, "id"),
    ("intercom", "upsert_contact"): (200, {"type": "contact", "id": "1"}, "id"),
    ("intercom", "tag_contact"): (200, {"type": "tag", "id": "1"}, "id"),
    ("klaviyo", "upsert_profile"): (201, {"data": {"id": "1"}}, "data"),
    ("mailchimp", "upsert_member"): (200, {"id": "1", "status": "subscribed"}, "id"),
    ("mixpanel", "track"): (200, {"code": 200, "num_records_imported": 1}, "num_records_imported"),
    ("pipedrive", "upsert_person"): (201, {"success": True, "data": {"id": 1}}, "success"),
    ("posthog", "track"): (200, {"status": "Ok"}, "status"),
    ("resend", "send_email"): (200, {"id": "1"}, "id"),
    ("resend", "upsert_contact"): (200, {"object": "contact", "id": "1"}, "id"),
    ("resend", "send_event"): (202, {"object": "event", "event": "lead.created"}, "event"),
    **{
        ("salesforce", action): (201, {"id": "1", "success": True, "errors": []}, "success")
        for action in ("upsert_lead", "upsert_contact", "upsert_record")
    },
    ("segment", "track"): (200, {"success": True}, "success"),
    ("segment", "identify"): (200, {"success": True}, "success"),
    ("slack", "post_message"): (200, {"ok": True, "ts": "1.2"}, "ok"),
    **{
        ("zoho", action): (200, {"data": [{"code": "SUCCESS"}]}, "data") for action in ("upsert_lead", "upsert_contact")
    },
}
"""The status and the body that prove it, and the member of it without which nothing is proven."""
WORDLESS: Mapping[tuple[str, str], tuple[int, bytes]] = {
    ("intercom", "track_event"): (202, b""),
    ("klaviyo", "track_event"): (202, b""),
    ("mailchimp", "add_tags"): (204, b""),
    ("mailchimp", "track_event"): (204, b""),
    ("slack", "send_webhook"): (200, b"ok"),
}
"""Proven by a status of their own, or by a word."""
TELLS_NOTHING: Mapping[tuple[str, str], tuple[int, bytes]] = {
    ("customerio", "upsert_person"): (200, b"{}"),
    ("customerio", "track_event"): (200, b"{}"),
    ("ga4", "track"): (204, b""),
    ("teams", "send_message"): (202, b""),
    ("webhook", "send"): (200, b""),
}
"""Whatever these answer with a 2xx counts, but for a page at vendors' hosts."""


def test_every_action_declares_what_proves_its_success():
    actions = {(provider.slug, action.slug) for provider, action in ACTIONS}
    assert set(PROOFS) | set(WORDLESS) | set(TELLS_NOTHING) == actions
    assert len(PROOFS) + len(WORDLESS) + len(TELLS_NOTHING) == len(actions)


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=named)
def test_a_success_that_the_body_proves_is_delivered(provider, action):
    status, body, *_ = (PROOFS | WORDLESS | TELLS_NOTHING)[provider.slug, action.slug]
    assert provider.classify(reply(status, body), action.slug).outcome == Outcome.DELIVERED


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=named)
def test_a_success_that_the_body_does_not_prove_is_not_delivered(provider, action):
    key = (provider.slug, action.slug)
    bodies: list[Any] = [PORTAL] if key in TELLS_NOTHING else [b"", b"{}", b"[]", b"null", b"<!doctype html>", PORTAL]
    if key in PROOFS:
        _, document, member = PROOFS[key]
        bodies.append({name: value for name, value in document.items() if name != member})
    unproven = Outcome.RETRY if action.idempotent else Outcome.UNCERTAIN
    for body in bodies:
        outcome = provider.classify(reply(200, body), action.slug).outcome
        assert outcome == (Outcome.DELIVERED if provider.slug == "webhook" else unproven), body


REFUSED_IN_A_200: dict[str, tuple[dict[str, Any], ...]] = {
    "amplitude": ({"code": 200, "events_ingested": 0},),
    "hubspot": ({"results": []}, {"errors": [{"message": "m"}]}, {"results": [], "numErrors": 0}),
    "mixpanel": ({"code": 200, "num_records_imported": 0},),
    "pipedrive": ({"success": False},),
    "posthog": ({"status": "Ok", "quota_limited": ["events"]},),
    "salesforce": ({"success": False}, {"success": False, "errors": [{"statusCode": "X"}]}),
    "segment": ({"success": False},),
    "slack": ({"ok": False}, {"ok": False, "error": "x"}),
    "zoho": ({"data": []}, {"data": [{"code": "INVALID_DATA"}]}, {"code": "INVALID_DATA"}),
}


@pytest.mark.parametrize(
    ("provider", "action"), [each for each in ACTIONS if each[0].slug in REFUSED_IN_A_200], ids=named
)
def test_a_200_that_says_no_is_not_delivered(provider, action):
    for document in REFUSED_IN_A_200[provider.slug]:
        assert provider.classify(reply(200, document), action.slug).outcome != Outcome.DELIVERED, document


@pytest.mark.parametrize("body", [b"", b"{}", PORTAL])
@pytest.mark.parametrize("provider", [each for each in ALL if isinstance(each, Vendor)], ids=named)
def test_a_test_that_no_vendor_answered_does_not_pass(provider, body):
    if provider.build_test(example_shipment(provider, provider.actions[0])) is not None:
        assert provider.classify_test(reply(200, body)).outcome != Outcome.DELIVERED


def test_a_body_too_long_to_be_read_to_its_end_proves_what_it_begins_to_say():
    (hubspot,) = [each for each in ALL if each.slug == "hubspot"]
    cut = b'{"properties": {"hs_note_body": "xx'
    assert hubspot.classify(Response(201, (), cut, True, 1), "create_note").outcome == Outcome.DELIVERED
    assert hubspot.classify(Response(201, (), cut, False, 1), "create_note").outcome == Outcome.UNCERTAIN
    assert hubspot.classify(Response(201, (), PORTAL, True, 1), "create_note").outcome == Outcome.UNCERTAIN


@pytest.mark.parametrize("provider", ALL, ids=named)
def test_a_vendor_s_answer_is_read_further_than_a_webhook_s(provider, settings):
    settings.MESHES_OUTBOUND_ALLOW_NETS = ["127.0.0.0/8"]
    settings.MESHES_OUTBOUND_ALLOW_HTTP = True
    settings.MESHES_OUTBOUND_PORTS = "*"
    body = json.dumps({"data": ["x" * 1000] * 1000, "end": True}).encode()
    with receiver() as vendor, Room() as room:
        vendor.answer(200, body=body)
        answer = outbound.send(
            Request("GET", vendor.url), deadline_seconds=30, body_limit=provider.answer_bytes, room=room
        )
    assert len(body) > 1_000_000
    if isinstance(provider, Vendor):
        assert (answer.truncated, answer.json_object().get("end")) == (False, True)
    else:
        assert (answer.truncated, len(answer.body)) == (True, 64 * 1024)


NAMED_IN_TEXT = [each for each in ACTIONS if any(field.source == SUMMARY for field in each[1].fields)]
LINK = "[Verify](https://evil.example) <https://evil.example|Verify> <!channel> **Ada** *Approved* by `admin` _ok_ ~x~"


@pytest.mark.parametrize(("provider", "action"), NAMED_IN_TEXT, ids=named)
def test_markup_in_a_name_is_shown_and_not_obeyed(provider, action):
    own = [{"to": field.key, "value": "1"} for field in action.fields if field.required and not field.source]
    fields = shaped(provider, action.slug, {"name": LINK}, own)
    request = provider.prepare(replace(example_shipment(provider, action), body=json.dumps(fields)))
    document = json.loads(request.body)
    texts = [text for text in flat(document) if isinstance(text, str) and "Verify" in text]
    assert texts
    for text in texts:
        unescaped = text.replace("\\\\", "")
        assert "<" not in unescaped.replace("\\<", "")
        if provider.slug == "slack":  # which has no escape for the others, and reads none where it is told so
            assert (document["mrkdwn"], document["text"]) == (False, text)
            continue
        for mark in ("*", "_", "~", "`", "]("):
            assert mark not in unescaped.replace(f"\\{mark}", "").replace("https://", ""), mark


MARKUP = [(provider, action, field) for provider, action in ACTIONS for field in action.fields if field.markup]


@pytest.mark.parametrize(("provider", "action", "field"), MARKUP, ids=named)
def test_what_an_expression_takes_into_markup_is_escaped(provider, action, field):
    source = (
        "join('', ['<b>**', payload.name])" if field.type == "string" else "[{text: join('', ['<b>**', payload.name])}]"
    )
    own = [{"to": each.key, "value": "1"} for each in action.fields if each.required and not each.source]
    made = shaped(provider, action.slug, {"name": LINK, "email": "a@b.co"}, [*own, {"to": field.key, "from": source}])
    (text,) = flat(made[field.key])
    assert text.startswith("<b>**")
    assert "](https" not in text.replace("\\](", "") or field.markup != "markdown"
    assert "<!channel>" not in text


def only(slug: str, action: str, **fields: object) -> Any:
    """The body of the one request, or the words of its refusal."""
    (provider,) = [each for each in ALL if each.slug == slug]
    made = prepared(provider, provider.action(action), **fields)
    return json.loads(made.body) if isinstance(made, Request) else made


def test_no_analytics_vendor_takes_our_server_for_the_person():
    assert only("posthog", "track", properties={})["properties"]["$geoip_disable"] is True
    assert "$geoip_disable" not in only("posthog", "track", properties={"$ip": "192.0.2.1"})["properties"]
    (mixpanel,) = [each for each in ALL if each.slug == "mixpanel"]
    assert "ip=0" in prepared(mixpanel, mixpanel.action("track")).url.partition("?")[2].split("&")
    assert "ip" not in only("amplitude", "track", user_id="user-4711", ip=None)["events"][0]
    assert "context" not in only("segment", "track", context=None)
    assert not {"ip_override", "user_location"} & set(only("ga4", "track"))
    assert only("amplitude", "track", user_id="user-4711", ip="192.0.2.1")["events"][0]["ip"] == "192.0.2.1"


@pytest.mark.parametrize("action", ["upsert_profile", "track_event"])
@pytest.mark.parametrize("phone", ["0171 1234567", "none", "+1", True, {"a": 1}])
def test_a_number_that_is_not_e164_is_left_out_and_said(action, phone):
    (klaviyo,) = [each for each in ALL if each.slug == "klaviyo"]
    made = prepared(klaviyo, klaviyo.action(action), phone_number=phone, phone_country=None)
    assert isinstance(made, Request)
    ((key, words),) = made.omitted
    assert (key, bool(words), "phone_number" in made.body.decode()) == ("phone_number", True, False)
    german = prepared(klaviyo, klaviyo.action(action), phone_number="0171 1234567", phone_country="de")
    assert ("+491711234567" in flat(json.loads(german.body)), german.omitted) == (True, ())


@pytest.mark.parametrize(
    ("slug", "action", "fields", "words"),
    [
        *(("ga4", "track", {"name": name}, "reserves the event name") for name in (
            "screen_view", "video_complete", "view_complete", "session_start", "ad_impression", "page.view",
        )),
        *(("ga4", "track", {"name": name}, "does not take the event name") for name in ("ga_x", "1x", "query_id")),
        ("ga4", "track", {"params": {"google_x": 1}}, "does not take the parameter name"),
        ("ga4", "track", {"params": {"value": "abc", "currency": "EUR"}}, "must be a number"),
        ("amplitude", "track", {"user_id": "user-4711", "event_type": "$identify"}, "Amplitude's own"),
        ("amplitude", "track", {"user_id": "anonymous"}, "stands for nobody"),
        ("mixpanel", "track", {"distinct_id": "null"}, "stands for nobody"),
        ("mailchimp", "track_event", {"name": "x"}, "takes 2 to 30"),
        ("mailchimp", "track_event", {"name": "x" * 31}, "takes 2 to 30"),
        ("resend", "send_event", {"event": "resend:x"}, "for its own"),
        ("discord", "send_message", {"username": "Discord"}, "without “discord”"),
        ("intercom", "track_event", {"metadata": {"a.b": 1}}, "no full stop"),
        ("klaviyo", "track_event", {"metric": "x" * 128}, "at most 127"),
    ],
)  # fmt: skip
def test_names_and_limits_that_are_known_beforehand_are_refused_in_words(slug, action, fields, words):
    assert words in only(slug, action, **fields)


def test_what_vendors_take_is_declared_no_narrower():
    items = [{"item_id": "1", "price": 9.5}, {"item_name": "Engine"}]
    assert only("ga4", "track", params={"items": items})["events"][0]["params"]["items"] == items
    assert only("salesforce", "upsert_lead", Interests__c=["A", " B "])["Interests__c"] == "A;B"
    (row,) = only("hubspot", "upsert_contact", interests=["A", "B"])["inputs"]
    assert row["properties"]["interests"] == "A;B"
    assert only("mailchimp", "add_tags", tags=["A", "B"])["email_address"]
    assert only("resend", "send_email", to=["a@b.co", " c@d.co"], html="x", **{"from": "a@b.co"})["to"] == [
        "a@b.co", "c@d.co",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("slug", "action", "one", "other"),
    [
        (
            "salesforce", "upsert_lead",
            (403, [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}], "daily_limit"),
            (403, [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "ConcurrentRequests limit"}], "concurrent"),
        ),
        ("discord", "send_message", (403, {"code": 50013}, "forbidden"), (403, {"code": 40333}, "blocked")),
        ("discord", "send_message", (403, {"code": 50013}, "forbidden"), (403, PORTAL, "blocked")),
        ("pipedrive", "upsert_person", (403, {"success": False}, "forbidden"), (403, PORTAL, "blocked")),
        ("mailchimp", "upsert_member", (403, {"title": "Forbidden"}, "forbidden"), (403, PORTAL, "rate_limited")),
        (
            "zoho", "upsert_lead",
            (200, {"data": [{"code": "DUPLICATE_DATA", "details": {"api_name": "Phone"}}]}, "rejected"),
            (200, {"data": [{"code": "DUPLICATE_DATA", "details": {"api_name": "Email"}}]}, "raced"),
        ),
        ("slack", "send_webhook", (404, b"channel_not_found", "gone"), (403, b"channel_not_found", "rejected")),
        (
            "klaviyo", "upsert_profile",
            (400, {"errors": [{"detail": "m", "source": {"pointer": "/data/attributes/email"}}]}, "rejected"),
            (429, {"errors": [{"detail": "m"}]}, "rate_limited"),
        ),
    ],
)  # fmt: skip
def test_a_code_of_two_meanings_is_read_by_what_stands_beside_it(slug, action, one, other):
    (provider,) = [each for each in ALL if each.slug == slug]
    for status, body, error_class in (one, other):
        assert provider.classify(reply(status, body), action).error_class == error_class


NESTED = [
    ("discord", 400, {"code": 50035, "errors": {"embeds": {"0": {"title": {"_errors": [{"message": "too long"}]}}}}},
     "embeds.0.title: too long"),
    ("zoho", 200, {"data": [{"code": "INVALID_DATA", "message": "bad", "details": {"api_name": "Fax"}}]}, "Fax: bad"),
    ("zoho", 200, {"data": [{"code": "MULTIPLE_OR_MULTI_ERRORS", "details": {"errors": [
        {"code": "INVALID_DATA", "message": "bad", "details": {"api_name": "Phone"}},
        {"code": "INVALID_DATA", "message": "worse", "details": {"api_name": "Fax"}},
    ]}}]}, "Phone: bad; Fax: worse"),
    ("klaviyo", 400, {"errors": [{"detail": "bad", "source": {"pointer": "/data/attributes/email"}}]}, "email: bad"),
    ("mailchimp", 400, {"title": "Invalid Resource", "errors": [{"field": "name", "message": "bad"}]}, "name: bad"),
    ("salesforce", 400, [{"errorCode": "INVALID_FIELD", "message": "No such column 'X__c'"}], "'X__c'"),
    ("pipedrive", 400, {"success": False, "error": "name ' A' is bad"}, "name ' A' is bad"),
    ("hubspot", 400, {"category": "VALIDATION_ERROR", "message": 'Property "x" is bad'}, 'Property "x" is bad'),
]  # fmt: skip


@pytest.mark.parametrize(("slug", "status", "body", "words"), NESTED)
def test_words_name_the_field_and_keep_what_was_quoted(slug, status, body, words):
    (provider,) = [each for each in ALL if each.slug == slug]
    verdict = provider.classify(reply(status, body), provider.actions[0].slug)
    assert (verdict.outcome, words in verdict.words) == (Outcome.REJECTED, True), verdict.words


MOMENTS: Mapping[tuple[str, str], tuple[tuple[str | int, ...], object]] = {
    ("amplitude", "track"): (("events", 0, "time"), 1772600760250),
    ("customerio", "track_event"): (("timestamp",), 1772600760),
    ("ga4", "track"): (("timestamp_micros",), 1772600760250000),
    ("intercom", "track_event"): (("created_at",), 1772600760),
    ("klaviyo", "track_event"): (("data", "attributes", "time"), "2026-03-04T05:06:00.250000+00:00"),
    ("mailchimp", "track_event"): (("occurred_at",), "2026-03-04T05:06:00.250000+00:00"),
    ("mixpanel", "track"): ((0, "properties", "time"), 1772600760250),
    ("posthog", "track"): (("timestamp",), "2026-03-04T05:06:00.250Z"),
    ("segment", "identify"): (("timestamp",), "2026-03-04T05:06:00.250Z"),
    ("segment", "track"): (("timestamp",), "2026-03-04T05:06:00.250Z"),
}


@pytest.mark.parametrize(("slug", "action"), MOMENTS)
def test_an_event_s_moment_is_written_as_the_vendor_reads_it(slug, action):
    path, expected = MOMENTS[slug, action]
    document = only(slug, action, **({"user_id": "user-4711"} if slug == "amplitude" else {}))
    for step in path:
        document = document[step]
    assert document == expected


ACCOUNT_WIDE = [
    ("resend", "send_email", 422, {"name": "invalid_from_address"}, "disabled"),
    ("resend", "send_email", 451, {"name": "security_error"}, "disabled"),
    ("resend", "upsert_contact", 401, {"name": "restricted_api_key"}, "needs_reauth"),
    ("mailchimp", "add_tags", 404, {"title": "Resource Not Found"}, "disabled"),
    ("mailchimp", "upsert_member", 404, {"title": "Resource Not Found"}, "disabled"),
    ("zoho", "upsert_lead", 400, {"code": "AUTHORIZATION_FAILED"}, "needs_reauth"),
    ("salesforce", "upsert_lead", 400, [{"errorCode": "CLIENT_NOT_ACCESSIBLE_FOR_USER"}], "needs_reauth"),
    ("discord", "send_message", 400, {"code": 160005}, "disabled"),
    ("teams", "send_message", 400, {"error": {"code": "MissingApiVersionParameter"}}, "disabled"),
]


@pytest.mark.parametrize(("slug", "action", "status", "body", "hold"), ACCOUNT_WIDE)
def test_what_is_the_account_s_holds_the_connection_and_not_the_payload(slug, action, status, body, hold):
    (provider,) = [each for each in ALL if each.slug == slug]
    verdict = provider.classify(reply(status, body), action)
    assert (verdict.outcome, verdict.hold) == (Outcome.BROKEN, hold)
    assert "mapping" not in verdict.words.lower()
