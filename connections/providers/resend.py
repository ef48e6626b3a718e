"""Resend (resend.com/docs): emails, contacts, and events that start automations.

An email carries the delivery's id as Idempotency-Key, by which Resend drops doubles for a day; a replay within it sends
nothing new. Contacts have no upsert: one is updated, and created where there was none.
"""

from collections.abc import Sequence
from typing import Any

from connections.messages import OutboundError, Request, Response
from connections.providers.answers import text_at
from connections.providers.base import Action, Exchange, Limits, MappingField, Shipment
from connections.providers.crm import person
from connections.providers.fields import Field, Unsendable
from connections.providers.vendor import VALUE_REFUSED, Fields, Vendor, url_part, without_nulls
from connections.providers.verdicts import Outcome, Verdict, disabled, reauthorize, rejected, retry, throttled

MAX_RECIPIENTS = 50

EMAIL = (
    MappingField("to", "To", "any", required=True, source="payload.email", help="An address, or an array of them."),
    MappingField("subject", "Subject", required=True),
    MappingField(
        "html", "HTML", markup="html",
        help="The body; html, text or both. What an expression takes from a payload into it is escaped; a payload's"
        " value that is mapped whole is HTML.",
    ),
    MappingField("text", "Text", help="The body without markup."),
    MappingField("from", "From", help="Instead of the connection's own sender."),
)  # fmt: skip
CONTACT = (
    *person("email", "first_name", "last_name"),
    MappingField("properties", "Properties", type="object", help="Custom properties that Resend knows already."),
)
EVENT = (
    MappingField("event", "Event", required=True, source="event.type", help="As the automation's trigger names it."),
    CONTACT[0],
    MappingField("payload", "Payload", type="object", source="payload"),
)


