"""The request that would be sent, shown without sending it and without opening a credential.

A provider is asked to build the request with made-up credentials, twice. What differs between the two was made from
credentials, a signature as well as a token, and is masked; the rest is exact.
"""

import json
import secrets
import uuid
from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Any

from connections import providers
from connections.conversation import Redactor, shipment_of
from connections.models import Connection
from connections.providers.base import Provider, Unsendable
from delivery.models import Rule
from delivery.rules import routing
from delivery.rules.patterns import pattern_matches
from delivery.rules.routing import EVALUATION_LIMIT, CompiledRule, Fact
from meshes.kit import clock, ids
from meshes.kit.strictjson import pointer
from workspaces.vault.secret import MASK, Secret


def render(connection: Connection, *, event_id: uuid.UUID, **delivery: Any) -> dict[str, Any]:
    """`{method, url, headers: [[name, value], …], body, omitted_fields}` of what would be delivered.

    `delivery` is what `shipment_of` is told of it: `delivery_id`, `event_type`, `body` (JSON text: the mapping's, or
    the payload as received), `action`, and `frozen`, `attempt_number` and `replay` where it is not a first attempt.
    Raises Unsendable where the provider cannot express it.
    """
    provider = providers.get(connection.type)
    told = delivery | {"event_id": event_id, "occurred_at": ids.created_at(event_id), "now": clock.now()}
    first, second = (
        provider.prepare(shipment_of(provider, connection.config, _made_up(provider, connection), **told))
        for _ in range(2)
    )
    headers = zip(first.headers, second.headers, strict=True)
    return {
        "method": first.method,
        "url": _common(first.url, second.url) if first.url != second.url else Redactor({}).url(first.url),
        "headers": [[name, _masked(value, other)] for (name, value), (_, other) in headers],
        "body": _common(first.body.decode("utf-8", "replace"), second.body.decode("utf-8", "replace")),
        "omitted_fields": first.omitted_fields(Redactor({}).text),
    }


def try_render(connection: Connection, **delivery: Any) -> dict[str, Any]:
    """`{"request": …, "error": ""}`; where the provider cannot express it, no request and the reason."""
    try:
        return {"request": render(connection, **delivery), "error": ""}
    except Unsendable as error:
        return {"request": None, "error": error.words}


def try_rule(rule: Rule, event_id: uuid.UUID, event_type: str, payload: Any, payload_text: str) -> dict[str, Any]:
    """What a rule makes of an event, as fan-out would: `{matched, reason, detail, clause, request}`.

    `reason` says why it does not match, or why nothing could be sent. Sends and stores nothing, opens no credential.
    """
    trial: dict[str, Any] = {"matched": False, "clause": None, "request": None}
    if not pattern_matches(rule.event, event_type):
        return trial | {"reason": "event", "detail": f"The rule is for {rule.event}."}
    fact = Fact(event_id, rule.workspace_id, event_type, payload_text)
    entry, made = routing.evaluate_one(fact, CompiledRule(rule), routing.current(rule.workspace_id), payload)
    result = entry["result"]
    if result == "filtered":
        return trial | {"reason": "filter", "detail": "A clause of the filter failed.", "clause": entry["clause"]}
    trial["matched"] = result != EVALUATION_LIMIT
    if result in (EVALUATION_LIMIT, "mapping_failed"):
        return trial | {"reason": result, "detail": entry["reason"]}
    shown = try_render(
        rule.connection,
        delivery_id=routing.delivery_id(event_id, rule.pk),
        event_id=event_id,
        event_type=event_type,
        body=(made.body if made else None) or payload_text,
        action=rule.action,
    )
    reason = "unsendable" if shown["error"] else ""
    return trial | {"reason": reason, "detail": shown["error"], "request": shown["request"]}


def _made_up(provider: Provider, connection: Connection) -> dict[str, Any]:
    """Credentials of the same names as the connection's, which open nothing. One without any is shown with all."""
    made_up = dict(provider.make_secrets())
    examples = {declared.key: declared.example for declared in provider.credential_fields}
    for key in connection.credential_hints or examples:
        if key not in made_up:
            digits = (secrets.choice("0123456789abcdef") if sign == "#" else sign for sign in examples.get(key, ""))
            made_up[key] = "".join(digits) or secrets.token_urlsafe(24)
    return {key: Secret(value) if isinstance(value, str) else value for key, value in made_up.items()}


def _masked(value: str, other: str) -> str:
    """The value of a header, its scheme kept where it is masked: `Bearer ••••`."""
    scheme, space, _ = value.partition(" ")
    kept = f"{scheme} " if space and other.startswith(f"{scheme} ") else ""
    return value if value == other else f"{kept}{MASK}"


def _common(text: str, other: str) -> str:
    """The text with everything between the first and the last difference masked."""
    if text == other:
        return text
    shortest = min(len(text), len(other))
    start = next((place for place in range(shortest) if text[place] != other[place]), shortest)
    end = next((place for place in range(shortest - start) if text[-1 - place] != other[-1 - place]), shortest - start)
    return text[:start] + MASK + (text[-end:] if end else "")


# --- how two bodies differ ------------------------------------------------------------------------------------------

_MISSING = object()


def differences(before: str, after: str, most: int) -> list[dict[str, Any]]:
    """The first places in which two JSON texts differ, in document order: `{pointer, before?, after?}`.

    A value that is not in one of them is left out of its entry. Objects are compared by name and arrays by index; the
    cost is linear in the texts. Numbers that are equal are the same however they are written.
    """
    return list(islice(_compare("", json.loads(before), json.loads(after)), most))


def _compare(place: str, before: Any, after: Any) -> Iterator[dict[str, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from _compare(place + pointer(name), before.get(name, _MISSING), after.get(name, _MISSING))
    elif isinstance(before, list) and isinstance(after, list):
        for index, (one, other) in enumerate(zip_longest(before, after, fillvalue=_MISSING)):
            yield from _compare(f"{place}/{index}", one, other)
    elif before != after or isinstance(before, bool) != isinstance(after, bool):
        shown = {"before": before, "after": after}
        yield {"pointer": place} | {side: value for side, value in shown.items() if value is not _MISSING}
