"""What every provider must hold, whichever are installed."""

import contextlib
import json
import re
from dataclasses import replace
from importlib import import_module
from urllib.parse import urlsplit

import pytest
from django.conf import settings as django_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from connections import providers
from connections.conversation import Redactor
from connections.management.commands import write_integration_docs
from connections.management.commands.write_integration_docs import FOLDER
from connections.messages import NetworkError, Request, RequestRefusedError, Response, check_request, parse_url
from connections.providers.base import Action, Choice, Exchange, InvalidFields, Outcome, Provider, Unsendable, Verdict
from connections.providers.vendor import Vendor
from delivery.rules.transforms import ShapingError
from meshes.kit.strictjson import split_path
from tests.connections.providers.exchanges import shaped
from tests.connections.providers.shipments import as_secrets, shipment

ALL = providers.all()
ACTIONS = [(provider, action) for provider in ALL for action in provider.actions]
KEY = re.compile(r"[a-z][a-z0-9_]*")
VALUES = {
    "any": "example",
    "string": "example",
    "number": 1,
    "boolean": True,
    "object": {"a": "example"},
    "array": [{"type": "example"}],
}

BODIES = (
    b"", b"{}", b"[]", b"null", b"1", b"\xff\xfe", b'{"ok":false}', b"<html>", b'{"errors":"x"}', b'{"errors":[1]}',
    b'{"error":{"code":[]}}', b'[{"errorCode":7}]', b"[" * 50_000, b'{"data":{"items":[1]},"results":[1],"lists":[1]}',
    b'{"data":[{"id":{}}],"app":[],"fields":[[]],"tags":{}}', b'{"data":[{"id":"../x"}],"results":[{"id":"1/.."}]}',
)  # fmt: skip
"""Answers that no vendor's documentation shows."""

ODD = "a\x00\ud800" + "b" * 5000
ODD_BODIES = tuple(
    json.dumps(document).encode()
    for document in (
        {"ok": False, "error": ODD, "needed": ODD}, {"success": False, "errors": [{"statusCode": ODD, "message": ODD}]},
        {"numErrors": 1, "errors": [{"category": ODD, "message": ODD, "code": ODD}]}, [{"errorCode": ODD}],
        {"data": [{"code": ODD, "id": ODD}], "code": ODD, "category": ODD, "name": ODD, "message": ODD},
        {"results": [{"id": ODD}], "lists": [{"listId": ODD, "name": ODD}], "tags": [{"name": ODD}], "portalId": ODD},
        {"data": {"items": [{"item": {"id": ODD, "primary_email": "ada@example.com"}}]}, "team_id": ODD, "team": ODD},
    )
)  # fmt: skip
"""Answers whose texts PostgreSQL does not store, UTF-8 does not write, or nobody would read to the end."""


def example_of(field) -> object:
    types = {"url": "https://example.com/x", "integer": 1, "number": 1.0, "boolean": True, "headers": {"X-A": "b"}}
    return field.example.replace("#", "7") or types.get(field.type) or "example"


def example_config(provider: Provider) -> dict:
    return provider.clean_config(
        {
            field.key: field.options[0] if field.options else example_of(field)
            for field in provider.config_fields
            if field.required or field.example or field.type == "headers"
        }
    )


def example_credentials(provider: Provider) -> dict[str, str]:
    """Of every field, each with a part of its own to look for."""
    given = {}
    for number, field in enumerate(provider.credential_fields):
        digit = "0123456789abcdef"[number]
        given[field.key] = field.example.replace("#", digit) or f"canary-{field.key}-9f3c"
    return given | {key: value for key, value in provider.make_secrets().items() if isinstance(value, str)}


def example_body(action: Action) -> str:
    body: dict = {}
    for field in action.fields:
        *path, last = split_path(field.key)
        place = body
        for name in path:
            place = place.setdefault(name, {})
        email = "ada@example.com" if last in ("email", "to") else VALUES[field.type]
        place[last] = field.example or email
    return json.dumps(body or {"email": "ada@example.com"})


