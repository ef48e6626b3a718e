"""Serializers that take a document at its word, and resources whose fields are declared once.

A resource has a body, a `StrictSerializer` with the fields that a caller may give, and an answer, an
`AnswerSerializer` whose `FieldsOf(body)` shows each of them again. `store` writes what was given and nothing else. So a
column that joins the API is one line in the body.
"""

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, ClassVar, NoReturn

from django.db.models import Model
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

from meshes.kit import ids
from meshes.kit.spelling import none_of

_EXACT: tuple[tuple[type[serializers.Field[Any, Any, Any, Any]], type | tuple[type, ...], str], ...] = (
    (serializers.BooleanField, bool, "true or false"),
    (serializers.IntegerField, int, "an integer"),
    (serializers.FloatField, (int, float), "a number"),
    (serializers.DateTimeField, str, "a string"),
    (serializers.ChoiceField, str, "a string"),
    (serializers.CharField, str, "a string"),
)
"""DRF reads "1" as a number and 1 as a string; a JSON document has types, and says what it means."""


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields that it does not know, fields that it only answers, and values of another JSON type."""

    alternatives: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Schemas of which exactly one holds, where fields depend on each other. Told by the OpenAPI document only."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            writable = {name: field for name, field in self.fields.items() if not field.read_only}
            unknown = [name for name in data if name not in writable]
            errors = {name: [ErrorDetail(unknown_field(name, writable), code="unknown_field")] for name in unknown}
            for name, field in writable.items():
                value = data.get(name)
                types, words = next((exact[1:] for exact in _EXACT if isinstance(field, exact[0])), (object, ""))
                is_bool = isinstance(value, bool) and types is not object
                if value is not None and not (isinstance(value, types) and (types is bool or not is_bool)):
                    errors[name] = [ErrorDetail(f"This must be {words}.", code="type")]
            if errors:
                raise ValidationError(errors)
        return super().to_internal_value(data)


class FieldsOf(serializers.Field[Any, Any, Any, Any]):
    """In an `AnswerSerializer`: here stand the fields of a body, but for those that the answer declares itself."""

    def __init__(self, body: type[StrictSerializer]) -> None:
        super().__init__(read_only=True)
        self.body = body


class AnswerSerializer(serializers.Serializer[Any]):
    # What is answered of a row. Fields that `FieldsOf` brings have the types of the body, without its limits: what was
    # stored under other limits is shown all the same. (A docstring would describe each answer in the API's schema.)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        declared = super().get_fields()
        fields: dict[str, serializers.Field[Any, Any, Any, Any]] = {}
        for name, field in declared.items():
            if isinstance(field, FieldsOf):
                of_body = field.body().fields.items()
                fields |= {key: _as_answered(each) for key, each in of_body if key not in declared}
            else:
                fields[name] = field
        return fields


def _as_answered(field: Any) -> serializers.Field[Any, Any, Any, Any]:
    options: dict[str, Any] = {"allow_null": field.allow_null}
    if field.source != field.field_name:
        options["source"] = field.source
    if isinstance(field, serializers.ChoiceField):
        return serializers.ChoiceField(field.choices, **options)
    if isinstance(field, serializers.ListField):
        return serializers.ListField(child=_as_answered(field.child), **options)
    if isinstance(field, serializers.CharField):
        return serializers.CharField(**options)
    answered: serializers.Field[Any, Any, Any, Any] = type(field)(*field._args, **options)
    return answered


def store(row: Model, **columns: Any) -> None:
    """Set these columns and write them, and the columns that tell of each change (`auto_now`), but no other.

    Raises FieldDoesNotExist for a name that is no column: it would be answered and not kept.
    """
    for name, value in columns.items():
        row._meta.get_field(name)
        setattr(row, name, value)
    touched = [each.name for each in row._meta.concrete_fields if getattr(each, "auto_now", False)]
    row.save(update_fields=[*columns, *touched])


def unknown_field(name: str, known: Iterable[str]) -> str:
    """The refusal of a field, with those that there are."""
    return f"This field is not known here: {none_of(name, sorted(known))}"


class OneOfField(serializers.ChoiceField):
    """A choice whose refusal lists the choices."""

    def fail(self, key: str, **kwargs: Any) -> NoReturn:
        if key == "invalid_choice":
            raise ValidationError(none_of(str(kwargs["input"]), map(str, self.choices)), code=key)
        super().fail(key, **kwargs)


class SecretShownField(serializers.BooleanField):
    """Stands in the repetition of an answer that showed a secret, and nowhere else."""

    def __init__(self, **kwargs: Any) -> None:
        words = "true, in a repetition under an `Idempotency-Key` only: the secrets were in the first answer."
        super().__init__(required=False, help_text=words, **kwargs)


class QuerySerializer(serializers.Serializer[Any]):
    """Filters of a list: query parameters, which are all strings. See `Endpoint.read_query`."""


class PublicIdField(serializers.Field[uuid.UUID, str, str, Any]):
    """A UUID as its public id. Reading accepts a well-formed id only; whether its row exists is the caller's to ask."""

    default_error_messages = {"public_id": "This is not an id of the form {prefix}_…"}

    def __init__(self, prefix: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prefix = prefix

    def to_internal_value(self, data: Any) -> uuid.UUID:
        value = ids.decode(self.prefix, data) if isinstance(data, str) else None
        if value is None:
            self.fail("public_id", prefix=self.prefix)
        return value

    def to_representation(self, value: uuid.UUID) -> str:
        return ids.encode(self.prefix, value)


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
