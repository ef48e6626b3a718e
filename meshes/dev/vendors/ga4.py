"""Google Analytics 4, Measurement Protocol (developers.google.com): it never refuses, and keeps what it can use."""

import re
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, RefusedError
from meshes.dev.vendors.server import Events, VendorServer, route

MAX_EVENTS, MAX_PARAMS, MAX_VALUE = 25, 25, 100
MAX_BODY = 130_000
MAX_AGE_SECONDS = 72 * 3600
_NAME = re.compile(r"(?!firebase_|ga_|google_)[A-Za-z][A-Za-z0-9_]{0,39}")
_PARAM = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


class GA4(VendorServer[Events]):
    """An account is a measurement id, opened by an API secret. `events` hold their `client_id` beside name and params;
    `lost` are bodies that got a 204."""

    slug, account, developer_token, new_account = "ga4", "G-DEVELOPER1", "ga4ApiSecret", Events

    @route("POST", "/mp/collect", "url")
    def collect(self, call: Call) -> Answer:
        stream = call.query.get("measurement_id", "")
        is_own = bool(stream) and self.tokens.get(call.query.get("api_secret", "")) == stream
        try:
            document = call.object()
        except RefusedError:
            document = {}
        if is_own and len(call.body) <= MAX_BODY and self._is_right(document):
            client = {"client_id": document["client_id"]}
            self.account_state(stream).events += [{**client, **event} for event in document["events"]]
        else:
            self.state.lost.append(document)
        return Answer(204)

    def _is_right(self, document: dict[str, Any]) -> bool:
        events, moment = document.get("events"), document.get("timestamp_micros")
        if not document.get("client_id") or not isinstance(events, list) or not 1 <= len(events) <= MAX_EVENTS:
            return False
        is_old = moment is not None and self.clock() - int(moment) / 1e6 > MAX_AGE_SECONDS
        return not is_old and all(isinstance(event, dict) and _is_event(event) for event in events)


def _is_event(event: dict[str, Any]) -> bool:
    name, params = event.get("name"), event.get("params", {})
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(params, dict):
        return False
    return len(params) <= MAX_PARAMS and all(
        _PARAM.fullmatch(key) and not isinstance(value, bool | list | dict) and len(str(value)) <= MAX_VALUE
        for key, value in params.items()
    )
