"""Amplitude's HTTP V2 API (amplitude.com/docs)."""

from collections.abc import Iterator, Mapping
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, malformed
from meshes.dev.vendors.server import Events, VendorServer, route

MAX_EVENTS, MAX_BODY, MIN_ID_LENGTH = 2000, 1024 * 1024, 5


class Amplitude(VendorServer[Events]):
    """An account is a project, opened by the API key in the body."""

    slug, account, new_account = "amplitude", "project-1", Events
    developer_token = "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0"

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"code": status, "error": message, **more}, status)

    def refusal(self, reason: Reason, status: int, message: str, seconds: float = 0.0) -> Answer:
        if reason is not Reason.THROTTLED:
            return super().refusal(reason, status, message)
        more = {"eps_threshold": 30, "throttled_events": [0], "throttled_users": {}}
        return self.error(429, "", "Too many requests for some devices and users", **more)

    @route("POST", "/2/httpapi", "url")
    def take(self, call: Call) -> Answer:
        self.refuse_if(len(call.body) > MAX_BODY, 413, "", "Payload too large")
        document = self.read_object(call)
        project, events = self._project(document), document.get("events")
        if not isinstance(events, list) or not events:
            raise self.refused(400, "", "Request missing required field", missing_field="events")
        self.refuse_if(len(events) > MAX_EVENTS, 413, "", "Payload too large")
        shortest = int((document.get("options") or {}).get("min_id_length", MIN_ID_LENGTH))
        problems: dict[str, dict[str, list[int]]] = {}
        for index, event in enumerate(events):
            for kind, name in _wrong_with(event, shortest):
                problems.setdefault(kind, {}).setdefault(name, []).append(index)
        if problems:  # one such event refuses them all
            raise self.refused(400, "", "Request has invalid events", **problems)
        for event in events:
            project.store(event, lambda each: each.get("insert_id") and (each["insert_id"], each.get("device_id")))
        done = {"code": 200, "events_ingested": len(events), "payload_size_bytes": len(call.body)}
        return Answer.of({**done, "server_upload_time": int(self.clock() * 1000)})

    def _project(self, document: Mapping[str, Any]) -> Events:
        key = document.get("api_key")
        self.refuse_if(not key, 400, "", "Request missing required field", missing_field="api_key")
        self.refuse_if(str(key) not in self.tokens, 400, "", f"Invalid API key: {key}")
        return self.account_state(self.tokens[str(key)])


def _wrong_with(event: Any, shortest: int) -> Iterator[tuple[str, str]]:
    """The kind of each problem of an event, and the field."""
    if not isinstance(event, dict):
        raise malformed("each event must be an object")
    ids = [name for name in ("user_id", "device_id") if event.get(name)]
    yield from (("events_with_invalid_id_lengths", name) for name in ids if len(str(event[name])) < shortest)
    if not ids:
        yield "events_with_missing_fields", "user_id"
    if not event.get("event_type"):
        yield "events_with_missing_fields", "event_type"
    if type(event.get("time", 0)) is not int:
        yield "events_with_invalid_fields", "time"
    for name in ("event_properties", "user_properties"):
        if not isinstance(event.get(name, {}), dict):
            yield "events_with_invalid_fields", name
