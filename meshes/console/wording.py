"""The routing ledger and the causes of deliveries in words."""

import json
from collections.abc import Mapping
from typing import Any

_OPERATORS = {
    "$eq": "equal to",
    "$neq": "different from",
    "$gt": "greater than",
    "$gte": "at least",
    "$lt": "less than",
    "$lte": "at most",
    "$in": "one of",
    "$nin": "none of",
    "$startsWith": "a text that starts with",
    "$endsWith": "a text that ends with",
    "$contains": "something that contains",
    "$regex": "a text that matches",
    "$or": "one of",
    "$not": "not",
}
_SHOWN_RAW = {"$in", "$nin", "$or", "$not", "$regex"}
"""Their operands are stored as JSON text, or are patterns: quoting them again would only obscure them."""

_CAUSES = {
    "exhausted": "Every attempt of its schedule has failed.",
    "rejected": "The destination will never take this payload.",
    "uncertain": "It may have arrived, and its action must not be done twice.",
    "our_fault": "An error in Meshes itself has ended its attempts.",
    "poison": "It has lost five workers.",
    "mapping_failed": "The rule's mapping could not shape the event.",
    "evaluation_limit": "The rule's filter or mapping needs more work on the event than one rule may take.",
    "worker_lost": "The worker of its last attempt was lost.",
    "key_missing": "The key that opens the connection's credentials is not among FERNET_KEYS.",
    "paused": "The connection is paused.",
    "disabled": "The connection is disabled.",
    "needs_reauth": "The connection needs new credentials.",
    "credential_error": "The vault does not open the connection's credentials.",
    "connection_deleted": "The connection was deleted.",
    "workspace_deleted": "The workspace was deleted.",
    "cancelled_by_user": "Somebody cancelled it.",
    "replaced": "A new delivery stands in its place.",
    "erased": "The event's payload was erased.",
    "filtered": "The rule's filter does not match the event.",
    "expired": "The event became older than the retention period.",
}


_SET_ASIDE = {
    "workers_lost": "It has lost five workers, and is more likely the cause than a victim.",
    "refused": "PostgreSQL refuses what its rules make of it, while other events pass.",
    "timeout": "Writing what its rules make of it takes too long, while other events pass.",
    "error": "An error in Meshes itself, while other events pass.",
    "": "The cause was not recorded: it was set aside by an older version.",
}


def why_not_routed(is_set_aside: bool, cause: str, detail: str) -> str:
    """Why an event is set aside, or what its last try failed with; empty where it only waits for its turn."""
    if is_set_aside:
        return f"{_SET_ASIDE.get(cause, cause)}{f' ({detail})' if detail else ''}"
    return f"Its last try failed: {detail}." if detail else ""


def clause(failed: Mapping[str, Any]) -> str:
    """The clause of a filter that an event did not match: `payload.score is 12, wanted: at least 50`."""
    path = failed.get("path") or "the event"
    operator = str(failed.get("operator", ""))
    expected, actual = failed.get("expected"), failed.get("actual")
    if operator == "$exist":
        return f"{path} is {'missing' if expected else 'there'}, wanted: {'anything' if expected else 'nothing'}"
    shown = _quoted(expected) if operator not in _SHOWN_RAW or not isinstance(expected, str) else expected
    wanted = f"wanted: {_OPERATORS.get(operator, operator)} {shown}"
    if operator in {"$or", "$not"} and not failed.get("found"):
        return wanted
    return f"{path} is {_quoted(actual) if failed.get('found') else 'missing'}, {wanted}"


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def ledger_entry(entry: Mapping[str, Any]) -> str:
    """What became of one rule, in a sentence."""
    match entry.get("result"):
        case "matched":
            return "Matched; a delivery was made."
        case "filtered":
            failed = entry.get("clause")
            return f"The filter did not match: {clause(failed)}." if failed else "The filter did not match."
        case "disabled":
            return "The rule, or its connection, was out of use."
        case "held":
            why = _CAUSES.get(str(entry.get("reason")), f"The connection was {_plain(entry.get('reason'))}.")
            return f"Matched; the delivery is held. {why}"
        case "evaluation_limit":
            return f"It was not decided whether the rule matches: {entry.get('reason', '')}"
        case "mapping_failed":
            return f"Matched, but the mapping failed: {entry.get('reason', '')}"
        case other:
            return str(entry.get("reason") or _plain(other))


def cause(code: str) -> str:
    """The cause of a delivery's state in a sentence; empty where the code says nothing more."""
    return _CAUSES.get(code, "")


def _plain(word: Any) -> str:
    return str(word or "unknown").replace("_", " ")
