"""Customer.io's Track API v1 (docs.customer.io): people and their events."""

from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call
from meshes.dev.vendors.server import Events, VendorServer, route

MAX_ATTRIBUTES, MAX_NAME, MAX_VALUE = 300, 150, 1000


@dataclass
class Workspace(Events):
    """`people` are attributes by the id or address that they came under."""

    people: dict[str, dict[str, Any]] = field(default_factory=dict)


class CustomerIo(VendorServer[Workspace]):
    """An account is a workspace, opened by `site_id:api_key`."""

    slug, account, developer_token, new_account = "customerio", "112233", "site-developer:track-key", Workspace

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"meta": {"error": "Unauthorized request" if status == 401 else message}}, status)

    def token_of(self, call: Call) -> str:
        return ":".join(call.basic() or ())

    @route("PUT", "/api/v1/customers/{who}")
    def put_person(self, call: Call, who: str) -> Answer:
        workspace, attributes = self.state_of(call), self.read_object(call)
        if len(attributes) > MAX_ATTRIBUTES:
            raise self.refused(400, "", f"too many attributes: {len(attributes)}, at most {MAX_ATTRIBUTES}")
        if any(len(name.encode()) > MAX_NAME for name in attributes):
            raise self.refused(400, "", f"attribute name is longer than {MAX_NAME} bytes")
        person = workspace.people.setdefault(who, {})
        for name, value in attributes.items():
            if value in (None, ""):
                person.pop(name, None)
            elif len(str(value).encode()) <= MAX_VALUE:  # others get a 200 and are dropped afterwards
                person[name] = value
        return Answer.of({})

    @route("POST", "/api/v1/customers/{who}/events")
    def post_event(self, call: Call, who: str) -> Answer:
        """Of a person who is not there yet too: it waits for them."""
        event = self.read_object(call)
        rules = (
            (isinstance(event.get("name"), str) and event["name"], "event name is required"),
            (type(event.get("timestamp", 0)) is int, "timestamp must be in unix seconds"),
            (isinstance(event.get("data", {}), dict), "data must be an object"),
        )
        for holds, message in rules:
            self.refuse_if(not holds, 400, "", message)
        self.state_of(call).store({"customer": who, **event}, lambda each: each.get("id"))
        return Answer.of({})

    @route("GET", "/api/v1/accounts/region")
    def region(self, call: Call) -> Answer:
        return Answer.of({"url": "track.customer.io", "data_center": "us", "environment_id": int(call.account)})
