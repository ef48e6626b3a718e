"""Zoho CRM (zoho.com/crm/developer/docs/api/v8): upserts leads and contacts by email."""

from collections.abc import Mapping, Sequence
from typing import Any

from connections.messages import Request, Response
from connections.providers.answers import rows_at, text_at
from connections.providers.base import Action, Limits, MappingField, OAuth, Shipment
from connections.providers.fields import Field, FieldProblem, Unsendable, access_token
from connections.providers.vendor import Vendor, without_nulls
from connections.providers.verdicts import disabled, reauthorize, rejected, retry, throttled

ACCOUNTS = (
    "accounts.zoho.com", "accounts.zoho.eu", "accounts.zoho.in", "accounts.zoho.com.au", "accounts.zoho.jp",
    "accounts.zoho.sa", "accounts.zoho.com.cn", "accounts.zohocloud.ca",
)  # fmt: skip
"""Where people sign in, one of each data centre."""
API_DOMAINS = tuple(f"https://www.zohoapis.{end}" for end in ("com", "eu", "in", "com.au", "jp", "sa", "com.cn", "ca"))
RACED = "DUPLICATE_DATA of the email"
MAX_NESTED = 20
"""Of a record's several errors so many are told."""
MODULES = {"upsert_lead": "Leads", "upsert_contact": "Contacts"}
PERSON = (
    MappingField("Email", "Email", required=True, source="payload.email"),
    MappingField("Last_Name", "Last name", required=True, source="payload.last_name || payload.name || payload.email"),
    MappingField("First_Name", "First name", source="payload.first_name"),
    MappingField("Phone", "Phone", source="payload.phone"),
)


