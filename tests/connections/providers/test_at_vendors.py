"""Every action of every provider, sent through the outbound client to a server that checks what the vendor checks."""

import json
from dataclasses import replace

import pytest

from connections import outbound, providers
from connections.messages import Request
from connections.providers.base import Exchange, Outcome
from delivery.rules import mapping
from meshes.dev.vendors.registry import VENDORS
from tests.connections.providers.shipments import as_secrets, shipment

LEAD = {
    "email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace", "company": "Analytical Engines",
    "phone": "+15550100", "user_id": "user-4711", "client_id": "123.456",
}  # fmt: skip
CONTEXT = {
    "payload": LEAD,
    "event": {"id": "evt_01h455vb4pex5vsknk084sn02q", "type": "lead.created", "created_at": "2026-03-04T05:06:00Z"},
    "workspace": {"id": "ws_1", "external_id": "tenant_abc", "name": "ABC"},
}
CONFIGS = {
    "salesforce": {"external_id_field": "LeadKey__c"},
    "mailchimp": {"list_id": "a1b2c3d4e5"},
    "ga4": {"measurement_id": "G-DEVELOPER1"},
    "resend": {"sender": "Acme <hello@acme.example>"},
}
SECRETS = {
    "mailchimp": "api_key", "klaviyo": "api_key", "amplitude": "api_key", "posthog": "api_key", "resend": "api_key",
    "segment": "write_key", "mixpanel": "project_token", "ga4": "api_secret", "pipedrive": "api_token",
}  # fmt: skip
"""The credential that opens the account where it is not `access_token`."""
OWN = {
    ("hubspot", "add_to_list"): {"list_id": "11"},
    ("hubspot", "create_note"): {"note": "Called."},
    ("salesforce", "upsert_contact"): {"external_id_field": "ContactKey__c"},
    ("salesforce", "upsert_record"): {"object": "Account", "external_id_field": "AccountKey__c", "Name": "Engines"},
    ("mailchimp", "add_tags"): {"tags": ["Lead"]},
    ("intercom", "tag_contact"): {"tag_id": "7522907"},
    ("slack", "post_message"): {"channel": "C0LEADS"},
    ("resend", "send_email"): {"subject": "Welcome", "text": "Hello Ada"},
}
"""What a tenant maps beside the defaults."""
SILENT = {"segment", "ga4", "posthog"}
"""They answer 200 to any key, and what it should have opened never gets the event."""
UNTESTABLE = {"segment", "mixpanel", "amplitude", "posthog", "ga4", "teams"}


@pytest.fixture(params=sorted(VENDORS))
def vendor(request, settings, monkeypatch):
    settings.MESHES_OUTBOUND_ALLOW_NETS = ["127.0.0.0/8"]
    settings.MESHES_OUTBOUND_ALLOW_HTTP = True
    settings.MESHES_OUTBOUND_PORTS = "*"
    with VENDORS[request.param]() as server:
        monkeypatch.setattr(providers.get(server.slug), "override", server.url)
        yield server


def credentials_of(server):
    if server.slug == "customerio":
        site, _, key = server.token.partition(":")
        return {"site_id": site, "api_key": key}
    if server.slug in ("slack", "discord", "teams"):
        return {"webhook_url": server.webhook_url} | ({"access_token": server.token} if server.slug == "slack" else {})
    return {SECRETS.get(server.slug, "access_token"): server.token}


def shipment_for(server, action):
    provider = providers.get(server.slug)
    own = [{"to": key, "value": value} for key, value in OWN.get((server.slug, action.slug), {}).items()]
    assert mapping.field_mistakes(action, own) == []
    body = mapping.compile_mapping(mapping.complete(action, own)).apply(CONTEXT)
    config = provider.clean_config(CONFIGS.get(server.slug, {}))
    return shipment(
        action=action.slug,
        body=json.dumps(body),
        config=config,
        frozen=provider.frozen_config(config),
        credentials=as_secrets(provider.clean_credentials(credentials_of(server))),
    )


def deliver(provider, sending):
    """All calls of one attempt, and the verdict."""
    exchanges, following = [], provider.prepare(sending)
    while isinstance(following, Request):
        exchanges.append(Exchange(following, outbound.send(following, deadline_seconds=5)))
        following = provider.follow(sending, exchanges)
    last = exchanges[-1].response
    return following or provider.classify(last, sending.action), [each.response for each in exchanges]


def test_every_action_is_taken_by_the_vendor_and_twice_is_as_good(vendor):
    provider = providers.get(vendor.slug)
    for action in provider.actions:
        if vendor.slug == "intercom":
            vendor.index()  # else a new contact is not found for a while: below
        sending = shipment_for(vendor, action)
        for _ in range(2):
            verdict, answers = deliver(provider, sending)
            told = [(answer.status, answer.body[:300]) for answer in answers]
            assert verdict.outcome == Outcome.DELIVERED, (action.slug, verdict, told)


@pytest.mark.parametrize("vendor", ["intercom"], indirect=True)
def test_a_contact_too_new_to_be_found_is_updated_and_its_tag_waits(vendor):
    provider = providers.get(vendor.slug)
    upsert, tag = (shipment_for(vendor, provider.action(slug)) for slug in ("upsert_contact", "tag_contact"))
    assert [answer.status for answer in deliver(provider, upsert)[1]] == [200, 200]
    assert [answer.status for answer in deliver(provider, upsert)[1]] == [200, 409, 200]
    assert deliver(provider, tag)[0].outcome == Outcome.RETRY
    vendor.index()
    assert deliver(provider, tag)[0].outcome == Outcome.DELIVERED
    (contact,) = vendor.state.contacts
    assert vendor.state.tagged == {contact: ["7522907"]}


