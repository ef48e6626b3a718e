import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.mailchimp import Mailchimp
from tests.meshes.dev.vendors.calling import basic, call

LIST = "/3.0/lists/a1b2c3d4e5"
ADDRESS = "Ada@acme.example"
HASH = hashlib.md5(b"ada@acme.example", usedforsecurity=False).hexdigest()
MEMBER = f"{LIST}/members/{HASH}"


@pytest.fixture
def mailchimp() -> Iterator[Mailchimp]:
    with Mailchimp() as server:
        yield server


def audience(mailchimp: Mailchimp) -> Any:
    return mailchimp.state.audiences["a1b2c3d4e5"]


def put(mailchimp: Mailchimp, path: str = MEMBER, **given: Any) -> requests.Response:
    return call(mailchimp, "PUT", path, {"email_address": ADDRESS, **given})


def title(answer: requests.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json; charset=utf-8"
    assert answer.json()["status"] == answer.status_code
    return answer.status_code, answer.json()["title"]


def test_a_member_is_added_and_then_updated(mailchimp):
    first = put(mailchimp, status_if_new="subscribed", merge_fields={"FNAME": "Ada", "UNKNOWN": "x"})
    second = put(mailchimp, status_if_new="pending", merge_fields={"LNAME": "Lovelace"})
    assert (first.status_code, second.status_code) == (200, 200)
    assert (second.json()["id"], second.json()["status"]) == (HASH, "subscribed")
    assert second.json()["contact_id"] == first.json()["contact_id"]
    assert audience(mailchimp).members[HASH]["merge_fields"] == {"FNAME": "Ada", "LNAME": "Lovelace"}


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, "status_if_new"),
        ({"status_if_new": "happy"}, "status_if_new"),
        ({"status_if_new": "subscribed", "email_address": "no address"}, "email_address"),
        ({"status_if_new": "subscribed", "email_address": None}, "email_address"),
        ({"status_if_new": "subscribed", "merge_fields": []}, "merge_fields"),
    ],
)
def test_a_wrong_new_member_is_refused(mailchimp, given, wrong):
    answer = put(mailchimp, **given)
    assert title(answer) == (400, "Invalid Resource")
    assert [error["field"] for error in answer.json()["errors"]] == [wrong]
    assert audience(mailchimp).members == {}


def test_a_status_subscribes_again_who_has_opted_out(mailchimp):
    put(mailchimp, status_if_new="subscribed")
    put(mailchimp, status="unsubscribed")
    put(mailchimp, status_if_new="subscribed")
    assert audience(mailchimp).members[HASH]["history"] == ["subscribed", "unsubscribed"]
    put(mailchimp, status="subscribed")
    assert audience(mailchimp).members[HASH]["history"] == ["subscribed", "unsubscribed", "subscribed"]


def test_a_member_can_be_asked_for(mailchimp):
    put(mailchimp, status_if_new="subscribed")
    assert call(mailchimp, "GET", f"{LIST}/members/ada@ACME.example").json()["id"] == HASH
    assert title(put(mailchimp, status="happy")) == (400, "Invalid Resource")


def test_a_required_merge_field_can_be_skipped(mailchimp):
    audience(mailchimp).merge_fields["FNAME"] = True
    assert title(put(mailchimp, status_if_new="subscribed")) == (400, "Invalid Resource")
    assert put(mailchimp, f"{MEMBER}?skip_merge_validation=true", status_if_new="subscribed").status_code == 200


def test_who_was_forgotten_cannot_come_back(mailchimp):
    audience(mailchimp).forgotten.append("ada@acme.example")
    assert title(put(mailchimp, status_if_new="subscribed")) == (400, "Forgotten Email Not Subscribed")


def test_who_bounced_is_in_a_compliance_state(mailchimp):
    put(mailchimp, status_if_new="cleaned")
    assert title(put(mailchimp, status="subscribed")) == (400, "Member In Compliance State")
    assert put(mailchimp, status="pending").json()["status"] == "pending"


def test_the_hash_must_be_of_the_address_in_lower_case(mailchimp):
    wrong = hashlib.md5(ADDRESS.encode(), usedforsecurity=False).hexdigest()
    put(mailchimp, status_if_new="subscribed")
    assert title(put(mailchimp, f"{LIST}/members/{wrong}", status_if_new="subscribed")) == (400, "Member Exists")
    assert len(audience(mailchimp).members) == 1


def test_a_member_can_change_the_address_unless_another_has_it(mailchimp):
    put(mailchimp, status_if_new="subscribed")
    put(mailchimp, f"{LIST}/members/bob@acme.example", email_address="bob@acme.example", status_if_new="subscribed")
    assert title(put(mailchimp, email_address="bob@acme.example")) == (400, "Member Exists")
    moved = put(mailchimp, email_address="countess@acme.example").json()
    assert moved["id"] == hashlib.md5(b"countess@acme.example", usedforsecurity=False).hexdigest()
    assert HASH not in audience(mailchimp).members


