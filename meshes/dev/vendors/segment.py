"""Segment's HTTP tracking API (segment.com/docs): 200 to whatever it can parse; it keeps what it can use."""

from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Malformed, Problem, Refused
from meshes.dev.vendors.server import VendorServer, route

MAX_EVENT, MAX_BATCH, MAX_EVENTS = 32 * 1024, 500 * 1024, 2500
MAX_MESSAGE_ID = 100


@dataclass
class Source:
    """`events` are those that arrived, the first of each `messageId`."""

    events: list[dict[str, Any]] = field(default_factory=list)


class Segment(VendorServer[Source]):
    """An account is a source, opened by its write key. `lost` is what got a 200 and went nowhere: by a write key that
    no source has, without an id or an event's name, or beyond the 2,500th of a batch."""

    slug, account, developer_token = "segment", "source-1", "segmentWriteKey"

    def __init__(self, token: str = "", port: int = 0) -> None:
        super().__init__(token, port)
        self.lost: list[dict[str, Any]] = []

    def new_account(self, account: str) -> Source:
        return Source()

    def problem(self, problem: Problem) -> Answer:
        return Answer.of({"success": False, "message": problem.words}, problem.status)

    @route("POST", "/v1/(?P<kind>identify|track|page|screen|group|alias)", "url")
    def take_one(self, call: Call, kind: str) -> Answer:
        if len(call.body) > MAX_EVENT:
            raise Refused(Answer.of({"success": False, "message": "Exceeded payload limit of 32KB"}, 400))
        event = self.read_object(call)
        self._take(self._source(call, event), {"type": kind, **event})
        return Answer.of({"success": True})

    @route("POST", "/v1/(?:batch|import)", "url")
    def take_batch(self, call: Call) -> Answer:
        if len(call.body) > MAX_BATCH:
            raise Refused(Answer.of({"success": False, "message": "Exceeded payload limit of 500KB"}, 400))
        document = self.read_object(call)
        events = document.get("batch")
        if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
            raise Malformed("batch must be a list of events")
        source = self._source(call, document)
        for event in events[:MAX_EVENTS]:
            self._take(source, event)
        self.lost += events[MAX_EVENTS:]
        return Answer.of({"success": True})

    def _source(self, call: Call, document: dict[str, Any]) -> str:
        """Whose write key came: as the user of basic authentication, or in the body. Empty for nobody's."""
        basic = call.basic()
        return self.tokens.get(str(basic[0] if basic else document.get("writeKey")), "")

    def _take(self, source: str, event: dict[str, Any]) -> None:
        message, is_track = str(event.get("messageId", "")), event.get("type") == "track"
        is_used = (event.get("userId") or event.get("anonymousId")) and (event.get("event") or not is_track)
        if not source or not is_used or len(message) > MAX_MESSAGE_ID:
            self.lost.append(event)
            return
        events = self.account_state(source).events
        if not message or all(each.get("messageId") != message for each in events):
            events.append(event)
