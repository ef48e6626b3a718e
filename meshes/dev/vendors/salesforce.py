"""Salesforce REST API (developer.salesforce.com): records by external id, describe, and OAuth."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, RefusedError, is_email
from meshes.dev.vendors.oauth import Installation, OAuthServer
from meshes.dev.vendors.server import Window, route

SOBJECTS = r"/services/data/(?P<version>v[0-9]+\.0)/sobjects/{kind}"
OLDEST, LATEST = 31, 68
"""Versions below are gone (410)."""
DAILY_CALLS = 100_000
PREFIXES = {"Lead": "00Q", "Contact": "003", "Account": "001", "Task": "00T"}
"""The first three characters of an id tell its object."""


@dataclass(frozen=True)
class SField:
    """`kind` is string, email or boolean; `length` counts for the first two."""

    length: int = 255
    kind: str = "string"
    required: bool = False
    external_id: bool = False


def _objects() -> dict[str, dict[str, SField]]:
    key, text, long = SField(external_id=True), SField(), SField(32_000)
    needed = SField(required=True)
    name = {"FirstName": SField(40), "LastName": SField(80, required=True), "Email": SField(80, "email")}
    person = {**name, "Phone": SField(40), "Title": SField(128), "Description": long, "LeadSource": text}
    lead = {"Company": needed, "Website": text, "Status": text, "Rating": text, "DoNotCall": SField(kind="boolean")}
    task = {"Subject": text, "Status": text, "Priority": text, "Description": long, "WhoId": SField(18)}
    return {
        "Lead": {**person, **lead, "LeadKey__c": key},
        "Contact": {**person, "AccountId": SField(18), "ContactKey__c": key},
        "Account": {"Name": needed, "Phone": SField(40), "Website": text, "AccountKey__c": key},
        "Task": {**task, "ActivityDate": text, "TaskKey__c": key},
    }


@dataclass
class Org:
    """`records` are fields by object and id. `duplicate_rule` judges a new Lead or Contact whose email is there
    already: `alert` lets it pass when the request says so, `block` never."""

    objects: dict[str, dict[str, SField]] = field(default_factory=_objects)
    records: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {name: {} for name in PREFIXES})
    duplicate_rule: str = ""
    last_id: int = 0

    def plant(self, kind: str, values: Mapping[str, Any]) -> str:
        """A record that no rule is asked about, as one from before a rule; its id."""
        self.last_id += 1
        key = f"{PREFIXES[kind]}5e00000{self.last_id:05d}AAA"
        self.records[kind][key] = dict(values)
        return key

    def matches(self, kind: str, by: str, value: str) -> list[str]:
        """The ids of the records with this value, in any case."""
        wanted = value.lower()
        return [key for key, has in self.records[kind].items() if str(has.get(by, "")).lower() == wanted]

    def write(self, kind: str, key: str | None, values: Mapping[str, Any], saves_duplicates: bool) -> str:
        """Create (without a key) or update; the record's id."""
        fields = self.objects[kind]
        for name, value in values.items():
            if name not in fields:
                raise _refused("INVALID_FIELD", f"No such column '{name}' on sobject of type {kind}")
            if value is not None:
                _check_value(name, fields[name], value)
        asked = fields if key is None else values
        if missing := [name for name in asked if fields[name].required and not values.get(name)]:
            raise _refused("REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", missing)
        if key is not None:
            self.records[kind][key].update(values)
            return key
        email, is_ruled = values.get("Email"), self.duplicate_rule and kind in ("Lead", "Contact")
        passes = self.duplicate_rule == "alert" and saves_duplicates
        if is_ruled and email and self.matches(kind, "Email", email) and not passes:
            raise _refused("DUPLICATES_DETECTED", "Use one of these records?")
        return self.plant(kind, values)