def example_shipment(provider: Provider, action: Action):
    config = example_config(provider)
    return shipment(
        action=action.slug,
        config=config,
        frozen=provider.frozen_config(config),
        body=example_body(action),
        credentials=as_secrets({**provider.make_secrets(), **example_credentials(provider)}),
    )


@pytest.mark.parametrize("path", django_settings.MESHES_PROVIDERS)
def test_the_slug_is_the_file_s_name(path):
    assert import_module(path).PROVIDER.slug == path.rpartition(".")[2]


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_the_declaration_is_complete(provider):
    assert provider.name
    assert provider.description
    assert provider.test
    assert provider.actions
    fields = [*provider.config_fields, *provider.credential_fields]
    keys = [field.key for field in fields]
    assert len(set(keys)) == len(keys)
    assert all(KEY.fullmatch(key) for key in keys)
    assert all(field.label for field in fields)
    assert all((field.type == "select") == bool(field.options) for field in fields)
    assert all(field.default is None or field.default in (field.options or [field.default]) for field in fields)
    assert all(re.compile(field.pattern) for field in fields)


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_secrets_are_credentials_and_only_those(provider):
    assert not any(field.sensitive or field.generated for field in provider.config_fields)
    assert all(field.sensitive for field in provider.credential_fields)
    made = {key for key, value in provider.make_secrets().items() if isinstance(value, str)}
    assert made == {field.key for field in provider.credential_fields if field.generated}


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_unknown_fields_are_refused(provider):
    for clean, root in ((provider.clean_config, "/config"), (provider.clean_credentials, "/credentials")):
        with pytest.raises(InvalidFields) as caught:
            clean({"no_such_field": 1})
        assert (f"{root}/no_such_field", "unknown_field") in {(p.pointer, p.rule) for p in caught.value.problems}


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=lambda each: each.slug)
def test_build_request_is_pure(provider, action):
    example = example_shipment(provider, action)
    sent = provider.prepare(example)
    assert provider.prepare(example) == sent
    later = provider.prepare(replace(example, attempt_number=3))
    assert (later.method, later.url, later.body) == (sent.method, sent.url, sent.body)
    assert sent.method in {"GET", "POST", "PUT", "PATCH", "DELETE"}
    assert sent.url.startswith("https://")
    assert isinstance(sent.body, bytes)


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=lambda each: each.slug)
def test_no_secret_is_seen_in_a_repr_or_in_what_is_recorded(provider, action):
    example = example_shipment(provider, action)
    request = provider.prepare(example)
    redactor = Redactor(example.credentials, request)
    recorded = f"{redactor.url(request.url)} {redactor.headers(request.headers)} {redactor.body(request.body)!r}"
    for secret in example_credentials(provider).values():
        assert secret not in f"{example!r} {example} {request!r} {request}"
        assert secret not in recorded


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_examples_are_what_the_patterns_take(provider):
    for field in (*provider.config_fields, *provider.credential_fields):
        if field.example:
            assert re.fullmatch(field.pattern or ".*", field.example.replace("#", "7")), field.key


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_every_action_declares_fields_that_a_mapping_can_name(provider):
    for action in provider.actions:
        keys = [field.key for field in action.fields]
        assert len(set(keys)) == len(keys)
        assert all(split_path(key) for key in keys)
        assert len(action.steps) != 1


NAMED = [each for each in ACTIONS if {"First name", "Last name", "Name"} & {field.label for field in each[1].fields}]


@pytest.mark.parametrize(("provider", "action"), NAMED, ids=lambda each: each.slug)
def test_a_lead_s_name_arrives_in_one_piece_or_in_two(provider, action):
    ada = {"email": "ada@example.com", "company": "Engines", "phone": "+15550100", "object": "Lead", "list_id": "1"}
    whole = shaped(provider, action.slug, {**ada, "name": "Ada Lovelace"})
    parts = shaped(provider, action.slug, {**ada, "first_name": "Ada", "last_name": "Lovelace"})
    assert "Ada Lovelace" in flat(whole)
    assert {"Ada", "Lovelace"} <= flat(parts) or "Ada Lovelace" in flat(parts)
    assert "ada@example.com" in flat(whole)


