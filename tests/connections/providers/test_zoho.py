import json

import pytest

from connections.messages import Response
from connections.providers.base import Account, InvalidFields, NotAuthorized, Outcome, Unsendable
from connections.providers.zoho import PROVIDER
from tests.connections.providers.shipments import as_secrets, shipment

CONFIG = {"api_domain": "https://www.zohoapis.eu", "accounts_host": "accounts.zoho.eu"}
LEAD = {"Email": "a@b.co", "Last_Name": "B", "First_Name": None, "Company": "C"}


def of(action="upsert_lead", body=None, **changes):
    values = {"action": action, "config": CONFIG, "credentials": as_secrets({"access_token": "1000.abc"})}
    return shipment(body=json.dumps(LEAD if body is None else body), **{**values, **changes})


def judged(status, document, action="upsert_lead"):
    return PROVIDER.classify(Response(status, (), json.dumps(document).encode(), False, 1), action)


def test_a_lead_is_upserted_by_its_email():
    request = PROVIDER.build_request(of())
    assert (request.method, request.url) == ("POST", "https://www.zohoapis.eu/crm/v8/Leads/upsert")
    assert dict(request.headers) == {"content-type": "application/json", "authorization": "Zoho-oauthtoken 1000.abc"}
    assert json.loads(request.body) == {
        "data": [{"Email": "a@b.co", "Last_Name": "B", "Company": "C"}],
        "duplicate_check_fields": ["Email"],
    }


def test_a_contact_goes_to_its_own_module():
    assert PROVIDER.build_request(of("upsert_contact")).url.endswith("/crm/v8/Contacts/upsert")


@pytest.mark.parametrize("missing", ["Email", "Last_Name"])
def test_what_zoho_requires_must_be_there(missing):
    with pytest.raises(Unsendable, match=missing):
        PROVIDER.build_request(of(body={**LEAD, missing: " "}))


def test_without_a_token_nothing_is_built():
    with pytest.raises(NotAuthorized):
        PROVIDER.build_request(of(credentials={}))


def test_a_200_is_read_by_its_record():
    assert judged(200, {"data": [{"code": "SUCCESS", "action": "insert"}]}).outcome == Outcome.DELIVERED
    refused = judged(200, {"data": [{"code": "MANDATORY_NOT_FOUND", "message": "required field not found"}]})
    assert refused.outcome == Outcome.REJECTED
    assert "Add it to the mapping" in refused.words
    assert "required field not found" in refused.words


@pytest.mark.parametrize(
    ("status", "code", "outcome", "hold"),
    [
        (401, "INVALID_TOKEN", Outcome.BROKEN, "needs_reauth"),
        (401, "OAUTH_SCOPE_MISMATCH", Outcome.BROKEN, "needs_reauth"),
        (202, "INVALID_DATA", Outcome.REJECTED, None),
        (429, "TOO_MANY_REQUESTS", Outcome.RETRY, None),
        (500, "INTERNAL_ERROR", Outcome.RETRY, None),
    ],
)
def test_codes_say_what_is_to_be_done(status, code, outcome, hold):
    verdict = judged(status, {"code": code, "message": "m"})
    assert (verdict.outcome, verdict.hold) == (outcome, hold)


def test_a_limit_rests_the_lane():
    verdict = judged(429, {"code": "TOO_MANY_REQUESTS"})
    assert (verdict.throttled, verdict.retry_after_seconds) == (True, 60)


def test_the_test_learns_the_organisation():
    request = PROVIDER.build_test(of())
    assert (request.method, request.url) == ("GET", "https://www.zohoapis.eu/crm/v8/org")
    answer = Response(200, (), b'{"org":[{"id":"1000","company_name":"Engines"}]}', False, 1)
    assert PROVIDER.read_account(answer) == Account("1000", "Engines")


def test_a_token_that_is_brought_needs_its_account_s_domain():
    (problem,) = PROVIDER.check({}, {"access_token": "x"})
    assert (problem.pointer, problem.rule) == ("/config/api_domain", "required")
    assert PROVIDER.check(CONFIG, {"access_token": "x"}) == PROVIDER.check({}, {}) == ()


