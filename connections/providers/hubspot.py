"""HubSpot CRM (developers.hubspot.com): contacts, lists and notes.

Contacts are written by batch upsert, of one, because the single calls have no upsert; a batch answers 207 where a row
failed. Where another contact has the email already, HubSpot names that one, and it is updated. Paths are dated since
2026-03, each supported for 18 months.
"""

import re
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
)
from connections.providers.markup import escape_html
from connections.providers.vendor import (
    FIRST_NAME,
    Vendor,
    VendorError,
    bearer,
    json_request,
    limited,
    listed,
    needed,
    number_header,
    number_text,
    read_object,
    rows_at,
    text_at,
)
from connections.providers.verdicts import reauthorize, rejected, retry, throttled

OBJECTS = "/crm/objects/2026-09"
NOTE_TO_CONTACT = 202
"""HubSpot's own type of the association from a note to a contact."""
DAILY_RETRY_SECONDS = 3600.0
"""The daily limit ends at midnight of the account's time zone, which answers do not tell."""
EXISTING_ID = re.compile(r"Existing ID: ([0-9]+)")
MISSING = "recordIdsMissing"
MAX_TEXT = 65_536
"""Characters of a property, and of a note."""
TAKEN = frozenset({"CONFLICT", "OBJECT_ALREADY_EXISTS"})
STEPS = ("upsert contact", "update the one that has the email")

