"""Every request that a delivery of a payload makes, from the rule's mapping to the last call, as the vendor gets it."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from hypothesis import strategies as st

from connections import providers
from connections.messages import Request, Response
from connections.providers.base import Action, Exchange, Provider, Unsendable
from delivery.rules import mapping
from delivery.rules.transforms import ShapingError
from meshes.dev.vendors.server import VendorServer
from tests.connections.providers.exchanges import EVENT
from tests.connections.providers.shipments import as_secrets, shipment
from tests.connections.providers.test_at_vendors import CONFIGS, OWN, credentials_of

CONFIG = CONFIGS | {
    "salesforce": {"external_id_field": "LeadKey__c", "instance_url": "https://acme.my.salesforce.com"},
    "zoho": {"api_domain": "https://www.zohoapis.eu"},
    "mailchimp": {"list_id": "a1b2c3d4e5", "dc": "us21"},
}


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as the vendor gets it. `wanted` is what the customer asked for and the URL must show: its region."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    wanted: dict[str, str] = field(default_factory=dict)

    @property
    def document(self) -> Any:
        return json.loads(self.body) if self.body else None

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


TEXTS = st.sampled_from(
    ["Ada", " Ada ", "", "Łukasz", "O'Hara", "[Verify](https://evil.example)", "a\nb", "<b>x</b>", "x" * 300]
)
EMAILS = st.sampled_from(["ada@example.com", " nia@example.com ", "ADA@EXAMPLE.COM", "", "not an address"])
PHONES = st.one_of(
    st.sampled_from(["+15551234567", "+1 555 123 4567", "(555) 123-4567", "0171 2345678", "", "none"]),
    st.integers(10**9, 10**11),
)
KEYS = st.one_of(
    st.sampled_from(["user-1", " user-1 ", "", "42", "true", "null"]), st.integers(0, 10**12), st.booleans()
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(-1e6, 1e6), st.text(max_size=120)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=45), inner, max_size=4),
    max_leaves=8,
)
USUAL = {
    "email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace", "company": "Analytical Engines",
    "phone": "+15551234567", "user_id": "user-4711", "client_id": "123.456",
}  # fmt: skip
ODD: Any = st.fixed_dictionaries(
    {},
    optional={
        "email": EMAILS, "first_name": TEXTS, "last_name": TEXTS, "name": TEXTS, "company": TEXTS, "phone": PHONES,
        "user_id": KEYS, "anonymous_id": KEYS, "device_id": KEYS, "client_id": st.sampled_from(["123.456", "", "7"]),
        "session_id": KEYS, "source": TEXTS, "value": st.one_of(st.integers(0, 999), st.text(max_size=5)),
        "currency": st.sampled_from(["EUR", "USD", ""]),
        "items": st.lists(st.fixed_dictionaries({"item_id": TEXTS}), max_size=3),
        "interests": st.lists(st.sampled_from(["A", "B", "C"]), max_size=3), "extra": VALUES,
    },
)  # fmt: skip
LEADS = ODD.flatmap(lambda odd: st.integers(0, 6).map(lambda few: USUAL | dict(list(odd.items())[:few])))
"""Payloads of leads as forms, CRMs and people write them: blanks, spaces, numbers for texts, markup, other scripts."""
OPEN = {"resend": "reply_to", "klaviyo": "title"}
"""A field that an action with open fields takes beside its own, where customers have no names of their own."""
EVENT_TYPES = st.sampled_from(
    ["lead.created", "purchase", "x", "session_start", "a" * 31, "lead.score_changed", "page_view", "generate_lead"]
)


def mappings(slug: str, action: Action) -> st.SearchStrategy[list[dict[str, Any]]]:
    """A rule's own entries for fields of an action; what the action needs and no payload has is always mapped."""
    sources = ["email", "phone", "user_id", "name", "company", "value", "interests", "extra", "items"]
    entry = st.builds(
        lambda to, source, transforms: {"to": to, "from": f"payload.{source}", "on_error": "skip", **transforms},
        st.sampled_from([each.key for each in action.fields] + ([OPEN.get(slug, "custom")] if action.is_open else [])),
        st.sampled_from(sources),
        st.sampled_from([{}, {"transforms": ["to_string"]}, {"transforms": ["trim"]}, {"transforms": ["to_number"]}]),
    )
    return st.lists(entry, max_size=2, unique_by=lambda each: each["to"])


def sent(
    server: VendorServer[Any], action: Action, payload: Any, own: list[dict[str, Any]], event: str, region: str
) -> Iterator[Sent]:
    """The requests of one delivery, in order; none where the mapping or the provider refuses it with words.

    The server on loopback answers in the vendor's place, so that an action of several calls goes on to its end.
    """
    provider = providers.get(server.slug)
    fixed: Any = OWN.get((server.slug, action.slug), {})
    entries = [{"to": key, "value": value} for key, value in fixed.items()]
    entries += [entry for entry in own if entry["to"] not in {each["to"] for each in entries}]
    if mapping.field_mistakes(action, entries):
        return
    config = provider.clean_config(CONFIG.get(server.slug, {}) | ({"region": region} if region else {}))
    context = {"event": {**EVENT, "type": event}, "payload": payload, "workspace": {"id": "ws_1"}}
    with suppress(ShapingError, Unsendable):
        body = mapping.compile_mapping(mapping.complete(action, entries) or []).apply(context)
        shipping = shipment(
            action=action.slug,
            body=json.dumps(body),
            event_type=event,
            config=config,
            frozen=provider.frozen_config(config),
            credentials=as_secrets(credentials_of(server)),
        )
        exchanges: list[Exchange] = []
        following: object = provider.prepare(shipping)
        while isinstance(following, Request):
            yield as_sent(following, region)
            exchanges.append(Exchange(following, _answer(server, following)))
            following = provider.follow(shipping, exchanges)


def regions(provider: Provider) -> list[str]:
    """The regions that a connection can be in; an empty one where the vendor has none."""
    return next((list(each.options) for each in provider.config_fields if each.key == "region"), [""])


def as_sent(request: Request, region: str = "") -> Sent:
    headers = {name.lower(): value for name, value in request.headers}
    return Sent(request.method, request.url, headers, request.body, {"region": region} if region else {})


def _answer(server: VendorServer[Any], request: Request) -> Response:
    parts = urlsplit(request.url)
    url = server.url + urlunsplit(("", "", parts.path, parts.query, ""))
    answer = requests.request(request.method, url, data=request.body, headers=dict(request.headers), timeout=30)
    return Response(answer.status_code, tuple(answer.headers.items()), answer.content, False, 1)
