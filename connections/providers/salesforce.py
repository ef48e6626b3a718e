"""Salesforce (developer.salesforce.com): leads, contacts and records of any object, by upsert on an external id.

An external id is a field that the customer's org marks as one. Where a new record lacks what Salesforce always
requires, a second call fills that in; the first does without, so that a placeholder never replaces what is known.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from connections.messages import Request, Response
from connections.providers.answers import header, rows_at, text_at
from connections.providers.base import Account, Action, Choice, Exchange, Granted, Limits, MappingField, OAuth, Shipment
from connections.providers.crm import host_problems
from connections.providers.fields import Field, FieldProblem, NotAuthorized, Unsendable, access_token
from connections.providers.vendor import VALUE_REFUSED, Fields, Vendor, choices, number_text, url_part
from connections.providers.verdicts import Verdict, disabled, reauthorize, rejected, retry, throttled

VERSION = "v67.0"
DATA = f"/services/data/{VERSION}"
OBJECTS = {"upsert_lead": "Lead", "upsert_contact": "Contact"}
REQUIRED = {"LastName": "[not provided]", "Company": "[not provided]"}
"""What a new lead or contact cannot be without, and what stands for it where an event has none."""
SAVE_ALERTED = ("sforce-duplicate-rule-header", "allowSave=true")
"""Without it a duplicate rule that alerts people, and lets them save, blocks us."""
LIMIT_REST_SECONDS = 3600.0
"""The allocation covers the last 24 hours, so it comes back little by little; answers do not tell when."""

CONCURRENT = "concurrent requests"
"""REQUEST_LIMIT_EXCEEDED has two meanings, which its message tells apart (help.salesforce.com, 000389067)."""

_LOGIN_HOST = r"(login|test)\.salesforce\.com|[a-z0-9-]+(\.[a-z0-9-]+)*\.my\.salesforce\.com"
MY_DOMAIN = re.compile(
    r"https://(?:[a-z0-9-]+\.)+(?:salesforce\.com|force\.com|salesforce\.mil|cloudforce\.com)/?", re.IGNORECASE
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
_USAGE = re.compile(r"api-usage=([0-9]{1,12})/([0-9]{1,12})")

PLACEHOLDER_HELP = "Where a new record has none it gets [not provided]."
KEY = (
    MappingField("external_id", "External id", required=True, source="payload.email", help="By it a record is found."),
    MappingField("external_id_field", "External id field", help="Where this object has another than the connection's."),
)
PERSON = (
    MappingField("FirstName", "First name", source="payload.first_name"),
    MappingField("LastName", "Last name", source="payload.last_name || payload.name", help=PLACEHOLDER_HELP),
    MappingField("Email", "Email", source="payload.email"),
    MappingField("Phone", "Phone", source="payload.phone"),
)
COMPANY = MappingField("Company", "Company", source="payload.company", help=PLACEHOLDER_HELP)
OBJECT = MappingField("object", "Object", required=True, help="Its API name, such as Account or Signup__c.")
OURS = frozenset({"object", "external_id", "external_id_field"})
STEPS = ("upsert", "upsert with what a new record requires")


class Salesforce(Vendor):
    slug = "salesforce"
    name = "Salesforce"
    description = "Creates and updates leads, contacts and records of any other object in Salesforce."
    docs_url = "https://developer.salesforce.com/docs/platform/api-rest/guide/dome-upsert.html"
    auth = "oauth2"
    oauth = OAuth(
        authorize_url="https://{login_host}/services/oauth2/authorize",
        token_url="https://{login_host}/services/oauth2/token",  # noqa: S106  (no secret)
        revoke_url="https://{login_host}/services/oauth2/revoke",
        scopes=("api", "refresh_token"),
        authorize_with=(("prompt", "consent"),),  # else who approved the app before is asked nothing
        hosts=("salesforce.com", "salesforce.mil"),
    )
    config_fields = (
        Field(
            "login_host", "Login host", default="login.salesforce.com", pattern=_LOGIN_HOST, max_length=255,
            help="Where the org's people sign in: test.salesforce.com for a sandbox, or the My Domain host.",
        ),
        Field(
            "instance_url", "My Domain URL", type="url", example="https://acme.my.salesforce.com",
            help="Set by authorizing the connection. Needed with an access token that you bring.",
        ),
        Field(
            "external_id_field", "External id field", pattern=_NAME.pattern, frozen=True, example="Meshes_Id__c",
            help="The API name of a field that the org marks as an external id.",
        ),
    )  # fmt: skip
    credential_fields = (access_token("Of an external client app."),)
    actions = (
        Action(
            "upsert_lead", "Create or update a lead", True, fields=(*KEY, *PERSON, COMPANY), is_open=True, steps=STEPS
        ),
        Action("upsert_contact", "Create or update a contact", True, fields=(*KEY, *PERSON), is_open=True, steps=STEPS),
        Action("upsert_record", "Create or update a record", True, fields=(OBJECT, *KEY), is_open=True),
    )
    limits = Limits(in_flight=8, rate=20)
    live_options = {"external_id_field": "Fields of leads that the org marks as external ids"}
    account_at = (("organization_id",), ("name",))
    test_path = "/services/oauth2/userinfo"
    test = "Asks which user and org the token belongs to; writes nothing."
    answers = {
        "REQUIRED_FIELD_MISSING": rejected("A field that this org requires is missing. Map it in the rule."),
        "INVALID_FIELD": rejected(
            "The mapping fills a field that the object lacks, or the user may not write. Map another, or give access."),
        "FIELD_CUSTOM_VALIDATION_EXCEPTION": rejected("A validation rule of the org refuses the record. Meet it."),
        "STRING_TOO_LONG": rejected("A value is longer than its field. Shorten it in the rule's mapping."),
        "MALFORMED_ID": rejected("A value is not a Salesforce id. Mend the rule's mapping."),
        "DUPLICATES_DETECTED": rejected(
            "A duplicate rule of the org blocks the record. In Salesforce, let that rule alert instead of block, or"
            " exempt the integration's user.",
            "duplicate",
        ),
        "INSUFFICIENT_ACCESS_OR_READONLY": rejected("The user may not write this record. Give them access to it."),
        "DUPLICATE_VALUE": rejected(
            "Another record has this value, which the org keeps unique. Merge them, or map another.", "duplicate"),
        "STORAGE_LIMIT_EXCEEDED": throttled(
            "The Salesforce org's storage is full. Free some there.", "quota_limited", LIMIT_REST_SECONDS),
        (
            "REQUEST_RUNNING_TOO_LONG", "SERVER_UNAVAILABLE", "UNKNOWN_EXCEPTION", "QUERY_TIMEOUT",
            "FUNCTIONALITY_TEMPORARILY_UNAVAILABLE",
        ): retry("Salesforce cannot take it just now."),
        ("INVALID_AUTH_HEADER", "PASSWORD_LOCKOUT", "CLIENT_NOT_ACCESSIBLE_FOR_USER"): reauthorize(
            "Salesforce does not let this user in. Unlock it there, or authorize as another."),
        "API_CURRENTLY_DISABLED": throttled("Salesforce's API is off for the moment.", "server_error", 300),
        "ENTITY_IS_LOCKED": retry("The record is locked, as by an approval.", "locked", 300),
        "ORG_LOCKED": disabled("The Salesforce org is locked. Let Salesforce unlock it, then resume.", "org_locked"),
        "UNABLE_TO_LOCK_ROW": retry("Somebody else is writing the record just now.", "locked", 5),
        "INVALID_SESSION_ID": reauthorize("The Salesforce session has ended. Authorize the connection again."),
        "REQUEST_LIMIT_EXCEEDED": throttled(
            "The org's limit of API requests is used up.", "daily_limit", LIMIT_REST_SECONDS),
        CONCURRENT: throttled("The org has too many long requests open just now.", "concurrent", 10),
        "API_DISABLED_FOR_ORG": disabled("This Salesforce edition has no API. Let Salesforce enable it.", "no_api"),
        300: rejected("Several records have this external id. Merge them, and mark the field as unique.", "ambiguous"),
        400: VALUE_REFUSED,
        404: rejected(
            "The org has no such object or external id field, or the user may not see it. Check the names. An external"
            " id that ends like a file name, as .inc does, is not found either."
        ),
        410: disabled(f"Salesforce has retired version {VERSION} of its API: Meshes must be updated.", "retired"),
    }  # fmt: skip

    def build_request(self, shipment: Shipment, placeholders: dict[str, str] | None = None) -> Request:
        """`placeholders`: what a new record lacks, filled in."""
        fields, is_person = self.fields(shipment), shipment.action in OBJECTS
        by = _name(_key_field(fields, shipment), "external_id_field")
        key = url_part(fields.needed("external_id"))
        # Null clears a field; those that Salesforce requires cannot be cleared, so they are left out.
        record = {
            name: _value(name, value)
            for name, value in fields.items()
            if name not in OURS and not (is_person and name in REQUIRED and value in (None, ""))
        }
        if {"id", by.lower()} & {name.lower() for name in record}:
            raise Unsendable(f"The mapping must not fill Id or {by}: the field external_id says which record it is.")
        path = f"{DATA}/sobjects/{self._object(shipment)}/{by}/{key}"
        return self.call("PATCH", path, shipment, record | (placeholders or {}), SAVE_ALERTED)

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        code, message = self.error_of(exchanges[-1].response)
        if code not in ("DUPLICATE_VALUE", "REQUIRED_FIELD_MISSING"):
            return None
        document, fields = exchanges[-1].response.json(), self.fields(shipment)
        named = rows_at(document[0], "fields") if isinstance(document, list) and document else []
        if code == "DUPLICATE_VALUE":  # of the very field by which the record is found: two upserts raced
            words = {str(word).lower() for word in (*named, *re.findall(r"\w+", message))}
            is_raced = str(_key_field(fields, shipment) or "").lower() in words - {""}
            words_of_race = "Somebody else has just made the record with this external id."
            return retry(words_of_race, "raced", 1) if is_raced else None
        if not named or shipment.action not in OBJECTS or len(exchanges) > 1:
            return None
        if not all(isinstance(name, str) and name in REQUIRED and not fields.get(name) for name in named):
            return None
        return self.build_request(shipment, {name: REQUIRED[name] for name in named})

    def error_of(self, response: Response) -> tuple[str, str]:
        document = response.json()
        for row in document if isinstance(document, list) else [document]:  # a collection's 200 has a row a record
            if isinstance(row, dict) and row.get("success") is False:
                return text_at(row, "errors", 0, "statusCode") or "error", text_at(row, "errors", 0, "message")
        if isinstance(document, list):
            code, message = text_at(document, 0, "errorCode"), text_at(document, 0, "message")
            is_concurrent = code == "REQUEST_LIMIT_EXCEEDED" and "concurrent" in message.lower()
            return CONCURRENT if is_concurrent else code, message
        if response.status >= 300:
            return text_at(document, "error"), text_at(document, "error_description")
        return "", ""

    def is_done(self, response: Response, action: str) -> bool:
        """Older versions answer an update with a 204, collections with a row a record."""
        document = response.json()
        rows = document if isinstance(document, list) else [document]
        done = [isinstance(row, dict) and row.get("success") is True for row in rows]
        return response.status == 204 or (done != [] and all(done))

    def rest_of(self, response: Response) -> float | None:
        usage = _USAGE.findall(header(response, "sforce-limit-info") or "")
        return LIMIT_REST_SECONDS if any(int(used) >= int(limit) for used, limit in usage) else None

    def read_grant(self, reply: Mapping[str, Any], details: Mapping[str, Any]) -> Granted:
        org = text_at(reply, "id").rstrip("/").rpartition("/")[0].rpartition("/")[2]
        return Granted({"instance_url": text_at(reply, "instance_url")}, Account(org) if org else None)

    def build_options(self, field: str, shipment: Shipment, cursor: str = "") -> Request:
        if field != "external_id_field":
            raise KeyError(field)
        return self.call("GET", f"{DATA}/sobjects/{self._object(shipment)}/describe", shipment)

    def read_options(self, field: str, response: Response) -> list[Choice]:
        return choices(response, "fields", value="name", label="label", only="externalId")

    def root(self, shipment: Shipment) -> str:
        url: str = self.override or shipment.config.get("instance_url") or ""
        if not self.override and not MY_DOMAIN.fullmatch(url):
            raise NotAuthorized("The connection has no My Domain URL yet: authorize it, or set instance_url.")
        return url.rstrip("/")

    def check(self, config: Mapping[str, Any], credentials: Mapping[str, Any]) -> Sequence[FieldProblem]:
        if self.override:
            return ()
        if config.get("instance_url") is None and "access_token" in credentials:
            return [FieldProblem("/config/instance_url", "An access token needs its My Domain URL.", "required")]
        words = "Must be the org's own https URL, such as https://acme.my.salesforce.com."
        return host_problems(config, "instance_url", MY_DOMAIN, words)

    def _object(self, shipment: Shipment) -> str:
        return OBJECTS.get(shipment.action) or _name(self.fields(shipment).needed("object"), "object")


def _key_field(fields: Fields, shipment: Shipment) -> Any:
    return fields.get("external_id_field") or shipment.frozen.get("external_id_field")


def _value(name: str, value: Any) -> Any:
    """An array is a multi-select picklist, `A;B`. Raises Unsendable for one of anything but texts."""
    if not isinstance(value, list):
        return value
    if any(not isinstance(each, str | int | float) or isinstance(each, bool) or ";" in str(each) for each in value):
        raise Unsendable(f"The field {name} can hold an array of texts without semicolons only, for a multi-select.")
    return ";".join(each.strip() if isinstance(each, str) else number_text(each) for each in value)


def _name(value: object, key: str) -> str:
    """An API name, safe in a path. Raises Unsendable."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Unsendable(f"{key} must be an API name of Salesforce: set it in the connection or the rule's mapping.")
    return value


PROVIDER = Salesforce()
