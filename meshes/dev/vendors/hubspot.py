"""HubSpot CRM (developers.hubspot.com): contacts, notes and lists, in dated and v3 paths, and OAuth."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, RefusedError, is_email, malformed
from meshes.dev.vendors.oauth import Installation, OAuthServer
from meshes.dev.vendors.server import Window, route

MAX_INPUTS = 100
NOTE_TO_CONTACT = 202
STAGES = ("subscriber", "lead", "marketingqualifiedlead", "salesqualifiedlead", "opportunity", "customer", "evangelist")
FIELDS = ("firstname", "lastname", "company", "phone", "website", "jobtitle", "lifecyclestage", "hs_lead_status")
OBJECTS = r"/crm/(?:objects/2026-0[39]|v3/objects)"
LISTS = r"/crm/(?:lists/2026-0[39]|v3/lists)"


def _properties() -> dict[str, dict[str, bool]]:
    return {
        "contacts": {"email": True, **dict.fromkeys(FIELDS, False), "lead_key": True},
        "notes": dict.fromkeys(("hs_timestamp", "hs_note_body", "hubspot_owner_id"), False),
    }


def _lists() -> dict[str, dict[str, Any]]:
    return {
        "11": {"name": "Leads", "processingType": "MANUAL", "members": []},
        "12": {"name": "Everybody", "processingType": "DYNAMIC", "members": []},
    }


@dataclass
class Portal:
    """One account. `objects` are properties by kind and id; `properties` are what each kind has by name, and whether
    HubSpot keeps it unique; `associations` are the contacts of a note."""

    objects: dict[str, dict[str, dict[str, str]]] = field(default_factory=lambda: {"contacts": {}, "notes": {}})
    properties: dict[str, dict[str, bool]] = field(default_factory=_properties)
    lists: dict[str, dict[str, Any]] = field(default_factory=_lists)
    associations: dict[str, list[str]] = field(default_factory=dict)
    last_id: int = 100

    @property
    def contacts(self) -> dict[str, dict[str, str]]:
        return self.objects["contacts"]

    def find(self, kind: str, by: str, value: str) -> str | None:
        """The id of the object that has this value; emails are alike in any case."""
        wanted = value.lower() if by == "email" else value
        return next((each for each, has in self.objects[kind].items() if has.get(by) == wanted), None)

    def write(self, kind: str, key: str | None, properties: Mapping[str, str]) -> str:
        """Create (without a key) or update; the object's id."""
        if key is None:
            self.last_id += 1
            key = str(self.last_id)
        has = self.objects[kind].setdefault(key, {})
        has |= {name: value.lower() if name == "email" else value for name, value in properties.items()}
        return key

    def wrong_with(self, kind: str, properties: Mapping[str, str]) -> list[dict[str, Any]]:
        """The problems of an object's properties, in HubSpot's form."""
        problems = []
        for name, value in properties.items():
            if name not in self.properties[kind]:
                problems.append((name, f'Property "{name}" does not exist', "PROPERTY_DOESNT_EXIST"))
            elif name == "email" and not is_email(value):
                problems.append((name, f"Email address {value} is invalid", "INVALID_EMAIL"))
            elif name == "lifecyclestage" and value not in STAGES:
                problems.append((name, f"{value} was not one of the allowed options", "INVALID_OPTION"))
        return [{"message": text, "code": code, "context": {"propertyName": [name]}} for name, text, code in problems]

    def show(self, kind: str, key: str) -> dict[str, Any]:
        """An object as answers hold it."""
        properties = self.objects[kind][key] | {"hs_object_id": key}
        return {"id": key, "properties": properties, "createdAt": _now(), "updatedAt": _now(), "archived": False}


