"""What a HubSpot account holds, and which values it takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from meshes.dev.vendors.messages import Malformed, is_email

STAGES = ("subscriber", "lead", "marketingqualifiedlead", "salesqualifiedlead", "opportunity", "customer", "evangelist")


def _properties() -> dict[str, dict[str, bool]]:
    """What each kind of object has by name; the value tells whether HubSpot keeps it unique."""
    contact = ["firstname", "lastname", "company", "phone", "website", "jobtitle", "lifecyclestage", "hs_lead_status"]
    return {
        "contacts": {"email": True, **dict.fromkeys(contact, False), "lead_key": True},
        "notes": {"hs_timestamp": False, "hs_note_body": False, "hubspot_owner_id": False},
    }


def _lists() -> dict[str, dict[str, Any]]:
    return {
        "11": {"name": "Leads", "processingType": "MANUAL", "members": []},
        "12": {"name": "Everybody", "processingType": "DYNAMIC", "members": []},
    }


@dataclass
class Portal:
    """One account. `objects` are properties by kind and id; `associations` are the contacts of a note."""

    objects: dict[str, dict[str, dict[str, str]]] = field(default_factory=lambda: {"contacts": {}, "notes": {}})
    properties: dict[str, dict[str, bool]] = field(default_factory=_properties)
    lists: dict[str, dict[str, Any]] = field(default_factory=_lists)
    associations: dict[str, list[str]] = field(default_factory=dict)
    last_id: int = 100

    @property
    def contacts(self) -> dict[str, dict[str, str]]:
        return self.objects["contacts"]

    @property
    def notes(self) -> dict[str, dict[str, str]]:
        return self.objects["notes"]

    def find(self, kind: str, by: str, value: str) -> str | None:
        """The id of the object that has this value; emails are alike in any case."""
        wanted = value.lower() if by == "email" else value
        return next((each for each, has in self.objects[kind].items() if has.get(by) == wanted), None)

    def taken_by(self, kind: str, properties: Mapping[str, str], own: str | None) -> str | None:
        """The id of another object that has one of these values, where they are unique."""
        uniques = [name for name, is_unique in self.properties[kind].items() if is_unique and properties.get(name)]
        found = (self.find(kind, name, properties[name]) for name in uniques)
        return next((each for each in found if each not in (None, own)), None)

    def write(self, kind: str, key: str | None, properties: Mapping[str, str]) -> str:
        """Create (without a key) or update; the object's id. A lifecycle stage only moves forward."""
        if key is None:
            self.last_id += 1
            key = str(self.last_id)
        has = self.objects[kind].setdefault(key, {})
        for name, value in properties.items():
            if name != "lifecyclestage" or not _goes_back(has.get(name, ""), value):
                has[name] = value.lower() if name == "email" else value
        return key

    def wrong_with(self, kind: str, properties: Mapping[str, str]) -> list[dict[str, Any]]:
        """The problems of an object's properties, in HubSpot's form."""
        problems = []
        for name, value in properties.items():
            if name not in self.properties[kind]:
                problems.append(_problem(name, f'Property "{name}" does not exist', "PROPERTY_DOESNT_EXIST"))
            elif name == "email" and not is_email(value):
                problems.append(_problem(name, f"Email address {value} is invalid", "INVALID_EMAIL"))
            elif name == "lifecyclestage" and value not in STAGES:
                problems.append(_problem(name, f"{value} was not one of the allowed options", "INVALID_OPTION"))
        return problems

    def show(self, kind: str, key: str) -> dict[str, Any]:
        """An object as answers hold it."""
        properties = self.objects[kind][key] | {"hs_object_id": key}
        return {"id": key, "properties": properties, "createdAt": now(), "updatedAt": now(), "archived": False}


def as_row(row: Any) -> dict[str, Any]:
    """A row of a batch whose form is right. Raises Malformed."""
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
        raise Malformed("each input needs an id, a string")
    as_strings(row.get("properties"))
    return row


def as_strings(properties: Any) -> dict[str, str]:
    """Properties, whose values are strings. Raises Malformed."""
    if not isinstance(properties, dict) or not all(isinstance(value, str) for value in properties.values()):
        raise Malformed("properties must be an object of strings")
    return properties


def in_words(problems: list[dict[str, Any]]) -> str:
    return "Property values were not valid: " + "; ".join(problem["message"] for problem in problems)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _problem(name: str, message: str, code: str) -> dict[str, Any]:
    return {"message": message, "code": code, "context": {"propertyName": [name]}}


def _goes_back(stage: str, other: str) -> bool:
    return stage in STAGES and other in STAGES and STAGES.index(other) < STAGES.index(stage)
