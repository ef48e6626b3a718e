"""What a Salesforce org holds: objects, their fields, and records that obey them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import is_email

_JSON_TYPES = {"boolean": (bool,), "double": (int, float)}
_ID = re.compile(r"[a-zA-Z0-9]{15}(?:[a-zA-Z0-9]{3})?")


@dataclass(frozen=True)
class SField:
    """`kind` is string, email, boolean, double or reference; `length` counts for the first two."""

    length: int = 255
    kind: str = "string"
    required: bool = False
    external_id: bool = False


class RecordRefused(Exception):  # noqa: N818 - named by what happened
    """A record that breaks the rules of its object, by Salesforce's code."""

    def __init__(self, code: str, message: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.fields = list(fields)


def _objects() -> dict[str, dict[str, SField]]:
    key = SField(external_id=True)
    person = {
        "FirstName": SField(40),
        "LastName": SField(80, required=True),
        "Email": SField(80, "email"),
        "Phone": SField(40),
        "Title": SField(128),
        "Description": SField(32_000),
        "LeadSource": SField(),
    }
    lead = {"Company": SField(required=True), "Website": SField(), "Status": SField(), "Rating": SField()}
    member = {"CampaignId": SField(kind="reference", required=True), "Status": SField(40)}
    task = {"Subject": SField(), "Status": SField(), "Priority": SField(), "Description": SField(32_000)}
    return {
        "Lead": {**person, **lead, "DoNotCall": SField(kind="boolean"), "LeadKey__c": key},
        "Contact": {**person, "AccountId": SField(kind="reference"), "ContactKey__c": key},
        "Account": {"Name": SField(required=True), "Phone": SField(40), "Website": SField(), "AccountKey__c": key},
        "Campaign": {"Name": SField(80, required=True), "IsActive": SField(kind="boolean")},
        "CampaignMember": {**member, "LeadId": SField(kind="reference"), "ContactId": SField(kind="reference")},
        "Task": {**task, "WhoId": SField(kind="reference"), "ActivityDate": SField(), "TaskKey__c": key},
    }


PREFIXES = {
    "Lead": "00Q",
    "Contact": "003",
    "Account": "001",
    "Campaign": "701",
    "CampaignMember": "00v",
    "Task": "00T",
}
"""The first three characters of an id tell its object."""


@dataclass
class Org:
    """`records` are fields by object and id. `duplicate_rule` judges a new Lead or Contact whose email is there
    already: `alert` lets it pass when the request says so, `block` never."""

    objects: dict[str, dict[str, SField]] = field(default_factory=_objects)
    records: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {name: {} for name in PREFIXES})
    duplicate_rule: str = ""
    last_id: int = 0

    def plant(self, kind: str, values: Mapping[str, Any]) -> str:
        """A record that no rule is asked about, as one from before a rule; its id."""
        self.last_id += 1
        key = f"{PREFIXES[kind]}5e00000{self.last_id:05d}AAA"
        self.records[kind][key] = dict(values)
        return key

    def matches(self, kind: str, by: str, value: str) -> list[str]:
        """The ids of the records with this value, in any case."""
        wanted = value.lower()
        return [key for key, has in self.records[kind].items() if str(has.get(by, "")).lower() == wanted]

    def create(self, kind: str, values: Mapping[str, Any], saves_duplicates: bool) -> str:
        """Raises RecordRefused."""
        self._check(kind, values)
        missing = [name for name, is_ in self.objects[kind].items() if is_.required and not values.get(name)]
        if missing:
            words = f"Required fields are missing: [{', '.join(missing)}]"
            raise RecordRefused("REQUIRED_FIELD_MISSING", words, tuple(missing))
        if self._is_duplicate(kind, values) and not (self.duplicate_rule == "alert" and saves_duplicates):
            raise RecordRefused("DUPLICATES_DETECTED", "Use one of these records?")
        return self.plant(kind, values)

    def update(self, kind: str, key: str, values: Mapping[str, Any]) -> None:
        """Raises RecordRefused."""
        self._check(kind, values)
        cleared = tuple(name for name, value in values.items() if self.objects[kind][name].required and not value)
        if cleared:
            raise RecordRefused(
                "REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(cleared)}]", cleared
            )
        self.records[kind][key].update(values)

    def _is_duplicate(self, kind: str, values: Mapping[str, Any]) -> bool:
        email = values.get("Email")
        return bool(
            self.duplicate_rule and kind in ("Lead", "Contact") and email and self.matches(kind, "Email", email)
        )

    def _check(self, kind: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name not in self.objects[kind]:
                raise RecordRefused("INVALID_FIELD", f"No such column '{name}' on sobject of type {kind}")
            if value is not None:
                _check_value(name, self.objects[kind][name], value)


def _check_value(name: str, is_: SField, value: Any) -> None:
    if type(value) not in _JSON_TYPES.get(is_.kind, (str,)):
        words = (
            f"Cannot deserialize instance of {is_.kind} from value {value} or request may be missing a required field"
        )
        raise RecordRefused("JSON_PARSER_ERROR", words)
    if is_.kind == "reference" and not _ID.fullmatch(value):
        raise RecordRefused("MALFORMED_ID", f"{name}: id value of incorrect type: {value}", (name,))
    if is_.kind == "email" and value and not is_email(value):
        raise RecordRefused("INVALID_EMAIL_ADDRESS", f"{name}: invalid email address: {value}", (name,))
    if is_.kind in ("string", "email") and len(value) > is_.length:
        words = f"{name}: data value too large: {value[:20]}... (max length={is_.length})"
        raise RecordRefused("STRING_TOO_LONG", words, (name,))