class HubSpot(OAuthServer[Portal]):
    slug, account, developer_token, new_account = "hubspot", "62515", "pat-na1-developer", Portal
    page_path, token_path = "/oauth/authorize", r"/oauth/(?:2026-0[39]|v3)/token"
    revoke_path = token_path + "/revoke"
    required = ("scope",)
    token_seconds = 1800
    oauth_errors = {
        **dict.fromkeys(("invalid_code", "used_code", "expired_code", "wrong_verifier"), "BAD_AUTH_CODE"),
        "unknown_client": "BAD_CLIENT_ID",
        "wrong_secret": "BAD_CLIENT_SECRET",
        "wrong_redirect_uri": "MISMATCH_REDIRECT_URI_AUTH_CODE",
        "invalid_refresh_token": "BAD_REFRESH_TOKEN",
        "unsupported_grant_type": "BAD_GRANT_TYPE",
    }
    default_error = "INVALID_AUTHENTICATION"
    error_codes = {
        **dict.fromkeys((Reason.WRONG_TYPE, Reason.WRONG_METHOD, Reason.DOWN), ""),
        Reason.EXPIRED_TOKEN: "EXPIRED_AUTHENTICATION",
        Reason.MALFORMED: "VALIDATION_ERROR",
        Reason.NOT_FOUND: "OBJECT_NOT_FOUND",
    }
    rate_headers = {
        "x-hubspot-ratelimit-max": "{limit}",
        "x-hubspot-ratelimit-remaining": "{remaining}",
        "x-hubspot-ratelimit-interval-milliseconds": "{milliseconds}",
    }
    faults = {
        "TEN_SECONDLY_ROLLING": Answer.of(
            {"status": "error", "message": "You have reached your ten_secondly_rolling limit.",
             "errorType": "RATE_LIMIT", "correlationId": "c0ffee", "policyName": "TEN_SECONDLY_ROLLING"}, 429
        ),
        "DAILY": Answer.of(
            {"status": "error", "message": "You have reached your daily limit.", "errorType": "RATE_LIMIT",
             "correlationId": "c0ffee", "policyName": "DAILY", "requestId": "r1"}, 429
        ),
    }  # fmt: skip

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        said = {"status": "error", "message": message, "correlationId": secrets.token_hex(8)}
        return Answer.of(said | ({"category": code} if code else {}) | more, status)

    def refusal(self, reason: Reason, status: int, message: str, seconds: float = 0.0) -> Answer:
        if reason is Reason.THROTTLED:
            return self.faults["TEN_SECONDLY_ROLLING"]
        return super().refusal(reason, status, message)

    def limit_headers(self, call: Call, window: Window | None) -> dict[str, str]:
        headers = super().limit_headers(call, window)
        if headers and self.token_of(call) == self.token:  # OAuth apps have no daily limit
            headers |= {"x-hubspot-ratelimit-daily": "250000", "x-hubspot-ratelimit-daily-remaining": "249999"}
        return headers

    # Objects.

    @route("POST", OBJECTS + "/contacts/batch/upsert")
    def upsert(self, call: Call) -> Answer:
        portal, rows = self.state_of(call), self.read_object(call).get("inputs")
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_INPUTS:
            raise _invalid(f"inputs must hold 1 to {MAX_INPUTS} rows")
        for row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
                raise malformed("each input needs an id, a string")
            _check_strings(row.get("properties"))
        if not all(portal.properties["contacts"].get(str(row.get("idProperty"))) for row in rows):
            raise _invalid("idProperty must name a unique property of contacts")
        started = _now()
        outcomes = [self._upserted(portal, row) for row in rows]
        errors = [outcome for outcome in outcomes if outcome.get("status") == "error"]
        results = [outcome for outcome in outcomes if outcome.get("status") != "error"]
        document = {"status": "COMPLETE", "results": results, "startedAt": started, "completedAt": _now()}
        if not errors:
            return Answer.of(document)
        return Answer.of(document | {"numErrors": len(errors), "errors": errors}, 207)

    def _upserted(self, portal: Portal, row: Mapping[str, Any]) -> dict[str, Any]:
        """What became of one row: the object, or an error that names the row by its trace id. A unique value that
        another object has refuses the batch."""
        by, trace = row["idProperty"], row.get("objectWriteTraceId")
        properties = {by: row["id"], **row["properties"]}
        if problems := portal.wrong_with("contacts", properties):
            context = {"objectWriteTraceId": [trace]} if trace else {}
            said = {"status": "error", "category": "VALIDATION_ERROR", "message": _sum_up(problems)}
            return {**said, "errors": problems, "context": context}
        found = portal.find("contacts", by, row["id"])
        _check_unique(portal, properties, found)
        written = portal.show("contacts", portal.write("contacts", found, properties)) | {"new": found is None}
        return written | ({"objectWriteTraceId": trace} if trace else {})

    @route("PATCH", OBJECTS + "/contacts/{key}")
    def update(self, call: Call, key: str) -> Answer:
        portal = self.state_of(call)
        properties = _check_strings(self.read_object(call).get("properties"))
        self.refuse_if(key not in portal.contacts, 404, "OBJECT_NOT_FOUND", "resource not found")
        _check_properties(portal, "contacts", properties)
        _check_unique(portal, properties, key)
        return Answer.of(portal.show("contacts", portal.write("contacts", key, properties)))

    @route("POST", OBJECTS + "/notes")
    def create_note(self, call: Call) -> Answer:
        portal, document = self.state_of(call), self.read_object(call)
        properties = _check_strings(document.get("properties"))
        _check_properties(portal, "notes", properties)
        if not properties.get("hs_timestamp"):
            raise _invalid("Property hs_timestamp is required for NOTE")
        contacts = [_contact_of(association) for association in document.get("associations", [])]
        if unknown := [contact for contact in contacts if contact not in portal.contacts]:
            raise _invalid(f"No contact has the ID {unknown[0]}")
        key = portal.write("notes", None, properties)
        portal.associations[key] = contacts
        return Answer.of(portal.show("notes", key), 201)

    # Lists, properties, the account.

    @route("POST", LISTS + "/search")
    def search_lists(self, call: Call) -> Answer:
        asked = self.read_object(call)
        kinds = asked.get("processingTypes") or ["MANUAL", "DYNAMIC", "SNAPSHOT"]
        found = [
            {"listId": key, "name": each["name"], "processingType": each["processingType"], "objectTypeId": "0-1"}
            for key, each in self.state_of(call).lists.items()
            if each["processingType"] in kinds and asked.get("query", "").lower() in each["name"].lower()
        ]
        start = asked.get("offset", 0)
        end = start + asked.get("count", 20)
        page = {"lists": found[start:end], "hasMore": len(found) > end, "offset": end, "total": len(found)}
        return Answer.of(page)

    @route("PUT", LISTS + "/{key}/memberships/add")
    def add_members(self, call: Call, key: str) -> Answer:
        portal = self.state_of(call)
        self.check_type(call)
        wanted = call.json()
        self.refuse_if(key not in portal.lists, 404, "OBJECT_NOT_FOUND", f"List does not exist with ID {key}.")
        if portal.lists[key]["processingType"] == "DYNAMIC":
            raise _invalid("Memberships of a list with processing type DYNAMIC cannot be changed")
        if not isinstance(wanted, list) or not all(isinstance(each, str) for each in wanted):
            raise malformed("a list of record ids is expected")
        members = portal.lists[key]["members"]
        added = [each for each in wanted if each in portal.contacts and each not in members]
        members += added
        missing = [each for each in wanted if each not in portal.contacts]
        return Answer.of({"recordsIdsAdded": added, "recordIdsMissing": missing, "recordIdsRemoved": []})

    @route("GET", "/crm/(?:properties/2026-0[39]|v3/properties)/contacts")
    def list_properties(self, call: Call) -> Answer:
        rows = [
            {"name": name, "label": name.replace("_", " ").capitalize(), "type": "string", "hasUniqueValue": is_unique}
            for name, is_unique in self.state_of(call).properties["contacts"].items()
        ]
        return Answer.of({"results": rows})

    @route("GET", "/account-info/(?:2026-0[39]|v3)/details")
    def details(self, call: Call) -> Answer:
        about = {"portalId": int(call.account), "accountType": "STANDARD", "timeZone": "Europe/Berlin"}
        return Answer.of({**about, "uiDomain": "app.hubspot.com"})

    # OAuth.

    def revoke_token(self, call: Call) -> Answer:
        """A revoked refresh token leaves the live access tokens as they are."""
        fields = call.fields()
        self.check_client(call, fields)
        self.revoke(fields.get("token", ""))
        return Answer(204)

    def token_reply(self, installation: Installation, access_token: str, is_first: bool) -> dict[str, Any]:
        tokens = {"access_token": access_token, "refresh_token": installation.refresh_token, "token_type": "bearer"}
        about = {"hub_id": int(installation.account), "scopes": installation.scope.split(), "user_id": 901}
        return {**tokens, "expires_in": int(self.token_seconds or 0), **about}

    def new_token(self, kind: str) -> str:
        """Access tokens are long: HubSpot asks for room for 300 characters at least."""
        return f"hubspot-{kind}-" + (secrets.token_hex(150) if kind == "access" else secrets.token_hex(18))

    def oauth_answer(self, error: str, message: str) -> Answer:
        said = {"status": self.oauth_errors[error], "error": OAuthServer.oauth_errors[error]}
        return Answer.of({**said, "error_description": message, "message": message}, 400)


