"""HubSpot CRM (developers.hubspot.com): contacts, lists and notes.

Contacts are written by batch upsert, of one, because the single calls have no upsert; a batch answers 207 where a row
failed. Where another contact has the email already, HubSpot names that one, and it is updated. Paths are dated since
2026-03, each supported for 18 months.
"""

import re
from collections.abc import Sequence

from connections.messages import Request, Response
from connections.providers.answers import number_header, rows_at, text_at
from connections.providers.base import Action, Choice, Exchange, Limits, MappingField, OAuth, Shipment
from connections.providers.crm import MOVED, person
from connections.providers.fields import Field, Unsendable, access_token
from connections.providers.markup import escape_html
from connections.providers.vendor import VALUE_REFUSED, Fields, Vendor, choices, limited, number_text
from connections.providers.verdicts import Verdict, reauthorize, rejected, retry, throttled

OBJECTS = "/crm/objects/2026-09"
NOTE_TO_CONTACT = 202
"""HubSpot's own type of the association from a note to a contact."""
DAILY_RETRY_SECONDS = 3600.0
"""The daily limit ends at midnight of the account's time zone, which answers do not tell."""
EXISTING_ID = re.compile(r"Existing ID: ([0-9]+)")
MISSING = "recordIdsMissing"
MAX_TEXT = 65_536
"""Characters of a property, and of a note."""
TWO = rejected("One contact has the email, and another the identifying property. Merge them in HubSpot.", "conflict")
STEPS = ("upsert contact", "update the one that has the email")
PERSON = person("email", "firstname", "lastname", "company", "phone")


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
    credential_fields = (access_token("Of a private app or a service key."),)
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
    repeatable = ("/batch/upsert",)
    live_options = {"list_id": "Manual lists", "id_property": "Contact properties with unique values"}
    account_at = (("portalId",), ("uiDomain",))
    granted_account_at = (("reply", "hub_id"), ("reply", "hub_domain"))
    test_path = "/account-info/2026-09/details"
    test = "Asks for the account's details; writes nothing."
    answers = {
        "INTERNAL_ERROR": retry("HubSpot has an error of its own."),
        "RATE_LIMITS": throttled("HubSpot takes no more requests just now.", seconds=10),
        "CONFLICT": retry("HubSpot met another write of this contact (409); it is tried again."),
        MISSING: MOVED,
        "VALIDATION_ERROR": VALUE_REFUSED,
        "PROPERTY_DOESNT_EXIST": rejected(
            "This HubSpot account lacks a property of the mapping. Create it there, or map another."),
        "MISSING_SCOPES": reauthorize(
            "The app lacks a permission, such as crm.objects.contacts.write. Grant it and connect again.", "forbidden"),
        "TEN_SECONDLY_ROLLING": throttled("HubSpot takes no more requests in these ten seconds.", seconds=10),
        "DAILY": throttled("The HubSpot account's daily limit is used up.", "daily_limit", DAILY_RETRY_SECONDS),
        404: rejected("HubSpot has no such list or property. Check the rule's mapping and id_property."),
        423: retry("HubSpot has locked the record for a moment.", "locked", 2),
        477: retry("HubSpot is moving this account to another host.", "moving"),
    }  # fmt: skip

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        if shipment.action == "add_to_list" and not fields.needed("list_id").isdecimal():
            raise Unsendable("list_id must be the number of a HubSpot list.")
        if shipment.action == "create_note":
            _note(fields)  # refused before anything is written
        by = shipment.frozen.get("id_property") or "email"
        fields[by] = fields.needed(by)
        row = {"id": fields[by], "idProperty": by, "objectWriteTraceId": shipment.delivery_id}
        inputs = [row | {"properties": _properties(fields)}]
        return self.call("POST", f"{OBJECTS}/contacts/batch/upsert", shipment, {"inputs": inputs})

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        request, response = exchanges[-1].request, exchanges[-1].response
        if request.method == "PATCH":
            judged = {404: MOVED, 409: TWO}.get(response.status)
            return judged or self._after_contact(shipment, response, "id")
        if not request.url.endswith("/batch/upsert"):
            return None
        code, message = self.error_of(response)
        is_taken = response.status == 409 or code in ("CONFLICT", "OBJECT_ALREADY_EXISTS")
        if is_taken and (existing := EXISTING_ID.search(message)):  # another contact has the email
            document = {"properties": _properties(self.fields(shipment))}
            return self.call("PATCH", f"{OBJECTS}/contacts/{existing[1]}", shipment, document)
        return self._after_contact(shipment, response, "results", 0, "id")

    def _after_contact(self, shipment: Shipment, response: Response, *path: str | int) -> Request | Verdict | None:
        """What the contact was written for; `path` leads to its id in the answer."""
        if response.status not in (200, 201, 207) or self.error_of(response) != ("", ""):
            return None
        contact = text_at(response, *path)
        if not contact:
            return retry("HubSpot did not name the contact that it wrote.", "unreadable_answer")
        if shipment.action == "upsert_contact":
            return None
        fields = self.fields(shipment)
        if shipment.action == "add_to_list":
            return self.call("PUT", f"/crm/v3/lists/{fields.needed('list_id')}/memberships/add", shipment, [contact])
        note = {"hs_timestamp": shipment.occurred_at.isoformat(), "hs_note_body": _note(fields)}
        kind = {"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": NOTE_TO_CONTACT}
        associations = [{"to": {"id": contact}, "types": [kind]}]
        return self.call("POST", f"{OBJECTS}/notes", shipment, {"properties": note, "associations": associations})

    def error_of(self, response: Response) -> tuple[str, str]:
        document = response.json_object()
        if response.status < 300 and rows_at(document, MISSING):
            return MISSING, ""
        if response.status < 300:
            failed = rows_at(document, "errors") or text_at(document, "numErrors") not in ("", "0")
            code, message = (text_at(document, "errors", 0, key) for key in ("category", "message"))
            return (code or "error", message) if failed else ("", "")
        scope = text_at(document, "errors", 0, "context", "requiredGranularScopes", 0)
        code, message = text_at(document, "policyName") or text_at(document, "category"), text_at(document, "message")
        return code, f"needs {scope}. {message}" if scope else message

    def is_done(self, response: Response, action: str) -> bool:
        """A list names whom it was given, also nobody who was not there yet; a batch and a record name the record."""
        if action == "add_to_list":
            added = (response.json_object().get(key) for key in ("recordsIdsAdded", "recordIdsAdded"))
            return any(isinstance(rows, list) for rows in added)
        return text_at(response, "id") != "" or (action == "upsert_contact" and bool(rows_at(response, "results")))

    def rest_of(self, response: Response) -> float | None:
        if number_header(response, "x-hubspot-ratelimit-daily-remaining") == 0:
            return DAILY_RETRY_SECONDS
        if number_header(response, "x-hubspot-ratelimit-remaining") != 0:
            return None
        return (number_header(response, "x-hubspot-ratelimit-interval-milliseconds") or 10_000) / 1000

    def build_options(self, field: str, shipment: Shipment, cursor: str = "") -> Request:
        if field == "list_id":
            search = {"processingTypes": ["MANUAL"], "count": 250} | ({"offset": int(cursor)} if cursor else {})
            return self.call("POST", "/crm/v3/lists/search", shipment, search)
        return self.call("GET", {"id_property": "/crm/properties/2026-09/contacts"}[field], shipment)

    def options_cursor(self, field: str, response: Response) -> str:
        document = response.json_object()
        offset = text_at(document, "offset") if document.get("hasMore") is True else ""
        return offset if offset.isdecimal() else ""

    def read_options(self, field: str, response: Response) -> list[Choice]:
        if field == "list_id":
            return choices(response, "lists", value="listId")
        unique = choices(response, "results", value="name", label="label", only="hasUniqueValue")
        return [Choice("email", "Email"), *(choice for choice in unique if choice.value != "email")]


def _properties(fields: Fields) -> dict[str, str]:
    texts = {key: _text(value) for key, value in fields.items() if key not in ("list_id", "note")}
    return {key: limited(key, text, MAX_TEXT, "HubSpot", shortest=0) for key, text in texts.items()}


def _note(fields: Fields) -> str:
    """As HTML, as which HubSpot shows notes. Raises Unsendable."""
    return limited("note", escape_html(fields.needed("note", MAX_TEXT)).replace("\n", "<br>"), MAX_TEXT, "HubSpot")


def _text(value: object) -> str:
    """HubSpot's properties are strings; an empty one clears a property. Raises Unsendable."""
    if isinstance(value, dict):
        raise Unsendable("A HubSpot property cannot hold an object.")
    if isinstance(value, list):
        return ";".join(_text(item) for item in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else ""
    return number_text(value) if isinstance(value, int | float) else str(value)


PROVIDER = HubSpot()
