"""Serializers that take a document at its word, and resources whose fields are declared once.

A resource has a body, a `StrictSerializer` with the fields that a caller may give, and an answer, an
`AnswerSerializer` whose `FieldsOf(body)` shows each of them again. `store` writes what was given and nothing else. So a
column that joins the API is one line in the body.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from django.db.models import Model
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
            errors = self._foreign_fields(data) | self._foreign_types(data)
            if errors:
                raise ValidationError(errors)
        return super().to_internal_value(data)

    def _foreign_fields(self, data: Mapping[str, Any]) -> dict[str, list[ErrorDetail]]:
        known = {name for name, field in self.fields.items() if not field.read_only}
        unknown = [name for name in data if name not in known]
        return {name: [ErrorDetail(unknown_field(name, known), code="unknown_field")] for name in unknown}

    def _foreign_types(self, data: Mapping[str, Any]) -> dict[str, list[ErrorDetail]]:
        errors = {}
        for name, field in self.fields.items():
            value = data.get(name)
            if value is None or field.read_only:
                continue
            expected = next(((types, words) for kind, types, words in _EXACT if isinstance(field, kind)), None)
            if expected and not _is_exactly(value, expected[0]):
                errors[name] = [ErrorDetail(f"This must be {expected[1]}.", code="type")]
        return errors


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


def _is_exactly(value: Any, types: type | tuple[type, ...]) -> bool:
    return isinstance(value, types) and (types is bool or not isinstance(value, bool))


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
