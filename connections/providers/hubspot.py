"""HubSpot CRM (developers.hubspot.com): contacts, lists and notes.

Contacts are written by batch upsert, of one, because the single calls have no upsert; a batch answers 207 where a row
failed. Paths are dated since 2026-03, each supported for 18 months.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from connections.messages import Request, Response
from connections.providers.base import (
    Account,
    Action,
    Choice,
    Exchange,
    Field,
    Granted,
    Limits,
    MappingField,
    OAuth,
    Shipment,
    Unsendable,
    Verdict,
    reauthorize,
    rejected,
    retry,
    throttled,
)
from connections.providers.vendor import (
    Vendor,
    VendorError,
    bearer,
    fields_of,
    json_request,
    listed,
    needed,
    number_header,
    read_object,
    text_at,
)

OBJECTS = "/crm/objects/2026-09"
NOTE_TO_CONTACT = 202
"""HubSpot's own type of the association from a note to a contact."""
DAILY_RETRY_SECONDS = 3600.0
"""The daily limit ends at midnight of the account's time zone, which answers do not tell."""

PERSON = (
    MappingField("email", "Email", required=True, source="payload.email"),
    MappingField("firstname", "First name", source="payload.first_name"),
    MappingField("lastname", "Last name", source="payload.last_name"),
    MappingField("company", "Company name", source="payload.company"),
    MappingField("phone", "Phone number", source="payload.phone"),
)