class Salesforce(OAuthServer[Org]):
    """An account is a My Domain name."""

    slug, account, developer_token, new_account = "salesforce", "acme", "00D5e000000developer!AQ", Org
    page_path, token_path = "/services/oauth2/authorize", "/services/oauth2/token"
    revoke_path = "/services/oauth2/revoke"
    client_auth = frozenset({"body", "basic"})
    required = ("response_type",)
    unknown_token = Answer.of({"error": "invalid_token", "error_description": "invalid token"}, 400)
    oauth_errors = {**OAuthServer.oauth_errors, "unknown_client": "invalid_client_id"}
    error_codes = {
        Reason.MALFORMED: "JSON_PARSER_ERROR",
        Reason.WRONG_TYPE: "UNSUPPORTED_MEDIA_TYPE",
        Reason.NOT_FOUND: "NOT_FOUND",
        Reason.WRONG_METHOD: "METHOD_NOT_ALLOWED",
    }

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of([{"message": message, "errorCode": code, **more}], status)

    def refusal(self, reason: Reason, status: int, message: str, seconds: float = 0.0) -> Answer:
        if status == 401:
            return self.error(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if reason is Reason.THROTTLED:
            return self.error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        if reason is Reason.DOWN:
            return self.error(status, "SERVER_UNAVAILABLE" if status == 503 else "UNKNOWN_EXCEPTION", message)
        return super().refusal(reason, status, message)

    def limit_headers(self, call: Call, window: Window | None) -> dict[str, str]:
        used, allowed = (window.count, window.requests) if window else (self.counts[call.account], DAILY_CALLS)
        return {"sforce-limit-info": f"api-usage={used}/{allowed}"}

    @route("PATCH", SOBJECTS + "/{by}/{value}")
    def upsert(self, call: Call, version: str, kind: str, by: str, value: str) -> Answer:
        org = self._org(call, version, kind)
        if by not in org.objects[kind] or not org.objects[kind][by].external_id:
            message = f"Provided external ID field does not exist or is not accessible: {by}"
            raise self.refused(404, "NOT_FOUND", message)
        values = self.read_object(call)
        for name in ("Id", by):
            if name in values:
                raise _refused("INVALID_FIELD", f"The {name} field should not be specified in the sobject data.")
        found = org.matches(kind, by, value)
        rule = call.headers.get("sforce-duplicate-rule-header", "").replace(" ", "").lower()
        key = org.write(kind, found[0] if found else None, {**values, by: value}, "allowsave=true" in rule)
        return Answer.of({"id": key, "success": True, "errors": [], "created": not found}, 200 if found else 201)

    @route("GET", SOBJECTS + "/describe")
    def describe(self, call: Call, version: str, kind: str) -> Answer:
        org = self._org(call, version, kind)
        fields = [_describe(name, is_) for name, is_ in org.objects[kind].items()]
        return Answer.of({"name": kind, "label": kind, "createable": True, "updateable": True, "fields": fields})

    @route("GET", "/services/oauth2/userinfo")
    def userinfo(self, call: Call) -> Answer:
        org, user = org_id(call.account), "0055e000000USERAAA"
        name = f"integration@{call.account}.example"
        about = {"sub": f"https://login.salesforce.com/id/{org}/{user}", "user_id": user, "organization_id": org}
        return Answer.of({**about, "preferred_username": name, "name": "Integration User", "email": name})

    def _org(self, call: Call, version: str, kind: str) -> Org:
        number, org = int(version[1:-2]), self.state_of(call)
        self.refuse_if(number < OLDEST, 410, "GONE", f"The API version {version} is retired.")
        if number > LATEST or kind not in org.objects:
            raise self.refused(404, "NOT_FOUND", "The requested resource does not exist")
        return org

    # OAuth.

    def token_reply(self, installation: Installation, access_token: str, is_first: bool) -> dict[str, Any]:
        """There is no `expires_in`; and a refresh token only by its scope, once, or anew where they rotate."""
        reply = {
            "access_token": access_token,
            "instance_url": f"https://{installation.account}.my.salesforce.com",
            "id": f"https://login.salesforce.com/id/{org_id(installation.account)}/0055e000000USERAAA",
            "token_type": "Bearer",
            "issued_at": str(int(self.clock() * 1000)),
            "signature": secrets.token_urlsafe(32),
            "scope": installation.scope,
        }
        may_refresh = {"refresh_token", "offline_access", "full"} & set(installation.scope.split())
        return reply | (
            {"refresh_token": installation.refresh_token} if may_refresh and (is_first or self.rotates) else {}
        )

    def oauth_answer(self, error: str, message: str) -> Answer:
        said = "expired access/refresh token" if error == "invalid_refresh_token" else message
        return Answer.of({"error": self.oauth_errors[error], "error_description": said}, 400)


def org_id(account: str) -> str:
    """The 18 characters by which Salesforce knows an org."""
    return f"00D5e{hashlib.sha256(account.encode()).hexdigest()[:10].upper()}EAA"


def _check_value(name: str, is_: SField, value: Any) -> None:
    if is_.kind == "boolean" and isinstance(value, bool):
        return
    if is_.kind == "boolean" or not isinstance(value, str):
        message = f"Cannot deserialize instance of {is_.kind} from value {value}"
        raise _refused("JSON_PARSER_ERROR", f"{message} or request may be missing a required field")
    if is_.kind == "email" and value and not is_email(value):
        raise _refused("INVALID_EMAIL_ADDRESS", f"{name}: invalid email address: {value}", [name])
    if is_.kind in ("string", "email") and len(value) > is_.length:
        message = f"{name}: data value too large: {value[:20]}... (max length={is_.length})"
        raise _refused("STRING_TOO_LONG", message, [name])


def _describe(name: str, is_: SField) -> dict[str, Any]:
    length = is_.length if is_.kind in ("string", "email") else 0
    about = {"name": name, "label": name.removesuffix("__c"), "type": is_.kind, "length": length}
    key = {"externalId": is_.external_id, "idLookup": is_.external_id or is_.kind == "email"}
    return {**about, **key, "nillable": not is_.required, "createable": True, "updateable": True}


def _refused(code: str, message: str, fields: list[str] | None = None) -> RefusedError:
    return Salesforce.refused(400, code, message, **({"fields": fields} if fields else {}))
