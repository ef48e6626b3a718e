"""Mailchimp Marketing API 3.0 (mailchimp.com/developer): audiences, members, their tags and events, and OAuth."""

import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from meshes.dev.vendors.mailchimp_audience import Account, Audience, MemberRefused, address_of, hash_of
from meshes.dev.vendors.messages import Answer, BadToken, Call, Problem, Refused, Why
from meshes.dev.vendors.oauth import Granted, OAuthServer
from meshes.dev.vendors.server import route

MAX_BATCH = 500
LIST = "/3.0/lists/{key}"
MEMBER = LIST + "/members/{who}"

Result = TypeVar("Result")


class Mailchimp(OAuthServer[Account]):
    """An account has a data centre, `dc`, the part after the hyphen in its API keys."""

    slug, account, developer_token = "mailchimp", "8d3a3db4d97663a9074efcc16", "0123456789abcdef0123456789abcdef-us21"
    token_path = r"^/oauth2/token$"
    required = ("response_type",)
    gives_refresh_tokens = False
    dc = "us21"
    faults = {
        "THROTTLED": Answer.text("<html><body>Forbidden</body></html>", 403, "text/html"),
        "BLOCKED": Answer.text("<html><body>Request Blocked</body></html>", 503, "text/html"),
    }

    def new_account(self, account: str) -> Account:
        return Account()

    def problem(self, problem: Problem) -> Answer:
        titles = {
            Why.MALFORMED: "JSON Parse Error",
            Why.WRONG_TYPE: "Unsupported Media Type",
            Why.NOT_FOUND: "Resource Not Found",
            Why.WRONG_METHOD: "Method Not Allowed",
            Why.THROTTLED: "Too Many Requests",
            Why.DOWN: "Internal Server Error",
        }
        return _problem(problem.status, titles.get(problem.why, "API Key Invalid"), problem.words)

    def token_of(self, call: Call) -> str:
        """An API key as the password of any user, or a token."""
        user_and_key = call.basic()
        return user_and_key[1] if user_and_key else call.credential("Bearer")

    # Members.

    @route("PUT", MEMBER)
    def put_member(self, call: Call, key: str, who: str) -> Answer:
        audience, given = self._audience(call, key), self.read_object(call)
        member, skips = audience.find(who), _skips_required(call)
        if member is None:
            status = given.get("status", given.get("status_if_new"))
            return Answer.of(_shown(_tried(lambda: audience.add(given, status, skips))))
        return Answer.of(_shown(_tried(lambda: audience.update(member, given, skips))))

    @route("POST", LIST + "/members")
    def post_member(self, call: Call, key: str) -> Answer:
        """The one way to make a member with its tags at once."""
        audience, given = self._audience(call, key), self.read_object(call)
        member = _tried(lambda: audience.add(given, given.get("status"), _skips_required(call)))
        tags = [{"name": tag, "status": "active"} for tag in given.get("tags", [])]
        _tried(lambda: audience.tag(member, tags))
        return Answer.of(_shown(member))

    @route("GET", MEMBER)
    def get_member(self, call: Call, key: str, who: str) -> Answer:
        return Answer.of(_shown(self._member(call, key, who)))

    @route("POST", LIST)
    def post_batch(self, call: Call, key: str) -> Answer:
        audience, given = self._audience(call, key), self.read_object(call)
        rows = given.get("members")
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_BATCH:
            raise _refusal(MemberRefused("Invalid Resource", f"1 to {MAX_BATCH} members are expected.", "members"))
        answer: dict[str, list[Any]] = {"new_members": [], "updated_members": [], "errors": []}
        for row in rows:
            kind, document = _put_row(audience, row, given.get("update_existing") is True)
            answer[kind].append(document)
        return Answer.of({**answer, "total_created": len(answer["new_members"]), "error_count": len(answer["errors"])})

    @route("POST", MEMBER + "/tags")
    def post_tags(self, call: Call, key: str, who: str) -> Answer:
        audience, member = self._audience(call, key), self._member(call, key, who)
        tags = self.read_object(call).get("tags")
        _tried(lambda: audience.tag(member, tags))
        return Answer(204)

    @route("POST", MEMBER + "/events")
    def post_event(self, call: Call, key: str, who: str) -> Answer:
        audience, member = self._audience(call, key), self._member(call, key, who)
        event = self.read_object(call)
        _tried(lambda: audience.record(member, event))
        return Answer(204)

    def _audience(self, call: Call, key: str) -> Audience:
        audiences = self.state_of(call).audiences
        if key not in audiences:
            raise _missing()
        return audiences[key]

    def _member(self, call: Call, key: str, who: str) -> dict[str, Any]:
        member = self._audience(call, key).find(who)
        if member is None:
            raise _missing()
        return member

    # The account.

    @route("GET", "/3.0/lists")
    def get_lists(self, call: Call) -> Answer:
        lists = [
            {"id": key, "name": each.name, "stats": {"member_count": len(each.members)}}
            for key, each in self.state_of(call).audiences.items()
        ]
        return Answer.of({"lists": lists[: int(call.query.get("count", "10"))], "total_items": len(lists)})

    @route("GET", LIST + "/tag-search")
    def search_tags(self, call: Call, key: str) -> Answer:
        wanted = call.query.get("name", "").lower()
        found = [tag for tag in self._audience(call, key).tags if tag.lower().startswith(wanted)]
        tags = [{"id": number, "name": tag} for number, tag in enumerate(found, 1)]
        return Answer.of({"tags": tags, "total_items": len(tags)})

    @route("GET", "/3.0/ping")
    def ping(self, call: Call) -> Answer:
        return Answer.of({"health_status": "Everything's Chimpy!"})

    @route("GET", "/3.0/?")
    def get_account(self, call: Call) -> Answer:
        return Answer.of({"account_id": call.account, "account_name": "Acme", "login_id": "1", "role": "owner"})

    # OAuth.

    @route("GET", "/oauth2/authorize", "open")
    def authorize(self, call: Call) -> Answer:
        return self.agree(call)

    @route("POST", "/oauth2/token", "open")
    def give_tokens(self, call: Call) -> Answer:
        return self.exchange(call)

    @route("GET", "/oauth2/metadata", "open")
    def metadata(self, call: Call) -> Answer:
        """Where the token's account lives. `OAuth` is the scheme's word here."""
        try:
            account = self.account_of(call.credential("OAuth") or call.credential("Bearer"))
        except BadToken:
            return Answer.of({"error": "invalid_token", "error_description": "The access token is not valid."}, 401)
        login = {"login_id": 1, "login_name": "acme", "email": "owner@acme.example"}
        about = {"dc": self.dc, "role": "owner", "accountname": "Acme", "user_id": account, "login": login}
        api = f"https://{self.dc}.api.mailchimp.com"
        return Answer.of({**about, "login_url": "https://login.mailchimp.com", "api_endpoint": api})

    def token_reply(self, granted: Granted) -> dict[str, Any]:
        """The token never ends, which Mailchimp writes as `expires_in: 0`."""
        return {"access_token": granted.access_token, "expires_in": 0, "scope": None}

    def new_token(self, kind: str) -> str:
        return secrets.token_hex(16)