class HubSpot(Vendor):
    slug = "hubspot"
    name = "HubSpot"
    description = "Writes contacts, adds them to lists and leaves notes in HubSpot CRM."
    docs_url = "https://developers.hubspot.com/docs/api-reference/overview"
    auth = "oauth2"
    oauth = OAuth(
        authorize_url="https://app.hubspot.com/oauth/authorize",
        token_url="https://api.hubapi.com/oauth/2026-09/token",  # noqa: S106  (no secret)
        revoke_url="https://api.hubapi.com/oauth/2026-09/token/revoke",
        scopes=("oauth", "crm.objects.contacts.read", "crm.objects.contacts.write"),
        authorize_with=(("optional_scope", "crm.lists.read crm.lists.write"),),
        lifetime_seconds=1800,
        ends_with=frozenset({"invalid_grant", "BAD_REFRESH_TOKEN"}),
    )
    base_urls = {"": "https://api.hubapi.com"}
    config_fields = (
        Field(
            "id_property", "Identifying property", default="email", pattern=r"[a-z][a-z0-9_]*", max_length=100,
            frozen=True, help="email, or a property of yours that HubSpot keeps unique; the mapping must fill it.",
        ),
    )  # fmt: skip
    credential_fields = (
        Field("access_token", "Access token", sensitive=True, help="Of a private app or a service key."),
    )
    actions = (
        Action("upsert_contact", "Create or update a contact", True, fields=PERSON, is_open=True),
        Action(
            "add_to_list", "Add a contact to a list", True, is_open=True, steps=("upsert contact", "add to list"),
            fields=(MappingField("list_id", "List", required=True, help="A manual list's id.", example="42"), *PERSON),
        ),
        Action(
            "create_note", "Leave a note on a contact", False, is_open=True, steps=("upsert contact", "create note"),
            fields=(MappingField("note", "Note", required=True), *PERSON),
        ),
    )  # fmt: skip
    limits = Limits(in_flight=8, rate=10, body_bytes=1_000_000)
    live_options = {"list_id": "Manual lists", "id_property": "Contact properties with unique values"}
    test = "Asks for the account's details; writes nothing."
    answers = {
        "VALIDATION_ERROR": rejected("HubSpot refuses a value. Mend the rule's mapping."),
        "PROPERTY_DOESNT_EXIST": rejected("The mapping names a property that this HubSpot account does not have."),
        "MISSING_SCOPES": reauthorize(
            "The app lacks a permission, such as crm.objects.contacts.write. Grant it and connect again.", "forbidden"
        ),
        "TEN_SECONDLY_ROLLING": throttled("HubSpot takes no more requests in these ten seconds.", seconds=10),
        "DAILY": throttled("The HubSpot account's daily limit is used up.", "daily_limit", DAILY_RETRY_SECONDS),
        404: rejected("HubSpot has no such list or property. Check the rule's mapping and id_property."),
        423: retry("HubSpot has locked the record for a moment.", "locked", 2),
        477: retry("HubSpot is moving this account to another host.", "moving"),
    }

    def build_request(self, shipment: Shipment) -> Request:
        fields = fields_of(shipment)
        properties = {key: _text(value) for key, value in fields.items() if key not in ("list_id", "note")}
        by = shipment.frozen.get("id_property") or "email"
        row = {"id": needed(fields, by), "idProperty": by, "objectWriteTraceId": shipment.delivery_id}
        inputs = [row | {"properties": properties}]
        return self._call("POST", f"{OBJECTS}/contacts/batch/upsert", shipment, {"inputs": inputs})

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        if shipment.action == "upsert_contact" or len(exchanges) > 1 or exchanges[0].response.status != 200:
            return None
        contact = text_at(read_object(exchanges[0].response), "results", 0, "id")
        if not contact:
            return retry("HubSpot did not name the contact that it wrote.", "unreadable_answer")
        fields = fields_of(shipment)
        if shipment.action == "add_to_list":
            path = f"/crm/v3/lists/{_id(needed(fields, 'list_id'))}/memberships/add"
            return self._call("PUT", path, shipment, [contact])
        kind = {"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": NOTE_TO_CONTACT}
        note = {
            "properties": {
                "hs_timestamp": shipment.occurred_at.isoformat(),
                "hs_note_body": needed(fields, "note"),
            },
            "associations": [{"to": {"id": contact}, "types": [kind]}],
        }
        return self._call("POST", f"{OBJECTS}/notes", shipment, note)

    def error_of(self, response: Response) -> VendorError:
        document = read_object(response)
        if response.status in (200, 207) and text_at(document, "numErrors") not in ("", "0"):
            return VendorError(
                text_at(document, "errors", 0, "category") or "error", text_at(document, "errors", 0, "message")
            )
        if response.status < 300:
            return VendorError()
        code = text_at(document, "policyName") or text_at(document, "category")
        return VendorError(code, text_at(document, "message"))

    def rest_of(self, response: Response) -> float | None:
        if number_header(response, "x-hubspot-ratelimit-remaining") != 0:
            return None
        return (number_header(response, "x-hubspot-ratelimit-interval-milliseconds") or 10_000) / 1000

    def build_test(self, shipment: Shipment) -> Request:
        return self._call("GET", "/account-info/2026-09/details", shipment)

    def read_account(self, response: Response) -> Account | None:
        document = read_object(response)
        portal = text_at(document, "portalId")
        return Account(portal, text_at(document, "uiDomain")) if portal else None

    def read_grant(self, reply: Mapping[str, Any], details: Mapping[str, Any]) -> Granted:
        portal = text_at(reply, "hub_id")
        return Granted(account=Account(portal, text_at(reply, "hub_domain")) if portal else None)

    def build_options(self, field: str, shipment: Shipment) -> Request:
        if field == "list_id":
            search = {"processingTypes": ["MANUAL"], "count": 250}
            return self._call("POST", "/crm/v3/lists/search", shipment, search)
        if field == "id_property":
            return self._call("GET", "/crm/properties/2026-09/contacts", shipment)
        raise KeyError(field)

    def read_options(self, field: str, response: Response) -> list[Choice]:
        if field == "list_id":
            return [Choice(text_at(row, "listId"), text_at(row, "name")) for row in listed(response, "lists")]
        unique = [row for row in listed(response, "results") if row.get("hasUniqueValue")]
        choices = [Choice(text_at(row, "name"), text_at(row, "label")) for row in unique if row.get("name") != "email"]
        return [Choice("email", "Email"), *choices]

    def _call(self, method: str, path: str, shipment: Shipment, document: object = None) -> Request:
        return json_request(method, self.root(shipment) + path, document, bearer(shipment))


def _text(value: object) -> str:
    """HubSpot's properties are strings; an empty one clears a property. Raises Unsendable."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ";".join(_text(item) for item in value)
    if isinstance(value, dict):
        raise Unsendable("A HubSpot property cannot hold an object.")
    return str(value)


def _id(value: str) -> str:
    if not value.isdecimal():
        raise Unsendable("list_id must be the number of a HubSpot list.")
    return value


PROVIDER = HubSpot()
