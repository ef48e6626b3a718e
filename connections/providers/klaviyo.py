"""Klaviyo (developers.klaviyo.com): profiles and their events.

The API is JSON:API and dated by a header. Events carry the delivery's id, by which Klaviyo drops a second one.
A telephone number that is not E.164 would fail the whole profile, so it is left out, which the attempt says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from connections.messages import Request, Response
from connections.providers.answers import is_no_page, shown, text_at
from connections.providers.base import Action, Exchange, Limits, MappingField, Shipment
from connections.providers.crm import FIRST_NAME, is_country, to_e164
from connections.providers.fields import Field, FieldProblem, Unsendable
from connections.providers.vendor import VALUE_REFUSED, Fields, Vendor, without_nulls
from connections.providers.verdicts import Verdict, disabled, reauthorize, rejected

REVISION = "2026-07-15"
PROFILE_BYTES = 100_000
MAX_METRIC = 127
PHONE_COUNTRY = "The country of numbers without +, such as US. Without it such a number is left out."
PHONE = "phone_number"
UNNAMED = ("", "/data", "data")
"""What stands for a field's name where an error is about none."""
NO_PHONE = "400 for the phone number"
IDENTIFIERS = ("email", "phone_number", "external_id", "anonymous_id", "id")

PROFILE = (
    MappingField("email", "Email", source="payload.email"),
    MappingField(PHONE, "Phone number", "any", source="payload.phone", help="Written as E.164, such as +15551234567."),
    MappingField("phone_country", "Phone number's country", "any", help=PHONE_COUNTRY),
    MappingField("external_id", "External id", help="Your own id of the person."),
    MappingField("anonymous_id", "Anonymous id", help="Of somebody whose email is not known yet."),
    MappingField("id", "Profile id", help="Klaviyo's own."),
    MappingField("first_name", "First name", source=FIRST_NAME),
    MappingField("last_name", "Last name", source="payload.last_name"),
)
MORE = (
    MappingField("organization", "Company name", source="payload.company"),
    MappingField("title", "Job title"),
    MappingField("locale", "Locale", help="Such as en-US."),
    MappingField("image", "Image", help="An image's URL."),
    MappingField("location", "Location", "object", help="address1, city, country, zip, …"),
    MappingField("properties", "Properties", "object", help="Fields of your own."),
)
EVENT = (
    MappingField("metric", "Metric", required=True, source="event.type", help="What kind of event it is."),
    MappingField("properties", "Properties", "object", source="payload"),
    MappingField("value", "Value", "number", help="Such as an amount of money."),
)
ABOUT = {field.key for field in EVENT}
STEPS = ("send", "send without a phone number that Klaviyo refuses")


