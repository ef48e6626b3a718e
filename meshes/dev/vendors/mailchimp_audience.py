"""What a Mailchimp account holds: audiences, and members that obey their rules."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import is_email

STATUSES = ("subscribed", "unsubscribed", "cleaned", "pending", "transactional")


class MemberRefused(Exception):  # noqa: N818 - named by what happened
    """A change that the audience does not take, by Mailchimp's title; `field` is what was wrong with the request."""

    def __init__(self, title: str, detail: str, field: str = "") -> None:
        super().__init__(title)
        self.title = title
        self.detail = detail
        self.field = field


@dataclass
class Audience:
    """`members` by the MD5 of their address in lower case, each with the `history` of its status; `merge_fields` by
    tag, the value telling whether it is required; `forgotten` are addresses that were deleted for good."""

    name: str
    members: dict[str, dict[str, Any]] = field(default_factory=dict)
    merge_fields: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(("FNAME", "LNAME", "PHONE"), False))
    forgotten: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=lambda: ["Lead", "Customer"])

    def find(self, who: str) -> dict[str, Any] | None:
        """By hash, address or contact id."""
        matches = (
            each
            for key, each in self.members.items()
            if who.lower() in (key, each["email_address"].lower()) or who == each["contact_id"]
        )
        return next(matches, None)

    def add(self, given: Mapping[str, Any], status: Any, skips_required: bool = False) -> dict[str, Any]:
        """A new member. Raises MemberRefused."""
        address = address_of(given)
        if status not in STATUSES:
            raise _invalid("status_if_new", f"Value must be one of: {', '.join(STATUSES)}.")
        if address.lower() in self.forgotten:
            words = f"{address} was permanently deleted and cannot be re-imported. The contact must re-subscribe."
            raise MemberRefused("Forgotten Email Not Subscribed", words)
        if self.find(address):
            raise MemberRefused("Member Exists", f"{address} is already a list member.")
        member = {
            "email_address": address,
            "status": status,
            "merge_fields": self._merged(given, {}, skips_required),
            "tags": [],
            "events": [],
            "contact_id": secrets.token_hex(16),
            "history": [status],
        }
        self.members[hash_of(address)] = member
        return member

    def update(self, member: dict[str, Any], given: Mapping[str, Any], skips_required: bool = False) -> dict[str, Any]:
        """The member, changed. A `status` counts, so it subscribes again who has opted out. Raises MemberRefused."""
        address, status = address_of(given), given.get("status", member["status"])
        if self.find(address) not in (None, member):
            raise MemberRefused("Member Exists", f"{address} is already a list member.")
        if status not in STATUSES:
            raise _invalid("status", f"Value must be one of: {', '.join(STATUSES)}.")
        if member["status"] == "cleaned" and status == "subscribed":
            words = f"{address} is in a compliance state due to unsubscribe, bounce, or compliance review."
            raise MemberRefused("Member In Compliance State", words)
        member["merge_fields"] = self._merged(given, member["merge_fields"], skips_required)
        if status != member["status"]:
            member["status"] = status
            member["history"].append(status)
        del self.members[hash_of(member["email_address"])]
        member["email_address"] = address
        self.members[hash_of(address)] = member
        return member

    def tag(self, member: dict[str, Any], tags: Any) -> None:
        """Set and unset tags; names that are new begin to exist. Raises MemberRefused."""
        if not isinstance(tags, list) or not all(isinstance(tag, dict) and tag.get("name") for tag in tags):
            raise _invalid("tags", "Schema describes array of names and statuses.")
        if any(tag.get("status") not in ("active", "inactive") for tag in tags):
            raise _invalid("tags.status", "Value must be one of: active, inactive.")
        for tag in tags:
            name = tag["name"]
            member["tags"] = [each for each in member["tags"] if each != name]
            if tag["status"] == "active":
                member["tags"].append(name)
                self.tags += [] if name in self.tags else [name]

    def record(self, member: dict[str, Any], event: Mapping[str, Any]) -> None:
        """Raises MemberRefused."""
        if not isinstance(event.get("name"), str) or not 2 <= len(event["name"]) <= 30:
            raise _invalid("name", "The name must have 2 to 30 characters.")
        properties = event.get("properties", {})
        if not isinstance(properties, dict) or not all(isinstance(value, str) for value in properties.values()):
            raise _invalid("properties", "Schema describes object of strings.")
        member["events"].append(dict(event))

    def _merged(self, given: Mapping[str, Any], known: Mapping[str, str], skips_required: bool) -> dict[str, str]:
        """The merge fields that the audience has; others are left out without a word."""
        fields = given.get("merge_fields", {})
        if not isinstance(fields, dict):
            raise _invalid("merge_fields", "Schema describes object.")
        merged = {**known, **{name: value for name, value in fields.items() if name in self.merge_fields}}
        missing = [name for name, is_required in self.merge_fields.items() if is_required and not merged.get(name)]
        if missing and not skips_required:
            raise _invalid(missing[0], "Please enter a value")
        return merged


def _audiences() -> dict[str, Audience]:
    return {"a1b2c3d4e5": Audience("Newsletter"), "f6a7b8c9d0": Audience("Product news")}


@dataclass
class Account:
    audiences: dict[str, Audience] = field(default_factory=_audiences)


def address_of(given: Any) -> str:
    """The address in a request. Raises MemberRefused."""
    address = given.get("email_address") if isinstance(given, dict) else None
    if not isinstance(address, str) or not is_email(address):
        raise _invalid("email_address", "Please provide a valid email address.")
    return address


def hash_of(address: str) -> str:
    return hashlib.md5(address.lower().encode(), usedforsecurity=False).hexdigest()


def _invalid(field_name: str, message: str) -> MemberRefused:
    return MemberRefused("Invalid Resource", message, field_name)
