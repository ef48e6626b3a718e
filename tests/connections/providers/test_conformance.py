"""What every provider must hold, whichever are installed."""

import re
from importlib import import_module

import pytest
from django.conf import settings

from connections import providers
from connections.messages import ConnectFailed, ConnectionLost, DeadlineExceeded, RefusedAddress, Response, TlsFailed
from connections.providers.base import InvalidFields, Outcome, Provider
from tests.connections.providers.shipments import as_secrets, shipment

CANARY = "canary-9f3c"
ALL = providers.all()
ACTIONS = [(provider, action) for provider in ALL for action in provider.actions]
KEY = re.compile(r"[a-z][a-z0-9_]*")


def example_config(provider: Provider) -> dict:
    examples = {"url": "https://example.com/x", "integer": 1, "number": 1.0, "boolean": True, "headers": {"X-A": "b"}}
    return provider.clean_config(
        {
            field.key: field.options[0] if field.options else examples.get(field.type, "example")
            for field in provider.config_fields
            if field.required or field.type == "headers"
        }
    )


def example_shipment(provider: Provider, action: str):
    credentials = {field.key: f"{CANARY}-{field.key}" for field in provider.credential_fields} | provider.make_secrets()
    config = example_config(provider)
    return shipment(
        action=action,
        config=config,
        frozen=provider.frozen_config(config),
        credentials=as_secrets(credentials),
    )


@pytest.mark.parametrize("path", settings.MESHES_PROVIDERS)
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
    first, second = (example_shipment(provider, action.slug) for _ in range(2))
    sent = provider.prepare(first)
    assert provider.prepare(first) == sent
    assert first.config == second.config
    assert sent.method in {"GET", "POST", "PUT", "PATCH", "DELETE"}
    assert sent.url.startswith("https://")
    assert isinstance(sent.body, bytes)


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=lambda each: each.slug)
def test_no_secret_in_a_repr(provider, action):
    example = example_shipment(provider, action.slug)
    request = provider.prepare(example)
    assert CANARY not in f"{example!r} {example} {request!r} {request}"


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=lambda each: each.slug)
def test_classify_is_total(provider, action):
    bodies = (b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"ok":false}', b"<html>", b'{"errors":"x"}')
    for status in range(100, 600):
        for body in bodies:
            verdict = provider.classify(Response(status, (), body, False, 1), action.slug)
            assert verdict.outcome in Outcome
            assert (verdict.outcome == Outcome.DELIVERED) == (verdict.words == "")
            assert (verdict.hold is not None) == (verdict.outcome == Outcome.BROKEN)
    for error in (ConnectFailed("w"), TlsFailed("w"), RefusedAddress("w"), ConnectionLost("w", sent=True)):
        assert provider.classify(error, action.slug).outcome != Outcome.DELIVERED
    assert provider.classify(DeadlineExceeded("w", sent=True), action.slug).outcome == Outcome.UNCERTAIN


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_the_catalogue_says_what_is_declared(provider):
    described = provider.describe()
    assert described["type"] == provider.slug
    assert [field["key"] for field in described["config_fields"]] == [field.key for field in provider.config_fields]
    assert [action["slug"] for action in described["actions"]] == [action.slug for action in provider.actions]
