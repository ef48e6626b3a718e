"""Amplitude's HTTP V2 API (amplitude.com/docs)."""

from collections.abc import Iterator, Mapping
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, RefusedError
from meshes.dev.vendors.server import Events, VendorServer, route

MAX_EVENTS, MAX_BODY, MIN_ID_LENGTH = 2000, 1024 * 1024, 5


def _throttled(**more: Any) -> Answer:
    said = {"code": 429, "error": "Too many requests for some devices and users", "eps_threshold": 30}
    return Answer.of({**said, "throttled_events": [0], **more}, 429)


class Amplitude(VendorServer[Events]):
    """An account is a project, opened by the API key in the body."""

    slug, account, new_account = "amplitude", "project-1", Events
    developer_token = "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0"
    faults = {
        "THROTTLED": _throttled(throttled_users={"user-1": 31}),
        "DAILY_QUOTA": _throttled(exceeded_daily_quota_users={"user-1": 500_001}),
        "SILENCED": Answer.of(
            {"code": 400, "error": "Events silenced", "silenced_events": [0], "silenced_devices": ["device-1"]}, 400
        ),
    }

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"code": status, "error": message, **more}, status)

    def refusal(self, reason: Reason, status: int, message: str, seconds: float = 0.0) -> Answer:
        is_limit = reason is Reason.THROTTLED
        return _throttled(throttled_users={}) if is_limit else super().refusal(reason, status, message)

    @route("POST", "/2/httpapi", "url")
    def take(self, call: Call) -> Answer:
        if len(call.body) > MAX_BODY:
            raise self.refused(413, "", "Payload too large")
        document = self.read_object(call)
        project, events = self._project(document), document.get("events")
        if not isinstance(events, list) or not events:
            raise self.refused(400, "", "Request missing required field", missing_field="events")
        if len(events) > MAX_EVENTS:
            raise self.refused(413, "", "Payload too large")
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
        if not key:
            raise self.refused(400, "", "Request missing required field", missing_field="api_key")
        if str(key) not in self.tokens:
            raise self.refused(400, "", f"Invalid API key: {key}")
        return self.account_state(self.tokens[str(key)])


def _wrong_with(event: Any, shortest: int) -> Iterator[tuple[str, str]]:
    """The kind of each problem of an event, and the field."""
    if not isinstance(event, dict):
        raise RefusedError(Reason.MALFORMED, "The body cannot be read: each event must be an object")
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