def _invalid(message: str) -> RefusedError:
    return HubSpot.refused(400, "VALIDATION_ERROR", message)


def _check_strings(properties: Any) -> dict[str, str]:
    if not isinstance(properties, dict) or not all(isinstance(value, str) for value in properties.values()):
        raise malformed("properties must be an object of strings")
    return properties


def _check_properties(portal: Portal, kind: str, properties: Mapping[str, str]) -> None:
    if problems := portal.wrong_with(kind, properties):
        raise HubSpot.refused(400, "VALIDATION_ERROR", _sum_up(problems), errors=problems)


def _check_unique(portal: Portal, properties: Mapping[str, str], own: str | None) -> None:
    """That no other contact has one of the values that are unique."""
    uniques = [name for name, is_unique in portal.properties["contacts"].items() if is_unique and properties.get(name)]
    for there in (portal.find("contacts", name, properties[name]) for name in uniques):
        HubSpot.refuse_if(there not in (None, own), 409, "CONFLICT", f"Contact already exists. Existing ID: {there}")


def _contact_of(association: Any) -> str:
    """The contact that a note is associated with."""
    try:
        types = [(each["associationCategory"], each["associationTypeId"]) for each in association["types"]]
        contact = str(association["to"]["id"])
    except (KeyError, TypeError):
        types, contact = [], ""
    if types != [("HUBSPOT_DEFINED", NOTE_TO_CONTACT)]:
        raise malformed(f"{types} leads from no note to a contact")
    return contact


def _sum_up(problems: list[dict[str, Any]]) -> str:
    return "Property values were not valid: " + "; ".join(problem["message"] for problem in problems)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
