"""Public ids: TypeIDs (`evt_01h455vb4pex5vsknk084sn02q`) over UUIDv7, RFC 9562; rows keep the bare UUID."""

import uuid
from datetime import UTC, datetime

import uuid_utils
from typeid import TypeID
from typeid.errors import TypeIDException

EVENT, WORKSPACE, CONNECTION, RULE = "evt", "ws", "conn", "rule"
DELIVERY, ATTEMPT, KEY, REPLAY, ACCESS, APP = "dlv", "att", "key", "rpl", "acc", "app"
PREFIXES = (EVENT, WORKSPACE, CONNECTION, RULE, DELIVERY, ATTEMPT, KEY, REPLAY, ACCESS, APP)


def uuid7() -> uuid.UUID:
    """A new UUIDv7 as the standard library's type (48 bits of Unix milliseconds, then random bits)."""
    return uuid.UUID(int=uuid_utils.uuid7().int)


def encode(prefix: str, value: uuid.UUID) -> str:
    """The public id of a row: `encode("evt", row.pk)`."""
    return str(TypeID.from_uuid(uuid_utils.UUID(int=value.int), prefix))


def decode(prefix: str, text: str) -> uuid.UUID | None:
    """The row's UUID, or None where `text` is no TypeID of that prefix."""
    if not text.startswith(prefix + "_"):
        return None
    try:
        parsed = TypeID.from_string(text)
    except TypeIDException:
        return None
    return uuid.UUID(bytes=parsed.uuid_bytes) if parsed.prefix == prefix else None


def is_type_id(text: str) -> bool:
    """Whether `text` reads as a TypeID of any kind; an `external_id` may not."""
    try:
        TypeID.from_string(text)
    except TypeIDException:
        return False
    return "_" in text


def milliseconds(value: uuid.UUID) -> int:
    """Unix milliseconds of a UUIDv7's moment."""
    return value.int >> 80


def created_at(value: uuid.UUID) -> datetime:
    """The moment at which a UUIDv7 was made, as of an event that was received (millisecond resolution)."""
    return datetime.fromtimestamp(milliseconds(value) / 1000, tz=UTC)


def as_uuid(text: str) -> uuid.UUID | None:
    """A bare UUID, as logs and SQL show it."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
