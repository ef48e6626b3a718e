"""Salesforce REST API (developer.salesforce.com): records by external id, describe, limits, and OAuth."""

import copy
import hashlib
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from meshes.dev.vendors.faults import Window
from meshes.dev.vendors.messages import Answer, Call, Malformed, Problem, Refused, Why
from meshes.dev.vendors.oauth import Granted, Installation, OAuthServer
from meshes.dev.vendors.salesforce_org import Org, RecordRefused, SField
from meshes.dev.vendors.server import route

DATA = r"/services/data/(?P<version>v[0-9]+\.0)"
OLDEST, LATEST = 31, 68
"""Versions below are gone (410)."""
DAILY_CALLS = 100_000
MAX_RECORDS = 200


class Salesforce(OAuthServer[Org]):
    """An account is a My Domain name. `instance_url` is realistic; a test may set its own."""

    slug, account, developer_token = "salesforce", "acme", "00D5e000000developer!AQ"
    token_path = r"^/services/oauth2/token$"
    client_auth = frozenset({"body", "basic"})
    required = ("response_type",)
    max_installations = 5
    oauth_errors = {**OAuthServer.oauth_errors, "unknown_client": "invalid_client_id"}
    has_run_as_user = True
    """Whether the app names the user as whom the client credentials flow acts."""
    instance_url = ""
    faults = {
        "REQUEST_LIMIT_EXCEEDED": Answer.of(
            [{"message": "TotalRequests Limit exceeded.", "errorCode": "REQUEST_LIMIT_EXCEEDED"}], 403
        ),
        "UNABLE_TO_LOCK_ROW": Answer.of(
            [{"message": "unable to obtain exclusive access to this record", "errorCode": "UNABLE_TO_LOCK_ROW",
              "fields": []}], 400
        ),
        "API_DISABLED_FOR_ORG": Answer.of(
            [{"message": "API is not enabled for this Organization or Partner", "errorCode": "API_DISABLED_FOR_ORG"}],
            403,
        ),
        "FIELD_CUSTOM_VALIDATION_EXCEPTION": Answer.of(
            [{"message": "Phone is needed", "errorCode": "FIELD_CUSTOM_VALIDATION_EXCEPTION", "fields": ["Phone"]}], 400
        ),
    }  # fmt: skip

    def new_account(self, account: str) -> Org:
        return Org()

    def problem(self, problem: Problem) -> Answer:
        if problem.status == 401:
            return _error(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if problem.why is Why.THROTTLED:
            return self.faults["REQUEST_LIMIT_EXCEEDED"]
        codes = {
            Why.MALFORMED: "JSON_PARSER_ERROR",
            Why.WRONG_TYPE: "UNSUPPORTED_MEDIA_TYPE",
            Why.NOT_FOUND: "NOT_FOUND",
            Why.WRONG_METHOD: "METHOD_NOT_ALLOWED",
            Why.DOWN: "SERVER_UNAVAILABLE" if problem.status == 503 else "UNKNOWN_EXCEPTION",
        }
        return _error(problem.status, codes[problem.why], problem.words)

    def rate_headers(self, call: Call, window: Window | None) -> dict[str, str]:
        used, allowed = (window.count, window.requests) if window else (self.counts[call.account], DAILY_CALLS)
        return {"sforce-limit-info": f"api-usage={used}/{allowed}"}

    # Records.

    @route("PATCH", DATA + "/sobjects/{kind}/{by}/{value}")
    def upsert(self, call: Call, version: str, kind: str, by: str, value: str) -> Answer:
        org = self._org(call, version, kind)
        _check_external_id(org, kind, by)
        values = self.read_object(call)
        for name in ("Id", by):
            if name in values:
                raise _refusal("INVALID_FIELD", f"The {name} field should not be specified in the sobject data.")
        found = org.matches(kind, by, value)
        if len(found) > 1:
            return Answer.of([f"/services/data/{version}/sobjects/{kind}/{quote(key)}" for key in found], 300)
        if not found and call.query.get("updateOnly") == "true":
            raise Refused(_error(404, "NOT_FOUND", "The requested resource does not exist"))
        try:
            key = self._written(org, call, kind, {**values, by: value}, found)
        except RecordRefused as refused:
            raise _refused(refused) from None
        return Answer.of({"id": key, "success": True, "errors": [], "created": not found}, 200 if found else 201)

    @route("POST", DATA + "/sobjects/{kind}")
    def create(self, call: Call, version: str, kind: str) -> Answer:
        org = self._org(call, version, kind)
        try:
            key = self._written(org, call, kind, self.read_object(call), [])
        except RecordRefused as refused:
            raise _refused(refused) from None
        return Answer.of({"id": key, "success": True, "errors": []}, 201)

    @route("PATCH", DATA + "/composite/sobjects/{kind}/{by}")
    def upsert_many(self, call: Call, version: str, kind: str, by: str) -> Answer:
        """200 whatever became of the records: each result tells of its own."""
        org, document = self._org(call, version, kind), self.read_object(call)
        _check_external_id(org, kind, by)
        records = document.get("records")
        if not isinstance(records, list) or not 1 <= len(records) <= MAX_RECORDS:
            raise _refusal("INVALID_INPUT", f"records must hold 1 to {MAX_RECORDS} records")
        before = copy.deepcopy(org.records[kind])
        results = [self._result(org, call, kind, by, record) for record in records]
        if document.get("allOrNone") and not all(result["success"] for result in results):
            org.records[kind] = before
            results = [_rolled_back() if result["success"] else result for result in results]
        return Answer.of(results)

    def _org(self, call: Call, version: str, kind: str) -> Org:
        _check_version(version)
        org = self.state_of(call)
        if kind not in org.objects:
            raise Refused(_error(404, "NOT_FOUND", "The requested resource does not exist"))
        return org

    def _written(self, org: Org, call: Call, kind: str, values: Mapping[str, Any], found: list[str]) -> str:
        """Raises RecordRefused."""
        if found:
            org.update(kind, found[0], values)
            return found[0]
        rule = call.headers.get("sforce-duplicate-rule-header", "").replace(" ", "").lower()
        return org.create(kind, values, saves_duplicates="allowsave=true" in rule)

    def _result(self, org: Org, call: Call, kind: str, by: str, record: Any) -> dict[str, Any]:
        attributes = record.get("attributes") if isinstance(record, dict) else None
        if not isinstance(attributes, dict) or attributes.get("type") != kind or not record.get(by):
            raise Malformed(f"each record needs attributes with the type {kind}, and {by}")
        values = {name: value for name, value in record.items() if name != "attributes"}
        found = org.matches(kind, by, str(record[by]))
        try:
            if len(found) > 1:
                raise RecordRefused("DUPLICATE_EXTERNAL_ID", f"{by}: more than one record found", (by,))
            key = self._written(org, call, kind, values, found)
        except RecordRefused as refused:
            return _failed(refused)
        return {"id": key, "success": True, "errors": [], "created": not found}

    # What the org has, and whose it is.

    @route("GET", "/services/data/?", "open")
    def versions(self, call: Call) -> Answer:
        """Asks for no credentials, so it checks none."""
        return Answer.of([{"version": f"{LATEST}.0", "url": f"/services/data/v{LATEST}.0", "label": "Winter '27"}])

    @route("GET", DATA + "/sobjects/?")
    def list_objects(self, call: Call, version: str) -> Answer:
        _check_version(version)
        names = self.state_of(call).objects
        return Answer.of({"sobjects": [{"name": name, "label": name, "createable": True} for name in names]})

    @route("GET", DATA + "/sobjects/{kind}/describe")
    def describe(self, call: Call, version: str, kind: str) -> Answer:
        org = self._org(call, version, kind)
        fields = [_described(name, is_) for name, is_ in org.objects[kind].items()]
        return Answer.of({"name": kind, "label": kind, "createable": True, "updateable": True, "fields": fields})

    @route("GET", DATA + "/limits")
    def limits(self, call: Call, version: str) -> Answer:
        _check_version(version)
        remaining = DAILY_CALLS - self.counts[call.account]
        return Answer.of({"DailyApiRequests": {"Max": DAILY_CALLS, "Remaining": remaining}})

    @route("GET", "/services/oauth2/userinfo")
    def userinfo(self, call: Call) -> Answer:
        org, user = org_id(call.account), "0055e000000USERAAA"
        name = f"integration@{call.account}.example"
        about = {"sub": f"https://login.salesforce.com/id/{org}/{user}", "user_id": user, "organization_id": org}
        return Answer.of({**about, "preferred_username": name, "name": "Integration User", "email": name})

    # OAuth.

    @route("GET", "/services/oauth2/authorize", "open")
    def authorize(self, call: Call) -> Answer:
        return self.agree(call)

    @route("POST", "/services/oauth2/token", "open")
    def give_tokens(self, call: Call) -> Answer:
        if call.form().get("grant_type") != "client_credentials":
            return self.exchange(call)
        self.check_client(call, call.form())
        if not self.has_run_as_user:
            raise self.oauth_refusal("invalid_request", "no client credentials user enabled")
        installation = Installation(self.signed_in, "api")
        self.installations.append(installation)
        granted = Granted(installation, self.issue(installation), False)
        return self.reply({**self.token_reply(granted), "api_instance_url": "https://api.salesforce.com"})

    @route("POST", "/services/oauth2/revoke", "open")
    def revoke_token(self, call: Call) -> Answer:
        """The refresh token takes its access tokens with it."""
        token = call.form().get("token", "")
        installation = self.installation_of(token)
        if installation is None:
            return Answer.of({"error": "invalid_token", "error_description": "invalid token"}, 400)
        if token == installation.refresh_token:
            self.end(installation)
        self.revoke(token)
        return Answer()

    def token_reply(self, granted: Granted) -> dict[str, Any]:
        """There is no `expires_in`; and a refresh token only by its scope, once, or anew where they rotate."""
        installation = granted.installation
        reply = {
            "access_token": granted.access_token,
            "instance_url": self.instance_url or f"https://{installation.account}.my.salesforce.com",
            "id": f"https://login.salesforce.com/id/{org_id(installation.account)}/0055e000000USERAAA",
            "token_type": "Bearer",
            "issued_at": str(int(self.clock() * 1000)),
            "signature": secrets.token_urlsafe(32),
            "scope": installation.scope,
        }
        may_refresh = {"refresh_token", "offline_access", "full"} & set(installation.scope.split())
        if may_refresh and (granted.is_first or self.rotates):
            reply["refresh_token"] = installation.refresh_token
        return reply

    def oauth_answer(self, error: str, words: str) -> Answer:
        said = "expired access/refresh token" if error == "invalid_refresh_token" else words
        return Answer.of({"error": self.oauth_errors[error], "error_description": said}, 400)


def org_id(account: str) -> str:
    """The 18 characters by which Salesforce knows an org."""
    return f"00D5e{hashlib.sha256(account.encode()).hexdigest()[:10].upper()}EAA"


def _check_version(version: str) -> None:
    number = int(version[1:-2])
    if number < OLDEST:
        raise Refused(_error(410, "GONE", f"The API version {version} is retired."))
    if number > LATEST:
        raise Refused(_error(404, "NOT_FOUND", "The requested resource does not exist"))


def _check_external_id(org: Org, kind: str, by: str) -> None:
    if by not in org.objects[kind] or not org.objects[kind][by].external_id:
        words = f"Provided external ID field does not exist or is not accessible: {by}"
        raise Refused(_error(404, "NOT_FOUND", words))


def _described(name: str, is_: SField) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.removesuffix("__c"),
        "type": is_.kind,
        "length": is_.length if is_.kind in ("string", "email") else 0,
        "externalId": is_.external_id,
        "idLookup": is_.external_id or is_.kind == "email",
        "nillable": not is_.required,
        "createable": True,
        "updateable": True,
    }


def _failed(refused: RecordRefused) -> dict[str, Any]:
    """What became of one of many."""
    error = {"statusCode": refused.code, "message": refused.message, "fields": refused.fields}
    return {"success": False, "errors": [error]}


def _rolled_back() -> dict[str, Any]:
    words = "Record rolled back because not all records were valid and the request was using AllOrNone header"
    return _failed(RecordRefused("ALL_OR_NONE_OPERATION_ROLLED_BACK", words))


def _error(status: int, code: str, message: str, fields: list[str] | None = None) -> Answer:
    return Answer.of([{"message": message, "errorCode": code, **({"fields": fields} if fields else {})}], status)


def _refusal(code: str, message: str) -> Refused:
    return Refused(_error(400, code, message))


def _refused(refused: RecordRefused) -> Refused:
    return Refused(_error(400, refused.code, refused.message, refused.fields))