class Resend(Vendor):
    slug = "resend"
    name = "Resend"
    description = "Sends emails, keeps contacts and starts automations at Resend."
    docs_url = "https://resend.com/docs/api-reference/introduction"
    auth = "api_key"
    base_urls = {"": "https://api.resend.com"}
    config_fields = (
        Field(
            "sender", "Sender", frozen=True, max_length=320, example="Ada <ada@example.com>",
            help="The emails' From, such as Ada <ada@example.com>, of a domain that is verified at Resend.",
        ),
    )  # fmt: skip
    credential_fields = (
        Field(
            "api_key", "API key", required=True, sensitive=True, pattern=r"re_[A-Za-z0-9_]+",
            example="re_################",
            help="For contacts and events with full access; for emails a sending key will do.",
        ),
    )  # fmt: skip
    actions = (
        Action(
            "send_email", "Send an email", True, fields=EMAIL, is_open=True,
            help="Resend sends one of the same delivery once a day: a replay within a day sends nothing new.",
        ),
        Action(
            "upsert_contact", "Create or update a contact", True, fields=CONTACT,
            steps=("update contact", "create contact"),
        ),
        Action("send_event", "Start an automation", False, fields=EVENT),
    )  # fmt: skip
    limits = Limits(in_flight=4, rate=5)
    authorization = "Bearer {api_key}"
    code_at, message_at = ("name",), ("message",)
    limit_headers = ("ratelimit-remaining", "ratelimit-reset", None)
    test_path = "/domains"
    test = "Lists the account's domains; sends nothing. A key that may only send emails passes too."
    answers = {
        "missing_api_key": reauthorize("Resend has got no API key. Set it, then test the connection."),
        "invalid_api_key": reauthorize("Resend does not accept the API key. Replace it, then test the connection."),
        "restricted_api_key": reauthorize(
            "The API key may only send emails. Replace it by one with full access, then test the connection.",
            "forbidden",
        ),
        "invalid_from_address": disabled(
            "Resend does not accept the sender. Set the connection's sender to another, then resume.", "forbidden"),
        "security_error": disabled(
            "Resend suspects a security issue of this account's requests. Ask its support, then resume.", "forbidden"),
        "invalid_idempotent_request": rejected(
            "Resend has taken another email for this delivery within a day. Send a new event instead of a replay."),
        "concurrent_idempotent_requests": retry("Resend is still busy with the same email.", "concurrent", 5),
        "daily_quota_exceeded": throttled("The Resend account's daily quota is used up.", "daily_limit", 3600),
        "monthly_quota_exceeded": throttled(
            "The Resend account's monthly quota is used up. Upgrade its plan.", "monthly_limit", 24 * 3600.0),
        400: VALUE_REFUSED,
        403: disabled("Resend does not let this sender write. Verify its domain at resend.com/domains, then resume.",
                      "forbidden"),
        422: rejected("Resend refuses a value, or one is missing. Mend the rule's mapping."),
    }  # fmt: skip

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        if shipment.action == "send_email":
            key = ("idempotency-key", shipment.delivery_id)
            return self.call("POST", "/emails", shipment, _email(fields, shipment), key)
        email = fields.needed("email")
        if shipment.action == "send_event":
            event = fields.needed("event")
            if event.startswith("resend:"):
                raise Unsendable("Resend keeps event names that begin with resend: for its own. Map event to another.")
            document = {"event": event, "email": email, "payload": fields.object("payload")}
            return self.call("POST", "/events/send", shipment, document)
        if details := _details(fields):
            return self.call("PATCH", f"/contacts/{url_part(email)}", shipment, details)
        return self.call("POST", "/contacts", shipment, {"email": email})

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        last = exchanges[-1]
        if shipment.action == "send_email":
            return self._judge_sender(shipment, last.response)
        if last.request.method != "PATCH" or last.response.status != 404:
            return None
        fields = self.fields(shipment)
        return self.call("POST", "/contacts", shipment, {"email": fields.needed("email"), **_details(fields)})

    def _judge_sender(self, shipment: Shipment, response: Response) -> Verdict | None:
        """A sender that is refused is the connection's, and holds it, but where the rule's mapping gave another."""
        code, message = self.error_of(response)
        is_unverified = response.status == 403 and code == "validation_error" and "domain" in message.lower()
        is_of_sender = code == "invalid_from_address" or is_unverified
        if not is_of_sender or self.fields(shipment).given("from") is None:
            return None
        words = "Resend does not accept the sender that the rule's mapping gives. Mend the field from."
        return self.completed(rejected(words), response, message)

    def is_done(self, response: Response, action: str) -> bool:
        return text_at(response, "event" if action == "send_event" else "id") != ""

    def classify_test(self, answer: Response | OutboundError) -> Verdict:
        if isinstance(answer, Response) and self.error_of(answer)[0] == "restricted_api_key":
            return Verdict(Outcome.DELIVERED)  # a valid key, which may send emails and no more
        return super().classify_test(answer)


def _email(fields: Fields, shipment: Shipment) -> dict[str, Any]:
    sender = fields.given("from") or shipment.frozen.get("sender")
    if not sender:
        raise Unsendable("The email has no sender. Set the connection's sender, or map the field from.")
    if fields.given("html") is None and fields.given("text") is None:
        raise Unsendable("The email has no body. Map html, text or both.")
    to = fields.get("to")
    if not isinstance(to, list):
        to = fields.needed("to")
    elif not to or not all(isinstance(address, str) and address.strip() for address in to):
        raise Unsendable("The field to must be an address, or an array of addresses.")
    elif len(to) > MAX_RECIPIENTS:
        raise Unsendable(f"The email has {len(to)} recipients; Resend takes at most {MAX_RECIPIENTS}.")
    else:
        to = [address.strip() for address in to]
    return without_nulls({**fields, "from": sender, "to": to, "subject": fields.needed("subject")})


def _details(fields: Fields) -> dict[str, Any]:
    """What there is to write of a contact beside its address."""
    names = {key: fields.given(key) for key in ("first_name", "last_name")}
    return without_nulls({**names, "properties": fields.object("properties") or None})


PROVIDER = Resend()
