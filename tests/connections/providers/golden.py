"""What every provider makes of a kept corpus of inputs, against which `test_golden.py` compares.

`golden.json` holds, for each provider, calls of its methods with what they gave, and bodies of answers with what every
judge of the provider says of them at every status that a vendor uses. Results are digests, but for the short ones: a
failing test prints what is given now. Where a change is meant, `.venv/bin/python -m tests.connections.providers.golden`
writes them anew, and the diff names the calls and bodies concerned.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from connections import messages, providers
from connections.messages import Request, Response
from connections.providers.base import Exchange, InvalidFields, Unsendable
from tests.connections.providers.shipments import shipment
from workspaces.vault.secret import Secret

FILE = Path(__file__).with_name("golden.json")
STATUSES = (*range(100, 104), *range(200, 209), 226, *range(300, 309), *range(400, 432), 451, 460, 477, 498, 499,
            *range(500, 512), *range(520, 531), 598, 599)  # fmt: skip
LOST: Mapping[str, messages.OutboundError] = {
    "unresolved": messages.NetworkError("unresolved", "w"), "dns_timeout": messages.NetworkError("dns_timeout", "w"),
    "unreachable": messages.NetworkError("unreachable", "w"), "tls": messages.NetworkError("tls", "w"),
    "timeout": messages.NetworkError("timeout", "w", sent=True), "unsent": messages.NetworkError("timeout", "w"),
    "lost": messages.NetworkError("connection_lost", "w", sent=True),
    "too_large": messages.NetworkError("response_too_large", "w", sent=True),
    "refused": messages.RequestRefusedError("address_refused", "w"),
    "invalid": messages.RequestRefusedError("invalid_request", "w"), "ours": messages.LocalError("w"),
}  # fmt: skip
DATE = ("date", "Wed, 04 Mar 2026 05:06:07 GMT")
HEADERS: tuple[tuple[tuple[str, str], ...], ...] = (
    *(((name, wait),) for name in ("Retry-After", "retry-after") for wait in ("0", "7", " 90 ", "100000", "1.5", "x")),
    (("retry-after", "Wed, 04 Mar 2026 06:06:07 GMT"), DATE),
    *(
        ((f"{prefix}remaining", left), *reset, DATE)
        for prefix in ("ratelimit-", "x-ratelimit-")
        for left in ("0", "0.0", "1", "x")
        for reset in (
            (), *(((f"{prefix}{name}", wait),) for name in ("reset", "reset-after")
                  for wait in ("0", "5", "0.5", "x", "1772600777", "99999999999")),
        )
    ),
    *(
        ((f"x-hubspot-ratelimit-{name}", left), *interval)
        for name in ("remaining", "daily-remaining") for left in ("0", "1")
        for interval in ((), *((("x-hubspot-ratelimit-interval-milliseconds", wait),) for wait in ("0", "2000", "x")))
    ),
    *((("Sforce-Limit-Info", f"api-usage={usage}"),) for usage in ("1/2", "2/2", "3/2", "x", "2/2; per-app=1/9")),
)  # fmt: skip
GRANT: Mapping[str, Any] = {
    "hub_id": 4711, "hub_domain": "acme.example", "team": {"id": "T1", "name": "Acme"}, "api_domain": "https://a.example",
    "id": "https://login.salesforce.com/id/00D1/0051/", "instance_url": "https://acme.my.salesforce.com",
    "dc": "us21", "app": {"id_code": "app1", "name": "Acme", "region": "EU"},
}  # fmt: skip
"""What the vendors' replies to an authorization say, all in one; each provider reads what is its own."""


def plain(value: Any) -> Any:
    """What a method gave as JSON: of requests all their parts; of other values what they say beside their defaults."""
    match value:
        case Request():
            headers = [": ".join(pair) for pair in value.headers]
            return {value.method: [value.url, headers, text_of(value.body), [list(pair) for pair in value.omitted]]}
        case Enum():
            return value.value
        case None | str() | bool() | int() | float():
            return value
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    if hasattr(value, "reveal"):
        return {"secret": value.reveal()}
    assert is_dataclass(value), type(value).__name__
    said = {each.name: getattr(value, each.name) for each in fields(value) if each.default != getattr(value, each.name)}
    return plain(said)


