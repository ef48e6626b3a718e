import json

import pytest

from connections.messages import Request
from connections.providers.base import Account, Choice, InvalidFields, NotAuthorized, Unsendable
from connections.providers.salesforce import PROVIDER, Salesforce
from tests.connections.providers.exchanges import exchanges, judged, reply, shaped
from tests.connections.providers.shipments import as_secrets, shipment

ROOT = "https://acme.my.salesforce.com"
LEADS = f"{ROOT}/services/data/v67.0/sobjects/Lead/LeadKey__c"
TOKEN = ("authorization", "Bearer 00D!token")
JSON = ("content-type", "application/json")
UPSERT = (JSON, TOKEN, ("sforce-duplicate-rule-header", "allowSave=true"))
REFUSED = ("rejected", "rejected", None)
LEAD = {"external_id": "evt-123", "FirstName": "A", "LastName": "B", "Company": "C", "Email": "a@b.co"}


def of(action: str = "upsert_lead", fields: dict | None = None, **changes):
    values = {
        "config": {"instance_url": ROOT, "external_id_field": "LeadKey__c"},
        "frozen": {"external_id_field": "LeadKey__c"},
        "credentials": as_secrets({"access_token": "00D!token"}),
    }
    return shipment(action=action, body=json.dumps(LEAD if fields is None else fields), **{**values, **changes})


def error(status: int, code: str, message: str = "m", **rest):
    return reply(status, [{"message": message, "errorCode": code, **rest}])


def test_a_lead_is_upserted_by_its_external_id_which_the_body_does_not_repeat():
    fields = {**LEAD, "Phone": "+1555", "LeadSource": "Web"}
    assert PROVIDER.build_request(of(fields=fields)) == Request(
        "PATCH",
        f"{LEADS}/evt-123",
        UPSERT,
        b'{"FirstName":"A","LastName":"B","Company":"C","Email":"a@b.co","Phone":"+1555","LeadSource":"Web"}',
    )


