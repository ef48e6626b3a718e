"""Pipedrive (pipedrive.readme.io): persons by API v2, the user by v1, and OAuth. There is no upsert."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason
from meshes.dev.vendors.oauth import Installation, OAuthServer
from meshes.dev.vendors.server import limit_names, route

WRITABLE = {"name", "owner_id", "org_id", "emails", "phones", "visible_to", "label_ids", "custom_fields",
            "marketing_status"}  # fmt: skip


@dataclass
class Company:
    """`persons` by id."""

    persons: dict[str, dict[str, Any]] = field(default_factory=dict)


class Pipedrive(OAuthServer[Company]):
    """An account is a company's number. The developer token is a personal one, sent as `x-api-token`."""

    slug, account, new_account = "pipedrive", "7762100", Company
    developer_token = "0123456789abcdef0123456789abcdef01234567"
    page_path, token_path, revoke_path = "/oauth/authorize", "/oauth/token", "/oauth/revoke"
    client_auth = frozenset({"basic"})
    token_seconds = 3599
    rate_headers = limit_names("x-ratelimit")

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        said = {"success": False, "error": message, "error_info": None, "data": None, "code": status}
        return Answer.of(said, status)

    def refusal(self, reason: Reason, status: int, message: str, seconds: float = 0.0) -> Answer:
        message = "unauthorized access" if status == 401 else message
        return self.error(status, "", "Rate limit exceeded" if reason is Reason.THROTTLED else message)

    def token_of(self, call: Call) -> str:
        return call.headers.get("x-api-token") or call.credential("Bearer")

    @route("GET", "/api/v2/persons/search")
    def search_persons(self, call: Call) -> Answer:
        """Of persons with exactly this address, in any case; Pipedrive has more fields, and parts of them."""
        term, by = call.query.get("term", "").lower(), (call.query.get("fields"), call.query.get("exact_match"))
        self.refuse_if(not term, 400, "", "Search term must be at least 1 character long")
        self.refuse_if(by != ("email", "true"), 400, "", "Only exact searches of email are served here")
        found = [_found(person) for person in self.state_of(call).persons.values()]
        matching = [person for person in found if term in map(str.lower, person["emails"])]
        return _done({"items": [{"result_score": 1, "item": person} for person in matching]})

    @route("POST", "/api/v2/persons")
    def create_person(self, call: Call) -> Answer:
        given = self._person_fields(call)
        self.refuse_if(not given.get("name"), 400, "", "Validation failed: name: name is a required field")
        persons = self.state_of(call).persons
        key = len(persons) + 1
        persons[str(key)] = {"id": key, "emails": [], "phones": [], **given}
        return _done(persons[str(key)], 201)

    @route("PATCH", "/api/v2/persons/{key}")
    def update_person(self, call: Call, key: str) -> Answer:
        """A list that is given takes the place of the one that was there."""
        given, persons = self._person_fields(call), self.state_of(call).persons
        self.refuse_if(key not in persons, 404, "", "Person not found")
        persons[key].update(given)
        return _done(persons[key])

    @route("GET", "(?:/api)?/v1/users/me")
    def me(self, call: Call) -> Answer:
        company = {"company_id": int(call.account), "company_name": "Acme", "company_domain": "acme"}
        return _done({"id": 1, "name": "Ada", "email": "ada@acme.example", **company})

    def _person_fields(self, call: Call) -> dict[str, Any]:
        given = self.read_object(call)
        for name in given.keys() - WRITABLE:
            raise self.refused(400, "", f"Validation failed: {name}: unknown field")
        for name in ("emails", "phones"):
            values = given.get(name, [])
            if not isinstance(values, list) or not all(isinstance(each, dict) and each.get("value") for each in values):
                raise self.refused(400, "", f"Validation failed: {name}: a list of objects with value is expected")
        return given

    # OAuth.

    def revoke_token(self, call: Call) -> Answer:
        self.check_client(call, call.fields())
        return super().revoke_token(call)

    def token_reply(self, installation: Installation, access_token: str, is_first: bool) -> dict[str, Any]:
        tokens = {"access_token": access_token, "refresh_token": installation.refresh_token, "token_type": "Bearer"}
        about = {"scope": installation.scope or "base contacts:full", "api_domain": "https://acme.pipedrive.com"}
        return {**tokens, "expires_in": int(self.token_seconds or 0), **about}

    def new_token(self, kind: str) -> str:
        return f"{self.account}:{kind}:{secrets.token_hex(20)}"


def _found(person: Mapping[str, Any]) -> dict[str, Any]:
    """A person as a search shows one: addresses and numbers are plain texts there."""
    emails, phones = ([each["value"] for each in person[name]] for name in ("emails", "phones"))
    primary = emails[0] if emails else None
    return {"id": person["id"], "type": "person", "name": person["name"], "emails": emails, "phones": phones,
            "primary_email": primary}  # fmt: skip


def _done(data: Any, status: int = 200) -> Answer:
    return Answer.of({"success": True, "data": data, "additional_data": None}, status)
