"""What a provider that is right never sends, each server refuses or loses as its vendor does."""

import pytest

from meshes.dev.vendors.registry import VENDORS
from tests.meshes.dev.vendors.calling import basic, call

HUBSPOT = "/crm/objects/2026-09/contacts/batch/upsert"
LEAD = "/services/data/v67.0/sobjects/Lead/LeadKey__c/K-1"
MEMBER = "/3.0/lists/a1b2c3d4e5/members/ada@acme.example"
ADA = "ada@acme.example"
INTERCOM = {"accept": "application/json", "intercom-version": "2.16"}
KLAVIYO = {"content-type": "application/vnd.api+json", "revision": "2026-10-15"}
EVENTS = {"api_key": "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0"}
STRICT = basic("mixpanelProjectToken")
WEBHOOK = "/api/webhooks/1234567890123456789/discordWebhookToken"
FLOW = "/powerautomate/automations/direct/workflows/0f1e2d3c4b5a/triggers/manual/paths/invoke?sig="


def row(**properties: object) -> dict[str, object]:
    return {"inputs": [{"id": ADA, "idProperty": "email", "properties": properties}]}


def profile(**attributes: object) -> dict[str, object]:
    return {"data": {"type": "profile", "attributes": attributes}}


REFUSED = [
    ("hubspot", "POST", HUBSPOT, {}, {"inputs": []}, 400, "inputs must hold 1 to 100 rows"),
    ("hubspot", "POST", HUBSPOT, {}, row(firstname=1), 400, "properties must be an object of strings"),
    ("hubspot", "POST", HUBSPOT, {}, row(shoe_size="39"), 207, "PROPERTY_DOESNT_EXIST"),
    ("hubspot", "POST", HUBSPOT, {}, row(email="ada"), 207, "INVALID_EMAIL"),
    ("hubspot", "POST", HUBSPOT, {}, row(lifecyclestage="friend"), 207, "INVALID_OPTION"),
    ("hubspot", "PUT", "/crm/v3/lists/12/memberships/add", {}, ["101"], 400, "DYNAMIC cannot be changed"),
    ("hubspot", "PUT", "/crm/v3/lists/13/memberships/add", {}, ["101"], 404, "OBJECT_NOT_FOUND"),
    ("hubspot", "POST", "/crm/v3/objects/notes", {}, {"properties": {}}, 400, "hs_timestamp is required"),
    ("salesforce", "PATCH", LEAD, {}, {"LastName": "Lovelace"}, 400, "REQUIRED_FIELD_MISSING"),
    ("salesforce", "PATCH", LEAD, {}, {"LastName": "x" * 81, "Company": "x"}, 400, "STRING_TOO_LONG"),
    ("salesforce", "PATCH", LEAD, {}, {"LastName": 7, "Company": "x"}, 400, "JSON_PARSER_ERROR"),
    ("salesforce", "PATCH", LEAD, {}, {"Email": "ada", "LastName": "x"}, 400, "INVALID_EMAIL_ADDRESS"),
    ("salesforce", "PATCH", LEAD, {}, {"Shoe": "39"}, 400, "INVALID_FIELD"),
    ("salesforce", "PATCH", LEAD, {}, {"LeadKey__c": "K-1"}, 400, "should not be specified"),
    ("salesforce", "PATCH", LEAD.replace("v67", "v30"), {}, {}, 410, "GONE"),
    ("mailchimp", "PUT", MEMBER, {}, {"email_address": "ada", "status": "subscribed"}, 400, "valid email address"),
    ("mailchimp", "PUT", MEMBER, {}, {"email_address": ADA, "status": "friend"}, 400, "Value must be one of"),
    ("mailchimp", "POST", MEMBER + "/tags", {}, {"tags": []}, 404, "Resource Not Found"),
    ("intercom", "GET", "/me", {}, None, 404, "version 1.4"),
    ("intercom", "POST", "/contacts", INTERCOM, {"email": "ada"}, 400, "email is invalid"),
    ("intercom", "POST", "/contacts", INTERCOM, {"email": ADA, "shoe": 39}, 400, "shoe is not a field"),
    ("intercom", "POST", "/events", INTERCOM, {"event_name": "x", "created_at": "now"}, 400, "parameter_invalid"),
    ("pipedrive", "POST", "/api/v2/persons", {}, {"emails": []}, 400, "name is a required field"),
    ("pipedrive", "POST", "/api/v2/persons", {}, {"name": "Ada", "emails": [ADA]}, 400, "objects with value"),
    ("slack", "POST", "/api/chat.postMessage", {}, {"channel": "C0LEADS"}, 200, "no_text"),
    ("slack", "POST", "/api/chat.postMessage", {}, {"channel": "C0OLD", "text": "x"}, 200, "is_archived"),
    ("slack", "POST", "/services/T0ACME/B0WEBHOOK/no", {}, {"text": "x"}, 403, "invalid_token"),
    ("klaviyo", "POST", "/api/profile-import", {}, profile(email=ADA), 400, "revision"),
    ("klaviyo", "POST", "/api/profile-import", KLAVIYO, profile(email="ada"), 400, "Invalid email address"),
    ("klaviyo", "POST", "/api/profile-import", KLAVIYO, profile(phone_number="0171"), 400, "Not E.164"),
    (
        "resend",
        "POST",
        "/emails",
        {},
        {"from": "a@other.example", "to": ADA, "subject": "x", "text": "x"},
        403,
        "verified",
    ),
    ("amplitude", "POST", "/2/httpapi", {}, EVENTS, 400, "missing_field"),
    ("amplitude", "POST", "/2/httpapi", {}, EVENTS | {"events": [{"user_id": "u"}]}, 400, "invalid_id_lengths"),
    ("mixpanel", "POST", "/import?strict=1", STRICT, [{"event": "x", "properties": {}}], 400, "properties.time"),
    ("discord", "POST", WEBHOOK, {}, {"content": "x" * 2001}, 400, "BASE_TYPE_MAX_LENGTH"),
    ("discord", "POST", WEBHOOK, {}, {}, 400, "Cannot send an empty message"),
    ("teams", "POST", FLOW + "wrong", {}, {}, 401, "DirectApiAuthorizationRequired"),
]


@pytest.mark.parametrize(("slug", "method", "path", "headers", "document", "status", "told"), REFUSED)
def test_what_the_vendor_refuses_is_refused_in_its_form(slug, method, path, headers, document, status, told):
    with VENDORS[slug]() as server:
        answer = call(server, method, path, document, headers=headers)
        assert answer.status_code == status, answer.text
        assert told in answer.text


@pytest.mark.parametrize(
    ("slug", "path", "document"),
    [
        ("segment", "/v1/track", {"writeKey": "segmentWriteKey", "userId": "u-1"}),
        ("posthog", "/i/v0/e/", {"api_key": "phc_developer", "event": "x", "distinct_id": "u", "uuid": "no"}),
        ("ga4", "/mp/collect?measurement_id=G-DEVELOPER1&api_secret=ga4ApiSecret",
         {"client_id": "1.2", "events": [{"name": "ga_x"}]}),
    ],
)  # fmt: skip
def test_what_a_silent_vendor_loses_is_lost(slug, path, document):
    with VENDORS[slug]() as server:
        assert call(server, "POST", path, document).status_code < 300
        assert (len(server.state.lost), server.state.events) == (1, [])
