from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.salesforce import Salesforce
from meshes.dev.vendors.salesforce_org import SField
from tests.meshes.dev.vendors.calling import call

DATA = "/services/data/v67.0"
LEAD = f"{DATA}/sobjects/Lead/LeadKey__c"
ADA = {"LastName": "Lovelace", "Company": "Acme", "Email": "ada@acme.example"}


@pytest.fixture
def salesforce() -> Iterator[Salesforce]:
    with Salesforce() as server:
        yield server


def upsert(salesforce: Salesforce, key: str = "K-1", query: str = "", **fields: Any) -> requests.Response:
    return call(salesforce, "PATCH", f"{LEAD}/{key}{query}", fields)


def error(answer: requests.Response) -> tuple[int, str]:
    (only,) = answer.json()
    return answer.status_code, only["errorCode"]


def test_an_upsert_creates_and_then_updates(salesforce):
    first, second = upsert(salesforce, **ADA), upsert(salesforce, "k-1", FirstName="Ada")
    key = first.json()["id"]
    assert (first.status_code, first.json()) == (201, {"id": key, "success": True, "errors": [], "created": True})
    assert (second.status_code, second.json()["id"], second.json()["created"]) == (200, key, False)
    assert (len(key), key[:3]) == (18, "00Q")
    assert salesforce.state.records["Lead"] == {key: {**ADA, "LeadKey__c": "k-1", "FirstName": "Ada"}}


def test_a_key_is_decoded(salesforce):
    assert upsert(salesforce, "ada%40acme.example%2F1", **ADA).status_code == 201
    assert salesforce.state.matches("Lead", "LeadKey__c", "ada@acme.example/1")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"LastName": "Lovelace"}, 400, "REQUIRED_FIELD_MISSING"),
        ({**ADA, "LastName": ""}, 400, "REQUIRED_FIELD_MISSING"),
        ({**ADA, "Nickname__c": "A"}, 400, "INVALID_FIELD"),
        ({**ADA, "LeadKey__c": "K-1"}, 400, "INVALID_FIELD"),
        ({**ADA, "Id": "00Q5e0000000001AAA"}, 400, "INVALID_FIELD"),
        ({**ADA, "FirstName": "A" * 41}, 400, "STRING_TOO_LONG"),
        ({**ADA, "Email": "no address"}, 400, "INVALID_EMAIL_ADDRESS"),
        ({**ADA, "Phone": 5}, 400, "JSON_PARSER_ERROR"),
        ({**ADA, "DoNotCall": "yes"}, 400, "JSON_PARSER_ERROR"),
    ],
)
def test_a_record_that_breaks_the_rules_is_refused(salesforce, fields, status, code):
    assert error(upsert(salesforce, **fields)) == (status, code)
    assert salesforce.state.records["Lead"] == {}


def test_missing_fields_are_named(salesforce):
    assert upsert(salesforce).json() == [
        {
            "message": "Required fields are missing: [LastName, Company]",
            "errorCode": "REQUIRED_FIELD_MISSING",
            "fields": ["LastName", "Company"],
        }
    ]


def test_a_required_field_cannot_be_cleared(salesforce):
    upsert(salesforce, **ADA)
    assert error(upsert(salesforce, Company=None)) == (400, "REQUIRED_FIELD_MISSING")
    assert upsert(salesforce, Email=None).status_code == 200
    (lead,) = salesforce.state.records["Lead"].values()
    assert (lead["Company"], lead["Email"]) == ("Acme", None)


def test_an_ambiguous_key_lists_its_records_and_writes_nothing(salesforce):
    keys = [salesforce.state.plant("Lead", {**ADA, "LeadKey__c": "K-1"}) for _ in range(2)]
    answer = upsert(salesforce, FirstName="Ada")
    assert answer.status_code == 300
    assert answer.json() == [f"{DATA}/sobjects/Lead/{key}" for key in keys]
    assert all("FirstName" not in lead for lead in salesforce.state.records["Lead"].values())


def test_update_only_creates_nothing(salesforce):
    assert error(upsert(salesforce, "K-1", "?updateOnly=true", **ADA)) == (404, "NOT_FOUND")
    assert salesforce.state.records["Lead"] == {}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"{DATA}/sobjects/Lead/Email/ada@acme.example", 404, "NOT_FOUND"),
        (f"{DATA}/sobjects/Lead/Other__c/1", 404, "NOT_FOUND"),
        (f"{DATA}/sobjects/Ship/ShipKey__c/1", 404, "NOT_FOUND"),
        ("/services/data/v30.0/sobjects/Lead/LeadKey__c/1", 410, "GONE"),
        ("/services/data/v69.0/sobjects/Lead/LeadKey__c/1", 404, "NOT_FOUND"),
    ],
)
def test_what_the_org_does_not_have(salesforce, path, status, code):
    assert error(call(salesforce, "PATCH", path, ADA)) == (status, code)


def test_an_org_s_own_fields_can_be_added(salesforce):
    salesforce.state.objects["Lead"]["Meshes_Id__c"] = SField(external_id=True)
    assert call(salesforce, "PATCH", f"{DATA}/sobjects/Lead/Meshes_Id__c/1", ADA).status_code == 201