def _skips_required(call: Call) -> bool:
    return call.query.get("skip_merge_validation") == "true"


def _put_row(audience: Audience, row: Any, updates: bool) -> tuple[str, dict[str, Any]]:
    """One row of a batch: which list of the answer it belongs to, and as what."""
    try:
        member = audience.find(address_of(row))
        if member is None:
            return "new_members", _shown(audience.add(row, row.get("status")))
        if updates:
            return "updated_members", _shown(audience.update(member, row))
        raise MemberRefused("Member Exists", "The member exists, and update_existing is not set.")
    except MemberRefused as refused:
        address = row.get("email_address") if isinstance(row, dict) else None
        return "errors", {"email_address": address, "error": refused.detail, "error_code": refused.title}


def _shown(member: Mapping[str, Any]) -> dict[str, Any]:
    key = hash_of(member["email_address"])
    kept = {name: member[name] for name in ("email_address", "status", "merge_fields", "contact_id")}
    return {"id": key, "unique_email_id": key[:10], "web_id": int(key[:7], 16), **kept}


def _tried(change: Callable[[], Result]) -> Result:
    try:
        return change()
    except MemberRefused as refused:
        raise _refusal(refused) from None


def _problem(status: int, title: str, detail: str, **more: Any) -> Answer:
    kind = "https://mailchimp.com/developer/marketing/docs/errors/"
    document = {"type": kind, "title": title, "status": status, "detail": detail, "instance": secrets.token_hex(8)}
    return Answer.of(document | more, status, "application/problem+json; charset=utf-8")


def _missing() -> Refused:
    return Refused(_problem(404, "Resource Not Found", "The requested resource could not be found."))


def _refusal(refused: MemberRefused) -> Refused:
    if not refused.field:
        return Refused(_problem(400, refused.title, refused.detail))
    errors = [{"field": refused.field, "message": refused.detail}]
    return Refused(_problem(400, refused.title, "The resource submitted could not be validated.", errors=errors))
