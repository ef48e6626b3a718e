"""Amplitude's HTTP V2 and batch APIs (amplitude.com/docs)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, BadToken, Call, Malformed, Problem, Refused, Why
from meshes.dev.vendors.server import VendorServer, route

MAX_EVENTS, MAX_BODY, MAX_BATCH_BODY = 2000, 1024 * 1024, 20 * 1024 * 1024
MIN_ID_LENGTH = 5


@dataclass
class Project:
    """`events` are those that were stored: the first of each `insert_id` of a device."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def store(self, event: dict[str, Any]) -> None:
        key = event.get("insert_id")
        if key and any(
            (each.get("insert_id"), each.get("device_id")) == (key, event.get("device_id")) for each in self.events
        ):
            return
        self.events.append(event)


def _throttled(**more: Any) -> Answer:
    said = {"code": 429, "error": "Too many requests for some devices and users", "eps_threshold": 30}
    return Answer.of({**said, "throttled_events": [0], **more}, 429)


class Amplitude(VendorServer[Project]):
    """An account is a project, opened by the API key in the body."""

    slug, account, developer_token = "amplitude", "project-1", "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0"
    faults = {
        "THROTTLED": _throttled(throttled_users={"user-1": 31}),
        "DAILY_QUOTA": _throttled(exceeded_daily_quota_users={"user-1": 500_001}),
        "SILENCED": Answer.of(
            {"code": 400, "error": "Events silenced", "silenced_events": [0], "silenced_devices": ["device-1"]}, 400
        ),
    }

    def new_account(self, account: str) -> Project:
        return Project()

    def problem(self, problem: Problem) -> Answer:
        if problem.why is Why.THROTTLED:
            return _throttled(throttled_users={})
        return Answer.of({"code": problem.status, "error": problem.words}, problem.status)

    @route("POST", "/2/httpapi", "url")
    def take(self, call: Call) -> Answer:
        return self._take(call, MAX_BODY)

    @route("POST", "/batch", "url")
    def take_batch(self, call: Call) -> Answer:
        return self._take(call, MAX_BATCH_BODY)

    def _take(self, call: Call, limit: int) -> Answer:
        if len(call.body) > limit:
            raise Refused(Answer.of({"code": 413, "error": "Payload too large"}, 413))
        document = self.read_object(call)
        project, events = self._project(document), document.get("events")
        if not isinstance(events, list) or not events:
            raise _refusal("Request missing required field", missing_field="events")
        if len(events) > MAX_EVENTS:
            raise Refused(Answer.of({"code": 413, "error": "Payload too large"}, 413))
        options = document.get("options") or {}
        if problems := _problems(events, int(options.get("min_id_length", MIN_ID_LENGTH))):
            raise _refusal("Request has invalid events", **problems)
        for event in events:
            project.store(event)
        done = {"code": 200, "events_ingested": len(events), "payload_size_bytes": len(call.body)}
        return Answer.of({**done, "server_upload_time": int(self.clock() * 1000)})

    def _project(self, document: Mapping[str, Any]) -> Project:
        key = document.get("api_key")
        if not key:
            raise _refusal("Request missing required field", missing_field="api_key")
        try:
            return self.account_state(self.account_of(str(key)))
        except BadToken:
            raise _refusal(f"Invalid API key: {key}") from None


def _problems(events: list[Any], shortest: int) -> dict[str, dict[str, list[int]]]:
    """Which events have what wrong, by the kind of problem and the field; one such event refuses them all."""
    problems: dict[str, dict[str, list[int]]] = {}
    for index, event in enumerate(events):
        if not isinstance(event, dict):
            raise Malformed("each event must be an object")
        for kind, name in _wrong_with(event, shortest):
            problems.setdefault(kind, {}).setdefault(name, []).append(index)
    return problems


def _wrong_with(event: Mapping[str, Any], shortest: int) -> list[tuple[str, str]]:
    ids = [name for name in ("user_id", "device_id") if event.get(name)]
    wrong = [("events_with_invalid_id_lengths", name) for name in ids if len(str(event[name])) < shortest]
    if not ids:
        wrong.append(("events_with_missing_fields", "user_id"))
    if not event.get("event_type"):
        wrong.append(("events_with_missing_fields", "event_type"))
    if type(event.get("time", 0)) is not int:
        wrong.append(("events_with_invalid_fields", "time"))
    invalid = [name for name in ("event_properties", "user_properties") if not isinstance(event.get(name, {}), dict)]
    return wrong + [("events_with_invalid_fields", name) for name in invalid]


def _refusal(error: str, **more: Any) -> Refused:
    return Refused(Answer.of({"code": 400, "error": error, **more}, 400))