def test_only_zoho_s_own_domains_are_taken():
    with pytest.raises(InvalidFields, match="api_domain"):
        PROVIDER.clean_config({"api_domain": "https://www.zohoapis.eu.evil.example"})
    with pytest.raises(InvalidFields, match="accounts_host"):
        PROVIDER.clean_config({"accounts_host": "accounts.evil.example"})


@pytest.mark.parametrize("document", [{"data": []}, {}, {"data": [{"code": ""}]}, {"data": [{"status": "success"}]}])
def test_a_200_without_its_record_is_not_delivered(document):
    assert judged(200, document).outcome == Outcome.RETRY


def refused_record(code, **details):
    return judged(200, {"data": [{"code": code, "message": "m", "details": details, "status": "error"}]})


def test_an_error_keeps_its_field_s_name():
    words = refused_record("INVALID_DATA", api_name="Phone", expected_data_type="phone", json_path="$.data[0]").words
    assert words.endswith("Zoho CRM: “Phone: m (expected: phone)”")


@pytest.mark.parametrize(
    ("code", "outcome", "hold"),
    [
        ("INTERNAL_ERROR", Outcome.RETRY, None),
        ("RECORD_LOCKED", Outcome.RETRY, None),
        ("LIMIT_EXCEEDED", Outcome.RETRY, None),
        ("CONCURRENCY_LIMIT_EXCEEDED", Outcome.RETRY, None),
        ("NO_PERMISSION", Outcome.BROKEN, "needs_reauth"),
        ("AUTHORIZATION_FAILED", Outcome.BROKEN, "needs_reauth"),
        ("STORAGE_SPACE_EXCEEDED", Outcome.RETRY, None),
        ("AUTHENTICATION_FAILURE", Outcome.BROKEN, "needs_reauth"),
        ("INVALID_MODULE", Outcome.BROKEN, "disabled"),
        ("DUPLICATE_DATA", Outcome.REJECTED, None),
    ],
)
def test_what_passes_or_is_the_account_s_does_not_kill_the_record(code, outcome, hold):
    verdict = refused_record(code)
    assert (verdict.outcome, verdict.hold) == (outcome, hold)


def test_two_upserts_that_raced_on_one_email_are_tried_again():
    assert refused_record("DUPLICATE_DATA", api_name="Email").outcome == Outcome.RETRY
    assert refused_record("DUPLICATE_DATA", api_name="Phone").outcome == Outcome.REJECTED


def several(*errors):
    nested = [{"code": code, "message": "m", "details": details} for code, details in errors]
    return refused_record("MULTIPLE_OR_MULTI_ERRORS", errors=nested)


def test_several_errors_of_a_record_are_told_with_their_fields():
    verdict = several(
        ("INVALID_DATA", {"api_name": "Phone", "expected_data_type": "phone"}),
        ("MANDATORY_NOT_FOUND", {"api_name": "Company"}),
    )
    assert (verdict.outcome, verdict.hold) == (Outcome.REJECTED, None)
    assert verdict.words.startswith("Zoho refuses a value. Mend the rule's mapping.")
    assert verdict.words.endswith("Zoho CRM: “Phone: m (expected: phone); Company: m”")
    assert several(("NO_PERMISSION", {})).hold == "needs_reauth"


def test_a_race_among_several_errors_is_tried_again():
    raced = several(("INVALID_DATA", {"api_name": "Phone"}), ("DUPLICATE_DATA", {"api_name": "Email"}))
    assert (raced.outcome, raced.error_class, raced.retry_after_seconds) == (Outcome.RETRY, "raced", 1)
    assert several(("DUPLICATE_DATA", {"api_name": "Phone"})).outcome == Outcome.REJECTED


@pytest.mark.parametrize("errors", [[], [7], {"a": 1}, [{"details": []}], "x"])
def test_errors_in_another_shape_are_read_as_far_as_they_go(errors):
    assert refused_record("MULTIPLE_OR_MULTI_ERRORS", errors=errors).outcome == Outcome.REJECTED


def test_the_redirect_tells_the_data_centre():
    assert PROVIDER.read_redirect({"accounts-server": "https://accounts.zoho.eu", "location": "eu"}) == {
        "accounts_host": "accounts.zoho.eu"
    }
    assert PROVIDER.read_redirect({}) == {}
