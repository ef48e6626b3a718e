"""Google Analytics 4, Measurement Protocol (developers.google.com): it never refuses; the debug endpoint tells."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Malformed
from meshes.dev.vendors.server import VendorServer, route

MAX_EVENTS, MAX_PARAMS, MAX_NAME, MAX_VALUE = 25, 25, 40, 100
MAX_BODY = 130_000
MAX_AGE_SECONDS = 72 * 3600
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_RESERVED = ("firebase_", "ga_", "google_")


@dataclass
class Stream:
    """`events` hold their `client_id` beside name and params."""

    events: list[dict[str, Any]] = field(default_factory=list)


class GA4(VendorServer[Stream]):
    """An account is a measurement id, opened by an API secret. `lost` are bodies that got a 204 and went nowhere."""

    slug, account, developer_token = "ga4", "G-DEVELOPER1", "ga4ApiSecret"

    def __init__(self, token: str = "", port: int = 0) -> None:
        super().__init__(token, port)
        self.lost: list[bytes] = []

    def new_account(self, account: str) -> Stream:
        return Stream()

    @route("POST", "/mp/collect", "url")
    def collect(self, call: Call) -> Answer:
        stream = call.query.get("measurement_id", "")
        is_own = bool(stream) and self.tokens.get(call.query.get("api_secret", "")) == stream
        document = _document(call)
        if not is_own or len(call.body) > MAX_BODY or list(self._problems(document)):
            self.lost.append(call.body)
        else:
            client = {"client_id": document["client_id"]}
            self.account_state(stream).events += [{**client, **event} for event in document["events"]]
        return Answer(204)

    @route("POST", "/debug/mp/collect", "url")
    def debug(self, call: Call) -> Answer:
        """Checks neither the secret nor the stream, and stores nothing."""
        messages = [
            {"fieldPath": path, "description": words, "validationCode": code}
            for path, words, code in self._problems(_document(call))
        ]
        return Answer.of({"validationMessages": messages})

    def _problems(self, document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
        """Path, words and code of what is wrong."""
        events, moment = document.get("events"), document.get("timestamp_micros")
        if not document.get("client_id"):
            yield "client_id", "Measurement requires a client_id.", "VALUE_REQUIRED"
        if not isinstance(events, list) or not 1 <= len(events) <= MAX_EVENTS:
            yield "events", f"Measurement requires 1 to {MAX_EVENTS} events.", "VALUE_INVALID"
            return
        if moment is not None and self.clock() - int(moment) / 1e6 > MAX_AGE_SECONDS:
            yield "timestamp_micros", "The timestamp is more than 72 hours back.", "VALUE_OUT_OF_BOUNDS"
        for event in events:
            yield from _event_problems(event)


def _document(call: Call) -> dict[str, Any]:
    try:
        document = call.json()
    except Malformed:
        return {}
    return document if isinstance(document, dict) else {}


def _event_problems(event: Any) -> Iterator[tuple[str, str, str]]:
    name, params = (event.get("name"), event.get("params", {})) if isinstance(event, dict) else (None, {})
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield "events", f"Event name [{name}] must be 1 to 40 letters, digits or _.", "NAME_INVALID"
    elif name.startswith(_RESERVED):
        yield "events", f"Event name [{name}] has a reserved prefix.", "NAME_RESERVED"
    if not isinstance(params, dict) or len(params) > MAX_PARAMS:
        yield "events.params", f"An event takes at most {MAX_PARAMS} params.", "EXCEEDED_MAX_ENTITIES"
        return
    for key, value in params.items():
        if not _NAME.fullmatch(key):
            yield "events.params", f"Param name [{key}] must be 1 to {MAX_NAME} letters, digits or _.", "NAME_INVALID"
        if isinstance(value, bool | list | dict) or len(str(value)) > MAX_VALUE:
            yield "events.params", f"Param [{key}] must be a number or text up to {MAX_VALUE}.", "VALUE_INVALID"