def flat(document: object) -> set[object]:
    """Every value in a document, however deep."""
    if isinstance(document, dict | list):
        values = document.values() if isinstance(document, dict) else document
        return set().union(*map(flat, values))
    return {document}


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=lambda each: each.slug)
def test_classify_is_total(provider, action):
    for status in range(100, 600):
        for body in BODIES:
            verdict = provider.classify(Response(status, (), body, False, 1), action.slug)
            assert verdict.outcome in Outcome
            assert (verdict.outcome == Outcome.DELIVERED) == (verdict.words == "")
            assert (verdict.hold is not None) == (verdict.outcome == Outcome.BROKEN)
    for error in (
        NetworkError("unreachable", "w"),
        NetworkError("tls", "w"),
        RequestRefusedError("address_refused", "w"),
        NetworkError("connection_lost", "w", sent=True),
    ):
        assert provider.classify(error, action.slug).outcome != Outcome.DELIVERED
    assert provider.classify(NetworkError("timeout", "w", sent=True), action.slug).outcome == Outcome.UNCERTAIN


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=lambda each: each.slug)
def test_what_a_vendor_says_can_be_stored(provider, action):
    for status in (200, 207, 400, 401, 403, 404, 409, 429, 500):
        for body in ODD_BODIES:
            answer = Response(status, (), body, False, 1)
            assert_storable(provider.classify(answer, action.slug).words)
            account = provider.read_account(answer)
            assert_storable(account.id[:500] + account.name[:500] if account else "")


@pytest.mark.parametrize("provider", [each for each in ALL if isinstance(each, Vendor)], ids=lambda each: each.slug)
def test_words_say_what_is_wrong_and_then_what_to_do(provider):
    by_status = [
        provider.classify(Response(status, (), b"", False, 1), provider.actions[0].slug) for status in range(300, 600)
    ]
    for verdict in (*by_status, *provider.answers.values()):
        if verdict.outcome in (Outcome.REJECTED, Outcome.BROKEN):
            assert len(re.split(r"[.:;] ", verdict.words)) > 1, verdict.words


def assert_storable(text: str) -> None:
    assert "\x00" not in text
    assert len(text.encode()) <= 1500


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=lambda each: each.slug)
def test_whatever_a_call_is_answered_the_next_is_one_that_can_be_sent(provider, action):
    example = example_shipment(provider, action)
    first = provider.prepare(example)
    for status in (200, 201, 202, 204, 207, 400, 404, 409, 410, 500):
        for body in (*BODIES, *ODD_BODIES):
            try:
                following = provider.follow(example, [Exchange(first, Response(status, (), body, False, 1))])
            except Unsendable:
                continue
            assert following is None or isinstance(following, Request | Verdict)
            if isinstance(following, Request):
                assert_sendable(following)


HOSTS = {
    "amplitude": {"us": "api2.amplitude.com", "eu": "api.eu.amplitude.com"},
    "customerio": {"us": "track.customer.io", "eu": "track-eu.customer.io"},
    "ga4": {"global": "www.google-analytics.com", "eu": "region1.google-analytics.com"},
    "hubspot": {"": "api.hubapi.com"},
    "intercom": {"us": "api.intercom.io", "eu": "api.eu.intercom.io", "au": "api.au.intercom.io"},
    "klaviyo": {"": "a.klaviyo.com"},
    "mixpanel": {"us": "api.mixpanel.com", "eu": "api-eu.mixpanel.com", "in": "api-in.mixpanel.com"},
    "pipedrive": {"": "api.pipedrive.com"},
    "posthog": {"us": "us.i.posthog.com", "eu": "eu.i.posthog.com"},
    "resend": {"": "api.resend.com"},
    "segment": {"us": "api.segment.io", "eu": "events.eu1.segmentapis.com"},
    "slack": {"": "slack.com"},
    "zoho": {"": "www.zohoapis.com"},
}
"""Where the vendors say that they are reached. Others' hosts stand in the config or a credential."""


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_every_region_has_the_host_that_the_vendor_names(provider):
    hosts = {region: urlsplit(url).hostname for region, url in provider.base_urls.items()}
    assert hosts == HOSTS.get(provider.slug, {})
    regions = [field.options for field in provider.config_fields if field.key == "region"]
    assert regions == ([tuple(hosts)] if len(hosts) > 1 else [])
    regional = provider.oauth.regional_hosts if provider.oauth else {}
    assert set(regional) <= set(hosts)
    assert set(regional) == (set(hosts) - {"us"} if provider.oauth and len(hosts) > 1 else set())


