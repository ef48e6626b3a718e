"""Which config fields have a part in where requests go: exactly those that a provider's description names."""

import base64
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connections import providers
from connections.credentials import moved
from connections.messages import Request, RequestRefusedError, Response, parse_url
from connections.oauth import tokens
from connections.oauth.tokens import NoTokenError
from connections.providers.base import Action, Exchange, Field, InvalidFields, Provider, Shipment, Unsendable
from tests.connections.providers.shipments import shipment
from tests.connections.providers.test_conformance import (
    ACTIONS,
    ALL,
    VALUES_OF_ANY_KIND,
    example_body,
    example_config,
    example_credentials,
)
from workspaces.vault.secret import Secret

TEXTS = (
    "us", "eu", "us9", "us21", "1", "example", "evil.example.net", "https://evil.example.net", "https://a.pipedrive.com",
    "https://other.pipedrive.com/x", "https://other.my.salesforce.com", "https://b.example.com:8443/hook", "A@evil.net",
    "other.my.salesforce.com", "test.salesforce.com", "accounts.zoho.eu", "/../..", "?x", "#x", "@evil.example.net",
    "G-9Z", "9ZABCD", "0123456789abcdef01234567",
)  # fmt: skip
"""Values of texts; those that a field takes are tried, and ten more that its pattern makes."""


def config_of(provider: Provider, **changed: Any) -> dict[str, Any]:
    return provider.clean_config({**example_config(provider), **changed})


def calls(provider: Provider, config: dict[str, Any], credentials: dict[str, Any]) -> Iterator[tuple[str, Request]]:
    """Every request that can be made with this config and these credentials, and what it is for."""
    for action in provider.actions:
        sent = shipped(provider, action, config, credentials)
        builds = {f"action {action.slug}": provider.prepare, "test": provider.build_test}
        builds |= {f"options {name}": partial(provider.build_options, name) for name in provider.live_options}
        for purpose, build in builds.items():
            with contextlib.suppress(Unsendable, KeyError):
                if request := build(sent):
                    yield purpose, request
    oauth = provider.oauth
    if oauth is None:
        return
    for name in ("token_url", "authorize_url", "revoke_url", "details_url"):
        if url := getattr(oauth, name):
            with contextlib.suppress(NoTokenError):
                yield name, Request("POST", tokens.url_of(provider, url, config), ())
    if url := config.get(oauth.token_url_field):
        yield "own token_url", Request("POST", url, ())


def shipped(provider: Provider, action: Action, config: dict[str, Any], credentials: dict[str, Any]) -> Shipment:
    return shipment(
        action=action.slug,
        body=example_body(action),
        config=config,
        frozen=provider.frozen_config(config),
        credentials={key: Secret(value) if isinstance(value, str) else value for key, value in credentials.items()},
    )


def origin(url: str) -> str:
    target = parse_url(url)
    return f"{target.scheme}://{target.host}:{target.port}"


def destinations(provider: Provider, config: dict[str, Any]) -> dict[str, set[str]]:
    """By the purpose of a call, where it goes; with each credential by itself too."""
    found: dict[str, set[str]] = {}
    every = example_credentials(provider)
    for credentials in (every, *({key: value} for key, value in every.items())):
        made: dict[str, Any] = (
            {"signing_secret": every["signing_secret"], "previous": []} if "signing_secret" in every else {}
        )
        for purpose, request in calls(provider, config, credentials | made):
            found.setdefault(purpose, set()).add(origin(request.url))
    return found


def values_of(field: Field) -> list[Any]:
    match field.type:
        case "select":
            return list(field.options)
        case "boolean":
            return [True, False]
        case "integer" | "number":
            return [0, 1, 2, 443, 8443]
        case "headers":
            return [{"X-Forward": "https://evil.example.net"}, {"X-Region": "eu"}]
    drawn: list[str] = []
    if field.pattern:

        @settings(max_examples=10, database=None, deadline=None)
        @given(st.from_regex(field.pattern, fullmatch=True))
        def draw(text: str) -> None:
            drawn.append(text)

        draw()
    return [*TEXTS, *drawn]


