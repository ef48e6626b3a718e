"""Resend (resend.com/docs): emails, contacts, and events that start automations.

An email carries the delivery's id as Idempotency-Key, by which Resend drops doubles for a day; a replay within it sends
nothing new. Contacts have no upsert: one is updated, and created where there was none.
"""

from collections.abc import Sequence
from typing import Any

from connections.messages import OutboundError, Request, Response
from connections.providers.answers import number_header, read_object, text_at
from connections.providers.base import Action, Exchange, Field, Limits, MappingField, Shipment
from connections.providers.vendor import (
    FIRST_NAME,
    Vendor,
    VendorError,
    bearer,
    given,
    json_request,
    needed,
    object_in,
    url_part,
    without_nulls,
)
from connections.providers.verdicts import (
    Outcome,
    Unsendable,
    Verdict,
    disabled,
    reauthorize,
    rejected,
    retry,
    throttled,
)

DAY = 24 * 3600.0
MAX_RECIPIENTS = 50

EMAIL = (
    MappingField(
        "to", "To", type="any", required=True, source="payload.email", help="An address, or an array of them."
    ),
    MappingField("subject", "Subject", required=True),
    MappingField(
        "html",
        "HTML",
        markup="html",
        help="The body; html, text or both. What an expression takes from a payload into it is escaped; a payload's"
        " value that is mapped whole is HTML.",
    ),
    MappingField("text", "Text", help="The body without markup."),
    MappingField("from", "From", help="Instead of the connection's own sender."),
)
CONTACT = (
    MappingField("email", "Email", required=True, source="payload.email"),
    MappingField("first_name", "First name", source=FIRST_NAME),
    MappingField("last_name", "Last name", source="payload.last_name"),
    MappingField("properties", "Properties", type="object", help="Custom properties that Resend knows already."),
)
EVENT = (
    MappingField("event", "Event", required=True, source="event.type", help="As the automation's trigger names it."),
    MappingField("email", "Email", required=True, source="payload.email"),
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
    test = "Lists the account's domains; sends nothing. A key that may only send emails passes too."
    answers = {
        "missing_api_key": reauthorize("Resend has got no API key. Set it, then test the connection."),
        "invalid_api_key": reauthorize("Resend does not accept the API key. Replace it, then test the connection."),
        "restricted_api_key": reauthorize(
            "The API key may only send emails. Replace it by one with full access, then test the connection.",
            "forbidden",
        ),
        "invalid_from_address": disabled(
            "Resend does not accept the sender. Set the connection's sender to another, then resume.", "forbidden"
        ),
        "security_error": disabled(
            "Resend suspects a security issue of this account's requests. Ask its support, then resume.", "forbidden"
        ),
        "invalid_idempotent_request": rejected(
            "Resend has taken another email for this delivery within a day. Send a new event instead of a replay."
        ),
        "concurrent_idempotent_requests": retry("Resend is still busy with the same email.", "concurrent", 5),
        "daily_quota_exceeded": throttled("The Resend account's daily quota is used up.", "daily_limit", 3600),
        "monthly_quota_exceeded": throttled(
            "The Resend account's monthly quota is used up. Upgrade its plan.", "monthly_limit", DAY
        ),
        400: rejected("Resend refuses a value. Mend the rule's mapping."),
        403: disabled("Resend does not let this sender write. Verify its domain at resend.com/domains, then resume.",
                      "forbidden"),
        422: rejected("Resend refuses a value, or one is missing. Mend the rule's mapping."),
    }  # fmt: skip

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        if shipment.action == "send_email":
            key = ("idempotency-key", shipment.delivery_id)
            return self._call("POST", "/emails", shipment, _email(fields, shipment), key)
        email = needed(fields, "email")
        if shipment.action == "send_event":
            event = {
                "event": _event_name(needed(fields, "event")),
                "email": email,
                "payload": object_in(fields, "payload"),
            }
            return self._call("POST", "/events/send", shipment, event)
        if details := _details(fields):
            return self._call("PATCH", f"/contacts/{url_part(email)}", shipment, details)
        return self._call("POST", "/contacts", shipment, {"email": email})

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        last = exchanges[-1]
        if shipment.action == "send_email":
            return self._judge_sender(shipment, last.response)
        if last.request.method != "PATCH" or last.response.status != 404:
            return None
        fields = self.fields(shipment)
        return self._call("POST", "/contacts", shipment, {"email": needed(fields, "email"), **_details(fields)})

    def _judge_sender(self, shipment: Shipment, response: Response) -> Verdict | None:
        """A sender that is refused is the connection's, and holds it, but where the rule's mapping gave another."""
        error = self.error_of(response)
        is_of_sender = error.code == "invalid_from_address" or (
            response.status == 403 and error.code == "validation_error" and "domain" in error.message.lower()
        )
        if not is_of_sender or given(self.fields(shipment), "from") is None:
            return None
        words = "Resend does not accept the sender that the rule's mapping gives. Mend the field from."
        return self.completed(rejected(words), response, error.message)

    def error_of(self, response: Response) -> VendorError:
        if response.status < 300:
            return VendorError()
        document = read_object(response)
        return VendorError(text_at(document, "name"), text_at(document, "message"))

    def is_done(self, response: Response, action: str) -> bool:
        return text_at(read_object(response), "event" if action == "send_event" else "id") != ""

    def rest_of(self, response: Response) -> float | None:
        return (
            number_header(response, "ratelimit-reset") if number_header(response, "ratelimit-remaining") == 0 else None
        )

    def build_test(self, shipment: Shipment) -> Request:
        return self._call("GET", "/domains", shipment)

    def classify_test(self, answer: Response | OutboundError) -> Verdict:
        if isinstance(answer, Response) and self.error_of(answer).code == "restricted_api_key":
            return Verdict(Outcome.DELIVERED)  # a valid key, which may send emails and no more
        return super().classify_test(answer)

    def _call(
        self, method: str, path: str, shipment: Shipment, document: object = None, *headers: tuple[str, str]
    ) -> Request:
        return json_request(method, self.root(shipment) + path, document, bearer(shipment, "api_key"), *headers)


def _email(fields: dict[str, Any], shipment: Shipment) -> dict[str, Any]:
    sender = given(fields, "from") or shipment.frozen.get("sender")
    if not sender:
        raise Unsendable("The email has no sender. Set the connection's sender, or map the field from.")
    if given(fields, "html") is None and given(fields, "text") is None:
        raise Unsendable("The email has no body. Map html, text or both.")
    to = fields.get("to")
    if not isinstance(to, list):
        to = needed(fields, "to")
    elif not to or not all(isinstance(address, str) and address.strip() for address in to):
        raise Unsendable("The field to must be an address, or an array of addresses.")
    else:
        to = [address.strip() for address in to]
    if isinstance(to, list) and len(to) > MAX_RECIPIENTS:
        raise Unsendable(f"The email has {len(to)} recipients; Resend takes at most {MAX_RECIPIENTS}.")
    return without_nulls({**fields, "from": sender, "to": to, "subject": needed(fields, "subject")})


def _event_name(name: str) -> str:
    if name.startswith("resend:"):
        raise Unsendable("Resend keeps event names that begin with resend: for its own. Map event to another.")
    return name


def _details(fields: dict[str, Any]) -> dict[str, Any]:
    """What there is to write of a contact beside its address."""
    names = {key: given(fields, key) for key in ("first_name", "last_name")}
    return without_nulls({**names, "properties": object_in(fields, "properties") or None})


PROVIDER = Resend()
