"""Lists as cursor pages: newest first by UUIDv7 id, never counted; and their `from` and `to`, as bounds on ids.

    {"data": […], "next": "<cursor>" | null, "previous": "<cursor>" | null}

A cursor holds the id at the page's edge, which the caller has just been shown, and a direction; it is signed and bound
to the list that gave it. It is not a right: every page is filtered by who asks. As ids are UUIDv7, PostgreSQL opens
only the partitions of the time that is searched.
"""

import binascii
import hashlib
import hmac
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from rest_framework import serializers
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from meshes.api.fields import MomentField
from meshes.api.problems import invalid_parameter

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_TAG_BYTES = 16
_MAX_CURSOR = 128
"""Characters; a cursor has 44."""


Cursor = tuple[uuid.UUID, bool]
"""An edge, and whether rows newer than it are meant, or else older ones."""


def encode_cursor(cursor: Cursor, path: str) -> str:
    edge, is_backwards = cursor
    content = bytes([is_backwards]) + edge.bytes
    return urlsafe_b64encode(content + _tag(content, path, settings.SECRET_KEY)).rstrip(b"=").decode()


def decode_cursor(text: str, path: str) -> Cursor | None:
    """None where the text is not a cursor that `encode_cursor` gave for the same path."""
    try:
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (binascii.Error, UnicodeEncodeError):
        return None
    content, tag = raw[:17], raw[17:]
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    if len(content) != 17 or not any(hmac.compare_digest(tag, _tag(content, path, key)) for key in keys):
        return None
    return uuid.UUID(bytes=content[1:]), bool(content[0])


def _tag(content: bytes, path: str, secret: str) -> bytes:
    key = f"meshes.pages:{secret}".encode()  # cursors that callers have kept are signed with it
    return hmac.new(key, path.encode() + b"\0" + content, hashlib.sha256).digest()[:_TAG_BYTES]


class Page(BasePagination):
    """Keyset pages over `-id`; whatever order the queryset had is replaced."""

    def paginate_queryset(
        self, queryset: "QuerySet[Any] | Sequence[Any]", request: Request, view: APIView | None = None
    ) -> list[Any] | None:
        if not isinstance(queryset, QuerySet):
            raise TypeError("Pages are cut by the database.")
        self.path = request.path
        limit, cursor = read_limit(request), read_cursor(request)
        edge, backwards = cursor or (None, False)
        if edge is not None:
            queryset = queryset.filter(**{"pk__gt" if backwards else "pk__lt": edge})
        rows = list(queryset.order_by("pk" if backwards else "-pk")[: limit + 1])
        more, rows = len(rows) > limit, rows[:limit]
        if backwards:
            rows.reverse()
        self.next = self._edge(rows[-1:], False) if backwards or more else None
        self.previous = self._edge(rows[:1], True) if (more if backwards else edge is not None) else None
        return rows

    def _edge(self, row: Sequence[Any], backwards: bool) -> str | None:
        return encode_cursor((row[0].pk, backwards), self.path) if row else None

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"data": data, "next": self.next, "previous": self.previous})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        cursor = {"type": "string", "nullable": True, "description": "Send it as `cursor`; null: nothing that way."}
        return {
            "type": "object",
            "required": ["data", "next", "previous"],
            "properties": {"data": schema, "next": cursor, "previous": cursor},
        }

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
        cursor = {"type": "string", "pattern": "^[A-Za-z0-9_-]{44}$"}
        return [
            {"name": "limit", "in": "query", "description": "Rows of a page.", "schema": limit},
            {"name": "cursor", "in": "query", "description": "`next` or `previous` of a page.", "schema": cursor},
        ]


def read_limit(request: Request) -> int:
    text = request.query_params.get("limit")
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_LIMIT):
        raise invalid_parameter("limit", f"limit is a number from 1 to {MAX_LIMIT}.", "range")
    return int(text)


def read_cursor(request: Request) -> Cursor | None:
    text = request.query_params.get("cursor")
    if text is None:
        return None
    cursor = decode_cursor(text, request.path) if len(text) <= _MAX_CURSOR else None
    if cursor is None:
        raise invalid_parameter("cursor", "This is not a cursor of this list.", "cursor")
    return cursor


# --- periods ----------------------------------------------------------------------------------------------------------


class PeriodIn(serializers.Serializer[Any]):
    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        period = {"from": MomentField(required=False), "to": MomentField(required=False)}
        return super().get_fields() | period

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "from" in attrs and "to" in attrs and attrs["from"] > attrs["to"]:
            raise serializers.ValidationError({"to": ["This must not be before `from`."]}, code="order")
        return attrs


def first_id_at(moment: datetime) -> uuid.UUID:
    """The lowest id that a row of this moment, or a later one, can have."""
    milliseconds = min(max(0, int(moment.timestamp() * 1000)), 2**48 - 1)
    return uuid.UUID(int=milliseconds << 80)


def period_bounds(wanted: Mapping[str, Any]) -> Q:
    """`from` and `to` as a condition on a primary key."""
    condition = Q()
    if "from" in wanted:
        condition &= Q(pk__gte=first_id_at(wanted["from"]))
    if "to" in wanted:
        condition &= Q(pk__lt=first_id_at(wanted["to"]))
    return condition