def test_a_contact_and_any_other_object_have_urls_of_their_own():
    contact = PROVIDER.build_request(of("upsert_contact", {"external_id": "7", "external_id_field": "Key__c"}))
    assert (contact.url, contact.body) == (f"{ROOT}/services/data/v67.0/sobjects/Contact/Key__c/7", b"{}")
    record = PROVIDER.build_request(of("upsert_record", {"object": "Signup__c", "external_id": 7, "Plan__c": None}))
    assert record.url == f"{ROOT}/services/data/v67.0/sobjects/Signup__c/LeadKey__c/7"
    assert record.body == b'{"Plan__c":null}'


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("ada@example.com", "ada%40example.com"),
        ("../../Account/Id/1", "..%2F..%2FAccount%2FId%2F1"),
        ("1?updateOnly=true#", "1%3FupdateOnly%3Dtrue%23"),
        ("jürgen", "j%C3%BCrgen"),
    ],
)
def test_an_external_id_stays_inside_its_part_of_the_path(value, part):
    assert PROVIDER.build_request(of(fields={**LEAD, "external_id": value})).url == f"{LEADS}/{part}"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "external_id is required"),
        ({"external_id": " "}, "external_id is required"),
        ({"external_id": ".."}, "cannot stand in a URL"),
        ({**LEAD, "Id": "00Q"}, "must not fill Id or LeadKey__c"),
        ({**LEAD, "leadkey__C": "x"}, "must not fill Id or LeadKey__c"),
        ({**LEAD, "external_id_field": "Key__c/../x"}, "must be an API name"),
        ([], "must make an object"),
    ],
)
def test_what_cannot_be_an_upsert_is_refused(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(of(fields=fields))


@pytest.mark.parametrize("name", ["Account/x", "..", "Lead?x", "Läd", "", None])
def test_an_object_is_an_api_name(name):
    with pytest.raises(Unsendable):
        PROVIDER.build_request(of("upsert_record", {"external_id": "7", "object": name}))


def test_without_an_external_id_field_nothing_is_sent():
    with pytest.raises(Unsendable, match="set it in the connection or the rule's mapping"):
        PROVIDER.build_request(of(frozen={}))


@pytest.mark.parametrize(
    "changes", [{"credentials": {}}, {"config": {}}, {"config": {"instance_url": "https://evil.example"}}]
)
def test_without_a_token_or_the_org_s_url_the_connection_must_be_authorized(changes):
    with pytest.raises(NotAuthorized):
        PROVIDER.build_request(of(**changes))


def test_the_frozen_field_names_the_record_whatever_the_config_says_now():
    config = {"instance_url": ROOT + "/", "external_id_field": "Other__c"}
    assert PROVIDER.build_request(of(config=config)).url == f"{LEADS}/evt-123"
    assert PROVIDER.frozen_config(config) == {"external_id_field": "Other__c"}


def test_the_default_mapping_takes_the_usual_names():
    payload = {"email": "a@b.co", "first_name": "A", "last_name": "B", "company": "C", "phone": "+1555"}
    assert shaped(PROVIDER, "upsert_lead", payload) == {
        "external_id": "a@b.co", "FirstName": "A", "LastName": "B", "Email": "a@b.co", "Phone": "+1555", "Company": "C",
    }  # fmt: skip
    assert shaped(PROVIDER, "upsert_contact", {"email": "a@b.co", "name": "A B"})["LastName"] == "A B"


def missing(*names: str):
    return error(400, "REQUIRED_FIELD_MISSING", f"Required fields are missing: {list(names)}", fields=list(names))


def test_a_new_lead_gets_what_salesforce_requires_and_a_known_one_keeps_its_own():
    bare = of(fields={"external_id": "evt-123", "Email": "a@b.co", "LastName": "", "Company": None})
    first = PROVIDER.build_request(bare)
    assert first.body == b'{"Email":"a@b.co"}'
    assert PROVIDER.follow(bare, exchanges((first, reply(200, {"success": True})))) is None
    second = PROVIDER.follow(bare, exchanges((first, missing("LastName", "Company"))))
    assert second == Request(
        "PATCH",
        f"{LEADS}/evt-123",
        UPSERT,
        b'{"Email":"a@b.co","LastName":"[not provided]","Company":"[not provided]"}',
    )
    assert PROVIDER.follow(bare, exchanges((first, missing("LastName")), (second, missing("Company")))) is None


@pytest.mark.parametrize(
    ("action", "answer"),
    [
        ("upsert_lead", missing("LastName", "Budget__c")),
        ("upsert_lead", missing("Email")),
        ("upsert_lead", missing()),
        ("upsert_lead", error(400, "INVALID_FIELD", fields=["LastName"])),
        ("upsert_lead", error(400, "REQUIRED_FIELD_MISSING", fields="LastName")),
        ("upsert_lead", error(400, "REQUIRED_FIELD_MISSING", fields=[{"a": 1}])),
        ("upsert_lead", reply(400, b"<html>")),
        ("upsert_lead", reply(400, [])),
        ("upsert_lead", reply(201, {"id": "00Q", "success": True})),
        ("upsert_record", missing("LastName")),
    ],
)
def test_nothing_else_is_made_up(action, answer):
    bare = of(action, {"external_id": "evt-123", "object": "Lead", "Email": "a@b.co"})
    assert PROVIDER.follow(bare, exchanges((PROVIDER.build_request(bare), answer))) is None


@pytest.mark.parametrize(
    ("answer", "expected", "fix"),
    [
        (missing("Budget__c"), REFUSED, "Map it in the rule"),
        (error(400, "INVALID_FIELD"), REFUSED, "the object lacks"),
        (error(400, "FIELD_CUSTOM_VALIDATION_EXCEPTION"), REFUSED, "validation rule"),
        (error(400, "STRING_TOO_LONG"), REFUSED, "Shorten it"),
        (error(400, "MALFORMED_ID"), REFUSED, "not a Salesforce id"),
        (error(400, "JSON_PARSER_ERROR"), REFUSED, "Mend the rule's mapping"),
        (error(400, "DUPLICATES_DETECTED"), ("rejected", "duplicate", None), "let that rule alert"),
        (error(400, "UNABLE_TO_LOCK_ROW"), ("retry", "locked", None), "writing the record just now"),
        (error(500, "UNABLE_TO_LOCK_ROW"), ("retry", "locked", None), "writing the record just now"),
        *((error(400, code), ("broken", "unauthorized", "needs_reauth"), "Unlock it there") for code in (
            "INVALID_AUTH_HEADER", "PASSWORD_LOCKOUT", "CLIENT_NOT_ACCESSIBLE_FOR_USER",
        )),
        (reply(200, {}), ("retry", "unproven", None), "does not say that it was done"),
        (reply(200, []), ("retry", "unproven", None), "does not say that it was done"),
        (error(401, "INVALID_SESSION_ID"), ("broken", "unauthorized", "needs_reauth"), "Authorize the connection"),
        (error(403, "REQUEST_LIMIT_EXCEEDED"), ("retry", "daily_limit", None), "limit of API requests"),
        (error(403, "API_DISABLED_FOR_ORG"), ("broken", "no_api", "disabled"), "Let Salesforce enable it"),
        (error(403, "INSUFFICIENT_ACCESS_OR_READONLY"), REFUSED, "Give them access"),
        (error(403, "FUNCTIONALITY_NOT_ENABLED"), ("broken", "forbidden", "needs_reauth"), "Give them the permission"),
        (reply(300, ["/services/data/v67.0/sobjects/Lead/1"]), ("rejected", "ambiguous", None), "mark the field"),
        (error(404, "NOT_FOUND"), REFUSED, "Check the names"),
        (error(410, "UNSUPPORTED_API_VERSION"), ("broken", "retired", "disabled"), "Meshes must be updated"),
        (reply(405), REFUSED, "405"),
        (reply(414), REFUSED, "414"),
        (reply(415), REFUSED, "415"),
        (reply(431), REFUSED, "431"),
        (reply(500), ("retry", "server_error", None), "500"),
        (reply(503), ("retry", "server_error", None), "503"),
        (reply(200, {"success": False, "errors": [{"statusCode": "STRING_TOO_LONG", "message": "m"}]}),
         REFUSED, "Shorten it"),
        (reply(200, [{"success": True}, {"success": False, "errors": [{"statusCode": "STRING_TOO_LONG"}]}]),
         REFUSED, "Shorten it"),
        (reply(200, [{"success": False, "errors": [{"statusCode": "UNABLE_TO_LOCK_ROW"}]}]),
         ("retry", "locked", None), "writing the record just now"),
        (reply(200, {"success": False}), ("rejected", "vendor_error", None), "did not accept"),
        (reply(400, {"error": "invalid_grant", "error_description": "expired"}), REFUSED, "expired"),
    ],
)  # fmt: skip
def test_every_answer_says_what_it_means_and_what_to_do(answer, expected, fix):
    assert judged(PROVIDER, answer) == expected
    assert fix in PROVIDER.classify(answer, "upsert_lead").words


@pytest.mark.parametrize(
    "answer",
    [
        reply(201, {"id": "1", "success": True, "errors": []}), reply(204),
        reply(200, [{"id": "1", "success": True, "errors": []}]),
    ],
)  # fmt: skip
def test_a_record_that_is_written_is_delivered(answer):
    assert judged(PROVIDER, answer) == ("delivered", "", None)


def test_a_used_up_limit_rests_the_lane_for_long():
    verdict = PROVIDER.classify(error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."), "upsert_lead")
    assert (verdict.throttled, verdict.retry_after_seconds) == (True, 3600.0)
    assert verdict.words.endswith("Salesforce: “TotalRequests Limit exceeded.”")


@pytest.mark.parametrize(
    ("usage", "rest"),
    [
        ("api-usage=10018/100000", None),
        ("api-usage=100000/100000", 3600.0),
        ("api-usage=100001/100000", 3600.0),
        ("api-usage=25/5000; per-app-api-usage=250/250(appName=meshes)", 3600.0),
        ("api-usage=-1/0", None),
        ("api-usage=", None),
    ],
)
def test_a_full_allocation_rests_the_lane_although_the_record_was_written(usage, rest):
    verdict = PROVIDER.classify(reply(200, {"success": True}, sforce_limit_info=usage), "upsert_lead")
    assert (verdict.outcome, verdict.rest_seconds) == ("delivered", rest)


def test_the_test_asks_whose_token_it_is():
    assert PROVIDER.build_test(of()) == Request("GET", f"{ROOT}/services/oauth2/userinfo", (TOKEN,))
    answer = reply(200, {"organization_id": "00Dxx", "user_id": "005", "name": "Ada"})
    assert PROVIDER.read_account(answer) == Account("00Dxx", "Ada")
    assert PROVIDER.read_account(reply(200, b"<html>")) is None


def test_the_choices_of_external_id_fields_are_those_that_the_org_marks():
    request = PROVIDER.build_options("external_id_field", of())
    assert request == Request("GET", f"{ROOT}/services/data/v67.0/sobjects/Lead/describe", (TOKEN,))
    fields = [
        {"name": "Email", "label": "Email", "externalId": False},
        {"name": "LeadKey__c", "label": "Lead key", "externalId": True},
        {"name": "Odd__c", "label": "Odd"},
    ]
    answer = reply(200, {"name": "Lead", "fields": fields})
    assert PROVIDER.read_options("external_id_field", answer) == [Choice("LeadKey__c", "Lead key")]
    with pytest.raises(Unsendable):
        PROVIDER.read_options("external_id_field", reply(200, {}))
    with pytest.raises(KeyError):
        PROVIDER.build_options("instance_url", of())


@pytest.mark.parametrize(
    "url",
    [
        ROOT,
        ROOT + "/",
        "https://acme--uat.sandbox.my.salesforce.com",
        "https://ACME.my.Salesforce.com",
        "https://acme.my.salesforce.mil",
        "https://acme.lightning.force.com",
        "https://acme.cloudforce.com",
    ],
)
def test_an_org_s_own_url_is_taken(url):
    assert PROVIDER.check({"instance_url": url}, {"access_token": "x"}) == ()


@pytest.mark.parametrize(
    "url",
    [
        "http://acme.my.salesforce.com",
        "https://salesforce.com",
        "https://evilsalesforce.com",
        "https://evil.example/.salesforce.com",
        "https://evil.example?.salesforce.com",
        "https://evil.example#.salesforce.com",
        "https://evil.example\\.salesforce.com",
        "https://a@evil.example:443.salesforce.com",
        "https://acme.my.salesforce.com.evil.example",
        "https://acme.my.salesforce.com:8443",
        "https://acme.my.salesforce.com/path",
        "https://acme.my.salesforce.com\n",
        "",
        7,
    ],
)
def test_a_url_of_somebody_else_is_refused(url):
    (problem,) = PROVIDER.check({"instance_url": url}, {})
    assert (problem.pointer, problem.rule) == ("/config/instance_url", "host")


def test_an_access_token_needs_the_org_s_url():
    (problem,) = PROVIDER.check({}, {"access_token": "x"})
    assert (problem.pointer, problem.rule) == ("/config/instance_url", "required")
    assert PROVIDER.check({}, {}) == ()


def test_a_server_in_the_vendor_s_place_stands_for_every_org():
    provider = Salesforce()
    provider.override = "http://127.0.0.1:9/salesforce"
    assert provider.check({"instance_url": "http://127.0.0.1:9"}, {"access_token": "x"}) == ()
    request = provider.build_request(of(config={}))
    assert request.url == "http://127.0.0.1:9/salesforce/services/data/v67.0/sobjects/Lead/LeadKey__c/evt-123"


def test_an_external_id_field_that_is_no_name_is_refused():
    with pytest.raises(InvalidFields):
        PROVIDER.clean_config({"external_id_field": "Key__c/../x"})


def test_all_actions_are_upserts():
    assert all(action.idempotent for action in PROVIDER.actions)


def test_concurrent_requests_are_no_used_up_day():
    message = "ConcurrentRequests (Concurrent API Requests) Limit exceeded."
    verdict = PROVIDER.classify(error(403, "REQUEST_LIMIT_EXCEEDED", message), "upsert_lead")
    assert (verdict.outcome, verdict.error_class, verdict.throttled) == ("retry", "concurrent", True)
    assert verdict.retry_after_seconds == 10


UPSERTED = Request("PATCH", f"{LEADS}/evt-123", UPSERT, b"{}")


@pytest.mark.parametrize("action", ["upsert_lead", "upsert_contact", "upsert_record"])
def test_two_upserts_that_raced_are_tried_again_and_another_duplicate_is_not(action):
    made = of(action, {**LEAD, "object": "Signup__c"})
    raced = error(400, "DUPLICATE_VALUE", "duplicate value found: LeadKey__c duplicates value on record with id: 00Q1")
    assert PROVIDER.follow(made, exchanges((UPSERTED, raced))).outcome == "retry"
    by_field = error(400, "DUPLICATE_VALUE", "duplicate value found: <unknown>", fields=["leadkey__c"])
    assert PROVIDER.follow(made, exchanges((UPSERTED, by_field))).outcome == "retry"
    other = error(400, "DUPLICATE_VALUE", "duplicate value found: Ssn__c duplicates value on record with id: 00Q1")
    assert PROVIDER.follow(made, exchanges((UPSERTED, other))) is None
    assert judged(PROVIDER, other) == ("rejected", "duplicate", None)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("STORAGE_LIMIT_EXCEEDED", ("retry", "quota_limited", None)),
        ("REQUEST_RUNNING_TOO_LONG", ("retry", "server_error", None)),
        ("SERVER_UNAVAILABLE", ("retry", "server_error", None)),
        ("UNKNOWN_EXCEPTION", ("retry", "server_error", None)),
        ("API_CURRENTLY_DISABLED", ("retry", "server_error", None)),
        ("ENTITY_IS_LOCKED", ("retry", "locked", None)),
        ("ORG_LOCKED", ("broken", "org_locked", "disabled")),
    ],
)
def test_what_passes_or_is_the_org_s_does_not_kill_the_record(code, expected):
    assert judged(PROVIDER, error(400, code)) == expected


@pytest.mark.parametrize(
    ("value", "written"),
    [(["A", "B"], "A;B"), ([" A "], "A"), ([], ""), ([1, 2.0], "1;2"), ("A;B", "A;B"), (True, True), (7, 7)],
)
def test_an_array_is_a_multi_select(value, written):
    body = json.loads(PROVIDER.build_request(of(fields={**LEAD, "Interests__c": value})).body)
    assert body["Interests__c"] == written


@pytest.mark.parametrize("value", [[{"a": 1}], [["A"]], ["A;B"], [True], [None]])
def test_an_array_that_is_no_multi_select_is_refused(value):
    with pytest.raises(Unsendable, match="Interests__c can hold an array of texts"):
        PROVIDER.build_request(of(fields={**LEAD, "Interests__c": value}))


def test_numbers_become_text_and_spaces_go():
    request = PROVIDER.build_request(
        of(fields={**LEAD, "external_id": " K 1 ", "Phone": 15551234567, "LastName": " B "})
    )
    assert request.url.endswith("/K%201")
    assert (json.loads(request.body)["Phone"], json.loads(request.body)["LastName"]) == ("15551234567", "B")
