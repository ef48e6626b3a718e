"""Lists that are searched by time: `from` and `to` become bounds on ids.

Ids are UUIDv7, so PostgreSQL opens only the partitions of that time. `from` is included, `to` is not.
"""

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from django.db.models import Q
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers


@extend_schema_field({"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]})
class MomentField(serializers.Field[datetime, str, str, Any]):
    """RFC 3339 with its offset, or a bare date for its first moment in UTC."""

    default_error_messages = {
        "date_time": "This must be a date, or a moment with its offset such as 2026-01-31T12:00:00Z."
    }
    _form = re.compile(r"\d{4}-\d\d-\d\d([Tt]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d))?", re.ASCII)

    def to_internal_value(self, data: Any) -> datetime:
        if not isinstance(data, str):
            raise serializers.ValidationError("This must be a string.", code="type")
        if not self._form.fullmatch(data):
            self.fail("date_time")
        try:
            if len(data) == len("2026-01-31"):
                return datetime.combine(date.fromisoformat(data), datetime.min.time(), tzinfo=UTC)
            return datetime.fromisoformat(data.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail("date_time")

    def to_representation(self, value: datetime) -> str:
        return value.isoformat().replace("+00:00", "Z")


class PeriodIn(serializers.Serializer[Any]):
    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        period = {"from": MomentField(required=False), "to": MomentField(required=False)}
        return super().get_fields() | period

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "from" in attrs and "to" in attrs and attrs["from"] > attrs["to"]:
            raise serializers.ValidationError({"to": ["This must not be before `from`."]}, code="order")
        return attrs


_LAST_MILLISECOND = 2**48 - 1


def first_id_at(moment: datetime) -> uuid.UUID:
    """The lowest id that a row of this moment, or a later one, can have."""
    milliseconds = min(max(0, int(moment.timestamp() * 1000)), _LAST_MILLISECOND)
    return uuid.UUID(int=milliseconds << 80)


def period_bounds(wanted: Mapping[str, Any]) -> Q:
    """`from` and `to` as a condition on a primary key."""
    condition = Q()
    if "from" in wanted:
        condition &= Q(pk__gte=first_id_at(wanted["from"]))
    if "to" in wanted:
        condition &= Q(pk__lt=first_id_at(wanted["to"]))
    return condition