class Zoho(Vendor):
    slug = "zoho"
    name = "Zoho CRM"
    description = "Creates or updates leads and contacts in Zoho CRM."
    docs_url = "https://www.zoho.com/crm/developer/docs/api/v8/"
    auth = "oauth2"
    oauth = OAuth(
        authorize_url="https://{accounts_host}/oauth/v2/auth",
        token_url="https://{accounts_host}/oauth/v2/token",  # noqa: S106  (no secret)
        revoke_url="https://{accounts_host}/oauth/v2/token/revoke",
        scopes=("ZohoCRM.modules.ALL", "ZohoCRM.org.READ"),
        scope_separator=",",
        authorize_with=(("access_type", "offline"), ("prompt", "consent")),
        lifetime_seconds=3600,
        hosts=tuple(host.partition(".")[2] for host in (*ACCOUNTS, *API_DOMAINS)),
        ends_with=frozenset({"invalid_grant", "invalid_code"}),
    )
    base_urls = {"": "https://www.zohoapis.com"}
    config_fields = (
        Field(
            "api_domain", "API domain", type="select", options=API_DOMAINS, example="https://www.zohoapis.eu",
            selects_host=True,
            help="Set by authorizing the connection. Needed with an access token that you bring.",
        ),
        Field(
            "accounts_host", "Accounts host", type="select", options=ACCOUNTS, default=ACCOUNTS[0],
            help="Of the data centre that the account is in.",
        ),
    )  # fmt: skip
    credential_fields = (access_token("Zoho ends it after an hour: authorize instead."),)
    actions = (
        Action(
            "upsert_lead", "Create or update a lead", True, is_open=True,
            fields=(*PERSON, MappingField("Company", "Company", source="payload.company")),
        ),
        Action("upsert_contact", "Create or update a contact", True, is_open=True, fields=PERSON),
    )  # fmt: skip
    limits = Limits(in_flight=10, body_bytes=1_000_000)
    authorization = "Zoho-oauthtoken {access_token}"
    account_at = (("org", 0, "id"), ("org", 0, "company_name"))
    granted = {"api_domain": ("reply", "api_domain")}
    test_path = "/org"
    test = "Reads the organisation's name; writes nothing."
    answers = {
        ("INVALID_TOKEN", "AUTHENTICATION_FAILURE", "INVALID_OAUTHTOKEN"): reauthorize(
            "Zoho does not accept the token any more. Authorize again."),
        "OAUTH_SCOPE_MISMATCH": reauthorize(
            "The token lacks a scope, such as ZohoCRM.modules.ALL. Authorize again and grant it.", "forbidden"),
        ("NO_PERMISSION", "AUTHORIZATION_FAILED"): reauthorize(
            "The user may not write this module. Give them the permission.", "forbidden"),
        "STORAGE_SPACE_EXCEEDED": throttled(
            "The storage of the Zoho account is full. Free some there.", "quota_limited", 3600),
        ("INVALID_MODULE", "NOT_SUPPORTED_IN_CURRENT_EDITION", "FEATURE_NOT_ENABLED"): disabled(
            "This edition of Zoho CRM has no such module. Change the rule or the plan, then resume.", "plan"),
        ("INTERNAL_ERROR", "INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE"): retry("Zoho has an error of its own."),
        ("RECORD_LOCKED", "RECORD_IN_USE"): retry("The record is locked just now.", "locked", 60),
        ("LIMIT_EXCEEDED", "API_LIMIT_EXCEEDED"): throttled(
            "The Zoho account's requests of the day are used up.", "daily_limit", 3600),
        ("CONCURRENCY_LIMIT_EXCEEDED", "TOO_MANY_CONCURRENT_REQUESTS"): throttled(
            "Too many requests are open at Zoho.", "concurrent", 10),
        RACED: retry("Somebody else has just made the record with this email.", "raced", 1),
        "MANDATORY_NOT_FOUND": rejected("Zoho misses a field that the account requires. Add it to the mapping."),
        "INVALID_DATA": rejected("Zoho refuses a value. Mend the rule's mapping."),
        "DUPLICATE_DATA": rejected(
            "Another record has this value, which Zoho keeps unique. Merge them, or map another."),
        "TOO_MANY_REQUESTS": throttled("Zoho takes no more requests just now.", seconds=60),
    }  # fmt: skip

    def check(self, config: Mapping[str, Any], credentials: Mapping[str, Any]) -> Sequence[FieldProblem]:
        if self.override or "access_token" not in credentials or "api_domain" in config:
            return ()
        return [FieldProblem("/config/api_domain", "An access token needs its account's API domain.", "required")]

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        fields.needed("Email"), fields.needed("Last_Name")
        document = {"data": [without_nulls(fields)], "duplicate_check_fields": ["Email"]}
        return self.call("POST", f"/{MODULES[shipment.action]}/upsert", shipment, document)

    def error_of(self, response: Response) -> tuple[str, str]:
        rows = rows_at(response, "data")
        row = rows[0] if rows else response.json_object()
        code = text_at(row, "code")
        if rows and code == "SUCCESS":
            return "", ""
        errors = [_error(each) for each in rows_at(row, "details", "errors")[:MAX_NESTED]]
        if not errors:
            return _error(row)
        raced = [each for each, _ in errors if each == RACED]
        return (raced or [errors[0][0] or code])[0], "; ".join(message for _, message in errors)

    def is_done(self, response: Response, action: str) -> bool:
        return text_at(response, "data", 0, "code") == "SUCCESS"

    def read_redirect(self, answer: Mapping[str, str]) -> dict[str, Any]:
        """The data centre that the person's account is in: only there the code is worth something."""
        server = answer.get("accounts-server", "").removeprefix("https://").rstrip("/")
        return {"accounts_host": server} if server else {}

    def root(self, shipment: Shipment) -> str:
        root = self.override or shipment.config.get("api_domain")
        if not root:
            raise Unsendable("The connection names no API domain.")
        return f"{root}/crm/v8"


def _error(row: Any) -> tuple[str, str]:
    """One error, that of a record or one among its several, with the field's name before what is wrong."""
    code, message = text_at(row, "code"), text_at(row, "message")
    details = row.get("details") if isinstance(row, dict) else None
    field = text_at(details, "api_name")
    if expected := text_at(details, "expected_data_type") or text_at(details, "maximum_length"):
        message = f"{message} (expected: {expected})"
    code = RACED if code == "DUPLICATE_DATA" and field == "Email" else code
    return code, f"{field}: {message}" if field else message


PROVIDER = Zoho()
