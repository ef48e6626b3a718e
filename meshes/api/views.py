"""What every view of the API is made of: documents read strictly, answers that nobody keeps, one snapshot a GET.

Bodies are JSON in UTF-8, within limits; the received text is kept beside the value.
"""

import io
from collections.abc import Callable, Collection, Mapping
from typing import IO, Any, ClassVar

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.http.request import UnreadablePostError
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.views import APIView

from meshes.api.fields import QuerySerializer, StrictSerializer
from meshes.api.problems import Problem, invalid, invalid_parameter, render
from meshes.kit import strictjson
from meshes.kit.clock import snapshot
from meshes.kit.spelling import none_of
from meshes.kit.strictjson import InvalidJson, Parsed

PAGE_PARAMETERS = frozenset({"limit", "cursor"})

# --- bodies ---------------------------------------------------------------------------------------------------------


class StrictJSONParser(BaseParser):
    """Reads a JSON object. A view may set `body_limit` (bytes) and `body_max_keys`.

    `request.data` is the object; `parsed_body(request)` gives it with its text.
    """

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        context = parser_context or {}
        request, view = context["request"], context["view"]
        charset = str(request.META.get("CONTENT_TYPE", "")).lower().partition("charset=")[2].split(";")[0].strip(' "')
        if charset not in {"", "utf-8", "utf8"}:
            raise Problem(415, detail="The body must be encoded in UTF-8.")
        if request.META.get("HTTP_CONTENT_ENCODING", "identity").lower() not in {"", "identity"}:
            raise Problem(415, detail="Compressed bodies are not accepted.")
        limit = getattr(view, "body_limit", settings.MESHES_BODY_LIMIT)
        raw = _read(request, stream, limit)
        try:
            max_keys = getattr(view, "body_max_keys", strictjson.MAX_KEYS)
            parsed = strictjson.loads(raw, max_bytes=limit, max_keys=max_keys)
        except InvalidJson as error:
            if error.rule == "too_large":
                raise _too_large(limit) from None
            mistake = {"pointer": error.pointer, "detail": error.message, "rule": error.rule}
            raise Problem(400, "invalid-json", "The body is not valid JSON", errors=[mistake]) from None
        if not isinstance(parsed.value, dict):
            raise invalid("", "The body must be a JSON object.", "object")
        request.parsed_body = parsed
        return parsed.value


def parsed_body(request: Request) -> Parsed:
    """The body as it was received. Raises Problem 400 where there is none."""
    request.data  # noqa: B018 - reads and parses the body
    parsed = getattr(request, "parsed_body", None)
    if not isinstance(parsed, Parsed):
        raise Problem(400, "invalid-json", "The body is not valid JSON", "The body is empty.")
    return parsed


def received_body(request: Request) -> bytes:
    """The body as it was received, where there need not be one."""
    request.data  # noqa: B018 - reads and parses the body
    parsed = getattr(request, "parsed_body", None)
    return parsed.text.encode() if isinstance(parsed, Parsed) else b""


def _read(request: Request, stream: IO[bytes], limit: int) -> bytes:
    """At most `limit` bytes. A longer body is refused by its announced length, before any of it is read."""
    announced = int(request.META.get("CONTENT_LENGTH") or 0)
    if announced > limit:
        raise _too_large(limit)
    try:
        raw = stream.read(limit + 1)
    except UnreadablePostError:
        raise
    except OSError as error:
        raise UnreadablePostError(*error.args) from error
    if len(raw) > limit:
        raise _too_large(limit)
    if len(raw) < announced:
        raise Problem(400, detail="The body ended before its announced length.")
    return raw


def _too_large(limit: int) -> Problem:
    return Problem(413, detail=f"A body here may have {limit:,} bytes.", headers={"Connection": "close"})


class ChunkedBodies:
    """Middleware that lets the API read bodies sent with `Transfer-Encoding: chunked`.

    Django takes a body without Content-Length for an empty one. Where the server marks the end of the input itself
    (`wsgi.input_terminated`, as gunicorn does), the body is read here, up to the largest limit that any view has.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.META.get("HTTP_TRANSFER_ENCODING") or not request.path_info.startswith("/api/"):
            return self.get_response(request)
        if not request.META.get("wsgi.input_terminated"):
            return render(Problem(411))
        limit = settings.MESHES_BULK_BODY_LIMIT
        try:
            raw = request.META["wsgi.input"].read(limit + 1)
        except Exception:  # noqa: BLE001  (each server raises errors of its own for malformed chunks)
            return render(Problem(400, detail="The chunks of the body cannot be read."))
        if len(raw) > limit:
            return render(_too_large(limit))
        request.META["CONTENT_LENGTH"] = str(len(raw))
        request._stream = io.BytesIO(raw)  # where HttpRequest.read() reads from
        return self.get_response(request)


# --- views ----------------------------------------------------------------------------------------------------------


class View(APIView):
    """The base of all views; `workspaces.endpoints` adds who calls, and whose rows they may see."""

    parser_classes = (StrictJSONParser,)
    metadata_class = None
    http_method_names = ["get", "post", "put", "patch", "delete", "head"]
    body_limit: int = settings.MESHES_BODY_LIMIT
    problems: ClassVar[Mapping[str, Collection[int]]] = {}
    """Statuses that an action may answer beside those that follow from its form; see meshes.api.schema."""
    without_snapshot: ClassVar[Collection[str]] = ()
    """Actions of GET that ask somebody outside, or read nothing from the database."""

    @property
    def default_response_headers(self) -> dict[str, str]:
        """What is answered is one tenant's, and may hold a secret that is shown once: nobody on the way keeps it."""
        return {**super().default_response_headers, "Cache-Control": "no-store"}

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Who calls and may they; then a GET is answered from one snapshot."""
        super().initial(request, *args, **kwargs)
        verb = str(request.method).lower()
        if verb in ("get", "head") and getattr(self, "action", verb) not in self.without_snapshot:
            handler = getattr(self, verb, None)
            if handler is not None:
                setattr(self, verb, snapshot()(handler))

    def context(self) -> dict[str, Any]:
        """What serializers may ask for."""
        return {"request": self.request, "view": self}

    def read(self, serializer_class: type[StrictSerializer], **options: Any) -> Any:
        """The body's validated data. Raises 422 with pointers. `options` go to the serializer (instance, partial)."""
        serializer = serializer_class(data=self.request.data, context=self.context(), **options)
        serializer.is_valid(raise_exception=True)
        return serializer.validated_data

    def read_query(self, serializer_class: type[QuerySerializer]) -> dict[str, Any]:
        """The query's validated parameters. Raises 422.

        Unknown ones are refused too: a filter with a typo would select too much.
        """
        query = self.request.query_params
        serializer = serializer_class(data=query.dict(), context=self.context())
        known = PAGE_PARAMETERS | serializer.fields.keys()
        for name, values in query.lists():
            if name not in known:
                words = f"This parameter is not known here: {none_of(name, sorted(known))}"
                raise invalid_parameter(name, words, "unknown_parameter")
            if len(values) > 1:
                raise invalid_parameter(name, "This parameter is given more than once.", "repeated")
        if not serializer.is_valid():
            mistakes = [
                {"parameter": name, "detail": str(detail), "rule": str(getattr(detail, "code", "invalid"))}
                for name, details in serializer.errors.items()
                for detail in details
            ]
            raise Problem(422, errors=mistakes)
        return dict(serializer.validated_data)
