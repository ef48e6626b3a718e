"""Serializers that take a document at its word: no unknown fields, no types made to fit."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

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
