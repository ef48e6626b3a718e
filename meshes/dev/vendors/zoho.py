"""Zoho CRM API v8 (zoho.com/crm/developer): upserts of leads and contacts, the organisation, and OAuth.

The names of codes, and the status of an answer in which a record failed, are as far as they are known.
"""

import secrets
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, is_email
from meshes.dev.vendors.oauth import Installation, OAuthServer
from meshes.dev.vendors.server import route

MAX_RECORDS = 100
FIELDS = {"Email", "Last_Name", "First_Name", "Phone", "Company", "Lead_Source", "Description"}


@dataclass
class Org:
    """`records` by module and id."""

    records: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {"Leads": {}, "Contacts": {}})

    def upsert(self, module: str, given: dict[str, Any], by: list[str]) -> tuple[str, str]:
        """The record's id, and whether that was an `insert` or an `update`."""
        records = self.records[module]
        for key, record in records.items():
            if any(given.get(name) and str(record.get(name)).lower() == str(given[name]).lower() for name in by):
                record.update(given)
                return key, "update"
        key = str(5000000000000 + len(records))
        records[key] = dict(given)
        return key, "insert"


class Zoho(OAuthServer[Org]):
    """An account is an organisation's number. The page must be asked for access offline: Zoho gives no refresh token
    otherwise."""

    slug, account, developer_token, new_account = "zoho", "20098765432", "1000.8cb99dxxxxx9d9.9bexxxxx8f", Org
    page_path, token_path, revoke_path = "/oauth/v2/auth", "/oauth/v2/token", "/oauth/v2/token/revoke"
    required = ("scope", "response_type", "access_type")
    redirect_with = {"location": "eu", "accounts-server": "https://accounts.zoho.eu"}
    revoked = Answer.of({"status": "success"})
    unknown_token = Answer.of({"error": "invalid_token"}, 400)
    token_seconds = 3600
    oauth_errors = {
        **OAuthServer.oauth_errors,
        **dict.fromkeys(("invalid_code", "used_code", "expired_code", "invalid_refresh_token"), "invalid_code"),
        "wrong_secret": "invalid_client_secret",
    }
    default_error = "INVALID_TOKEN"
    error_codes = {
        Reason.MALFORMED: "INVALID_DATA",
        Reason.WRONG_TYPE: "INVALID_DATA",
        Reason.NOT_FOUND: "INVALID_URL_PATTERN",
        Reason.WRONG_METHOD: "INVALID_REQUEST_METHOD",
        Reason.THROTTLED: "TOO_MANY_REQUESTS",
        Reason.DOWN: "INTERNAL_ERROR",
    }

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"code": code, "details": {}, "message": message, "status": "error"}, status)

    def token_of(self, call: Call) -> str:
        return call.credential("Zoho-oauthtoken")

    @route("POST", "/crm/v8/(?P<module>Leads|Contacts)/upsert")
    def upsert(self, call: Call, module: str) -> Answer:
        self._check_scope(call, "ZohoCRM.modules.ALL")
        given = self.read_object(call)
        rows, by = given.get("data"), given.get("duplicate_check_fields", ["Email"])
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_RECORDS:
            raise self.refused(400, "INVALID_DATA", f"data: 1 to {MAX_RECORDS} records are expected")
        results = [self._upsert_one(call, module, row, by) for row in rows]
        return Answer.of({"data": results}, 200 if all(each["status"] == "success" for each in results) else 202)

    def _upsert_one(self, call: Call, module: str, row: Any, by: list[str]) -> dict[str, Any]:
        if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
            return _failed("INVALID_DATA", "invalid data")
        if not row.get("Last_Name"):
            return _failed("MANDATORY_NOT_FOUND", "required field not found", api_name="Last_Name")
        if row.get("Email") and not is_email(row["Email"]):
            return _failed("INVALID_DATA", "invalid data", api_name="Email")
        known = {name: value for name, value in row.items() if name in FIELDS}  # Zoho drops what it does not know
        key, action = self.state_of(call).upsert(module, known, by)
        return {"code": "SUCCESS", "status": "success", "action": action, "message": "done", "details": {"id": key}}

    @route("GET", "/crm/v8/org")
    def org(self, call: Call) -> Answer:
        self._check_scope(call, "ZohoCRM.org.READ")
        return Answer.of({"org": [{"id": call.account, "company_name": "Acme", "country": "Germany"}]})

    def _check_scope(self, call: Call, scope: str) -> None:
        self.refuse_if(self.lacks(call, scope), 401, "OAUTH_SCOPE_MISMATCH", "invalid oauth scope to access this URL")

    # OAuth.

    def token_reply(self, installation: Installation, access_token: str, is_first: bool) -> dict[str, Any]:
        """A refresh token comes with the first reply only, as none is replaced (unless a test has it so)."""
        refresh = {"refresh_token": installation.refresh_token} if is_first or self.rotates else {}
        about = {"scope": installation.scope.replace(",", " "), "api_domain": "https://www.zohoapis.eu"}
        lasts = {"token_type": "Bearer", "expires_in": int(self.token_seconds or 0)}
        return {"access_token": access_token, **refresh, **about, **lasts}

    def oauth_answer(self, error: str, message: str) -> Answer:
        """Zoho says 200 to whatever it refuses."""
        return Answer.of({"error": self.oauth_errors[error]})

    def new_token(self, kind: str) -> str:
        return f"1000.{secrets.token_hex(16)}.{secrets.token_hex(16)}"


def _failed(code: str, message: str, **details: str) -> dict[str, Any]:
    return {"code": code, "status": "error", "message": message, "details": details}
