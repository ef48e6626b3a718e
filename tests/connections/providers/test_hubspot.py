import json

import pytest

from connections.messages import Request
from connections.providers.base import Account, Choice, InvalidFields, NotAuthorized, Unsendable
from connections.providers.hubspot import PROVIDER
from tests.connections.providers.exchanges import exchanges, judged, reply, shaped, told
from tests.connections.providers.shipments import as_secrets, shipment

ROOT = "https://api.hubapi.com"
UPSERT_URL = f"{ROOT}/crm/objects/2026-09/contacts/batch/upsert"
TOKEN = ("authorization", "Bearer pat-na1")
HEADERS = (("content-type", "application/json"), TOKEN)
ADA = {"email": "a@b.co", "firstname": "A", "lastname": "B", "company": "C", "phone": "+1555"}
ADA_PROPERTIES = b'{"email":"a@b.co","firstname":"A","lastname":"B","company":"C","phone":"+1555"}'
ADA_BYTES = (
    b'{"inputs":[{"id":"a@b.co","idProperty":"email","objectWriteTraceId":"dlv_01h455vb4pex5vsknk084sn02q",'
    b'"properties":' + ADA_PROPERTIES + b"}]}"
)
UPSERT = Request("POST", UPSERT_URL, HEADERS, ADA_BYTES)
WRITTEN = reply(200, {"status": "COMPLETE", "results": [{"id": "501", "new": True, "properties": {}}]})
REFUSED = ("rejected", "rejected", None)


def of(action: str = "upsert_contact", fields: dict | None = None, **changes):
    values = {
        "config": {"id_property": "email"},
        "frozen": {"id_property": "email"},
        "credentials": as_secrets({"access_token": "pat-na1"}),
    }
    return shipment(action=action, body=json.dumps(ADA if fields is None else fields), **{**values, **changes})


def error(status: int, category: str, message: str = "m", **headers: str):
    document = {"status": "error", "message": message, "correlationId": "c", "category": category}
    return reply(status, document, **headers)


def partly(category: str, message: str = "row"):
    row = {"status": "error", "category": category, "message": message}
    return reply(207, {"status": "COMPLETE", "results": [], "numErrors": 1, "errors": [row]})


def limited(policy: str):
    document = {"status": "error", "message": "m", "errorType": "RATE_LIMIT", "policyName": policy, "requestId": "r"}
    return reply(429, document)


def test_a_contact_is_upserted_as_a_batch_of_one():
    assert PROVIDER.build_request(of()) == UPSERT
    assert PROVIDER.follow(of(), exchanges((UPSERT, WRITTEN))) is None


