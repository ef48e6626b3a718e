import base64
import json

import pytest

from connections.messages import Request
from connections.providers.base import Account, Choice, InvalidFields, NotAuthorized, Unsendable
from connections.providers.mailchimp import PROVIDER, Mailchimp
from tests.connections.providers.exchanges import exchanges, judged, reply, shaped
from tests.connections.providers.shipments import as_secrets, shipment

ROOT = "https://us21.api.mailchimp.com/3.0"
HASH = "b33a54a5a598e6d3356166652048ada9"
"""`printf a@b.co | md5sum`"""
MEMBER = f"{ROOT}/lists/a1b2c3/members/{HASH}"
KEY = "0123456789abcdef0123456789abcdef-us21"
BASIC = ("authorization", "Basic " + base64.b64encode(f"meshes:{KEY}".encode()).decode())
JSON = ("content-type", "application/json")
ADA = {"email": "a@b.co", "FNAME": "A", "LNAME": "B", "PHONE": "+1555"}
ADA_BYTES = (
    b'{"email_address":"a@b.co","status_if_new":"subscribed","merge_fields":{"FNAME":"A","LNAME":"B","PHONE":"+1555"}}'
)
REFUSED = ("rejected", "rejected", None)


def of(action: str = "upsert_member", fields: dict | None = None, **changes):
    values = {
        "config": {"list_id": "a1b2c3"},
        "frozen": {"status_if_new": "subscribed"},
        "credentials": as_secrets({"api_key": KEY}),
    }
    return shipment(action=action, body=json.dumps(ADA if fields is None else fields), **{**values, **changes})


def problem(status: int, title: str, detail: str = "d", **rest):
    return reply(status, {"type": "https://mailchimp.com", "title": title, "status": status, "detail": detail, **rest})


def test_a_member_is_put_at_the_hash_of_the_address_and_never_subscribed_again():
    request = PROVIDER.build_request(of())
    assert request == Request("PUT", MEMBER, (JSON, BASIC), ADA_BYTES)
    assert b'"status":' not in request.body


def test_the_hash_is_of_the_address_in_lower_case():
    request = PROVIDER.build_request(of(fields={"email": " A@B.co "}))
    assert request.url == MEMBER
    assert request.body == b'{"email_address":"A@B.co","status_if_new":"subscribed","merge_fields":{}}'


def test_further_fields_are_merge_fields_and_new_members_may_be_asked_to_confirm():
    fields = {"email": "a@b.co", "COMPANY": "C", "status": "subscribed", "BIRTHDAY": None}
    body = json.loads(PROVIDER.build_request(of(fields=fields, frozen={"status_if_new": "pending"})).body)
    assert body == {
        "email_address": "a@b.co",
        "status_if_new": "pending",
        "merge_fields": {"COMPANY": "C", "status": "subscribed"},
    }
    assert PROVIDER.frozen_config({"list_id": "a1b2c3"}) == {"status_if_new": "subscribed"}


def test_an_oauth_token_goes_as_bearer_to_the_configured_data_centre():
    request = PROVIDER.build_request(
        of(config={"list_id": "a1b2c3", "dc": "eu3"}, credentials=as_secrets({"access_token": "t0k"}))
    )
    assert request.url == MEMBER.replace("us21", "eu3")
    assert request.headers == (JSON, ("authorization", "Bearer t0k"))


@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"api_key": "abc"},
        {"api_key": "abc-"},
        {"api_key": "abc-evil.example/"},
        {"api_key": "abc-us21.evil.example"},
        {"api_key": "abc-us21@evil"},
        {"api_key": "abc-US21"},
        {"api_key": "abc-us2100"},
        {"api_key": "abc-us21\n"},
        {"access_token": "t0k"},
    ],
)
def test_no_key_leads_to_another_host(credentials):
    with pytest.raises(NotAuthorized):
        PROVIDER.build_request(of(credentials=as_secrets(credentials)))


