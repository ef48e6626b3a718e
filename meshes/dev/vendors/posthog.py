"""PostHog's capture API (posthog.com/docs). It answers 200 to a key that no project has."""

import re
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, RefusedError, malformed
from meshes.dev.vendors.server import Events, VendorServer, route

MAX_BODY = 20 * 1024 * 1024
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_KEY = re.compile(r"[!-~]{1,200}")


class PostHog(VendorServer[Events]):
    """An account is a project, opened by its key in the body. `lost` is what got a 200 and went nowhere: by an unknown
    key, or with a `uuid` that is none."""

    slug, account, developer_token, new_account = "posthog", "project-1", "phc_developer", Events
    error_codes = {reason: reason.name.lower() for reason in Reason}

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"type": "validation_error", "code": code, "detail": message, "attr": None}, status)

    @route("POST", "/i/v0/e/?", "url")
    def take(self, call: Call) -> Answer:
        if len(call.body) > MAX_BODY:
            raise RefusedError(Answer.text("payload too large", 413))
        event = self.read_object(call)
        keys = [event[name] for name in ("api_key", "token") if name in event]
        if len({str(key) for key in keys}) != 1 or not isinstance(keys[0], str) or not _KEY.fullmatch(keys[0]):
            raise RefusedError(Answer.text("API key is not valid", 401))  # only its form is checked
        if not all(isinstance(event.get(name), str) and event[name] for name in ("event", "distinct_id")):
            raise malformed("each event needs event and distinct_id")
        project, key = self.tokens.get(keys[0], ""), event.get("uuid")
        if project and (key is None or _UUID.fullmatch(str(key))):
            kept = {name: value for name, value in event.items() if name not in ("api_key", "token")}
            self.account_state(project).store(kept, lambda each: each.get("uuid"))
        else:
            self.state.lost.append(event)
        return Answer.of({"status": "Ok"})
