"""Mailchimp Marketing API 3.0 (mailchimp.com/developer): audiences, members, their tags and events, and OAuth."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, RefusedError, is_email
from meshes.dev.vendors.oauth import Installation, OAuthServer
from meshes.dev.vendors.server import route

LIST = "/3.0/lists/{key}"
MEMBER = LIST + "/members/{who}"
STATUSES = ("subscribed", "unsubscribed", "cleaned", "pending", "transactional")


@dataclass
class Audience:
    """`members` by the MD5 of their address in lower case."""

    name: str
    members: dict[str, dict[str, Any]] = field(default_factory=dict)
    merge_fields: list[str] = field(default_factory=lambda: ["FNAME", "LNAME", "PHONE"])
    tags: list[str] = field(default_factory=lambda: ["Lead", "Customer"])

    def find(self, who: str) -> dict[str, Any] | None:
        """By hash or address."""
        return self.members.get(who.lower()) or self.members.get(hash_of(who))

    def put(self, who: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The member, new or changed. A `status` counts, so it subscribes again who has opted out."""
        member = self.find(who)
        address, status = given.get("email_address"), given.get("status", given.get("status_if_new"))
        if member:
            status = given.get("status", member["status"])
        if not isinstance(address, str) or not is_email(address):
            raise _invalid("email_address", "Please provide a valid email address.")
        if status not in STATUSES:
            raise _invalid("status" if member else "status_if_new", f"Value must be one of: {', '.join(STATUSES)}.")
        if self.find(address) not in (None, member):
            raise Mailchimp.refused(400, "Member Exists", f"{address} is already a list member.")
        fields = given.get("merge_fields", {})
        if not isinstance(fields, dict):
            raise _invalid("merge_fields", "Schema describes object.")
        member = member or {"tags": [], "events": [], "contact_id": secrets.token_hex(16), "merge_fields": {}}
        self.members.pop(hash_of(member.get("email_address", "")), None)
        known = {name: value for name, value in fields.items() if name in self.merge_fields}  # others are left out
        member |= {"email_address": address, "status": status, "merge_fields": member["merge_fields"] | known}
        self.members[hash_of(address)] = member
        return member


def _audiences() -> dict[str, Audience]:
    return {"a1b2c3d4e5": Audience("Newsletter"), "f6a7b8c9d0": Audience("Product news")}


@dataclass
class Account:
    audiences: dict[str, Audience] = field(default_factory=_audiences)


