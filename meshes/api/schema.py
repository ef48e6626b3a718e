"""The OpenAPI description: every operation with the problems it may answer, and how callers prove who they are."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from rest_framework import serializers

from meshes.api.fields import StrictSerializer
from meshes.api.problems import CONTENT_TYPE, title_of

_ERROR = {
    "type": "object",
    "description": "One place of the request, and what is wrong there.",
    "properties": {
        "pointer": {"type": "string", "description": "Into the body, RFC 6901; empty: the whole."},
        "parameter": {"type": "string", "description": "Of the query."},
        "header": {"type": "string"},
        "detail": {"type": "string"},
        "rule": {"type": "string", "description": "The rule that was broken, in one word."},
    },
    "required": ["detail", "rule"],
}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457.",
    "properties": {
        "type": {"type": "string", "example": "urn:meshes:problem:invalid"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "Name it when you report a 500."},
        "errors": {"type": "array", "items": _ERROR},
    },
    "required": ["type", "title", "status"],
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Good for 24 hours: the same request again is not carried out again, and gets the same answer.",
    "schema": {"type": "string", "pattern": r"^[\x21-\x7e]{1,255}$", "minLength": 1, "maxLength": 255},
}
_RETRY_AFTER = {
    "schema": {"type": "integer", "minimum": 1},
    "description": "Seconds after which to try again.",
}
_ALWAYS = {401, 403, 406, 429, 503}
_WITH_BODY = {400, 413, 415, 422}
_WITH_QUERY = {422}


class ProblemSchema(AutoSchema):
    """Adds to each operation the problems that follow from its form, and those in the view's `problems`.

    `problems` maps an action to more statuses: `{"create": {409}}`.
    """

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        operation: dict[str, Any] | None = super().get_operation(*args, **kwargs)
        if operation is not None:
            if getattr(self._handler(), "takes_idempotency_key", False):
                operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
            if "requestBody" in operation and getattr(self.get_request_serializer(), "alternatives", False):
                operation["requestBody"]["required"] = True
            component = ResolvedComponent(  # type: ignore[no-untyped-call]  # the library is typed in part
                name="Problem", type=ResolvedComponent.SCHEMA, object="Problem", schema=_PROBLEM
            )
            self.registry.register_on_missing(component)
            for status in sorted(self._statuses(operation)):
                content = {CONTENT_TYPE: {"schema": component.ref}}
                response: dict[str, Any] = {"description": title_of(status), "content": content}
                if status in {429, 503}:
                    response["headers"] = {"Retry-After": _RETRY_AFTER}
                operation["responses"].setdefault(str(status), response)
        return operation

    def _map_serializer_field(self, field: Any, direction: str, bypass_extensions: bool = False) -> Any:
        """Text that is trimmed must have something in it."""
        schema = super()._map_serializer_field(field, direction, bypass_extensions)  # type: ignore[no-untyped-call]
        is_text = isinstance(field, serializers.CharField) and not isinstance(field, serializers.RegexField)
        if is_text and field.trim_whitespace and not field.allow_blank and direction == "request":
            schema.setdefault("pattern", r"\S")
        return schema

    def _map_serializer(self, serializer: Any, direction: str, bypass_extensions: bool = False) -> Any:
        schema = super()._map_serializer(serializer, direction, bypass_extensions)  # type: ignore[no-untyped-call]
        kind = serializer if isinstance(serializer, type) else type(serializer)
        if issubclass(kind, StrictSerializer):
            schema["additionalProperties"] = False
            if kind.alternatives and direction == "request" and not getattr(serializer, "partial", False):
                schema["oneOf"] = list(kind.alternatives)
        return schema

    def _statuses(self, operation: dict[str, Any]) -> set[int]:
        places = {parameter["in"] for parameter in operation.get("parameters", [])}
        statuses = _ALWAYS | set(getattr(self.view, "problems", {}).get(self._action(), ()))
        if getattr(self._handler(), "is_outside", False):
            statuses |= {409}
        if "requestBody" in operation or self.method in {"POST", "PUT", "PATCH"}:
            statuses |= _WITH_BODY
        if "query" in places or self.method == "GET":
            statuses |= _WITH_QUERY
        if "path" in places or "query" in places:
            statuses |= {404}
        return statuses

    def _action(self) -> str:
        return getattr(self.view, "action", None) or self.method.lower()

    def _handler(self) -> Any:
        return getattr(self.view, self._action(), None)


# An extension is registered by being defined; those of other fields stand beside them.


class PublicIdScheme(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # the library is typed in part
    target_class = "meshes.api.fields.PublicIdField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: str) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{self.target.prefix}_[0-7][0-9a-hjkmnp-tv-z]{{25}}$"}
