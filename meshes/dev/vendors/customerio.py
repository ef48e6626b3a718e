"""Customer.io's Track API v1 (docs.customer.io): people and their events."""

from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Problem, Refused
from meshes.dev.vendors.server import VendorServer, route

MAX_ATTRIBUTES, MAX_NAME, MAX_VALUE = 300, 150, 1000


@dataclass
class Workspace:
    """`people` are attributes by the id or address that they came under; `events` the first of each `id`; `failures`
    are attributes that got a 200 and were dropped afterwards."""

    people: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class CustomerIo(VendorServer[Workspace]):
    """An account is a workspace, opened by `site_id:api_key`."""

    slug, account, developer_token = "customerio", "112233", "site-developer:track-key"
    faults = {
        "EU_ACCOUNT": Answer(301, headers={"location": "https://track-eu.customer.io/api/v1/accounts/region"}),
        "QUOTA": Answer.of({"meta": {"error": "Too many requests"}}, 429, retry_after="10"),
    }

    def new_account(self, account: str) -> Workspace:
        return Workspace()

    def problem(self, problem: Problem) -> Answer:
        words = "Unauthorized request" if problem.status == 401 else problem.words
        return Answer.of({"meta": {"error": words}}, problem.status)

    def token_of(self, call: Call) -> str:
        return ":".join(call.basic() or ())

    @route("PUT", "/api/v1/customers/{who}")
    def put_person(self, call: Call, who: str) -> Answer:
        workspace, attributes = self.state_of(call), self.read_object(call)
        if len(attributes) > MAX_ATTRIBUTES:
            raise _refusal(f"too many attributes: {len(attributes)}, at most {MAX_ATTRIBUTES}")
        if any(len(name.encode()) > MAX_NAME for name in attributes):
            raise _refusal(f"attribute name is longer than {MAX_NAME} bytes")
        person = workspace.people.setdefault(who, {})
        for name, value in attributes.items():
            if len(str(value).encode()) > MAX_VALUE:
                workspace.failures.append(f"{who}: {name}")
            elif value in (None, ""):
                person.pop(name, None)
            else:
                person[name] = value
        return Answer.of({})

    @route("POST", "/api/v1/customers/{who}/events")
    def post_event(self, call: Call, who: str) -> Answer:
        """Of a person who is not there yet too: it waits for them."""
        workspace, event = self.state_of(call), self.read_object(call)
        if not isinstance(event.get("name"), str) or not event["name"]:
            raise _refusal("event name is required")
        if type(event.get("timestamp", 0)) is not int:
            raise _refusal("timestamp must be in unix seconds")
        if not isinstance(event.get("data", {}), dict):
            raise _refusal("data must be an object")
        if event.get("id") is None or all(each.get("id") != event["id"] for each in workspace.events):
            workspace.events.append({"customer": who, **event})
        return Answer.of({})

    @route("GET", "/api/v1/accounts/region")
    def region(self, call: Call) -> Answer:
        return Answer.of({"url": "track.customer.io", "data_center": "us", "environment_id": int(call.account)})


def _refusal(words: str) -> Refused:
    return Refused(Answer.of({"meta": {"error": words}}, 400))