def test_a_contact_may_be_known_by_a_property_of_the_account_s_own():
    row = json.loads(
        PROVIDER.build_request(of(fields={**ADA, "user_key": 7}, frozen={"id_property": "user_key"})).body
    )["inputs"][0]
    assert (row["id"], row["idProperty"], row["properties"]["user_key"]) == ("7", "user_key", "7")
    assert PROVIDER.frozen_config({"id_property": "user_key"}) == {"id_property": "user_key"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (None, ""), (7, "7"), (1.5, "1.5"), (["a", 1], "a;1"), ("é", "é")],
)
def test_properties_are_texts(value, text):
    row = json.loads(PROVIDER.build_request(of(fields={"email": "a@b.co", "x": value})).body)["inputs"][0]
    assert row["properties"]["x"] == text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "email is required"),
        ({"email": " "}, "email is required"),
        ({"email": ["a@b.co"]}, "email is required"),
        ({"email": "a@b.co", "x": {"y": 1}}, "cannot hold an object"),
        ({"email": "a@b.co", "x": [{"y": 1}]}, "cannot hold an object"),
        ([], "must make an object"),
    ],
)
def test_what_cannot_be_a_contact_is_refused(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(of(fields=fields))


def test_without_a_token_the_connection_must_be_authorized():
    with pytest.raises(NotAuthorized):
        PROVIDER.build_request(of(credentials={}))


@pytest.mark.parametrize("name", ["Email", "a/b", "../x", "1a", ""])
def test_an_identifying_property_is_a_property_s_name(name):
    with pytest.raises(InvalidFields):
        PROVIDER.clean_config({"id_property": name})


def test_a_contact_is_added_to_a_list_once_it_is_written():
    adding = of("add_to_list", {**ADA, "list_id": "42"})
    assert PROVIDER.build_request(adding) == UPSERT
    add = PROVIDER.follow(adding, exchanges((UPSERT, WRITTEN)))
    assert add == Request("PUT", f"{ROOT}/crm/v3/lists/42/memberships/add", HEADERS, b'["501"]')
    assert PROVIDER.follow(adding, exchanges((UPSERT, WRITTEN), (add, reply(200, {})))) is None


def test_a_note_is_left_on_the_contact_once_it_is_written():
    noting = of("create_note", {**ADA, "note": "Call back"})
    assert PROVIDER.build_request(noting) == UPSERT
    note = PROVIDER.follow(noting, exchanges((UPSERT, WRITTEN)))
    assert note == Request(
        "POST",
        f"{ROOT}/crm/objects/2026-09/notes",
        HEADERS,
        b'{"properties":{"hs_timestamp":"2026-03-04T05:06:00.250000+00:00","hs_note_body":"Call back"},'
        b'"associations":[{"to":{"id":"501"},'
        b'"types":[{"associationCategory":"HUBSPOT_DEFINED","associationTypeId":202}]}]}',
    )
    assert PROVIDER.follow(noting, exchanges((UPSERT, WRITTEN), (note, reply(201, {"id": "9"})))) is None


EXISTS = "Contact already exists. Existing ID: 77"


@pytest.mark.parametrize("answer", [error(409, "CONFLICT", EXISTS), partly("OBJECT_ALREADY_EXISTS", EXISTS)])
def test_the_contact_that_has_the_email_is_updated(answer):
    update = Request(
        "PATCH", f"{ROOT}/crm/objects/2026-09/contacts/77", HEADERS, b'{"properties":' + ADA_PROPERTIES + b"}"
    )
    assert PROVIDER.follow(of(), exchanges((UPSERT, answer))) == update
    assert PROVIDER.follow(of(), exchanges((UPSERT, answer), (update, reply(200, {"id": "77"})))) is None
    adding = of("add_to_list", {**ADA, "list_id": "42"})
    add = PROVIDER.follow(adding, exchanges((UPSERT, answer), (update, reply(200, {"id": "77"}))))
    assert (add.url, add.body) == (f"{ROOT}/crm/v3/lists/42/memberships/add", b'["77"]')


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (error(409, "CONFLICT", EXISTS), ("rejected", "conflict", None)),
        (error(404, "OBJECT_NOT_FOUND"), ("retry", "contact_moved", None)),
    ],
)
def test_the_contact_that_has_the_email_may_not_take_the_update(answer, expected):
    update = PROVIDER.follow(of(), exchanges((UPSERT, error(409, "CONFLICT", EXISTS))))
    assert (
        told(PROVIDER.follow(of(), exchanges((UPSERT, error(409, "CONFLICT", EXISTS)), (update, answer)))) == expected
    )