@pytest.mark.parametrize("dc", ["evil.example/", "us21.evil.example", "us", "21", "us21#"])
def test_no_data_centre_leads_to_another_host(dc):
    with pytest.raises(InvalidFields):
        PROVIDER.clean_config({"list_id": "a1b2c3", "dc": dc})
    with pytest.raises(NotAuthorized, match="set dc, such as us21"):
        PROVIDER.build_request(of(config={"list_id": "a1b2c3", "dc": dc}))


@pytest.mark.parametrize("key", ["abc", "abc-us21/..", "a:b-us21", "-us21"])
def test_a_key_that_is_none_is_refused_when_it_is_saved(key):
    with pytest.raises(InvalidFields):
        PROVIDER.clean_credentials({"api_key": key})


@pytest.mark.parametrize("list_id", ["", None, "a/b", "..", "a?b"])
def test_an_audience_is_named_by_its_id(list_id):
    with pytest.raises(InvalidFields):
        PROVIDER.clean_config({"list_id": list_id})


def test_an_audience_s_id_stays_inside_the_path():
    request = PROVIDER.build_request(of(config={"list_id": "a/../b?c"}))
    assert request.url == f"{ROOT}/lists/a%2F..%2Fb%3Fc/members/{HASH}"


@pytest.mark.parametrize("action", ["upsert_member", "add_tags", "track_event"])
@pytest.mark.parametrize("email", [None, "", " ", ["a@b.co"], True])
def test_an_address_is_needed(action, email):
    with pytest.raises(Unsendable, match="email"):
        PROVIDER.build_request(of(action, {"email": email, "tags": ["x"], "name": "x"}))


@pytest.mark.parametrize(
    ("tags", "names"),
    [(["Lead", "VIP"], b'[{"name":"Lead","status":"active"},{"name":"VIP","status":"active"}]'),
     ("Lead", b'[{"name":"Lead","status":"active"}]')],
)  # fmt: skip
def test_a_member_is_upserted_and_then_tagged(tags, names):
    tagging = of("add_tags", {**ADA, "tags": tags})
    upsert = PROVIDER.build_request(tagging)
    assert upsert == Request("PUT", MEMBER, (JSON, BASIC), ADA_BYTES)
    tag = PROVIDER.follow(tagging, exchanges((upsert, reply(200, {"id": HASH}))))
    assert tag == Request("POST", f"{MEMBER}/tags", (JSON, BASIC), b'{"tags":' + names + b"}")
    assert PROVIDER.follow(tagging, exchanges((upsert, reply(200, {})), (tag, reply(204)))) is None
    assert judged(PROVIDER, reply(204)) == ("delivered", "", None)


@pytest.mark.parametrize("answer", [problem(400, "Member In Compliance State"), reply(403), reply(500)])
def test_a_member_that_is_refused_is_not_tagged(answer):
    tagging = of("add_tags", {**ADA, "tags": ["Lead"]})
    assert PROVIDER.follow(tagging, exchanges((PROVIDER.build_request(tagging), answer))) is None


def test_other_actions_have_one_call():
    assert PROVIDER.follow(of(), exchanges((PROVIDER.build_request(of()), reply(200, {})))) is None


@pytest.mark.parametrize("tags", [None, [], "", " ", [""], [1], {"name": "x"}])
def test_without_a_tag_nothing_is_sent(tags):
    with pytest.raises(Unsendable, match="tags"):
        PROVIDER.build_request(of("add_tags", {**ADA, "tags": tags}))


def test_an_event_is_tracked_with_texts():
    fields = {
        "email": "a@b.co", "name": "lead.created", "properties": {"source": "web", "score": 7, "hot": True, "x": None},
    }  # fmt: skip
    assert PROVIDER.build_request(of("track_event", fields)) == Request(
        "POST",
        f"{MEMBER}/events",
        (JSON, BASIC),
        b'{"name":"lead.created","properties":{"source":"web","score":"7","hot":"true"},'
        b'"occurred_at":"2026-03-04T05:06:00.250000+00:00"}',
    )