def text_of(body: bytes) -> str:
    """A body as text; in base64 where it is none."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(body).decode()


def answer_of(status: int, text: str, *headers: tuple[str, str], truncated: bool = False) -> Response:
    body = base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode()
    return Response(status, headers, body, truncated, 1)


def revived(value: Any, parts: list[Any]) -> Any:
    """An argument of a kept call; shipments and exchanges name their places in `parts`."""
    match value:
        case {"shipment": place, **others} if not others:
            return shipment(**{key: revived(parts[each], parts) for key, each in parts[place].items()})
        case {"answer": [status, headers, body], **others} if not others:
            return answer_of(status, body, *((name, text) for name, text in headers))
        case {"exchange": place, **others} if not others:
            method, url, response = parts[place]
            return Exchange(Request(method, url), revived(response, parts))
        case {"secret": text, **others} if not others:
            return Secret(text)
        case {"moment": text, **others} if not others:
            return datetime.fromisoformat(text)
        case dict():
            return {key: revived(item, parts) for key, item in value.items()}
        case list():
            return [revived(item, parts) for item in value]
    return value


def result(call: Callable[..., Any], *arguments: Any) -> Any:
    """What is given; how it refuses."""
    try:
        return plain(call(*arguments))
    except (Unsendable, InvalidFields, KeyError) as refusal:
        return {"raised": getattr(refusal, "words", None) or str(refusal)}


def called(provider: Any, kept: list[Any], parts: list[Any]) -> Any:
    """What a kept call gives now: `[method, arguments, result]`, and the provider's state where it has one."""
    method, arguments, _, *state = kept
    with mock.patch.multiple(provider, **{"override": "", "public_url": "", **(state[0] if state else {})}):
        return result(getattr(provider, method), *(revived(each, parts) for each in arguments))


def short(given: Any) -> Any:
    """What is kept of a result: itself, or its digest where that is shorter."""
    text = text_of_result(given)
    return given if len(text) <= 12 else digest(text)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def judged(provider: Any, bodies: list[str]) -> Iterator[tuple[str, list[Any]]]:
    """What the provider says, by name: of every body at every status, and of what has no body."""
    judges: dict[str, Callable[[Any], Any]] = {
        f"classify {action.slug}": partial(classified, provider, action.slug) for action in provider.actions
    }
    judges |= {"classify_test": provider.classify_test, "classify_options": provider.classify_options}
    first = next(iter(judges.values()))
    for text in bodies:
        for name, judge in {**judges, "is_unauthorized": provider.is_unauthorized}.items():
            yield f"{name} by body", [result(judge, answer_of(status, text)) for status in STATUSES]
        for field in provider.live_options:
            yield f"options_cursor {field} by body", [result(provider.options_cursor, field, answer_of(200, text))]
    for name, judge in judges.items():
        yield f"{name} of errors", [result(judge, error) for error in LOST.values()]
        cut = [answer_of(status, text, truncated=True) for status in (200, 400, 500) for text in ("{", "<a", "[")]
        yield f"{name} of cut answers", [result(judge, answer) for answer in cut]
    answers = [answer_of(status, "{}", *headers) for headers in HEADERS for status in (200, 400, 429, 500)]
    yield "classify by headers", [result(first, answer) for answer in answers]
    yield from declared(provider)


def classified(provider: Any, action: str, answer: Any) -> Any:
    return provider.classify(answer, action)


def declared(provider: Any) -> Iterator[tuple[str, list[Any]]]:
    """What needs no answer."""
    calls = [Request(method, "https://a.example" + path) for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
             for path in ("/x", "/contacts/search", "/contacts/batch/upsert")]  # fmt: skip
    yield "may_repeat", [
        [request.method, request.url, action.slug, provider.may_repeat(action.slug, request)]
        for request in calls for action in provider.actions
    ]  # fmt: skip
    odd = {key: [value] for key, value in GRANT.items()}
    yield "read_grant", [
        result(provider.read_grant, reply, details)
        for reply in ({}, GRANT, odd) for details in ({}, GRANT, odd, {"app": {"id_code": "a", "region": "Mars"}})
    ]  # fmt: skip
    yield "declaration", [
        plain(provider.describe()), asdict(provider.oauth) if provider.oauth else None, dict(provider.base_urls),
        [field.key for field in provider.host_fields], provider.answer_bytes,
    ]  # fmt: skip


def text_of_result(given: Any) -> str:
    return json.dumps(given, sort_keys=True, default=sorted)


def write(golden: Mapping[str, Any]) -> None:
    """What the providers make of the corpus now, a call a line."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    pieces = []
    for slug, kept in golden.items():
        provider, parts = providers.get(slug), kept["parts"]
        calls = [[call[0], call[1], short(called(provider, call, parts)), *call[3:]] for call in kept["calls"]]
        names: dict[str, list[str]] = {}
        for name, given in judged(provider, kept["bodies"]):
            names.setdefault(name, []).append(digest(text_of_result(given)))
        judgements = {name: " ".join(values) for name, values in names.items()}
        lists = {"parts": parts, "bodies": kept["bodies"], "calls": calls}
        written = [f'"{key}":[\n' + ",\n".join(map(line, values)) + "\n]" for key, values in lists.items()]
        pieces.append(f'"{slug}":{{{",".join(written)},"judged":{line(judgements)}}}')
    FILE.write_text("{" + ",\n".join(pieces) + "}\n")


if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshes.settings")
    django.setup()
    write(json.loads(FILE.read_text()))
