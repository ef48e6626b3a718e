"""Mixpanel's ingestion API (docs.mixpanel.com): `/import`, strict or not."""

import re
from collections.abc import Hashable
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, RefusedError, malformed
from meshes.dev.vendors.server import Events, VendorServer, route

MAX_EVENTS, MAX_BODY, MAX_PROPERTIES = 2000, 10 * 1024 * 1024, 254
PLACEHOLDERS = {"00000000-0000-0000-0000-000000000000", "anon", "anonymous", "nil", "none", "null", "n/a", "na",
                "undefined", "unknown", "true", "false", "0", "-1", "[object object]", "[]", "{}"}  # fmt: skip
_INSERT_ID = re.compile(r"[A-Za-z0-9-]{1,36}")


class Mixpanel(VendorServer[Events]):
    """An account is a project, opened by its token as the user of
    basic authentication. An event is stored once for each name, time, distinct_id and $insert_id."""

    slug, account, developer_token, new_account = "mixpanel", "3187531", "mixpanelProjectToken", Events

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"code": status, "error": message, "status": "error"}, status)

    def token_of(self, call: Call) -> str:
        user, secret = call.basic() or ("", "")
        return "" if secret else user

    @route("POST", "/import")
    def take(self, call: Call) -> Answer:
        events = _events(call)
        if len(events) > MAX_EVENTS:
            raise RefusedError(Answer.of({"code": 413, "error": "request exceeds max limit of 2000 events"}, 413))
        failed = []
        for index, event in enumerate(events):
            if wrong := _wrong_with(event):
                failed.append({"index": index, **wrong})
            else:
                self.state_of(call).store(event, _identity)
        stored = len(events) - len(failed)
        if failed and call.query.get("strict") == "1":
            said = {"code": 400, "error": "some data points in the request failed validation", "status": "Bad Request"}
            return Answer.of({**said, "failed_records": failed, "num_records_imported": stored}, 400)
        return Answer.of({"code": 200, "num_records_imported": stored, "status": "OK"})


def _events(call: Call) -> list[Any]:
    """Of a JSON array."""
    if len(call.body) > MAX_BODY:
        raise RefusedError(Answer.of({"code": 413, "error": "request exceeds max limit of 10485760 bytes"}, 413))
    if call.media_type != "application/json":
        raise RefusedError(Answer.of({"code": 400, "error": "unsupported content type"}, 400))
    events = call.json()
    if not isinstance(events, list):
        raise malformed("a JSON array of events is expected")
    return events


def _wrong_with(event: Any) -> dict[str, str] | None:
    """The field of an event that does not hold, and why, as a failed record tells it."""
    properties = event.get("properties") if isinstance(event, dict) else None
    if not isinstance(properties, dict):
        return {"insert_id": "", "field": "properties", "message": "properties is missing or not an object"}
    insert_id, person = str(properties.get("$insert_id", "")), properties.get("distinct_id")
    is_person = isinstance(person, str) and person.lower() not in PLACEHOLDERS
    rules = (
        ("event", isinstance(event.get("event"), str) and event["event"], "event name is missing or empty"),
        ("properties", len(properties) <= MAX_PROPERTIES, "event has more than 254 properties"),
        ("properties.time", type(properties.get("time")) in (int, float), "must be seconds or milliseconds"),
        ("properties.distinct_id", is_person, "must be a text, and no placeholder"),
        ("properties.$insert_id", _INSERT_ID.fullmatch(insert_id), "must be 1 to 36 alphanumerics or -"),
    )
    for name, holds, message in rules:
        if not holds:
            return {"insert_id": insert_id, "field": name, "message": f"'{name}' is invalid: {message}"}
    return None


def _identity(event: dict[str, Any]) -> Hashable:
    return event["event"], *(event["properties"][name] for name in ("time", "distinct_id", "$insert_id"))
