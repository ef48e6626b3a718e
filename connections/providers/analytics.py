"""What vendors of analytics have in common: who did what, and when.

Most answer 2xx to whatever they get and drop it later, so what they would drop without a word is refused here. None has
a check of its key that records nothing.
"""

import uuid
from datetime import UTC, datetime

from connections.providers.base import Field, MappingField, Shipment
from connections.providers.verdicts import rejected

USER = "payload.user_id || payload.email"
"""Whom an event is about, by default, in JMESPath."""
PERSON = MappingField("distinct_id", "Distinct id", required=True, source=USER, help="Whom the event is about.")
EVENT = MappingField("event", "Event", required=True, source="event.type")
PLACEHOLDERS = frozenset(
    {
        "anonymous", "nil", "none", "null", "n/a", "na", "undefined", "unknown", "{}", "[]", "lmy47d", "-1", "true",
        "false", "[object object]",
    }
)  # fmt: skip
"""Ids that stand for everybody whose id somebody failed to fill in; vendors that know them drop the event."""
REFUSED = rejected("{name} refuses the event. Mend the rule's mapping.")
TOO_LARGE = rejected("The event is too large for {name}. Map fewer properties.")


def project_key(key: str, label: str, help: str, pattern: str = r"[!-~]+") -> Field:
    """The credential of a project, which is one header's or body's text."""
    return Field(key, label, required=True, sensitive=True, pattern=pattern, max_length=255, help=help)


def uuid_of(shipment: Shipment) -> str:
    """What stands for the delivery at vendors whose keys take letters, digits and hyphens only: always the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, shipment.delivery_id))


def iso_time(moment: datetime) -> str:
    """`2026-03-04T05:06:00.250Z`"""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix_milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