PERSON = (
    MappingField("email", "Email", required=True, source="payload.email"),
    MappingField("firstname", "First name", source=FIRST_NAME),
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
        Action("upsert_contact", "Create or update a contact", True, fields=PERSON, is_open=True, steps=STEPS),
        Action(
            "add_to_list", "Add a contact to a list", True, is_open=True, steps=(*STEPS, "add to list"),
            fields=(MappingField("list_id", "List", required=True, help="A manual list's id.", example="42"), *PERSON),
        ),
        Action(
            "create_note", "Leave a note on a contact", False, is_open=True, steps=(*STEPS, "create note"),
            fields=(MappingField("note", "Note", required=True), *PERSON),
        ),
    )  # fmt: skip
    limits = Limits(in_flight=8, rate=10, body_bytes=1_000_000)
    live_options = {"list_id": "Manual lists", "id_property": "Contact properties with unique values"}
    test = "Asks for the account's details; writes nothing."
    answers = {
        "INTERNAL_ERROR": retry("HubSpot has an error of its own."),
        "RATE_LIMITS": throttled("HubSpot takes no more requests just now.", seconds=10),
        "CONFLICT": retry("HubSpot met another write of this contact (409); it is tried again."),
        MISSING: retry("The contact was merged or deleted just now; it is looked up again.", "contact_moved"),
        "VALIDATION_ERROR": rejected("HubSpot refuses a value. Mend the rule's mapping."),
        "PROPERTY_DOESNT_EXIST": rejected(
            "This HubSpot account lacks a property of the mapping. Create it there, or map another."
        ),
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
        fields = self.fields(shipment)
        _check_second_call(shipment, fields)
        by = shipment.frozen.get("id_property") or "email"
        fields[by] = needed(fields, by)
        row = {"id": fields[by], "idProperty": by, "objectWriteTraceId": shipment.delivery_id}
        inputs = [row | {"properties": _properties(fields)}]
        return self._call("POST", f"{OBJECTS}/contacts/batch/upsert", shipment, {"inputs": inputs})

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        last = exchanges[-1]
        if last.request.method == "PATCH":
            return self._after_update(shipment, last.response)
        if not last.request.url.endswith("/batch/upsert"):
            return None
        if existing := self._existing(last.response):
            document = {"properties": _properties(self.fields(shipment))}
            return self._call("PATCH", f"{OBJECTS}/contacts/{existing}", shipment, document)
        return self._after_contact(shipment, last.response, "results", 0, "id")

    def may_repeat(self, action: str, request: Request) -> bool:
        return request.url.endswith("/batch/upsert") or super().may_repeat(action, request)

    def _existing(self, response: Response) -> str:
        """The id of the contact that has the email, where that kept another from being written; else empty."""
        error = self.error_of(response)
        named = EXISTING_ID.search(error.message) if response.status == 409 or error.code in TAKEN else None
        return named[1] if named else ""

    def _after_update(self, shipment: Shipment, response: Response) -> Request | Verdict | None:
        if response.status == 404:
            return retry("The contact was merged or deleted just now; it is looked up again.", "contact_moved")
        if response.status == 409:
            words = "One contact has the email, and another the identifying property. Merge them in HubSpot."
            return rejected(words, "conflict")
        return self._after_contact(shipment, response, "id")

    def _after_contact(self, shipment: Shipment, response: Response, *path: str | int) -> Request | Verdict | None:
        """What the contact was written for; `path` leads to its id in the answer."""
        if response.status not in (200, 201, 207) or self.error_of(response) != ("", ""):
            return None
        contact = text_at(read_object(response), *path)
        if not contact:
            return retry("HubSpot did not name the contact that it wrote.", "unreadable_answer")
        if shipment.action == "upsert_contact":
            return None
        fields = self.fields(shipment)
        if shipment.action == "add_to_list":
            path_of_list = f"/crm/v3/lists/{_list_id(fields)}/memberships/add"
            return self._call("PUT", path_of_list, shipment, [contact])
        kind = {"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": NOTE_TO_CONTACT}
        note = {
            "properties": {
                "hs_timestamp": shipment.occurred_at.isoformat(),
                "hs_note_body": _note(needed(fields, "note")),
            },
            "associations": [{"to": {"id": contact}, "types": [kind]}],
        }
        return self._call("POST", f"{OBJECTS}/notes", shipment, note)

    def error_of(self, response: Response) -> VendorError:
        document = read_object(response)
        if response.status < 300:
            if rows_at(document, MISSING):
                return VendorError(MISSING)
            if rows_at(document, "errors") or text_at(document, "numErrors") not in ("", "0"):
                code = text_at(document, "errors", 0, "category") or "error"
                return VendorError(code, text_at(document, "errors", 0, "message"))
            return VendorError()
        code, message = text_at(document, "policyName") or text_at(document, "category"), text_at(document, "message")
        if scope := text_at(document, "errors", 0, "context", "requiredGranularScopes", 0):
            message = f"needs {scope}. {message}"
        return VendorError(code, message)

    def is_done(self, response: Response, action: str) -> bool:
        """A list names whom it was given, also nobody who was not there yet; a batch and a record name the record."""
        document = read_object(response)
        if action == "add_to_list":
            return any(isinstance(document.get(key), list) for key in ("recordsIdsAdded", "recordIdsAdded"))
        return text_at(document, "id") != "" or (action == "upsert_contact" and bool(rows_at(document, "results")))

    def rest_of(self, response: Response) -> float | None:
        if number_header(response, "x-hubspot-ratelimit-daily-remaining") == 0:
            return DAILY_RETRY_SECONDS
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

    def build_options(self, field: str, shipment: Shipment, cursor: str = "") -> Request:
        if field == "list_id":
            search = {"processingTypes": ["MANUAL"], "count": 250} | ({"offset": int(cursor)} if cursor else {})
            return self._call("POST", "/crm/v3/lists/search", shipment, search)
        if field == "id_property":
            return self._call("GET", "/crm/properties/2026-09/contacts", shipment)
        raise KeyError(field)

    def options_cursor(self, field: str, response: Response) -> str:
        document = read_object(response)
        offset = text_at(document, "offset") if document.get("hasMore") is True else ""
        return offset if offset.isdecimal() else ""

    def read_options(self, field: str, response: Response) -> list[Choice]:
        if field == "list_id":
            return [Choice(text_at(row, "listId"), text_at(row, "name")) for row in listed(response, "lists")]
        unique = [row for row in listed(response, "results") if row.get("hasUniqueValue")]
        choices = [Choice(text_at(row, "name"), text_at(row, "label")) for row in unique if row.get("name") != "email"]
        return [Choice("email", "Email"), *choices]

    def _call(self, method: str, path: str, shipment: Shipment, document: object = None) -> Request:
        return json_request(method, self.root(shipment) + path, document, bearer(shipment))


def _check_second_call(shipment: Shipment, fields: Mapping[str, Any]) -> None:
    """Raises Unsendable before anything is written."""
    if shipment.action == "add_to_list":
        _list_id(fields)
    if shipment.action == "create_note":
        text = limited("note", needed(fields, "note"), MAX_TEXT, "HubSpot")
        limited("note", _note(text), MAX_TEXT, "HubSpot")


def _properties(fields: Mapping[str, Any]) -> dict[str, str]:
    texts = {key: _text(value) for key, value in fields.items() if key not in ("list_id", "note")}
    return {key: limited(key, text, MAX_TEXT, "HubSpot", shortest=0) for key, text in texts.items()}


def _note(text: str) -> str:
    """HubSpot shows notes as HTML."""
    return escape_html(text).replace("\n", "<br>")


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
    return number_text(value) if isinstance(value, int | float) else str(value)


def _list_id(fields: Mapping[str, Any]) -> str:
    value = needed(fields, "list_id")
    if not value.isdecimal():
        raise Unsendable("list_id must be the number of a HubSpot list.")
    return value


PROVIDER = HubSpot()