def deciding(provider: Provider) -> set[str]:
    """The config fields with another value of which some call goes elsewhere: found out by trying."""
    found = set()
    for base in bases(provider):
        before = destinations(provider, base)
        for field in provider.config_fields:
            for value in values_of(field):
                with contextlib.suppress(InvalidFields, RequestRefusedError):  # the client refuses the latter
                    config = provider.clean_config({**base, field.key: value})
                    problems = provider.check(config, example_credentials(provider))
                    if any(problem.pointer == f"/config/{field.key}" for problem in problems):
                        continue
                    after = destinations(provider, config)
                    if any(after[purpose] != before[purpose] for purpose in after.keys() & before.keys()):
                        found.add(field.key)
    return found


def bases(provider: Provider) -> list[dict[str, Any]]:
    """Configs to start from: with what has an example, and with all fields."""
    texts = {"url": "https://example.com/x", "string": "example"}
    more = {
        field.key: texts[field.type]
        for field in provider.config_fields
        if field.type in texts and not field.pattern and not field.example
    }
    with contextlib.suppress(InvalidFields):
        return [config_of(provider), config_of(provider, **more)]
    return [config_of(provider)]


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_the_fields_that_decide_where_requests_go_are_those_that_are_described_so(provider):
    assert deciding(provider) == {field.key for field in provider.host_fields}


class Careless(Provider):
    """Somebody's new provider: its host is made of a field that is not said to have a part in it."""

    slug, name, description, test = "careless", "Careless", "-", "-"
    config_fields = (Field("subdomain", "Subdomain", required=True, example="acme"),)
    credential_fields = (Field("token", "Token", sensitive=True),)
    actions = (Action("send", "Send", idempotent=True),)

    def build_request(self, shipment: Shipment) -> Request:
        headers = (("authorization", "Bearer " + shipment.credentials["token"].reveal()),)
        return Request("POST", f"https://{shipment.config['subdomain']}.careless.example/x", headers)


def test_a_provider_that_does_not_describe_its_host_s_field_is_found_out():
    assert Careless().host_fields == []
    assert deciding(Careless()) == {"subdomain"}


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.slug)
def test_no_credential_decides_where_another_one_goes(provider):
    """But for one that is a URL itself, and goes nowhere else."""
    for base in bases(provider):
        minimal = {key: value for key, value in base.items() if key not in {f.key for f in provider.host_fields}}
        for config in (base, minimal):
            given_ = {key: Secret(value) for key, value in example_credentials(provider).items()}
            for changed in (field for field in provider.credential_fields if not field.generated):
                for value in changing(changed):
                    carried = destinations_of_others(provider, config, given_, changed.key)
                    after = destinations_of_others(provider, config, given_ | {changed.key: Secret(value)}, changed.key)
                    assert after <= carried, (changed.key, value)


def changing(field: Field) -> list[str]:
    """Other values of a credential that its pattern takes."""
    drawn = [field.example.replace("#", "c")] if field.example else []
    drawn += [field.example.replace("#", "c").replace("us21", "us9")] if "us21" in field.example else []
    return drawn or ["other"]


def destinations_of_others(
    provider: Provider, config: dict[str, Any], credentials: dict[str, Secret], key: str
) -> set[tuple[str, str]]:
    """`(credential, origin)` for each credential but `key` that is in a request."""
    found = set()
    plain = {name: secret.reveal() for name, secret in credentials.items()}
    made: dict[str, Any] = {"previous": []} if "signing_secret" in plain else {}
    for _, request in calls(provider, config, {**plain, **made}):
        text = everything_in(request)
        found |= {(name, origin(request.url)) for name, value in plain.items() if name != key and value in text}
    return found


def everything_in(request: Request) -> str:
    """The request's text, what stands in Basic authentication too."""
    texts = [request.url, request.body.decode("utf-8", "replace")]
    for _, value in request.headers:
        texts.append(value)
        if value.startswith("Basic "):
            texts.append(base64.b64decode(value.removeprefix("Basic ")).decode())
    return "\n".join(texts)


