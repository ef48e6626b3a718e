"""Secrets leave a request and its answer before either is stored."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from connections.outbound import Request, Response
from connections.secret import Secret

MASK = "••••"
_ALWAYS_MASKED = re.compile(r"authorization|cookie|token|api-?key|secret|password", re.IGNORECASE)
"""Header names whose values are secret whoever set them."""
_SHORTEST = 6
"""Values shorter than this would mask ordinary text; they can stand in a header only, which is masked by its name."""


def secrets_in(credentials: Mapping[str, Any]) -> list[str]:
    """Every secret string in opened credentials, nested ones too, the longest first."""
    return sorted({text for text in _strings(credentials) if len(text) >= _SHORTEST}, key=len, reverse=True)


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def mask_request(request: Request, secrets: list[str]) -> Request:
    """The request as it may be stored: no body, which the delivery has, and no secret."""
    headers = tuple((name, _mask_header(name, value, secrets)) for name, value in request.headers)
    return replace(request, url=_mask(request.url, secrets), headers=headers, body=b"")


def mask_response(response: Response, secrets: list[str]) -> Response:
    """The answer as it may be stored: a receiver that echoes a secret does not get it into the record."""
    headers = tuple((name, _mask_header(name, value, secrets)) for name, value in response.headers)
    body = response.body
    for secret in secrets:
        body = body.replace(secret.encode(), MASK.encode())
    return replace(response, headers=headers, body=body)


def _mask_header(name: str, value: str, secrets: list[str]) -> str:
    return MASK if _ALWAYS_MASKED.search(name) else _mask(value, secrets)


def _mask(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text
