"""Klaviyo's JSON:API, revisions of the last two years (developers.klaviyo.com): profiles and events."""

import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, RefusedError, is_email
from meshes.dev.vendors.server import Events, VendorServer, Window, limit_names, route

OLDEST, LATEST = "2024-10-15", "2026-10-15"
MAX_PROFILE = 100 * 1024
IDENTIFIERS = ("email", "phone_number", "external_id")
WRITABLE = {*IDENTIFIERS, "first_name", "last_name", "organization", "locale", "title", "image", "location",
            "properties", "anonymous_id"}  # fmt: skip
_REVISION = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}(?:\.pre)?")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9]{2}:[0-9]{2})")
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")


@dataclass
class Account(Events):
    """`profiles` are attributes by id; `events` the first of each `unique_id`, with the id of its `profile`."""

    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)

    def find(self, attributes: dict[str, Any]) -> str | None:
        """The profile that has the first identifier given."""
        for name in IDENTIFIERS:
            if value := attributes.get(name):
                return next((key for key, has in self.profiles.items() if has.get(name) == value), None)
        return None

    def write(self, key: str | None, attributes: dict[str, Any]) -> str:
        """Create (without a key) or update; the profile's id. Null clears a field."""
        key = key or "01" + secrets.token_hex(12).upper()
        profile = self.profiles.setdefault(key, {"properties": {}})
        properties = {**profile["properties"], **(attributes.get("properties") or {})}
        merged = {**profile, **attributes, "properties": properties}
        self.profiles[key] = {name: value for name, value in merged.items() if value is not None}
        return key


class Klaviyo(VendorServer[Account]):
    slug, account, developer_token, new_account = "klaviyo", "AbC123", "pk_developer", Account
    json_type = "application/vnd.api+json"
    error_codes = {
        Reason.MISSING_TOKEN: "not_authenticated",
        Reason.WRONG_TYPE: "unsupported_media_type",
        Reason.WRONG_METHOD: "method_not_allowed",
        Reason.NOT_FOUND: "not_found",
        Reason.MALFORMED: "invalid",
        Reason.THROTTLED: "throttled",
        Reason.DOWN: "service_unavailable",
    }
    default_error, tells_wait = "authentication_failed", True
    rate_headers = limit_names("ratelimit")

    @classmethod
    def error(cls, status: int, code: Any, message: str, pointer: str = "/data", **more: Any) -> Answer:
        error = {"id": secrets.token_hex(8), "status": status, "code": code, "title": message, "detail": message}
        return Answer.of({"errors": [{**error, "source": {"pointer": pointer}}]}, status, cls.json_type)

    def token_of(self, call: Call) -> str:
        return call.credential("Klaviyo-API-Key") or call.credential("Bearer")

    def limit_headers(self, call: Call, window: Window | None) -> dict[str, str]:
        is_over = window is not None and window.count > window.requests  # a 429 has Retry-After instead
        return {} if is_over else super().limit_headers(call, window)

    @route("POST", "/api/profile-import/?")
    def import_profile(self, call: Call) -> Answer:
        self.refuse_if(len(call.body) > MAX_PROFILE, 413, "payload_too_large", "The payload exceeds 100 KB")
        account, data = self._account(call), self._data(call, "profile")
        attributes = _profile_of(data)
        found = account.find(attributes)
        if data.get("id"):
            if data["id"] not in account.profiles or found not in (None, data["id"]):
                raise self.refused(404, "not_found", "A profile with this id does not exist.")
            found = data["id"]
        key = account.write(found, attributes)
        profile = {"type": "profile", "id": key, "attributes": account.profiles[key]}
        return Answer.of({"data": profile}, 200 if found else 201, self.json_type)

    @route("POST", "/api/events/?")
    def create_event(self, call: Call) -> Answer:
        account, attributes = self._account(call), self._data(call, "event")["attributes"]
        metric = _resource(attributes.get("metric"), "metric", "/data/attributes/metric")["attributes"].get("name")
        profile = _profile_of(_resource(attributes.get("profile"), "profile", "/data/attributes/profile"))
        if not metric or not isinstance(metric, str):
            raise _invalid("/data/attributes/metric/data/attributes/name", "This field is required.")
        if not isinstance(attributes.get("properties"), dict):
            raise _invalid("/data/attributes/properties", "This field is required.")
        if "time" in attributes and not _TIME.fullmatch(str(attributes["time"])):
            raise _invalid("/data/attributes/time", "Enter a valid date and time by ISO 8601.")
        key = account.write(account.find(profile), profile)
        event = {**attributes, "metric": metric, "profile": key}
        account.store(event, lambda each: each.get("unique_id"))
        return Answer(202)

    @route("GET", "/api/accounts/?")
    def accounts_page(self, call: Call) -> Answer:
        self._account(call)
        about = {"contact_information": {"organization_name": "Acme"}, "timezone": "Europe/Berlin"}
        return Answer.of({"data": [{"type": "account", "id": call.account, "attributes": about}]}, 200, self.json_type)

    def _account(self, call: Call) -> Account:
        """The caller's, for a revision that is served."""
        revision = call.headers.get("revision", "")
        if not _REVISION.fullmatch(revision) or revision[:10] > LATEST:
            raise self.refused(400, "invalid", "A valid revision header is required.")
        self.refuse_if(revision[:10] < OLDEST, 410, "gone", f"Revision {revision} is retired.")
        return self.state_of(call)

    def _data(self, call: Call, kind: str) -> dict[str, Any]:
        return _resource(self.read_object(call), kind, "/data", f"data must have the type {kind}, and attributes.")


def _resource(holder: Any, kind: str, pointer: str, message: str = "This field is required.") -> dict[str, Any]:
    """The `data` of a document, or of a resource within an event."""
    data = holder.get("data") if isinstance(holder, dict) else None
    if not isinstance(data, dict) or data.get("type") != kind or not isinstance(data.get("attributes"), dict):
        raise _invalid(pointer, message)
    return data


def _profile_of(data: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a profile."""
    attributes: dict[str, Any] = data["attributes"]
    for name in attributes.keys() - WRITABLE:
        raise _invalid(f"/data/attributes/{name}", f"'{name}' is not a valid field for the resource 'profile'.")
    if not any(attributes.get(name) for name in IDENTIFIERS) and "id" not in data:
        raise _invalid("/data/attributes", "One of email, phone_number or external_id is required.")
    if attributes.get("email") and not is_email(attributes["email"]):
        raise _invalid("/data/attributes/email", "Invalid email address")
    if attributes.get("phone_number") and not _E164.fullmatch(str(attributes["phone_number"])):
        raise _invalid("/data/attributes/phone_number", "Not E.164")
    if not isinstance(attributes.get("properties"), dict | None):
        raise _invalid("/data/attributes/properties", "Not a valid object.")
    return attributes


def _invalid(pointer: str, detail: str) -> RefusedError:
    return Klaviyo.refused(400, "invalid", detail, pointer=pointer)
