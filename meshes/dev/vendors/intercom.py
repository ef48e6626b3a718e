"""Intercom API 2.16 (developers.intercom.com): contacts, events, tags, and OAuth."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, RefusedError, is_email, malformed
from meshes.dev.vendors.oauth import Installation, OAuthServer
from meshes.dev.vendors.server import Events, limit_names, route

VERSIONS = {"2.15", "2.16", "2.17"}
WRITABLE = {"role", "external_id", "email", "phone", "name", "avatar", "signed_up_at", "last_seen_at", "owner_id",
            "unsubscribed_from_emails", "custom_attributes"}  # fmt: skip
MAX_METADATA = 10


@dataclass
class Workspace(Events):
    """`contacts` by id. `searchable` are the ids that a search finds; `attributes` are the custom ones that are
    defined; `tagged` are tag ids by contact."""

    contacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    searchable: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=lambda: ["source", "plan"])
    tags: dict[str, str] = field(default_factory=lambda: {"7522907": "Lead", "7522908": "Customer"})
    tagged: dict[str, list[str]] = field(default_factory=dict)

    def find(self, by: str, value: Any) -> list[dict[str, Any]]:
        """Contacts with this value; emails are alike in any case."""
        wanted = str(value).lower()
        return [each for each in self.contacts.values() if str(each.get(by) or "").lower() == wanted]


class Intercom(OAuthServer[Workspace]):
    """An account is a workspace's `id_code`. New contacts are not searchable until `index` says so."""

    slug, account, developer_token, new_account = "intercom", "abc123", "dG9rOmRldmVsb3Blcg==", Workspace
    page_path, token_path = "/oauth", "/auth/eagle/token"
    default_grant = "authorization_code"
    gives_refresh_tokens = False
    checks_redirect_uri = False
    controls = OAuthServer.controls | {"index"}
    error_codes = {
        Reason.REVOKED_TOKEN: "token_revoked",
        Reason.EXPIRED_TOKEN: "token_expired",
        Reason.MISSING_TOKEN: "missing_authorization",
        Reason.UNKNOWN_TOKEN: "unauthorized",
        Reason.MALFORMED: "parameter_invalid",
        Reason.WRONG_TYPE: "bad_request",
        Reason.THROTTLED: "rate_limit_exceeded",
    }
    default_error = "not_found"
    rate_headers = limit_names("x-ratelimit", "{second_after}")

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        errors = [{"code": code, "message": message}]
        return Answer.of({"type": "error.list", "request_id": secrets.token_hex(8), "errors": errors}, status)

    def refusal(self, reason: Reason, status: int, message: str, seconds: float = 0.0) -> Answer:
        if reason is Reason.DOWN:
            return self.error(status, "service_unavailable" if status == 503 else "server_error", message)
        return super().refusal(reason, 404 if reason is Reason.WRONG_METHOD else status, message)

    def index(self) -> None:
        """The search has caught up in every workspace."""
        for workspace in self.accounts.values():
            workspace.searchable = list(workspace.contacts)

    # Contacts.

    @route("POST", "/contacts")
    def create_contact(self, call: Call) -> Answer:
        """200, not 201. Who is there already is named in the error's text only."""
        workspace, given = self._workspace(call), self._contact_fields(call)
        if not any(given.get(name) for name in ("email", "external_id", "role")):
            raise Intercom.refused(400, "parameter_not_found", "one of email, external_id or role is required")
        for name in ("email", "external_id"):
            if given.get(name) and (there := workspace.find(name, given[name])):
                message = f"A contact matching those details already exists with id={there[0]['id']}"
                raise Intercom.refused(409, "conflict", message)
        key = secrets.token_hex(12)
        contact = {"type": "contact", "id": key, "role": "user", "archived": False, "custom_attributes": {}, **given}
        workspace.contacts[key] = {"email": None, "external_id": None, **contact}
        return Answer.of(workspace.contacts[key])

    @route("PUT", "/contacts/{key}")
    def update_contact(self, call: Call, key: str) -> Answer:
        workspace, given = self._workspace(call), self._contact_fields(call)
        contact = self._contact(workspace, key)
        for name in ("email", "external_id"):
            if given.get(name) and any(each is not contact for each in workspace.find(name, given[name])):
                raise Intercom.refused(409, "conflict", f"A contact with that {name} already exists")
        attributes = {**contact["custom_attributes"], **given.get("custom_attributes", {})}
        contact.update(given, custom_attributes=attributes)
        return Answer.of(contact)

    @route("POST", "/contacts/search")
    def search_contacts(self, call: Call) -> Answer:
        workspace, query = self._workspace(call), self.read_object(call).get("query")
        if not isinstance(query, dict) or not {"field", "operator", "value"} <= query.keys():
            raise Intercom.refused(400, "parameter_not_found", "query needs field, operator and value")
        if query["operator"] != "=" or query["field"] not in ("email", "external_id", "id", "phone", "name"):
            raise _invalid(f"{query['field']} {query['operator']} is not supported here")
        matching = workspace.find(query["field"], query["value"])
        found = [each for each in matching if each["id"] in workspace.searchable]
        pages = {"type": "pages", "page": 1, "per_page": 50, "total_pages": 1}
        return Answer.of({"type": "list", "data": found, "total_count": len(found), "pages": pages})

    # Tags and events.

    @route("POST", "/contacts/{key}/tags")
    def tag_contact(self, call: Call, key: str) -> Answer:
        workspace, tag = self._workspace(call), str(self.read_object(call).get("id"))
        contact = self._contact(workspace, key)
        Intercom.refuse_if(tag not in workspace.tags, 404, "not_found", "Resource Not Found")
        tags = workspace.tagged.setdefault(contact["id"], [])
        tags += [] if tag in tags else [tag]
        return Answer.of({"type": "tag", "id": tag, "name": workspace.tags[tag]})

    @route("GET", "/tags")
    def list_tags(self, call: Call) -> Answer:
        rows = [{"type": "tag", "id": key, "name": name} for key, name in self._workspace(call).tags.items()]
        return Answer.of({"type": "list", "data": rows})

    @route("POST", "/events")
    def create_event(self, call: Call) -> Answer:
        """A second event of one contact, name and second gets the same 202, and is not kept."""
        workspace, event = self._workspace(call), self.read_object(call)
        if not event.get("event_name") or type(event.get("created_at")) is not int:
            raise _invalid("event_name, and created_at in unix seconds, are required")
        metadata = event.get("metadata", {})
        is_flat = isinstance(metadata, dict) and not any(isinstance(each, dict | list) for each in metadata.values())
        if not is_flat or len(metadata) > MAX_METADATA:
            raise _invalid(f"metadata holds at most {MAX_METADATA} values, not nested")
        contact = _contact_of(workspace, event)["id"]
        names = ("contact", "event_name", "created_at")
        kept = {"contact": contact, "metadata": metadata, **{name: event[name] for name in names[1:]}}
        workspace.store(kept, lambda each: tuple(each[name] for name in names))
        return Answer(202)

    @route("GET", "/me")
    def me(self, call: Call) -> Answer:
        self._workspace(call)
        app = {"type": "app", "id_code": call.account, "name": "Acme", "region": "US"}
        return Answer.of({"type": "admin", "id": "991267459", "email": "admin@acme.example", "app": app})

    def _workspace(self, call: Call) -> Workspace:
        """The caller's workspace, for a version that exists. Without the header the version counts that the app was
        made with; here that is one from before contacts, so that a forgotten header shows."""
        version = call.headers.get("intercom-version", "")
        Intercom.refuse_if(not version, 404, "not_found", "The requested resource was not found in version 1.4")
        if version not in VERSIONS:
            raise Intercom.refused(400, "intercom_version_invalid", "The requested version could not be found")
        if "application/json" not in call.headers.get("accept", ""):
            raise Intercom.refused(
                406, "media_type_not_acceptable", "The Accept header should send a media type of JSON"
            )
        return self.state_of(call)

    def _contact_fields(self, call: Call) -> dict[str, Any]:
        given = self.read_object(call)
        if unknown := given.keys() - WRITABLE:
            raise _invalid(f"{sorted(unknown)[0]} is not a field of a contact")
        if given.get("role", "user") not in ("user", "lead"):
            raise _invalid("role must be user or lead")
        if given.get("email") and not is_email(given["email"]):
            raise _invalid("email is invalid")
        attributes = given.get("custom_attributes", {})
        if not isinstance(attributes, dict):
            raise malformed("custom_attributes must be an object")
        if undefined := attributes.keys() - set(self.state_of(call).attributes):
            raise _invalid(f"Custom attribute '{sorted(undefined)[0]}' does not exist")
        return given

    def _contact(self, workspace: Workspace, key: str) -> dict[str, Any]:
        self.refuse_if(key not in workspace.contacts, 404, "not_found", "User Not Found")
        return workspace.contacts[key]

    # OAuth.

    def token_reply(self, installation: Installation, access_token: str, is_first: bool) -> dict[str, Any]:
        return {"token_type": "Bearer", "token": access_token, "access_token": access_token}

    def oauth_answer(self, error: str, message: str) -> Answer:
        is_client = self.oauth_errors[error] == "invalid_client"
        return self.error(401, "unauthorized", message) if is_client else self.error(400, "parameter_invalid", message)


def _contact_of(workspace: Workspace, event: Mapping[str, Any]) -> dict[str, Any]:
    """The contact of an event; a lead is found by its id alone."""
    for name, by in (("id", "id"), ("user_id", "external_id"), ("email", "email")):
        if event.get(name):
            found = [each for each in workspace.find(by, event[name]) if by == "id" or each["role"] == "user"]
            Intercom.refuse_if(not found, 404, "not_found", "User Not Found")
            return found[0]
    raise Intercom.refused(400, "parameter_not_found", "one of id, user_id or email is required")


def _invalid(message: str) -> RefusedError:
    return Intercom.refused(400, "parameter_invalid", message)
