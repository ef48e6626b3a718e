"""Segment's HTTP tracking API (segment.com/docs): 200 to whatever it can parse; it keeps what it can use."""

from typing import Any

from meshes.dev.vendors.messages import Answer, Call
from meshes.dev.vendors.server import Events, VendorServer, route

MAX_EVENT, MAX_MESSAGE_ID = 32 * 1024, 100


class Segment(VendorServer[Events]):
    """An account is a source, opened by its write key. `lost` is what got a 200 and went nowhere: by a write key that
    no source has, or without an id or an event's name."""

    slug, account, developer_token, new_account = "segment", "source-1", "segmentWriteKey", Events

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"success": False, "message": message}, status)

    @route("POST", "/v1/(?P<kind>identify|track|page|screen|group|alias)", "url")
    def take(self, call: Call, kind: str) -> Answer:
        self.refuse_if(len(call.body) > MAX_EVENT, 400, "", "Exceeded payload limit of 32KB")
        event = {"type": kind, **self.read_object(call)}
        basic = call.basic()
        source = self.tokens.get(str(basic[0] if basic else event.get("writeKey")), "")
        is_used = (event.get("userId") or event.get("anonymousId")) and (event.get("event") or kind != "track")
        if source and is_used and len(str(event.get("messageId", ""))) <= MAX_MESSAGE_ID:
            self.account_state(source).store(event, lambda each: each.get("messageId"))
        else:
            self.state.lost.append(event)
        return Answer.of({"success": True})
