"""HubSpot CRM (developers.hubspot.com): contacts, notes and lists, in dated and v3 paths, and OAuth."""

import secrets
from collections.abc import Mapping
from typing import Any

from meshes.dev.vendors.faults import Window
from meshes.dev.vendors.hubspot_portal import Portal, as_row, as_strings, in_words, now
from meshes.dev.vendors.messages import Answer, Call, Malformed, Problem, Refused, Why
from meshes.dev.vendors.oauth import Granted, OAuthServer
from meshes.dev.vendors.server import route

MAX_INPUTS = 100
NOTE_TO_CONTACT = 202
OBJECTS = r"/crm/(?:objects/2026-0[39]|v3/objects)"
LISTS = r"/crm/(?:lists/2026-0[39]|v3/lists)"
TOKEN = r"/oauth/(?:2026-0[39]|v3)/token"


class HubSpot(OAuthServer[Portal]):
    slug, account, developer_token = "hubspot", "62515", "pat-na1-developer"
    token_path = f"^{TOKEN}$"
    required = ("scope",)
    token_seconds = 1800
    oauth_errors = {
        **OAuthServer.oauth_errors,
        "unknown_client": "BAD_CLIENT_ID",
        "wrong_secret": "BAD_CLIENT_SECRET",
        "invalid_code": "BAD_AUTH_CODE",
        "used_code": "BAD_AUTH_CODE",
        "expired_code": "BAD_AUTH_CODE",
        "wrong_redirect_uri": "MISMATCH_REDIRECT_URI_AUTH_CODE",
        "wrong_verifier": "BAD_AUTH_CODE",
        "invalid_refresh_token": "BAD_REFRESH_TOKEN",
        "unsupported_grant_type": "BAD_GRANT_TYPE",
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
        "LOCKED": Answer.of({"status": "error", "message": "The resource is locked.", "correlationId": "c0ffee"}, 423),
        "MIGRATION": Answer.of({"status": "error", "message": "Migration in progress"}, 477, retry_after="120"),
        "MISSING_SCOPES": Answer.of(
            {"status": "error", "message": "This app hasn't been granted all required scopes.",
             "correlationId": "c0ffee", "category": "MISSING_SCOPES",
             "errors": [{"message": "One or more of the following scopes are required.",
                         "context": {"requiredGranularScopes": ["crm.objects.contacts.write"]}}]}, 403
        ),
    }  # fmt: skip

    def new_account(self, account: str) -> Portal:
        return Portal()

    def problem(self, problem: Problem) -> Answer:
        if problem.why is Why.THROTTLED:
            return self.faults["TEN_SECONDLY_ROLLING"]
        categories = {
            Why.MISSING_TOKEN: "INVALID_AUTHENTICATION",
            Why.UNKNOWN_TOKEN: "INVALID_AUTHENTICATION",
            Why.REVOKED_TOKEN: "INVALID_AUTHENTICATION",
            Why.EXPIRED_TOKEN: "EXPIRED_AUTHENTICATION",
            Why.MALFORMED: "VALIDATION_ERROR",
            Why.NOT_FOUND: "OBJECT_NOT_FOUND",
        }
        return _error(problem.status, categories.get(problem.why, ""), problem.words)

    def rate_headers(self, call: Call, window: Window | None) -> dict[str, str]:
        if window is None:
            return {}
        headers = {
            "x-hubspot-ratelimit-max": str(window.requests),
            "x-hubspot-ratelimit-remaining": str(window.remaining),
            "x-hubspot-ratelimit-interval-milliseconds": str(int(window.seconds * 1000)),
        }
        if self.token_of(call) == self.token:  # OAuth apps have no daily limit
            headers |= {"x-hubspot-ratelimit-daily": "250000", "x-hubspot-ratelimit-daily-remaining": "249999"}
        return headers

    # Objects.

    @route("POST", OBJECTS + "/{kind}/batch/upsert")
    def upsert(self, call: Call, kind: str) -> Answer:
        portal = self._portal(call, kind)
        rows = self.read_object(call).get("inputs")
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_INPUTS:
            raise _invalid(f"inputs must hold 1 to {MAX_INPUTS} rows")
        if len({as_row(row)["id"] for row in rows}) < len(rows):
            raise _invalid("Duplicate IDs found in batch input")
        if not all(portal.properties[kind].get(str(row.get("idProperty"))) for row in rows):
            raise _invalid(f"idProperty must name a unique property of {kind}")
        started = now()
        outcomes = [self._upserted(portal, kind, row) for row in rows]
        errors = [outcome for outcome in outcomes if outcome.get("status") == "error"]
        results = [outcome for outcome in outcomes if outcome.get("status") != "error"]
        document = {"status": "COMPLETE", "results": results, "startedAt": started, "completedAt": now()}
        if not errors:
            return Answer.of(document)
        return Answer.of(document | {"numErrors": len(errors), "errors": errors}, 207)

    @route("POST", OBJECTS + "/{kind}")
    def create(self, call: Call, kind: str) -> Answer:
        portal, document = self._portal(call, kind), self.read_object(call)
        properties = as_strings(document.get("properties"))
        self._check(portal, kind, properties)
        if kind == "notes":
            return self._create_note(portal, properties, document.get("associations", []))
        if not {"email", "firstname", "lastname"} & properties.keys():
            raise _invalid("At least one of email, firstname or lastname is required")
        _check_unique(portal, kind, properties, None)
        return Answer.of(portal.show(kind, portal.write(kind, None, properties)), 201)

    @route("PATCH", OBJECTS + "/{kind}/{key}")
    def update(self, call: Call, kind: str, key: str) -> Answer:
        portal = self._portal(call, kind)
        properties = as_strings(self.read_object(call).get("properties"))
        by = call.query.get("idProperty")
        found = portal.find(kind, by, key) if by else key
        if found not in portal.objects[kind]:
            raise Refused(_error(404, "OBJECT_NOT_FOUND", "resource not found"))
        self._check(portal, kind, properties)
        _check_unique(portal, kind, properties, found)
        return Answer.of(portal.show(kind, portal.write(kind, found, properties)))

    def _portal(self, call: Call, kind: str) -> Portal:
        portal = self.state_of(call)
        if kind not in portal.objects:
            raise _invalid(f"Unable to infer object type from: {kind}")
        return portal

    def _upserted(self, portal: Portal, kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """What became of one row: the object, or an error that names the row by its trace id. Raises Refused: a unique
        value that another object has refuses the batch."""
        by, trace = row["idProperty"], row.get("objectWriteTraceId")
        properties = {by: row["id"], **row["properties"]}
        if problems := portal.wrong_with(kind, properties):
            context = {"objectWriteTraceId": [trace]} if trace else {}
            said = {"status": "error", "category": "VALIDATION_ERROR", "message": in_words(problems)}
            return {**said, "errors": problems, "context": context}
        found = portal.find(kind, by, row["id"])
        _check_unique(portal, kind, properties, found)
        written = portal.show(kind, portal.write(kind, found, properties)) | {"new": found is None}
        return written | ({"objectWriteTraceId": trace} if trace else {})

    def _check(self, portal: Portal, kind: str, properties: Mapping[str, str]) -> None:
        if problems := portal.wrong_with(kind, properties):
            raise Refused(_error(400, "VALIDATION_ERROR", in_words(problems), errors=problems))

    def _create_note(self, portal: Portal, properties: dict[str, str], associations: Any) -> Answer:
        if not properties.get("hs_timestamp"):
            raise _invalid("Property hs_timestamp is required for NOTE")
        contacts = [_contact_of(association) for association in associations]
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
        if key not in portal.lists:
            raise Refused(_error(404, "OBJECT_NOT_FOUND", f"List does not exist with ID {key}."))
        if portal.lists[key]["processingType"] == "DYNAMIC":
            raise _invalid("Memberships of a list with processing type DYNAMIC cannot be changed")
        if not isinstance(wanted, list) or not all(isinstance(each, str) for each in wanted):
            raise Malformed("a list of record ids is expected")
        members = portal.lists[key]["members"]
        added = [each for each in wanted if each in portal.contacts and each not in members]
        members += added
        missing = [each for each in wanted if each not in portal.contacts]
        return Answer.of({"recordsIdsAdded": added, "recordIdsMissing": missing, "recordIdsRemoved": []})

    @route("GET", "/crm/(?:properties/2026-0[39]|v3/properties)/{kind}")
    def list_properties(self, call: Call, kind: str) -> Answer:
        has = self._portal(call, kind).properties[kind]
        rows = [
            {"name": name, "label": name.replace("_", " ").capitalize(), "type": "string", "hasUniqueValue": is_unique}
            for name, is_unique in has.items()
        ]
        return Answer.of({"results": rows})

    @route("GET", "/account-info/(?:2026-0[39]|v3)/details")
    def details(self, call: Call) -> Answer:
        about = {"portalId": int(call.account), "accountType": "STANDARD", "timeZone": "Europe/Berlin"}
        return Answer.of({**about, "uiDomain": "app.hubspot.com"})

    # OAuth.

    @route("GET", "/oauth/authorize", "open")
    def authorize(self, call: Call) -> Answer:
        return self.agree(call)

    @route("POST", TOKEN, "open")
    def give_tokens(self, call: Call) -> Answer:
        return self.exchange(call)

    @route("POST", TOKEN + "/revoke", "open")
    def revoke_token(self, call: Call) -> Answer:
        """A revoked refresh token leaves the live access tokens as they are."""
        fields = call.fields()
        self.check_client(call, fields)
        self.revoke(fields.get("token", ""))
        return Answer(204)

    def token_reply(self, granted: Granted) -> dict[str, Any]:
        installation = granted.installation
        return {
            "access_token": granted.access_token,
            "refresh_token": installation.refresh_token,
            "expires_in": int(self.token_seconds or 0),
            "token_type": "bearer",
            "hub_id": int(installation.account),
            "scopes": installation.scope.split(),
            "user_id": 901,
        }

    def new_token(self, kind: str) -> str:
        """Access tokens are long: HubSpot asks for room for 300 characters at least."""
        return f"hubspot-{kind}-" + (secrets.token_hex(150) if kind == "access" else secrets.token_hex(18))

    def oauth_answer(self, error: str, words: str) -> Answer:
        standard = OAuthServer.oauth_errors[error]
        status = self.oauth_errors[error]
        return Answer.of({"status": status, "error": standard, "error_description": words, "message": words}, 400)


def _error(status: int, category: str, message: str, **more: Any) -> Answer:
    said = {"status": "error", "message": message, "correlationId": secrets.token_hex(8)}
    return Answer.of(said | ({"category": category} if category else {}) | more, status)


def _invalid(message: str) -> Refused:
    return Refused(_error(400, "VALIDATION_ERROR", message))


def _check_unique(portal: Portal, kind: str, properties: Mapping[str, str], own: str | None) -> None:
    if there := portal.taken_by(kind, properties, own):
        raise Refused(_error(409, "CONFLICT", f"Contact already exists. Existing ID: {there}"))


def _contact_of(association: Any) -> str:
    """The contact that a note is associated with. Raises Malformed."""
    try:
        types = [(each["associationCategory"], each["associationTypeId"]) for each in association["types"]]
        contact = str(association["to"]["id"])
    except (KeyError, TypeError):
        raise Malformed("associations have the form {to: {id}, types: [...]}") from None
    if types != [("HUBSPOT_DEFINED", NOTE_TO_CONTACT)]:
        raise Malformed(f"{types} is no association from a note to a contact")
    return contact