@pytest.mark.parametrize(
    ("action", "fields", "words"),
    [
        ("add_to_list", {}, "list_id"),
        ("add_to_list", {"list_id": "42/memberships/remove"}, "must be the number"),
        ("add_to_list", {"list_id": ".."}, "must be the number"),
        ("add_to_list", {"list_id": "²"}, "must be the number"),
        ("create_note", {"note": " "}, "note"),
    ],
)
def test_what_the_second_call_lacks_is_refused_before_the_first(action, fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(of(action, {**ADA, **fields}))


def test_an_answer_that_names_no_contact_is_tried_again():
    noting = of("create_note", {**ADA, "note": "x"})
    for answer in (reply(200, {"results": []}), reply(200, b"<html>")):
        assert told(PROVIDER.follow(noting, exchanges((UPSERT, answer)))) == ("retry", "unreadable_answer", None)


@pytest.mark.parametrize("answer", [reply(207, {"numErrors": 1}), error(400, "VALIDATION_ERROR"), reply(502)])
def test_a_contact_that_is_not_written_decides(answer):
    assert PROVIDER.follow(of("create_note", {**ADA, "note": "x"}), exchanges((UPSERT, answer))) is None


@pytest.mark.parametrize(
    ("answer", "expected", "fix"),
    [
        (error(400, "VALIDATION_ERROR"), REFUSED, "Mend the rule's mapping"),
        (error(400, "PROPERTY_DOESNT_EXIST"), REFUSED, "Create it there"),
        (partly("VALIDATION_ERROR"), REFUSED, "Mend the rule's mapping"),
        (partly("OBJECT_NOT_FOUND"), ("rejected", "vendor_error", None), "OBJECT_NOT_FOUND"),
        (error(401, "EXPIRED_AUTHENTICATION"), ("broken", "unauthorized", "needs_reauth"), "Replace them"),
        (error(401, "INVALID_AUTHENTICATION"), ("broken", "unauthorized", "needs_reauth"), "Replace them"),
        (error(403, "MISSING_SCOPES"), ("broken", "forbidden", "needs_reauth"), "crm.objects.contacts.write"),
        (error(404, "OBJECT_NOT_FOUND"), REFUSED, "Check the rule's mapping"),
        (error(409, "CONFLICT"), ("retry", "server_error", None), "409"),
        (reply(423), ("retry", "locked", None), "locked"),
        (limited("TEN_SECONDLY_ROLLING"), ("retry", "rate_limited", None), "ten seconds"),
        (limited("DAILY"), ("retry", "daily_limit", None), "daily limit"),
        (reply(429), ("retry", "rate_limited", None), "fewer requests"),
        (reply(477), ("retry", "moving", None), "another host"),
        *((reply(status), ("retry", "server_error", None), str(status))
          for status in (502, 503, 504, 521, 522, 523, 524, 525, 526)),
    ],
)  # fmt: skip
def test_every_answer_says_what_it_means_and_what_to_do(answer, expected, fix):
    assert judged(PROVIDER, answer) == expected
    assert fix in PROVIDER.classify(answer, "upsert_contact").words


@pytest.mark.parametrize(
    "answer", [WRITTEN, reply(200, {"id": "501"}), reply(207, {"numErrors": 0, "results": [{"id": "1"}]})]
)
def test_a_contact_that_is_written_is_delivered(answer):
    assert judged(PROVIDER, answer) == ("delivered", "", None)


def test_the_scope_that_is_missing_is_named():
    errors = [{"message": "m", "context": {"requiredGranularScopes": ["crm.lists.write"]}}]
    answer = reply(403, {"category": "MISSING_SCOPES", "message": "m", "errors": errors})
    assert "needs crm.lists.write" in PROVIDER.classify(answer, "add_to_list").words


def test_the_vendor_s_own_words_stand_beside_ours():
    assert PROVIDER.classify(partly("VALIDATION_ERROR"), "upsert_contact").words.endswith("HubSpot: “row”")


@pytest.mark.parametrize(
    ("answer", "seconds", "throttled"),
    [
        (limited("TEN_SECONDLY_ROLLING"), 10, True),
        (limited("DAILY"), 3600, True),
        (reply(423), 2, False),
        (reply(477, None, retry_after="7200"), 7200, False),
        (reply(503, None, retry_after="7"), 7, False),
    ],
)
def test_how_long_to_wait(answer, seconds, throttled):
    verdict = PROVIDER.classify(answer, "upsert_contact")
    assert (verdict.retry_after_seconds, verdict.throttled) == (seconds, throttled)


@pytest.mark.parametrize(
    ("headers", "rest"),
    [
        ({"X_HubSpot_RateLimit_Remaining": "0", "X_HubSpot_RateLimit_Interval_Milliseconds": "5000"}, 5.0),
        ({"x_hubspot_ratelimit_remaining": "0"}, 10.0),
        ({"x_hubspot_ratelimit_remaining": "109"}, None),
        ({"x_hubspot_ratelimit_remaining": "109", "x_hubspot_ratelimit_daily_remaining": "0"}, 3600.0),
        ({"x_hubspot_ratelimit_remaining": "109", "x_hubspot_ratelimit_daily_remaining": "4"}, None),
        ({}, None),
    ],
)
def test_a_used_up_interval_rests_the_lane(headers, rest):
    assert PROVIDER.classify(reply(200, {}, **headers), "upsert_contact").rest_seconds == rest


@pytest.mark.parametrize("status", [200, 400, 401, 423, 500])
def test_a_used_up_interval_rests_the_lane_whatever_became_of_the_call(status):
    answer = reply(status, {}, x_hubspot_ratelimit_remaining="0")
    assert PROVIDER.classify(answer, "upsert_contact").rest_seconds == 10.0


def test_the_test_asks_for_the_account():
    assert PROVIDER.build_test(of()) == Request("GET", f"{ROOT}/account-info/2026-09/details", (TOKEN,))
    answer = reply(200, {"portalId": 62515, "accountType": "STANDARD", "uiDomain": "app.hubspot.com"})
    assert PROVIDER.read_account(answer) == Account("62515", "app.hubspot.com")
    assert PROVIDER.read_account(reply(200, {})) is None


def test_manual_lists_are_listed():
    request = PROVIDER.build_options("list_id", of())
    body = b'{"processingTypes":["MANUAL"],"count":250}'
    assert request == Request("POST", f"{ROOT}/crm/v3/lists/search", HEADERS, body)
    answer = reply(200, {"lists": [{"listId": "42", "name": "Leads", "processingType": "MANUAL"}]})
    assert PROVIDER.read_options("list_id", answer) == [Choice("42", "Leads")]


def test_identifying_properties_are_the_email_and_those_with_unique_values():
    request = PROVIDER.build_options("id_property", of())
    assert request == Request("GET", f"{ROOT}/crm/properties/2026-09/contacts", (TOKEN,))
    rows = [
        {"name": "email", "label": "Email", "hasUniqueValue": True},
        {"name": "user_key", "label": "User key", "hasUniqueValue": True},
        {"name": "company", "label": "Company", "hasUniqueValue": False},
        7,
    ]
    expected = [Choice("email", "Email"), Choice("user_key", "User key")]
    assert PROVIDER.read_options("id_property", reply(200, {"results": rows})) == expected
    with pytest.raises(KeyError):
        PROVIDER.build_options("email", of())
    for field in PROVIDER.live_options:
        with pytest.raises(Unsendable):
            PROVIDER.read_options(field, reply(200, b"<html>"))


def test_the_default_mapping_takes_the_usual_names():
    payload = {"email": "a@b.co", "first_name": "A", "last_name": "B", "phone": "+1555", "company": "C"}
    for action in PROVIDER.actions:
        assert shaped(PROVIDER, action.slug, payload) == ADA


def test_a_note_is_not_left_twice():
    assert {action.slug: action.idempotent for action in PROVIDER.actions} == {
        "upsert_contact": True, "add_to_list": True, "create_note": False,
    }  # fmt: skip


NO_RESULT = [
    reply(200, {"status": "COMPLETE", "results": []}),
    reply(207, {"status": "COMPLETE", "results": []}),
    reply(207, {"results": [], "errors": [{"category": "INTERNAL_ERROR", "message": "m"}]}),
    reply(200, {"results": [], "numErrors": 0}),
]


@pytest.mark.parametrize("answer", NO_RESULT)
def test_a_single_input_without_its_result_is_not_delivered(answer):
    assert judged(PROVIDER, answer)[0] == "retry"


@pytest.mark.parametrize("body", [{}, b"", b"<html>portal</html>", {"results": [{"id": "1"}]}])
def test_a_note_and_a_list_that_name_nothing_are_not_delivered(body):
    assert PROVIDER.classify(reply(200, body), "create_note").outcome == "uncertain"
    assert PROVIDER.classify(reply(200, body), "add_to_list").outcome == "retry"
    for members in ("recordsIdsAdded", "recordIdsAdded"):
        assert PROVIDER.classify(reply(200, {members: []}), "add_to_list").outcome == "delivered"


def test_errors_count_also_where_nobody_counted_them():
    row = {"category": "VALIDATION_ERROR", "message": "bad email"}
    answer = reply(200, {"status": "COMPLETE", "results": [], "errors": [row]})
    assert judged(PROVIDER, answer) == REFUSED
    assert PROVIDER.classify(answer, "upsert_contact").words.endswith("HubSpot: “bad email”")


@pytest.mark.parametrize("body", [{"status": "COMPLETE"}, b"<html>", {"results": [{"properties": {}}]}])
def test_an_upsert_whose_answer_names_no_contact_is_tried_again(body):
    assert told(PROVIDER.follow(of(), exchanges((UPSERT, reply(200, body))))) == ("retry", "unreadable_answer", None)


def test_a_207_with_its_result_goes_on_to_the_list():
    written = reply(207, {"results": [{"id": "501"}], "numErrors": 0})
    adding = of("add_to_list", {**ADA, "list_id": "42"})
    following = PROVIDER.follow(adding, exchanges((UPSERT, written)))
    assert following.url == f"{ROOT}/crm/v3/lists/42/memberships/add"


def test_a_contact_that_the_list_does_not_know_is_not_delivered():
    answer = reply(200, {"recordsIdsAdded": [], "recordIdsMissing": ["501"]})
    verdict = PROVIDER.classify(answer, "add_to_list")
    assert (verdict.outcome, verdict.error_class) == ("retry", "contact_moved")


@pytest.mark.parametrize(
    ("category", "outcome"), [("INTERNAL_ERROR", "retry"), ("RATE_LIMITS", "retry"), ("CONFLICT", "retry")]
)
def test_a_row_s_error_that_passes_is_tried_again(category, outcome):
    assert judged(PROVIDER, partly(category))[0] == outcome


def test_one_value_stands_in_the_key_and_in_the_property():
    for fields, frozen in (({"email": " a@b.co "}, "email"), ({"email": "a@b.co", "user_key": " K 1 "}, "user_key")):
        (row,) = json.loads(PROVIDER.build_request(of(fields=fields, frozen={"id_property": frozen})).body)["inputs"]
        assert row["id"] == row["properties"][frozen] == fields[frozen].strip()


def test_a_note_is_shown_as_it_is():
    written = exchanges((UPSERT, WRITTEN))
    noting = of("create_note", {**ADA, "note": "<a href='https://evil.example'>Hi</a>\nBye"})
    note = json.loads(PROVIDER.follow(noting, written).body)["properties"]["hs_note_body"]
    assert note == "&lt;a href=&#x27;https://evil.example&#x27;&gt;Hi&lt;/a&gt;<br>Bye"


@pytest.mark.parametrize(("action", "key"), [("upsert_contact", "bio"), ("create_note", "note")])
def test_what_is_too_long_for_hubspot_is_refused_before_the_first_call(action, key):
    assert PROVIDER.build_request(of(action, {**ADA, "note": "n", key: "x" * 65_536})).method == "POST"
    with pytest.raises(Unsendable, match=f"{key} has 65,537 characters; HubSpot takes at most 65,536"):
        PROVIDER.build_request(of(action, {**ADA, "note": "n", key: "x" * 65_537}))


def test_a_note_of_which_nobody_knows_whether_it_was_left_is_uncertain():
    broke_down = reply(500, {"category": "INTERNAL_ERROR", "message": "m"})
    for answer in (reply(502), reply(500), broke_down):
        assert PROVIDER.classify(answer, "create_note").outcome == "uncertain"
    assert PROVIDER.classify(broke_down, "create_note").words.endswith("or not. HubSpot: “m”")
    assert PROVIDER.classify(broke_down, "add_to_list").outcome == "retry"
    assert PROVIDER.classify(reply(503), "create_note").outcome == "retry"
    assert PROVIDER.may_repeat("create_note", UPSERT)