@pytest.mark.parametrize(
    ("provider", "action"), [each for each in ACTIONS if each[1].fields], ids=lambda each: each.slug
)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_nothing_that_a_mapping_makes_decides_where_a_request_goes(provider, action, data):
    config, credentials = config_of(provider), example_credentials(provider)
    sent = shipped(provider, action, config, credentials)
    hostile = st.sampled_from(
        ["https://evil.example.net/", "//evil.example.net", "@evil.example.net", "..", "a/../../b"]
    )
    fields = {
        field.key: data.draw(hostile | VALUES_OF_ANY_KIND, field.key)
        for field in action.fields
        if data.draw(st.booleans(), "given")
    }
    whole = json.loads(sent.body) | fields
    with contextlib.suppress(Unsendable):
        assert origin(provider.prepare(replace(sent, body=json.dumps(whole))).url) == origin(provider.prepare(sent).url)


HOSTILE = "https://evil.example.net/x"
ANSWERS = [
    json.dumps(document).encode()
    for document in (
        {
            "id": HOSTILE,
            "url": HOSTILE,
            "next": HOSTILE,
            "links": {"self": HOSTILE, "next": HOSTILE},
            "paging": {"next": HOSTILE},
        },
        {"results": [{"id": HOSTILE, "url": HOSTILE}], "data": [{"id": HOSTILE, "links": {"self": HOSTILE}}]},
        {"data": {"id": HOSTILE, "items": [{"item": {"id": HOSTILE, "primary_email": "ada@example.com"}}]}},
    )
]


@pytest.mark.parametrize(("provider", "action"), ACTIONS, ids=lambda each: each.slug)
def test_no_answer_decides_where_the_next_call_goes(provider, action):
    sent = shipped(provider, action, config_of(provider), example_credentials(provider))
    first = provider.prepare(sent)
    for status in (200, 201, 202, 204, 404, 409):
        for body in ANSWERS:
            answer = Response(status, (("location", HOSTILE),), body, False, 1)
            with contextlib.suppress(Unsendable):
                following = provider.follow(sent, [Exchange(first, answer)])
                if isinstance(following, Request):
                    assert origin(following.url) == origin(first.url)
    for field in provider.live_options:
        with contextlib.suppress(Unsendable):
            page = provider.build_options(field, sent)
            for body in ANSWERS:
                cursor = provider.options_cursor(field, Response(200, (), body, False, 1))
                assert origin(provider.build_options(field, sent, cursor).url) == origin(page.url)


SAME = [
    "https://hooks.example.com/a", "https://HOOKS.Example.com/a", "https://hooks.example.com:443/b?c=d",
    "HTTPS://hooks.example.com./", "https://hooks.example.com#x", "https://hooks.example.com",
]  # fmt: skip
ELSEWHERE = [
    "http://hooks.example.com/a", "https://hooks.example.com:8443/a", "https://hooks.example.net/a",
    "https://example.com/a", "https://hooks.example.com.evil.net/a", "https://127.0.0.1/a", "https://[::1]/a",
    "https://hooks.example.com:80/", "https://hook\u0455.example.com/a",
]  # fmt: skip


@pytest.mark.parametrize("url", SAME)
def test_a_url_of_the_same_scheme_host_and_port_moves_nothing(url):
    assert moved(providers.get("webhook"), {"url": SAME[0]}, {"url": url}) == []
    assert moved(providers.get("webhook"), {"url": url}, {"url": SAME[0]}) == []


@pytest.mark.parametrize("url", ELSEWHERE)
def test_another_scheme_host_or_port_moves(url):
    assert moved(providers.get("webhook"), {"url": SAME[0]}, {"url": url}) == ["url"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://b\u00fccher.example/", "https://xn--bcher-kva.example/x"),
        ("https://[2001:db8::1]/", "https://[2001:DB8:0:0:0:0:0:1]:443/x"),
    ],
)
def test_names_and_addresses_are_the_same_in_each_of_their_spellings(one, other):
    assert moved(providers.get("webhook"), {"url": one}, {"url": other}) == []


def test_a_default_that_is_spelled_out_moves_nothing():
    assert moved(providers.get("amplitude"), {}, {"region": "us"}) == []
    assert moved(providers.get("amplitude"), {}, {"region": "eu"}) == ["region"]
    assert moved(providers.get("salesforce"), {}, {"login_host": "LOGIN.salesforce.com"}) == []