def prepared(provider: Provider, action: Action, **fields: object) -> object:
    """The request, or the words with which it is refused."""
    example = example_shipment(provider, action)
    try:
        return provider.prepare(replace(example, body=json.dumps({**json.loads(example.body), **fields})))
    except Unsendable as refusal:
        return refusal.words


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_accounts_and_choices_are_read_or_refused(provider):
    for body in BODIES:
        answer = Response(200, (), body, False, 1)
        account = provider.read_account(answer)
        assert account is None or account.id
        for field in provider.live_options:
            with contextlib.suppress(Unsendable):
                assert all(isinstance(choice, Choice) for choice in provider.read_options(field, answer))


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=lambda each: each.slug)
def test_the_client_takes_what_is_sent_as_it_is(provider, action):
    example = example_shipment(provider, action)
    assert_sendable(provider.prepare(example))
    for field in provider.live_options:
        assert_sendable(provider.build_options(field, example))
    if test := provider.build_test(example):
        assert_sendable(test)


def assert_sendable(request: Request) -> None:
    check_request(request)
    assert parse_url(request.url).url == request.url
    assert not {".", ".."} & set(request.url.split("?")[0].split("/"))


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_the_catalogue_says_what_is_declared(provider):
    described = provider.describe()
    assert described["type"] == provider.slug
    assert [field["key"] for field in described["config_fields"]] == [field.key for field in provider.config_fields]
    assert [action["slug"] for action in described["actions"]] == [action.slug for action in provider.actions]


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_the_documentation_is_what_is_declared(provider):
    assert (FOLDER / f"{provider.slug}.md").read_text() == write_integration_docs.render_page(provider)


def test_the_index_of_the_documentation_names_all():
    assert (FOLDER / "README.md").read_text() == write_integration_docs.render_index(ALL)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
VALUES_OF_ANY_KIND = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("provider", "action"), [each for each in ACTIONS if each[1].fields], ids=lambda each: each.slug
)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_whatever_a_mapping_makes_is_sent_in_its_types_or_refused_in_words(provider, action, data):
    fields = {
        field.key: data.draw(VALUES_OF_ANY_KIND, field.key)
        for field in action.fields
        if data.draw(st.booleans(), "given")
    }
    made = prepared(provider, action, **fields)
    assert isinstance(made, Request) or made
    if isinstance(made, Request):
        assert_sendable(made)


@pytest.mark.parametrize(
    ("provider", "action"), [each for each in ACTIONS if each[1].fields], ids=lambda each: each.slug
)
@settings(deadline=None, max_examples=20)
@given(payload=st.fixed_dictionaries({}, optional=dict.fromkeys(
    ("email", "phone", "name", "first_name", "last_name", "company", "user_id", "client_id", "value", "currency"),
    VALUES_OF_ANY_KIND,
)))  # fmt: skip
def test_whatever_a_payload_holds_the_default_mapping_is_sent_or_refused_in_words(provider, action, payload):
    own = [{"to": field.key, "value": "1"} for field in action.fields if field.required and not field.source]
    with contextlib.suppress(ShapingError, Unsendable):
        fields = shaped(provider, action.slug, payload, own)
        assert_sendable(provider.prepare(replace(example_shipment(provider, action), body=json.dumps(fields))))
