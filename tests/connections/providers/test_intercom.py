import json
from datetime import timedelta

import pytest

from connections.messages import Request
from connections.providers.base import Account, Choice, NotAuthorized, Unsendable
from connections.providers.intercom import PROVIDER
from tests.connections.providers.exchanges import exchanges, judged, reply, shaped, told
from tests.connections.providers.shipments import NOW, as_secrets, shipment

ROOT = "https://api.intercom.io"
OWN = (("authorization", "Bearer dG9r"), ("accept", "application/json"), ("intercom-version", "2.16"))
HEADERS = (("content-type", "application/json"), *OWN)
ADA = {"email": "a@b.co", "name": "A B", "phone": "+1555", "custom_attributes": {"source": "web"}}
ADA_BYTES = b'{"email":"a@b.co","name":"A B","phone":"+1555","custom_attributes":{"source":"web"}}'
REFUSED = ("rejected", "rejected", None)
UNAUTHORIZED = ("broken", "unauthorized", "needs_reauth")


def of(action: str = "upsert_contact", fields: dict | None = None, **changes):
    values = {"config": {"region": "us"}, "frozen": {}, "credentials": as_secrets({"access_token": "dG9r"})}
    return shipment(action=action, body=json.dumps(ADA if fields is None else fields), **{**values, **changes})


def error(status: int, code: str, message: str = "m", **headers: str):
    document = {"type": "error.list", "request_id": "r", "errors": [{"code": code, "message": message}]}
    return reply(status, document, **headers)


def found(*contacts: dict):
    return reply(200, {"type": "list", "data": list(contacts), "total_count": len(contacts)})


def exists(message: str = "A contact matching those details already exists with id=6762f0dd1bb69f9f2193bb83"):
    return error(409, "conflict", message)


def search_for(key: str, value: str) -> Request:
    body = '{"query":{"field":"%s","operator":"=","value":"%s"}}' % (key, value)  # noqa: UP031  (braces)
    return Request("POST", f"{ROOT}/contacts/search", HEADERS, body.encode())


SEARCH = search_for("email", "a@b.co")
CREATE = Request("POST", f"{ROOT}/contacts", HEADERS, ADA_BYTES)
NOBODY = (SEARCH, found())


def update_of(contact: str, body: bytes = ADA_BYTES) -> Request:
    return Request("PUT", f"{ROOT}/contacts/{contact}", HEADERS, body)


def follow(*calls, shipment=None):
    return PROVIDER.follow(of() if shipment is None else shipment, exchanges(*calls))


def test_a_contact_with_an_email_is_searched_first():
    assert PROVIDER.build_request(of()) == SEARCH


def test_a_contact_that_is_found_is_updated_without_its_role():
    with_role = of(fields={**ADA, "role": "lead", "owner_id": None})
    assert follow((SEARCH, found({"id": "63a0"})), shipment=with_role) == update_of("63a0")
    assert follow((SEARCH, found({"id": "63a0"})), (update_of("63a0"), reply(200, {}))) is None


def test_of_several_that_are_found_the_user_is_updated():
    leads_first = found({"id": "1", "role": "lead"}, {"id": "2", "role": "user"})
    assert follow((SEARCH, leads_first)) == update_of("2")


def test_a_contact_that_is_not_found_is_created_with_its_role():
    with_role = of(fields={**ADA, "role": "lead"})
    created = follow(NOBODY, shipment=with_role)
    assert created.body == ADA_BYTES[:-1] + b',"role":"lead"}'
    assert follow(NOBODY) == CREATE
    assert follow(NOBODY, (CREATE, reply(200, {"id": "1"}))) is None


def test_a_contact_that_exists_after_all_is_updated_by_the_id_in_the_answer():
    assert follow(NOBODY, (CREATE, exists())) == update_of("6762f0dd1bb69f9f2193bb83")
    archived = exists("An archived contact matching those details already exists with id=6762f0dd1bb69f9f2193bb83")
    assert follow(NOBODY, (CREATE, archived)) == update_of("6762f0dd1bb69f9f2193bb83")
    assert follow(NOBODY, (CREATE, exists()), (update_of("6762"), reply(200, {}))) is None


@pytest.mark.parametrize("message", ["A contact matching those details already exists", "with id=", "with id=../x", ""])
def test_a_conflict_without_an_id_is_decided_by_the_answer(message):
    assert follow(NOBODY, (CREATE, exists(message))) is None
    assert judged(PROVIDER, exists(message)) == ("rejected", "conflict", None)