def test_tags_are_set_apart(mailchimp):
    put(mailchimp, status_if_new="subscribed", tags=["Ignored"])
    tags = [{"name": "Lead", "status": "active"}, {"name": "Hot", "status": "active"}]
    answer = call(mailchimp, "POST", f"{MEMBER}/tags", {"tags": tags})
    assert (answer.status_code, answer.content) == (204, b"")
    call(mailchimp, "POST", f"{MEMBER}/tags", {"tags": [{"name": "Lead", "status": "inactive"}]})
    assert audience(mailchimp).members[HASH]["tags"] == ["Hot"]
    found = call(mailchimp, "GET", f"{LIST}/tag-search?name=h").json()["tags"]
    assert [tag["name"] for tag in found] == ["Hot"]


def test_tags_and_events_need_a_member(mailchimp):
    assert title(call(mailchimp, "POST", f"{MEMBER}/tags", {"tags": []})) == (404, "Resource Not Found")
    assert title(call(mailchimp, "POST", f"{MEMBER}/events", {"name": "x"})) == (404, "Resource Not Found")


@pytest.mark.parametrize("tags", [None, "Lead", ["Lead"], [{"name": "Lead"}], [{"name": "Lead", "status": "on"}]])
def test_wrong_tags_are_refused(mailchimp, tags):
    put(mailchimp, status_if_new="subscribed")
    assert title(call(mailchimp, "POST", f"{MEMBER}/tags", {"tags": tags})) == (400, "Invalid Resource")
    assert audience(mailchimp).members[HASH]["tags"] == []


def test_events_are_kept(mailchimp):
    put(mailchimp, status_if_new="subscribed")
    event = {"name": "lead.created", "properties": {"source": "web"}}
    assert call(mailchimp, "POST", f"{MEMBER}/events", event).status_code == 204
    assert audience(mailchimp).members[HASH]["events"] == [event]
    for wrong in ({"name": "x"}, {"name": "x" * 31}, {"name": "ok", "properties": {"n": 1}}):
        assert title(call(mailchimp, "POST", f"{MEMBER}/events", wrong)) == (400, "Invalid Resource")


def test_a_post_creates_with_tags_and_only_once(mailchimp):
    given = {"email_address": ADDRESS, "status": "subscribed", "tags": ["Lead"]}
    assert call(mailchimp, "POST", f"{LIST}/members", given).status_code == 200
    assert audience(mailchimp).members[HASH]["tags"] == ["Lead"]
    assert title(call(mailchimp, "POST", f"{LIST}/members", given)) == (400, "Member Exists")


def test_a_batch_tells_of_each_row(mailchimp):
    put(mailchimp, status_if_new="subscribed")
    rows = [
        {"email_address": ADDRESS, "merge_fields": {"FNAME": "Ada"}},
        {"email_address": "bob@acme.example", "status": "subscribed"},
        {"email_address": "no address"},
    ]
    document = call(mailchimp, "POST", LIST, {"members": rows, "update_existing": True}).json()
    assert [len(document[name]) for name in ("new_members", "updated_members", "errors")] == [1, 1, 1]
    kept = call(mailchimp, "POST", LIST, {"members": rows[:1]}).json()
    assert kept["errors"][0]["error_code"] == "Member Exists"
    assert title(call(mailchimp, "POST", LIST, {"members": rows * 200})) == (400, "Invalid Resource")


def test_a_key_is_basic_authentication_of_anybody(mailchimp):
    answer = requests.get(mailchimp.url + "/3.0/ping", headers=basic("anybody", mailchimp.token), timeout=10)
    assert answer.json() == {"health_status": "Everything's Chimpy!"}
    wrong = requests.get(mailchimp.url + "/3.0/ping", headers=basic("anybody", "x-us21"), timeout=10)
    assert title(wrong) == (401, "API Key Invalid")


def test_the_account_and_its_audiences(mailchimp):
    assert call(mailchimp, "GET", "/3.0/").json()["account_id"] == mailchimp.account
    lists = call(mailchimp, "GET", "/3.0/lists?count=1000").json()["lists"]
    assert [each["name"] for each in lists] == ["Newsletter", "Product news"]
    assert title(call(mailchimp, "GET", "/3.0/lists/nope/tag-search")) == (404, "Resource Not Found")


def test_throttling_may_be_a_403_that_is_no_json(mailchimp):
    mailchimp.fail_next("THROTTLED")
    answer = put(mailchimp, status_if_new="subscribed")
    assert (answer.status_code, answer.headers["content-type"]) == (403, "text/html")
    mailchimp.limit(0, 60)
    answer = put(mailchimp, status_if_new="subscribed")
    assert title(answer) == (429, "Too Many Requests")
    assert "retry-after" not in answer.headers
