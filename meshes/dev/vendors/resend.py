"""Resend (resend.com/docs): emails, contacts, events and domains."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.faults import Window
from meshes.dev.vendors.messages import Answer, Call, Problem, Refused, Why
from meshes.dev.vendors.server import VendorServer, route

MAX_KEY, MAX_RECIPIENTS = 256, 50


@dataclass
class Account:
    """`emails` that were sent; `by_key` are the body and the id of what an idempotency key sent first; `contacts` by
    address."""

    emails: list[dict[str, Any]] = field(default_factory=list)
    by_key: dict[str, tuple[dict[str, Any], str]] = field(default_factory=dict)
    contacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    domains: list[str] = field(default_factory=lambda: ["acme.example"])


class Resend(VendorServer[Account]):
    """`sending_key` opens the same account for emails only."""

    slug, account, developer_token = "resend", "team-1", "re_developer"
    sending_key = "re_sending_only"

    def __init__(self, token: str = "", port: int = 0) -> None:
        super().__init__(token, port)
        self.tokens[self.sending_key] = self.account

    def new_account(self, account: str) -> Account:
        return Account()

    def problem(self, problem: Problem) -> Answer:
        if problem.status == 401 and problem.why is not Why.MISSING_TOKEN:
            return _error(403, "invalid_api_key", "API key is invalid")
        names = {
            Why.MISSING_TOKEN: "missing_api_key",
            Why.NOT_FOUND: "not_found",
            Why.WRONG_METHOD: "method_not_allowed",
            Why.THROTTLED: "rate_limit_exceeded",
            Why.DOWN: "application_error",
        }
        answer = _error(problem.status, names.get(problem.why, "validation_error"), problem.words)
        wait = {"retry-after": problem.retry_after} if problem.why is Why.THROTTLED else {}
        return answer.with_headers(wait)

    def rate_headers(self, call: Call, window: Window | None) -> dict[str, str]:
        if window is None:
            return {}
        limits = {"ratelimit-limit": str(window.requests), "ratelimit-remaining": str(window.remaining)}
        return {**limits, "ratelimit-reset": window.reset}

    @route("POST", "/emails")
    def send(self, call: Call) -> Answer:
        """The same key with the same body sends nothing again, and answers with the first one's id."""
        account, email = self._admitted(call), self.read_object(call)
        key = call.headers.get("idempotency-key", "")
        if len(key) > MAX_KEY:
            raise _refusal(400, "invalid_idempotency_key", f"The key must have 1 to {MAX_KEY} characters.")
        _check_email(email, account.domains)
        if key in account.by_key:
            first, sent = account.by_key[key]
            if first != email:
                raise _refusal(409, "invalid_idempotent_request", "The key was used with another request body.")
            return Answer.of({"id": sent})
        sent = secrets.token_hex(16)
        account.emails.append({"id": sent, **email})
        if key:
            account.by_key[key] = (email, sent)
        return Answer.of({"id": sent})

    @route("POST", "/contacts")
    def create_contact(self, call: Call) -> Answer:
        account, contact = self._admitted(call, "contacts"), self.read_object(call)
        address = contact.get("email")
        if not isinstance(address, str) or "@" not in address:
            raise _refusal(422, "missing_required_field", "Missing `email` field.")
        there = account.contacts.setdefault(address.lower(), {"id": secrets.token_hex(16)})
        there.update(contact)
        return Answer.of({"object": "contact", "id": there["id"]}, 201)

    @route("PATCH", "/contacts/{who}")
    def update_contact(self, call: Call, who: str) -> Answer:
        account, changes = self._admitted(call, "contacts"), self.read_object(call)
        found = [each for key, each in account.contacts.items() if who.lower() == key or who == each["id"]]
        if not found:
            raise _refusal(404, "not_found", "Contact not found")
        found[0].update(changes)
        return Answer.of({"object": "contact", "id": found[0]["id"]})

    @route("POST", "/events/send")
    def send_event(self, call: Call) -> Answer:
        account, event = self._admitted(call, "events"), self.read_object(call)
        for name in ("event", "email"):
            if not event.get(name):
                raise _refusal(422, "missing_required_field", f"Missing `{name}` field.")
        account.events.append(event)
        return Answer.of({"object": "event", "event": event["event"]}, 202)

    @route("GET", "/domains")
    def list_domains(self, call: Call) -> Answer:
        names = self._admitted(call, "domains").domains
        rows = [{"id": f"domain-{number}", "name": name, "status": "verified"} for number, name in enumerate(names, 1)]
        return Answer.of({"object": "list", "has_more": False, "data": rows})

    def _admitted(self, call: Call, beyond: str = "") -> Account:
        """The caller's account. Raises Refused for callers that do not name themselves, and, `beyond` emails, for a
        key that may only send."""
        if not call.headers.get("user-agent"):
            raise Refused(Answer.text("error code: 1010", 403))
        if beyond and self.token_of(call) == self.sending_key:
            raise _refusal(401, "restricted_api_key", "This API key is restricted to only send emails")
        return self.state_of(call)


def _check_email(email: dict[str, Any], domains: list[str]) -> None:
    """Raises Refused."""
    for name in ("from", "to", "subject"):
        if not email.get(name):
            raise _refusal(422, "missing_required_field", f"Missing `{name}` field.")
    if not email.get("html") and not email.get("text"):
        raise _refusal(422, "missing_required_field", "Missing `html` or `text` field.")
    to = email["to"] if isinstance(email["to"], list) else [email["to"]]
    if len(to) > MAX_RECIPIENTS or not all(isinstance(each, str) and "@" in each for each in to):
        raise _refusal(422, "validation_error", f"`to` takes up to {MAX_RECIPIENTS} addresses.")
    sender = str(email["from"]).rpartition("<")[2].rstrip(">")
    if "@" not in sender:
        raise _refusal(422, "invalid_from_address", "Invalid `from` field. It must follow `Name <email@example.com>`.")
    if sender.rpartition("@")[2] not in domains:
        raise _refusal(403, "validation_error", f"The {sender.rpartition('@')[2]} domain is not verified.")


def _error(status: int, name: str, message: str) -> Answer:
    return Answer.of({"statusCode": status, "name": name, "message": message}, status)


def _refusal(status: int, name: str, message: str) -> Refused:
    return Refused(_error(status, name, message))
