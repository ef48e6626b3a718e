"""Lists as cursor pages: newest first by UUIDv7 id, never counted.

    {"data": […], "next": "<cursor>" | null, "previous": "<cursor>" | null}

A cursor holds the id at the page's edge, which the caller has just been shown, and a direction; it is signed and bound
to the list that gave it. It is not a right: every page is filtered by who asks.
"""

import binascii
import hashlib
import hmac
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from meshes.api.problems import invalid_parameter

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_TAG_BYTES = 16
_MAX_CURSOR = 128
"""Characters; a cursor has 44."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Rows older than `edge`, or newer where `backwards`."""

    edge: uuid.UUID
    backwards: bool

    def encode(self, path: str) -> str:
        content = bytes([self.backwards]) + self.edge.bytes
        return urlsafe_b64encode(content + _tag(content, path, settings.SECRET_KEY)).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str, path: str) -> "Cursor | None":
        """None where the text is not a cursor that `encode` gave for the same path."""
        try:
            raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        except (binascii.Error, UnicodeEncodeError):
            return None
        content, tag = raw[:17], raw[17:]
        keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
        if len(content) != 17 or not any(hmac.compare_digest(tag, _tag(content, path, key)) for key in keys):
            return None
        return cls(uuid.UUID(bytes=content[1:]), bool(content[0]))


def _tag(content: bytes, path: str, secret: str) -> bytes:
    key = f"meshes.api.pages:{secret}".encode()
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
        backwards = cursor is not None and cursor.backwards
        if cursor is not None:
            queryset = queryset.filter(**{"pk__gt" if backwards else "pk__lt": cursor.edge})
        rows = list(queryset.order_by("pk" if backwards else "-pk")[: limit + 1])
        more, rows = len(rows) > limit, rows[:limit]
        if backwards:
            rows.reverse()
        self.next = self._edge(rows[-1:], False) if backwards or more else None
        self.previous = self._edge(rows[:1], True) if (more if backwards else cursor is not None) else None
        return rows

    def _edge(self, row: Sequence[Any], backwards: bool) -> str | None:
        return Cursor(row[0].pk, backwards).encode(self.path) if row else None

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
    cursor = Cursor.decode(text, request.path) if len(text) <= _MAX_CURSOR else None
    if cursor is None:
        raise invalid_parameter("cursor", "This is not a cursor of this list.", "cursor")
    return cursor
