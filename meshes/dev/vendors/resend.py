"""Resend (resend.com/docs): emails, contacts, events and domains."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, RefusedError
from meshes.dev.vendors.server import Events, VendorServer, limit_names, route

MAX_KEY, MAX_RECIPIENTS = 256, 50


@dataclass
class Account(Events):
    """`emails` that were sent; `by_key` are the body and the id of what an idempotency key sent first; `contacts` by
    address."""

    emails: list[dict[str, Any]] = field(default_factory=list)
    by_key: dict[str, tuple[dict[str, Any], str]] = field(default_factory=dict)
    contacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    domains: list[str] = field(default_factory=lambda: ["acme.example"])


class Resend(VendorServer[Account]):
    slug, account, developer_token, new_account = "resend", "team-1", "re_developer", Account
    error_codes = {
        Reason.MISSING_TOKEN: "missing_api_key",
        Reason.NOT_FOUND: "not_found",
        Reason.WRONG_METHOD: "method_not_allowed",
        Reason.THROTTLED: "rate_limit_exceeded",
        Reason.DOWN: "application_error",
    }
    default_error, tells_wait = "validation_error", True
    rate_headers = limit_names("ratelimit")

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"statusCode": status, "name": code, "message": message}, status)

    def refusal(self, reason: Reason, status: int, message: str, seconds: float = 0.0) -> Answer:
        if status == 401 and reason is not Reason.MISSING_TOKEN:
            return self.error(403, "invalid_api_key", "API key is invalid")
        return super().refusal(reason, status, message, seconds)

    @route("POST", "/emails")
    def send(self, call: Call) -> Answer:
        """The same key with the same body sends nothing again, and answers with the first one's id."""
        account, email = self._admitted(call), self.read_object(call)
        key = call.headers.get("idempotency-key", "")
        if len(key) > MAX_KEY:
            raise Resend.refused(400, "invalid_idempotency_key", f"The key must have 1 to {MAX_KEY} characters.")
        _check_email(email, account.domains)
        if key in account.by_key:
            first, sent = account.by_key[key]
            if first != email:
                raise Resend.refused(409, "invalid_idempotent_request", "The key was used with another request body.")
            return Answer.of({"id": sent})
        sent = secrets.token_hex(16)
        account.emails.append({"id": sent, **email})
        if key:
            account.by_key[key] = (email, sent)
        return Answer.of({"id": sent})

    @route("POST", "/contacts")
    def create_contact(self, call: Call) -> Answer:
        account, contact = self._admitted(call), self.read_object(call)
        address = contact.get("email")
        if not isinstance(address, str) or "@" not in address:
            raise Resend.refused(422, "missing_required_field", "Missing `email` field.")
        there = account.contacts.setdefault(address.lower(), {"id": secrets.token_hex(16)})
        there.update(contact)
        return Answer.of({"object": "contact", "id": there["id"]}, 201)

    @route("PATCH", "/contacts/{who}")
    def update_contact(self, call: Call, who: str) -> Answer:
        account, changes = self._admitted(call), self.read_object(call)
        found = [each for key, each in account.contacts.items() if who.lower() == key or who == each["id"]]
        Resend.refuse_if(not found, 404, "not_found", "Contact not found")
        found[0].update(changes)
        return Answer.of({"object": "contact", "id": found[0]["id"]})

    @route("POST", "/events/send")
    def send_event(self, call: Call) -> Answer:
        account, event = self._admitted(call), self.read_object(call)
        for name in ("event", "email"):
            Resend.refuse_if(not event.get(name), 422, "missing_required_field", f"Missing `{name}` field.")
        account.events.append(event)
        return Answer.of({"object": "event", "event": event["event"]}, 202)

    @route("GET", "/domains")
    def list_domains(self, call: Call) -> Answer:
        names = self._admitted(call).domains
        rows = [{"id": f"domain-{number}", "name": name, "status": "verified"} for number, name in enumerate(names, 1)]
        return Answer.of({"object": "list", "has_more": False, "data": rows})

    def _admitted(self, call: Call) -> Account:
        """The account of a caller that names itself."""
        if not call.headers.get("user-agent"):
            raise RefusedError(Answer.text("error code: 1010", 403))
        return self.state_of(call)


def _check_email(email: dict[str, Any], domains: list[str]) -> None:
    for name in ("from", "to", "subject"):
        Resend.refuse_if(not email.get(name), 422, "missing_required_field", f"Missing `{name}` field.")
    if not email.get("html") and not email.get("text"):
        raise Resend.refused(422, "missing_required_field", "Missing `html` or `text` field.")
    to = email["to"] if isinstance(email["to"], list) else [email["to"]]
    if len(to) > MAX_RECIPIENTS or not all(isinstance(each, str) and "@" in each for each in to):
        raise Resend.refused(422, "validation_error", f"`to` takes up to {MAX_RECIPIENTS} addresses.")
    sender = str(email["from"]).rpartition("<")[2].rstrip(">")
    if "@" not in sender:
        raise Resend.refused(
            422, "invalid_from_address", "Invalid `from` field. It must follow `Name <email@example.com>`."
        )
    if sender.rpartition("@")[2] not in domains:
        raise Resend.refused(403, "validation_error", f"The {sender.rpartition('@')[2]} domain is not verified.")