@pytest.mark.parametrize("properties", [{"a": {"b": 1}}, {"a": [1]}, ["a"], "a"])
def test_an_event_s_properties_are_texts(properties):
    with pytest.raises(Unsendable, match="properties"):
        PROVIDER.build_request(of("track_event", {"email": "a@b.co", "name": "x", "properties": properties}))


@pytest.mark.parametrize(
    ("answer", "expected", "fix"),
    [
        (problem(400, "Invalid Resource", "a@b.co looks fake or invalid"), REFUSED, "looks fake or invalid"),
        (problem(400, "Invalid Resource", errors=[{"field": "merge_fields.FNAME", "message": "required"}]), REFUSED,
         "merge_fields.FNAME: required"),
        (problem(400, "Forgotten Email Not Subscribed"), ("rejected", "forgotten", None), "sign-up form"),
        (problem(400, "Member In Compliance State"), ("rejected", "compliance", None), "Only they can subscribe"),
        (problem(400, "Member Exists"), REFUSED, "Merge them in Mailchimp"),
        (problem(400, "Bad Request"), REFUSED, "400"),
        (problem(401, "API Key Invalid"), ("broken", "unauthorized", "needs_reauth"), "replace the API key"),
        (problem(403, "User Disabled"), ("broken", "forbidden", "needs_reauth"), "Give them the permission"),
        (reply(403, b"<html>Request Blocked</html>"), ("retry", "rate_limited", None), "no more requests"),
        (reply(403), ("retry", "rate_limited", None), "no more requests"),
        (problem(404, "Resource Not Found"), ("broken", "no_audience", "disabled"), "Set list_id to another"),
        (problem(405, "Method Not Allowed"), REFUSED, "405"),
        (problem(429, "Too Many Requests"), ("retry", "rate_limited", None), "fewer requests"),
        (problem(500, "Internal Server Error"), ("retry", "server_error", None), "500"),
        (reply(503, b"<html>Request Blocked</html>"), ("retry", "server_error", None), "503"),
        (reply(400, {"status": 400, "title": 7, "errors": "x"}), REFUSED, "400"),
    ],
)  # fmt: skip
def test_every_answer_says_what_it_means_and_what_to_do(answer, expected, fix):
    assert judged(PROVIDER, answer) == expected
    assert fix in PROVIDER.classify(answer, "upsert_member").words


def test_a_403_of_the_throttle_rests_the_whole_lane():
    verdict = PROVIDER.classify(reply(403, b"<html>"), "upsert_member")
    assert (verdict.throttled, verdict.retry_after_seconds) == (True, 60)


def test_a_member_that_is_written_is_delivered():
    assert judged(PROVIDER, reply(200, {"id": HASH, "status": "subscribed"})) == ("delivered", "", None)


def test_the_test_asks_for_the_account():
    assert PROVIDER.build_test(of()) == Request("GET", f"{ROOT}/", (BASIC,))
    answer = reply(200, {"account_id": "8d3a3db4d97663a9074efcc16", "account_name": "Acme"})
    assert PROVIDER.read_account(answer) == Account("8d3a3db4d97663a9074efcc16", "Acme")
    assert PROVIDER.read_account(reply(200, {})) is None


def test_audiences_and_tags_are_listed():
    lists = PROVIDER.build_options("list_id", of(config={}))
    assert lists == Request("GET", f"{ROOT}/lists?count=1000&fields=lists.id,lists.name", (BASIC,))
    answer = reply(200, {"lists": [{"id": "a1b2c3", "name": "Customers"}]})
    assert PROVIDER.read_options("list_id", answer) == [Choice("a1b2c3", "Customers")]
    assert PROVIDER.build_options("tags", of()) == Request("GET", f"{ROOT}/lists/a1b2c3/tag-search", (BASIC,))
    answer = reply(200, {"tags": [{"id": 7, "name": "Lead"}], "total_items": 1})
    assert PROVIDER.read_options("tags", answer) == [Choice("Lead", "Lead")]