def test_an_archived_contact_is_named_as_such():
    verdict = follow(NOBODY, (CREATE, exists()), (update_of("6762"), error(404, "not_found")))
    assert told(verdict) == ("rejected", "archived", None)
    assert "Restore it in Intercom" in verdict.words


def test_a_merged_contact_is_updated_where_it_went():
    merged = error(410, "contact_merged", link='</contacts/9f2193>; rel="canonical"')
    assert follow((SEARCH, found({"id": "1"})), (update_of("1"), merged)) == update_of("9f2193")
    again = follow((SEARCH, found({"id": "1"})), (update_of("1"), merged), (update_of("9f2193"), merged))
    assert told(again) == ("retry", "contact_moved", None)


@pytest.mark.parametrize(
    "gone",
    [
        error(404, "not_found"),
        error(410, "contact_merged"),
        error(410, "contact_merged", link='<https://evil.example/contacts/1>; rel="next"'),
        error(410, "contact_merged", link='</contacts/../admins>; rel="canonical"'),
    ],
)
def test_a_contact_that_went_since_the_search_is_looked_up_again(gone):
    verdict = follow((SEARCH, found({"id": "1"})), (update_of("1"), gone))
    assert told(verdict) == ("retry", "contact_moved", None)


def test_a_contact_without_an_email_is_created_first():
    by_id = of(fields={"external_id": "u-1", "name": "A"})
    create = PROVIDER.build_request(by_id)
    assert create == Request("POST", f"{ROOT}/contacts", HEADERS, b'{"external_id":"u-1","name":"A"}')
    assert follow((create, reply(200, {"id": "1"})), shipment=by_id) is None
    expected = update_of("6762f0dd1bb69f9f2193bb83", b'{"external_id":"u-1","name":"A"}')
    assert follow((create, exists()), shipment=by_id) == expected


@pytest.mark.parametrize("answer", [reply(200, b"<html>"), reply(200, {}), found({"name": "no id"})])
def test_a_search_that_cannot_be_read_creates_nobody(answer):
    assert told(follow((SEARCH, answer))) == ("retry", "unreadable_answer", None)


@pytest.mark.parametrize("answer", [error(401, "token_revoked"), error(429, "rate_limit_exceeded"), reply(503)])
def test_a_search_that_fails_decides(answer):
    assert follow((SEARCH, answer)) is None


def test_ids_of_answers_stay_inside_the_path():
    assert follow((SEARCH, found({"id": "1/../admins?x"}))).url == f"{ROOT}/contacts/1%2F..%2Fadmins%3Fx"


@pytest.mark.parametrize("action", ["upsert_contact", "tag_contact", "track_event"])
def test_somebody_must_be_named(action):
    with pytest.raises(Unsendable, match="this event has none of them"):
        PROVIDER.build_request(of(action, {"tag_id": "7", "event_name": "x", "email": "", "external_id": None}))


def test_an_event_is_tracked_at_its_own_time_so_that_a_second_one_is_dropped():
    fields = {"event_name": "lead.created", "email": "a@b.co", "id": None, "metadata": {"source": "web"}}
    assert PROVIDER.build_request(of("track_event", fields)) == Request(
        "POST",
        f"{ROOT}/events",
        HEADERS,
        b'{"event_name":"lead.created","created_at":1772600760,"email":"a@b.co","metadata":{"source":"web"}}',
    )
    assert follow((CREATE, exists()), shipment=of("track_event", fields)) is None
    assert told(PROVIDER.classify(reply(202), "track_event")) == ("delivered", "", None)
    with pytest.raises(Unsendable, match="event_name"):
        PROVIDER.build_request(of("track_event", {"email": "a@b.co"}))


@pytest.mark.parametrize(
    ("fields", "key"), [({"email": "a@b.co"}, "email"), ({"external_id": "a@b.co"}, "external_id")]
)
def test_a_contact_is_tagged_once_it_is_found(fields, key):
    tagging = of("tag_contact", {"tag_id": 7522, **fields})
    search = search_for(key, "a@b.co")
    assert PROVIDER.build_request(tagging) == search
    tag = follow((search, found({"id": "63a0"})), shipment=tagging)
    assert tag == Request("POST", f"{ROOT}/contacts/63a0/tags", HEADERS, b'{"id":"7522"}')
    assert follow((search, found({"id": "63a0"})), (tag, reply(200, {"id": "7522"})), shipment=tagging) is None


