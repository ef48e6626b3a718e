"""Klaviyo (developers.klaviyo.com): profiles and their events.

The API is JSON:API and dated by a header. Events carry the delivery's id, by which Klaviyo drops a second one.
"""

from typing import Any

from connections.messages import Request, Response
from connections.providers.base import (
    Account,
    Action,
    Field,
    Limits,
    MappingField,
    Shipment,
    Unsendable,
    disabled,
    reauthorize,
    rejected,
)
from connections.providers.vendor import (
    FIRST_NAME,
    Vendor,
    VendorError,
    fields_of,
    json_request,
    needed,
    number_header,
    read_object,
    revealed,
    text_at,
    without_nulls,
)

REVISION = "2026-07-15"
PROFILE_BYTES = 100_000
IDENTIFIERS = ("email", "phone_number", "external_id", "anonymous_id", "id")

PROFILE = (
    MappingField("email", "Email", source="payload.email"),
    MappingField("phone_number", "Phone number", source="payload.phone", help="E.164, such as +15551234567."),
    MappingField("external_id", "External id", help="Your own id of the person."),
    MappingField("first_name", "First name", source=FIRST_NAME),
    MappingField("last_name", "Last name", source="payload.last_name"),
)
EVENT = (
    MappingField("metric", "Metric", required=True, source="event.type", help="What kind of event it is."),
    MappingField("properties", "Properties", "object", source="payload"),
    MappingField("value", "Value", "number", help="Such as an amount of money."),
)


class Klaviyo(Vendor):
    slug = "klaviyo"
    name = "Klaviyo"
    description = "Creates and updates profiles and records their events in Klaviyo."
    docs_url = "https://developers.klaviyo.com/en/reference/api_overview"
    auth = "api_key"
    base_urls = {"": "https://a.klaviyo.com"}
    credential_fields = (
        Field(
            "api_key", "Private API key", required=True, sensitive=True, pattern=r"[\x21-\x7e]+",
            help="pk_…, with the scopes profiles:write, events:write and accounts:read.",
        ),
    )  # fmt: skip
    actions = (
        Action(
            "upsert_profile", "Create or update a profile", True, is_open=True,
            fields=(*PROFILE, MappingField("organization", "Company name", source="payload.company")),
            help="Fields of your own belong below properties. Null clears a field.",
        ),
        Action("track_event", "Track an event", True, fields=(*EVENT, *PROFILE)),
    )  # fmt: skip
    limits = Limits(in_flight=10, rate=12, body_bytes=5_000_000)
    test = "Asks for the account's details; writes nothing."
    answers = {
        400: rejected(
            "Klaviyo refuses a value. Mend the rule's mapping: phone numbers must be E.164, such as +15551234567."
        ),
        401: reauthorize("Klaviyo does not accept the key (401). Replace it by a private API key, pk_…"),
        403: reauthorize(
            "The key lacks a scope: it needs profiles:write, events:write and accounts:read.", "forbidden"
        ),
        404: rejected("The id and the email belong to two profiles. Map one of them, or merge the profiles."),
        409: rejected("Another profile has this email or phone number. Merge them in Klaviyo.", "conflict"),
        410: disabled(f"Klaviyo no longer takes revision {REVISION} of its API: Meshes must be updated.", "retired"),
    }  # fmt: skip

    def build_request(self, shipment: Shipment) -> Request:
        fields = fields_of(shipment)
        if not any(fields.get(key) for key in IDENTIFIERS):
            raise Unsendable("Klaviyo needs an email, a phone_number or an external_id; this event has none of them.")
        if shipment.action == "track_event":
            return self._call("POST", "/api/events", shipment, _event(shipment, fields))
        request = self._call("POST", "/api/profile-import", shipment, _profile(fields))
        if len(request.body) > PROFILE_BYTES:
            raise Unsendable(f"The profile has {len(request.body):,} bytes; Klaviyo takes at most {PROFILE_BYTES:,}.")
        return request

    def error_of(self, response: Response) -> VendorError:
        if response.status < 300:
            return VendorError()
        document = read_object(response)
        return VendorError(text_at(document, "errors", 0, "code"), text_at(document, "errors", 0, "detail"))

    def rest_of(self, response: Response) -> float | None:
        if number_header(response, "ratelimit-remaining") != 0:
            return None
        return number_header(response, "ratelimit-reset") or 1.0

    def build_test(self, shipment: Shipment) -> Request:
        return self._call("GET", "/api/accounts", shipment)

    def read_account(self, response: Response) -> Account | None:
        document = read_object(response)
        account = text_at(document, "data", 0, "id")
        name = text_at(document, "data", 0, "attributes", "contact_information", "organization_name")
        return Account(account, name) if account else None

    def _call(self, method: str, path: str, shipment: Shipment, document: object = None) -> Request:
        own = (
            ("authorization", f"Klaviyo-API-Key {revealed(shipment, 'api_key')}"),
            ("accept", "application/vnd.api+json"),
            ("revision", REVISION),
        )
        return json_request(method, self.root(shipment) + path, document, *own, content_type="application/vnd.api+json")


def _event(shipment: Shipment, fields: dict[str, Any]) -> dict[str, Any]:
    properties = fields.get("properties") or {}
    if not isinstance(properties, dict):
        raise Unsendable("The field properties must be an object.")
    about = {field.key for field in EVENT}
    profile = without_nulls({key: value for key, value in fields.items() if key not in about})
    attributes = {
        "properties": properties,
        "time": shipment.occurred_at.isoformat(),
        "value": fields.get("value"),
        "unique_id": shipment.delivery_id,
        "metric": _resource("metric", {"name": needed(fields, "metric")}),
        "profile": _profile(profile),
    }
    return _resource("event", without_nulls(attributes))


def _profile(fields: dict[str, Any]) -> dict[str, Any]:
    """An id stands beside the attributes, not among them."""
    profile = _resource("profile", {key: value for key, value in fields.items() if key != "id"})
    if fields.get("id"):
        profile["data"]["id"] = needed(fields, "id")
    return profile


def _resource(kind: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"type": kind, "attributes": attributes}}


PROVIDER = Klaviyo()