def test_ids_of_other_records_are_checked(salesforce):
    path = f"{DATA}/sobjects/CampaignMember"
    assert error(call(salesforce, "POST", path, {"CampaignId": "x"})) == (400, "MALFORMED_ID")
    answer = call(salesforce, "POST", path, {"CampaignId": "701000000000001"})
    assert (answer.status_code, answer.json()["success"]) == (201, True)


def test_a_duplicate_rule_alerts_or_blocks(salesforce):
    upsert(salesforce, **ADA)
    salesforce.state.duplicate_rule = "alert"
    allow = {"Sforce-Duplicate-Rule-Header": "allowSave=true"}
    assert error(upsert(salesforce, "K-2", **ADA)) == (400, "DUPLICATES_DETECTED")
    assert call(salesforce, "PATCH", f"{LEAD}/K-2", ADA, headers=allow).status_code == 201
    salesforce.state.duplicate_rule = "block"
    assert error(call(salesforce, "PATCH", f"{LEAD}/K-3", ADA, headers=allow)) == (400, "DUPLICATES_DETECTED")
    assert len(salesforce.state.records["Lead"]) == 2


def batch(salesforce: Salesforce, *records: dict[str, Any], all_or_none: bool = False) -> list[dict[str, Any]]:
    typed = [{"attributes": {"type": "Lead"}, **record} for record in records]
    document = {"allOrNone": all_or_none, "records": typed}
    answer = call(salesforce, "PATCH", f"{DATA}/composite/sobjects/Lead/LeadKey__c", document)
    assert answer.status_code == 200
    return list(answer.json())


def test_a_collection_answers_200_whatever_became_of_its_records(salesforce):
    results = batch(salesforce, {"LeadKey__c": "1", **ADA}, {"LeadKey__c": "2"})
    assert [result["success"] for result in results] == [True, False]
    assert results[1]["errors"][0]["statusCode"] == "REQUIRED_FIELD_MISSING"
    assert len(salesforce.state.records["Lead"]) == 1


def test_an_ambiguous_key_fails_its_record(salesforce):
    for _ in range(2):
        salesforce.state.plant("Lead", {**ADA, "LeadKey__c": "1"})
    (result,) = batch(salesforce, {"LeadKey__c": "1", **ADA})
    assert result["errors"][0]["statusCode"] == "DUPLICATE_EXTERNAL_ID"


def test_all_or_none_rolls_back(salesforce):
    results = batch(salesforce, {"LeadKey__c": "1", **ADA}, {"LeadKey__c": "2"}, all_or_none=True)
    assert results[0]["errors"][0]["statusCode"] == "ALL_OR_NONE_OPERATION_ROLLED_BACK"
    assert salesforce.state.records["Lead"] == {}


@pytest.mark.parametrize("records", [[], [{"attributes": {"type": "Contact"}, "LeadKey__c": "1"}], [{}], ["x"]])
def test_a_collection_of_the_wrong_form_is_refused(salesforce, records):
    path = f"{DATA}/composite/sobjects/Lead/LeadKey__c"
    assert call(salesforce, "PATCH", path, {"records": records}).status_code == 400


def test_describe_tells_fields(salesforce):
    document = call(salesforce, "GET", f"{DATA}/sobjects/Lead/describe").json()
    fields = {each["name"]: each for each in document["fields"]}
    assert [name for name, each in fields.items() if each["externalId"]] == ["LeadKey__c"]
    assert (fields["LastName"]["nillable"], fields["LastName"]["length"]) == (False, 80)
    names = [each["name"] for each in call(salesforce, "GET", f"{DATA}/sobjects").json()["sobjects"]]
    assert names == ["Lead", "Contact", "Account", "Campaign", "CampaignMember", "Task"]


def test_who_and_how_much(salesforce):
    about = call(salesforce, "GET", "/services/oauth2/userinfo").json()
    assert (about["organization_id"][:5], about["preferred_username"]) == ("00D5e", "integration@acme.example")
    limits = call(salesforce, "GET", f"{DATA}/limits")
    assert limits.json() == {"DailyApiRequests": {"Max": 100_000, "Remaining": 99_998}}
    assert limits.headers["sforce-limit-info"] == "api-usage=2/100000"


def test_versions_need_no_credentials_and_all_else_does(salesforce):
    assert requests.get(salesforce.url + "/services/data/", timeout=10).status_code == 200
    assert error(call(salesforce, "PATCH", f"{LEAD}/1", ADA, token="x")) == (401, "INVALID_SESSION_ID")
    assert error(call(salesforce, "GET", "/services/oauth2/userinfo", token="")) == (401, "INVALID_SESSION_ID")


def test_the_limit_of_requests(salesforce):
    salesforce.limit(1, 60)
    first, second = (call(salesforce, "GET", f"{DATA}/sobjects") for _ in range(2))
    assert first.headers["sforce-limit-info"] == "api-usage=1/1"
    assert error(second) == (403, "REQUEST_LIMIT_EXCEEDED")


@pytest.mark.parametrize(
    ("fault", "status"), [("UNABLE_TO_LOCK_ROW", 400), ("API_DISABLED_FOR_ORG", 403), ("REQUEST_LIMIT_EXCEEDED", 403)]
)
def test_troubles(salesforce, fault, status):
    salesforce.fail_next(fault)
    assert error(upsert(salesforce, **ADA)) == (status, fault)
    assert salesforce.state.records["Lead"] == {}