def test_a_tag_must_be_named_before_anything_is_sent():
    with pytest.raises(Unsendable, match="tag_id"):
        PROVIDER.build_request(of("tag_contact", {"email": "a@b.co"}))


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(minutes=29), ("retry", "contact_not_found", None)),
        (timedelta(minutes=31), ("rejected", "contact_not_found", None)),
    ],
)
def test_a_contact_to_tag_is_awaited_for_half_an_hour(age, expected):
    tagging = of("tag_contact", {"tag_id": "7", "email": "a@b.co"}, occurred_at=NOW - age)
    verdict = follow((SEARCH, found()), shipment=tagging)
    assert told(verdict) == expected
    assert verdict.retry_after_seconds == (60 if expected[0] == "retry" else None)


@pytest.mark.parametrize(
    ("answer", "expected", "fix"),
    [
        *((error(401, code), UNAUTHORIZED, "Authorize again, and check the region") for code in (
            "unauthorized", "token_revoked", "token_blocked", "token_not_found", "token_unauthorized", "token_expired",
            "missing_authorization",
        )),
        (error(403, "forbidden"), ("broken", "forbidden", "needs_reauth"), "Give them the permission"),
        (error(400, "parameter_invalid"), REFUSED, "Mend the rule's mapping"),
        (error(400, "parameter_not_found"), REFUSED, "Map it in the rule"),
        (error(422, "data_invalid"), REFUSED, "Define it in Intercom"),
        (error(404, "not_found"), REFUSED, "Create the contact first"),
        (error(400, "not_restorable"), REFUSED, "deleted for good"),
        (error(403, "api_plan_restricted"), ("broken", "plan", "disabled"), "Change the plan"),
        (error(400, "intercom_version_invalid"), ("broken", "retired", "disabled"), "Meshes must be updated"),
        (error(409, "resource_conflict"), ("rejected", "conflict", None), "Merge them"),
        (error(410, "contact_merged"), ("retry", "contact_moved", None), "looked up again"),
        (reply(410), ("retry", "contact_moved", None), "looked up again"),
        (error(429, "rate_limit_exceeded"), ("retry", "rate_limited", None), "fewer requests"),
        (error(429, "too_many_requests"), ("retry", "rate_limited", None), "fewer requests"),
        (error(429, "retry_after"), ("retry", "rate_limited", None), "fewer requests"),
        (error(408, "request_timeout"), ("retry", "server_error", None), "408"),
        (error(503, "service_unavailable"), ("retry", "server_error", None), "503"),
        (error(500, "server_error"), ("uncertain", "server_error", None), "may have been done, or not"),
    ],
)  # fmt: skip
def test_every_answer_says_what_it_means_and_what_to_do(answer, expected, fix):
    assert judged(PROVIDER, answer) == expected
    assert fix in PROVIDER.classify(answer, "upsert_contact").words


@pytest.mark.parametrize(
    ("headers", "rest"),
    [
        ({"x_ratelimit_remaining": "1", "x_ratelimit_reset": "1772600777"}, None),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "1772600777"}, 10.0),
        ({"x_ratelimit_remaining": "0"}, 10.0),
        ({}, None),
    ],
)
def test_a_used_up_slice_rests_the_lane_until_its_end(headers, rest):
    headers = {"date": "Wed, 04 Mar 2026 05:06:07 GMT", **headers}
    assert PROVIDER.classify(reply(200, {}, **headers), "upsert_contact").rest_seconds == rest
    throttled = PROVIDER.classify(reply(429, None, **headers), "upsert_contact")
    assert (throttled.throttled, throttled.retry_after_seconds) == (True, rest)


@pytest.mark.parametrize(
    ("region", "root"),
    [("us", ROOT), ("eu", "https://api.eu.intercom.io"), ("au", "https://api.au.intercom.io")],
)
def test_the_test_asks_whose_token_it_is_where_the_workspace_is_hosted(region, root):
    assert PROVIDER.build_test(of(config={"region": region})) == Request("GET", f"{root}/me", OWN)


def test_the_account_is_the_workspace():
    answer = reply(200, {"type": "admin", "id": "1", "app": {"id_code": "abc12", "name": "Acme", "region": "US"}})
    assert PROVIDER.read_account(answer) == Account("abc12", "Acme")
    assert PROVIDER.read_account(reply(200, {"app": None})) is None