class Klaviyo(Vendor):
    slug = "klaviyo"
    name = "Klaviyo"
    description = "Creates and updates profiles and records their events in Klaviyo."
    docs_url = "https://developers.klaviyo.com/en/reference/api_overview"
    auth = "api_key"
    base_urls = {"": "https://a.klaviyo.com"}
    config_fields = (
        Field(
            "phone_country", "Country of phone numbers", pattern="[A-Z]{2}", frozen=True, example="US",
            help=PHONE_COUNTRY,
        ),
    )  # fmt: skip
    credential_fields = (
        Field(
            "api_key", "Private API key", required=True, sensitive=True, pattern=r"[\x21-\x7e]+",
            help="pk_…, with the scopes profiles:write, events:write and accounts:read.",
        ),
    )  # fmt: skip
    actions = (
        Action(
            "upsert_profile", "Create or update a profile", True, is_open=True,
            fields=(*PROFILE, *MORE), steps=STEPS,
            help="Fields of your own belong below properties. Null clears a field.",
        ),
        Action("track_event", "Track an event", True, fields=(*EVENT, *PROFILE), steps=STEPS),
    )  # fmt: skip
    limits = Limits(in_flight=10, rate=12, body_bytes=5_000_000)
    authorization = "Klaviyo-API-Key {api_key}"
    content_type = "application/vnd.api+json"
    headers = (("accept", content_type), ("revision", REVISION))
    limit_headers = ("ratelimit-remaining", "ratelimit-reset", 1.0)
    account_at = (("data", 0, "id"), ("data", 0, "attributes", "contact_information", "organization_name"))
    test_path = "/api/accounts"
    test = "Asks for the account's details; writes nothing."
    answers = {
        NO_PHONE: rejected("Klaviyo refuses the phone number, which must be E.164, such as +15551234567. Map another."),
        400: VALUE_REFUSED,
        401: reauthorize("Klaviyo does not accept the key (401). Replace it by a private API key, pk_…"),
        403: reauthorize(
            "The key lacks a scope: it needs profiles:write, events:write and accounts:read.", "forbidden"),
        404: rejected("The id and the email belong to two profiles. Map one of them, or merge the profiles."),
        409: rejected("Another profile has this email or phone number. Merge them in Klaviyo.", "conflict"),
        410: disabled(f"Klaviyo no longer takes revision {REVISION} of its API: Meshes must be updated.", "retired"),
    }  # fmt: skip

    def build_request(self, shipment: Shipment, refusal: str = "") -> Request:
        """`refusal`: why Klaviyo does not take the phone number."""
        fields = self.fields(shipment)
        omitted = _settle_phone(fields, shipment, refusal)
        if not any(fields.get(key) for key in IDENTIFIERS):
            left = "".join(f" Its {key} was left out: {reason}." for key, reason in omitted)
            raise Unsendable(f"Klaviyo needs an email, a {PHONE} or an external_id; this event has none of them.{left}")
        is_event = shipment.action == "track_event"
        path, document = ("events", _event(shipment, fields)) if is_event else ("profile-import", _profile(fields))
        request = self.call("POST", f"/api/{path}", shipment, document)
        if len(request.body) > PROFILE_BYTES and not is_event:
            raise Unsendable(f"The profile has {len(request.body):,} bytes; Klaviyo takes at most {PROFILE_BYTES:,}.")
        return replace(request, omitted=omitted)

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        """A number that is E.164 and still refused does not fail the whole profile."""
        code, message = self.error_of(exchanges[-1].response)
        if code != NO_PHONE or len(exchanges) > 1:
            return None
        fields = self.fields(shipment)
        has_others = any(fields.get(key) for key in IDENTIFIERS if key != PHONE)
        if not fields.get(PHONE) or not has_others:
            return None
        return self.build_request(shipment, f"Klaviyo does not take it: {shown(message)}")

    def error_of(self, response: Response) -> tuple[str, str]:
        if response.status < 300:
            return "", ""
        code, detail = (text_at(response, "errors", 0, key) for key in ("code", "detail"))
        field = text_at(response, "errors", 0, "source", "pointer").rpartition("/attributes/")[2]
        if response.status == 400 and (field == PHONE or (field in UNNAMED and "phone number" in detail.lower())):
            code = NO_PHONE
        return code, detail if field in UNNAMED else f"{field.replace('/', '.')}: {detail}"

    def is_done(self, response: Response, action: str) -> bool:
        """An event is taken (202) without a word; a profile is named."""
        if action == "track_event":
            return response.status == 202 and is_no_page(response)
        return text_at(response, "data", "id") != ""

    def check(self, config: Mapping[str, Any], credentials: Mapping[str, Any]) -> Sequence[FieldProblem]:
        country = config.get("phone_country")
        if not isinstance(country, str) or is_country(country):
            return ()
        return [FieldProblem("/config/phone_country", "Must be a country's code, such as US.", "options")]


def _event(shipment: Shipment, fields: Fields) -> dict[str, Any]:
    attributes = {
        "properties": fields.object("properties"),
        "time": shipment.occurred_at.isoformat(),
        "value": fields.get("value"),
        "unique_id": shipment.delivery_id,
        "metric": _resource("metric", {"name": fields.needed("metric", MAX_METRIC)}),
        "profile": _profile(without_nulls({key: value for key, value in fields.items() if key not in ABOUT})),
    }
    return _resource("event", without_nulls(attributes))


def _profile(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An id stands beside the attributes, not among them."""
    profile = _resource("profile", {key: value for key, value in fields.items() if key != "id"})
    if fields.get("id"):
        profile["data"]["id"] = fields["id"].strip()
    return profile


def _resource(kind: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"type": kind, "attributes": attributes}}


def _settle_phone(fields: Fields, shipment: Shipment, refusal: str) -> tuple[tuple[str, str], ...]:
    """Write the number as E.164, or take it out and say why. A rule's blank number or email clears the field."""
    country = fields.pop("phone_country", None) or shipment.frozen.get("phone_country") or ""
    for key in ("email", PHONE):
        if fields.get(key) == "":
            fields[key] = None
    phone = fields.get(PHONE)
    if phone is None:
        return ()
    is_text = isinstance(phone, str | int | float) and not isinstance(phone, bool)
    try:
        if refusal or not is_text:
            raise ValueError(refusal or "it is not a text")
        fields[PHONE] = to_e164(fields.needed(PHONE), str(country).upper())
    except ValueError as reason:
        del fields[PHONE]
        return ((PHONE, str(reason)),)
    return ()


PROVIDER = Klaviyo()