def test_choices_of_other_fields_and_answers_without_any_are_refused():
    with pytest.raises(KeyError):
        PROVIDER.build_options("dc", of())
    for field in PROVIDER.live_options:
        with pytest.raises(Unsendable):
            PROVIDER.read_options(field, reply(200, b"<html>"))


def test_a_server_in_the_vendor_s_place_needs_no_data_centre():
    provider = Mailchimp()
    provider.override = "http://127.0.0.1:9/mailchimp"
    request = provider.build_request(of(credentials=as_secrets({"access_token": "t0k"})))
    assert request.url == f"http://127.0.0.1:9/mailchimp/3.0/lists/a1b2c3/members/{HASH}"


def test_the_default_mapping_takes_the_usual_names():
    payload = {"email": "a@b.co", "first_name": "A", "last_name": "B", "phone": "+1555"}
    assert shaped(PROVIDER, "upsert_member", payload) == ADA
    assert shaped(PROVIDER, "add_tags", payload) == ADA
    assert shaped(PROVIDER, "track_event", payload) == {"email": "a@b.co", "name": "lead.created"}


def test_events_have_no_key_and_are_not_sent_twice():
    assert {action.slug: action.idempotent for action in PROVIDER.actions} == {
        "upsert_member": True, "add_tags": True, "track_event": False,
    }  # fmt: skip


@pytest.mark.parametrize(("name", "length"), [("x", 1), ("x" * 31, 31)])
def test_a_name_that_mailchimp_refuses_is_not_sent(name, length):
    with pytest.raises(Unsendable, match=f"name has {length} characters; Mailchimp takes 2 to 30"):
        PROVIDER.build_request(of("track_event", {"email": "a@b.co", "name": name}))
    for taken in ("xy", "x" * 30):
        assert json.loads(PROVIDER.build_request(of("track_event", {"email": "a@b.co", "name": taken})).body)


def test_words_speak_of_the_address_only_where_it_is_at_fault():
    errors = [{"field": "name", "message": "This value is too short."}]
    of_name = PROVIDER.classify(problem(400, "Invalid Resource", errors=errors), "track_event").words
    assert of_name.endswith("Mailchimp: “name: This value is too short.”")
    assert "address" not in of_name
    errors = [{"field": "email_address", "message": "This value is not valid."}]
    assert "refuses the address" in PROVIDER.classify(problem(400, "Invalid Resource", errors=errors), "add_tags").words
    fake = problem(400, "Invalid Resource", "a@b.co looks fake or invalid, please enter a real email address.")
    assert "refuses the address" in PROVIDER.classify(fake, "upsert_member").words


def test_another_data_centre_is_the_connection_s_matter():
    assert judged(PROVIDER, problem(403, "Wrong Datacenter")) == ("broken", "forbidden", "needs_reauth")


def test_an_event_of_which_nobody_knows_whether_it_was_recorded_is_uncertain():
    for status in (502, 504):
        assert PROVIDER.classify(reply(status), "track_event").outcome == "uncertain"
        assert PROVIDER.classify(reply(status), "upsert_member").outcome == "retry"
    assert PROVIDER.classify(reply(503), "track_event").outcome == "retry"


def test_a_member_that_is_missing_is_the_event_s_matter():
    verdict = PROVIDER.classify(problem(404, "Resource Not Found"), "track_event")
    assert (verdict.outcome, verdict.hold) == ("rejected", None)
    assert "Check list_id" in verdict.words


@pytest.mark.parametrize("action", ["upsert_member", "add_tags"])
def test_where_a_member_is_put_only_the_audience_can_be_missing(action):
    verdict = PROVIDER.classify(problem(404, "Resource Not Found"), action)
    assert (verdict.outcome, verdict.hold, verdict.error_class) == ("broken", "disabled", "no_audience")