def test_tags_are_listed():
    assert PROVIDER.build_options("tag_id", of()) == Request("GET", f"{ROOT}/tags", OWN)
    answer = reply(200, {"type": "list", "data": [{"type": "tag", "id": "7522", "name": "Lead"}]})
    assert PROVIDER.read_options("tag_id", answer) == [Choice("7522", "Lead")]
    with pytest.raises(Unsendable):
        PROVIDER.read_options("tag_id", reply(200, b"x"))
    with pytest.raises(KeyError):
        PROVIDER.build_options("email", of())


def test_without_a_token_the_connection_must_be_authorized():
    with pytest.raises(NotAuthorized):
        PROVIDER.build_request(of(credentials={}))


def test_the_default_mapping_takes_the_usual_names():
    payload = {"email": "a@b.co", "first_name": "A", "last_name": "B", "phone": "+1555", "user_id": "u-1"}
    assert shaped(PROVIDER, "upsert_contact", payload) == {
        "email": "a@b.co", "external_id": "u-1", "name": "A B", "phone": "+1555",
    }  # fmt: skip
    assert shaped(PROVIDER, "track_event", payload) == {
        "event_name": "lead.created", "email": "a@b.co", "user_id": "u-1",
    }  # fmt: skip
    assert shaped(PROVIDER, "tag_contact", payload) == {"email": "a@b.co", "external_id": "u-1"}


def test_only_what_intercom_drops_twice_is_sent_twice():
    assert {action.slug: action.idempotent for action in PROVIDER.actions} == {
        "upsert_contact": False, "track_event": True, "tag_contact": True,
    }  # fmt: skip


def test_values_take_the_types_that_intercom_declares():
    fields = {
        "email": " a@b.co ", "external_id": 42, "phone": 15551234567, "signed_up_at": "1770011512", "owner_id": "7",
        "unsubscribed_from_emails": "true", "name": 7.0,
    }  # fmt: skip
    created = json.loads(follow((SEARCH, found()), shipment=of(fields=fields)).body)
    assert created == {
        "email": "a@b.co", "external_id": "42", "phone": "15551234567", "signed_up_at": 1770011512, "owner_id": 7,
        "unsubscribed_from_emails": True, "name": "7",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"signed_up_at": "yesterday"}, "signed_up_at must be a number"),
        ({"owner_id": "007"}, "owner_id must be a number"),
        ({"unsubscribed_from_emails": "yes"}, "unsubscribed_from_emails must be true or false"),
        ({"phone": ["1"]}, "phone must be text"),
        ({"name": True}, "name must be text"),
        ({"custom_attributes": "x"}, "custom_attributes must be an object"),
    ],
)
def test_what_would_lose_something_by_that_is_refused(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(of(fields={"email": "a@b.co", **fields}))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({f"k{n}": n for n in range(11)}, "have 11 values; Intercom takes at most 10"),
        ({"a.b": 1}, "no full stop"),
        ({"$a": 1}, "no full stop and no \\$"),
        ({"a": [1]}, "a is nested"),
        ({"a": {"b": 1}}, "a is nested"),
        ({"a": "x" * 256}, "a is longer than 255 characters"),
    ],
)
def test_metadata_that_intercom_refuses_are_not_sent(metadata, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(of("track_event", {"email": "a@b.co", "event_name": "x", "metadata": metadata}))


def test_metadata_may_hold_a_link_and_an_amount():
    metadata = {"order": {"url": "https://a.co", "value": "1"}, "price": {"amount": 9, "currency": "usd"}}
    request = PROVIDER.build_request(of("track_event", {"email": "a@b.co", "event_name": "x", "metadata": metadata}))
    assert json.loads(request.body)["metadata"] == metadata


def test_a_search_with_many_contacts_is_read_to_its_end():
    contacts = [{"id": f"c{n}", "role": "lead", "bio": "x" * 4000} for n in range(39)] + [{"id": "u1", "role": "user"}]
    assert follow((SEARCH, found(*contacts))) == update_of("u1")


def test_a_creation_of_which_nobody_knows_is_uncertain_and_a_search_is_made_again():
    assert PROVIDER.classify(reply(502), "upsert_contact").outcome == "uncertain"
    assert not PROVIDER.may_repeat("upsert_contact", CREATE)
    assert PROVIDER.may_repeat("upsert_contact", SEARCH)
