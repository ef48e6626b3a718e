"""`/api/schema`."""

import json
from functools import cache

from django.http import HttpRequest, HttpResponse
from drf_spectacular.generators import SchemaGenerator

from meshes.problems import safe_methods_only


@safe_methods_only
def openapi(request: HttpRequest) -> HttpResponse:
    """The OpenAPI document, the same for everybody."""
    return HttpResponse(_document(), content_type="application/json")


@cache
def _document() -> bytes:
    generator = SchemaGenerator()  # type: ignore[no-untyped-call]  # the library is typed in part
    document = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]  # likewise
    return json.dumps(document, ensure_ascii=False).encode()