@pytest.mark.parametrize("vendor", ["salesforce"], indirect=True)
def test_a_duplicate_rule_that_alerts_lets_a_lead_pass_and_one_that_blocks_does_not(vendor):
    provider = providers.get(vendor.slug)
    lead = shipment_for(vendor, provider.action("upsert_lead"))
    vendor.state.plant("Lead", {"Email": LEAD["email"], "LastName": "Known"})
    vendor.state.duplicate_rule = "block"
    assert deliver(provider, lead)[0].error_class == "duplicate"
    vendor.state.duplicate_rule = "alert"
    assert deliver(provider, lead)[0].outcome == Outcome.DELIVERED
    assert len(vendor.state.matches("Lead", "Email", LEAD["email"])) == 2


@pytest.mark.parametrize("vendor", ["hubspot"], indirect=True)
def test_a_lead_with_a_key_of_its_own_and_a_known_email_updates_the_contact_that_has_it(vendor):
    provider = providers.get(vendor.slug)
    adding = shipment_for(vendor, provider.action("add_to_list"))
    vendor.state.write("contacts", None, {"email": LEAD["email"], "firstname": "A."})
    body = json.dumps({**json.loads(adding.body), "lead_key": "K-1"})
    keyed = replace(adding, body=body, frozen={"id_property": "lead_key"})
    verdict, answers = deliver(provider, keyed)
    assert (verdict.outcome, [answer.status for answer in answers]) == (Outcome.DELIVERED, [409, 200, 200])
    (key,) = vendor.state.contacts
    assert (vendor.state.contacts[key]["firstname"], vendor.state.contacts[key]["lead_key"]) == ("Ada", "K-1")
    assert vendor.state.lists["11"]["members"] == [key]
    assert [answer.status for answer in deliver(provider, keyed)[1]] == [200, 200]


@pytest.mark.parametrize("vendor", ["klaviyo"], indirect=True)
def test_a_profile_is_found_by_its_id_and_not_with_the_email_of_another(vendor):
    provider = providers.get(vendor.slug)
    sending = shipment_for(vendor, provider.action("upsert_profile"))
    key = vendor.state.write(None, {"email": "old@example.com"})
    with_id = replace(sending, body=json.dumps({"id": key, "email": "new@example.com"}))
    assert deliver(provider, with_id)[0].outcome == Outcome.DELIVERED
    assert vendor.state.profiles[key]["email"] == "new@example.com"
    vendor.state.write(None, {"email": "taken@example.com"})
    of_two = replace(sending, body=json.dumps({"id": key, "email": "taken@example.com"}))
    assert "two profiles" in deliver(provider, of_two)[0].words


def test_wrong_credentials_hold_the_connection_where_the_vendor_tells(vendor):
    provider = providers.get(vendor.slug)
    action = provider.action("post_message") if vendor.slug == "slack" else provider.actions[0]
    sending = shipment_for(vendor, action)
    vendor.revoke(vendor.token)
    verdict, answers = deliver(provider, sending)
    if vendor.slug in SILENT:
        assert verdict.outcome == Outcome.DELIVERED
    else:
        assert verdict.outcome == Outcome.BROKEN, (verdict, answers[-1].body)


def test_a_limit_rests_the_lane(vendor):
    provider = providers.get(vendor.slug)
    sending = shipment_for(vendor, provider.actions[0])
    vendor.limit(1, 30)
    verdict, answers = deliver(provider, sending)
    while verdict.outcome == Outcome.DELIVERED:
        assert len(vendor.requests) < 10
        verdict, answers = deliver(provider, sending)
    if vendor.slug == "ga4":  # Google asks not to send again what it did not take
        assert verdict.outcome == Outcome.REJECTED
    else:
        assert (verdict.outcome, verdict.throttled) == (Outcome.RETRY, True), (verdict, answers[-1].body)


def test_the_test_of_a_connection_passes_and_learns_the_account(vendor):
    provider = providers.get(vendor.slug)
    request = provider.build_test(shipment_for(vendor, provider.actions[-1]))
    assert (request is None) == (provider.slug in UNTESTABLE)
    if request is None:
        return
    answer = outbound.send(request, deadline_seconds=5)
    assert provider.classify_test(answer).outcome == Outcome.DELIVERED, answer.body
    account = provider.read_account(answer)
    assert account is None or account.id


@pytest.mark.parametrize(
    ("vendor", "field"),
    [(slug, field) for slug in sorted(VENDORS) for field in providers.get(slug).live_options],
    indirect=["vendor"],
)
def test_live_options_list_what_the_vendor_has(vendor, field):
    provider = providers.get(vendor.slug)
    request = provider.build_options(field, shipment_for(vendor, provider.actions[0]))
    answer = outbound.send(request, deadline_seconds=5)
    assert provider.classify_options(answer).outcome == Outcome.DELIVERED, answer.body
    choices = provider.read_options(field, answer)
    assert choices
    assert all(choice.value and choice.label for choice in choices)
