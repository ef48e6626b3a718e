"""PostHog's capture API (posthog.com/docs). It answers 200 to a key that no project has, and beyond a quota."""

import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Malformed, Problem, Refused
from meshes.dev.vendors.server import VendorServer, route

MAX_BODY = 20 * 1024 * 1024
_KEY = re.compile(r"[!-~]{1,200}")


@dataclass
class Project:
    """`events` are those that were stored: the first of each `uuid`."""

    events: list[dict[str, Any]] = field(default_factory=list)


class PostHog(VendorServer[Project]):
    """An account is a project, opened by its key in the body. `lost` is what got a 200 and went nowhere: by an unknown
    key, with a `uuid` that is none, or while the project is `over_quota`."""

    slug, account, developer_token = "posthog", "project-1", "phc_developer"
    personal_key = "phx_personal"
    over_quota = False

    def __init__(self, token: str = "", port: int = 0) -> None:
        super().__init__(token, port)
        self.lost: list[dict[str, Any]] = []

    def new_account(self, account: str) -> Project:
        return Project()

    def problem(self, problem: Problem) -> Answer:
        said = {"type": "validation_error", "code": problem.why.value, "detail": problem.words, "attr": None}
        return Answer.of(said, problem.status)

    @route("POST", "/i/v0/e/?", "url")
    def take_one(self, call: Call) -> Answer:
        document = self._document(call)
        return self._taken(_key_of(document), [document])

    @route("POST", "/batch/?", "url")
    def take_batch(self, call: Call) -> Answer:
        document = self._document(call)
        events = document.get("batch")
        if not isinstance(events, list) or not events:
            raise Malformed("batch must hold events")
        return self._taken(_key_of(document), events)

    @route("GET", "/api/users/@me/?", "open")
    def me(self, call: Call) -> Answer:
        if call.credential("Bearer") != self.personal_key:
            said = {"type": "authentication_error", "code": "authentication_failed", "attr": None}
            return Answer.of({**said, "detail": "Invalid personal API key."}, 401)
        return Answer.of({"uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, self.account)), "email": "me@acme.example"})

    def _document(self, call: Call) -> dict[str, Any]:
        if len(call.body) > MAX_BODY:
            raise Refused(Answer.text("payload too large", 413))
        return self.read_object(call)

    def _taken(self, key: str, events: list[Any]) -> Answer:
        for event in events:
            if (
                not isinstance(event, dict)
                or not _is_text(event.get("event"))
                or not _is_text(event.get("distinct_id"))
            ):
                raise Malformed("each event needs event and distinct_id")
        for event in events:
            self._store(self.tokens.get(key, ""), event)
        return Answer.of({"status": "Ok", "quota_limited": ["events"]} if self.over_quota else {"status": "Ok"})

    def _store(self, project: str, event: dict[str, Any]) -> None:
        key = event.get("uuid")
        if not project or self.over_quota or not (key is None or _is_uuid(key)):
            self.lost.append(event)
            return
        events = self.account_state(project).events
        if key is None or all(each.get("uuid") != key for each in events):
            events.append({name: value for name, value in event.items() if name not in ("api_key", "token")})


def _key_of(document: dict[str, Any]) -> str:
    """Only its form is checked. Raises Refused."""
    keys = [document[name] for name in ("api_key", "token") if name in document]
    if len({str(key) for key in keys}) != 1 or not isinstance(keys[0], str) or not _KEY.fullmatch(keys[0]):
        raise Refused(Answer.text("API key is not valid", 401))
    return keys[0]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_uuid(value: Any) -> bool:
    try:
        return bool(uuid.UUID(str(value)))
    except ValueError:
        return False