class Mailchimp(OAuthServer[Account]):
    """An account has a data centre, `dc`, the part after the hyphen in its API keys."""

    slug, account, new_account = "mailchimp", "8d3a3db4d97663a9074efcc16", Account
    developer_token = "0123456789abcdef0123456789abcdef-us21"
    page_path, token_path = "/oauth2/authorize", "/oauth2/token"
    required = ("response_type",)
    gives_refresh_tokens = False
    dc = "us21"
    default_error = "API Key Invalid"
    error_codes = {
        Reason.MALFORMED: "JSON Parse Error",
        Reason.WRONG_TYPE: "Unsupported Media Type",
        Reason.NOT_FOUND: "Resource Not Found",
        Reason.WRONG_METHOD: "Method Not Allowed",
        Reason.THROTTLED: "Too Many Requests",
        Reason.DOWN: "Internal Server Error",
    }

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        kind = "https://mailchimp.com/developer/marketing/docs/errors/"
        document = {"type": kind, "title": code, "status": status, "detail": message, "instance": secrets.token_hex(8)}
        return Answer.of(document | more, status, "application/problem+json; charset=utf-8")

    def token_of(self, call: Call) -> str:
        """An API key as the password of any user, or a token."""
        user_and_key = call.basic()
        return user_and_key[1] if user_and_key else call.credential("Bearer")

    # Members.

    @route("PUT", MEMBER)
    def put_member(self, call: Call, key: str, who: str) -> Answer:
        member = self._audience(call, key).put(who, self.read_object(call))
        shown = {name: member[name] for name in ("email_address", "status", "merge_fields", "contact_id")}
        digest = hash_of(member["email_address"])
        return Answer.of({"id": digest, "unique_email_id": digest[:10], "web_id": int(digest[:7], 16), **shown})

    @route("POST", MEMBER + "/tags")
    def post_tags(self, call: Call, key: str, who: str) -> Answer:
        """Set and unset tags; names that are new begin to exist."""
        audience, member = self._audience(call, key), self._member(call, key, who)
        tags = self.read_object(call).get("tags")
        if not isinstance(tags, list) or not all(isinstance(tag, dict) and tag.get("name") for tag in tags):
            raise _invalid("tags", "Schema describes array of names and statuses.")
        if any(tag.get("status") not in ("active", "inactive") for tag in tags):
            raise _invalid("tags.status", "Value must be one of: active, inactive.")
        for tag in tags:
            name, is_active = tag["name"], tag["status"] == "active"
            member["tags"] = [each for each in member["tags"] if each != name] + ([name] if is_active else [])
            audience.tags += [name] if is_active and name not in audience.tags else []
        return Answer(204)

    @route("POST", MEMBER + "/events")
    def post_event(self, call: Call, key: str, who: str) -> Answer:
        member, event = self._member(call, key, who), self.read_object(call)
        if not isinstance(event.get("name"), str) or not 2 <= len(event["name"]) <= 30:
            raise _invalid("name", "The name must have 2 to 30 characters.")
        properties = event.get("properties", {})
        if not isinstance(properties, dict) or not all(isinstance(value, str) for value in properties.values()):
            raise _invalid("properties", "Schema describes object of strings.")
        member["events"].append(event)
        return Answer(204)

    def _audience(self, call: Call, key: str) -> Audience:
        audiences = self.state_of(call).audiences
        self.refuse_if(key not in audiences, 404, "Resource Not Found", "The requested resource could not be found.")
        return audiences[key]

    def _member(self, call: Call, key: str, who: str) -> dict[str, Any]:
        member = self._audience(call, key).find(who)
        if member is None:
            raise self.refused(404, "Resource Not Found", "The requested resource could not be found.")
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

    @route("GET", "/3.0/?")
    def get_account(self, call: Call) -> Answer:
        return Answer.of({"account_id": call.account, "account_name": "Acme", "login_id": "1", "role": "owner"})

    # OAuth.

    @route("GET", "/oauth2/metadata", "open")
    def metadata(self, call: Call) -> Answer:
        """Where the token's account lives. `OAuth` is the scheme's word here."""
        try:
            account = self.account_of(call.credential("OAuth") or call.credential("Bearer"))
        except RefusedError:
            return Answer.of({"error": "invalid_token", "error_description": "The access token is not valid."}, 401)
        login = {"login_id": 1, "login_name": "acme", "email": "owner@acme.example"}
        about = {"dc": self.dc, "role": "owner", "accountname": "Acme", "user_id": account, "login": login}
        api = f"https://{self.dc}.api.mailchimp.com"
        return Answer.of({**about, "login_url": "https://login.mailchimp.com", "api_endpoint": api})

    def token_reply(self, installation: Installation, access_token: str, is_first: bool) -> dict[str, Any]:
        """The token never ends, which Mailchimp writes as `expires_in: 0`."""
        return {"access_token": access_token, "expires_in": 0, "scope": None}

    def new_token(self, kind: str) -> str:
        return secrets.token_hex(16)


def hash_of(address: str) -> str:
    return hashlib.md5(address.lower().encode(), usedforsecurity=False).hexdigest()


def _invalid(field_name: str, message: str) -> RefusedError:
    errors = [{"field": field_name, "message": message}]
    detail = "The resource submitted could not be validated."
    return Mailchimp.refused(400, "Invalid Resource", detail, errors=errors)
