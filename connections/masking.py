"""Takes secrets out of what an attempt records: the request as it was sent, and the answer, which may quote it."""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from connections.messages import Request
from connections.secret import MASK, Secret

SHORTEST_NEEDLE = 6
"""Secrets below this length are not searched for in texts: they would take ordinary words out with them."""

SHORTEST_PART = 16
"""Parts of a secret URL from this length are searched for by themselves: vendors quote the token in a webhook's URL."""

_MASK_BYTES = MASK.encode()
_SECRET_NAME = re.compile(r"authorization|cookie|token|secret|api-?key|password|credential|session", re.IGNORECASE)


class Redactor:
    """Knows the secrets of one attempt and replaces them wherever they appear, also JSON- or URL-encoded."""

    def __init__(self, credentials: Mapping[str, Any], request: Request | None = None) -> None:
        """`credentials` as the vault opened them; `request` for what was made of them, such as a Basic header."""
        secrets = set(_leaves(credentials))
        if request is not None:
            secrets |= {value.rpartition(" ")[2] for name, value in request.headers if _is_secret_name(name)}
        secrets |= {part for secret in secrets for part in _parts_of_url(secret)}
        needles = {form for secret in secrets if len(secret) >= SHORTEST_NEEDLE for form in _forms(secret)}
        self._needles = sorted(needles, key=len, reverse=True)
        self._byte_needles = [needle.encode() for needle in self._needles]

    def text(self, text: str) -> str:
        for needle in self._needles:
            text = text.replace(needle, MASK)
        return text

    def body(self, body: bytes) -> bytes:
        for needle in self._byte_needles:
            body = body.replace(needle, _MASK_BYTES)
        return body

    def headers(self, headers: Iterable[tuple[str, str]]) -> list[list[str]]:
        """Pairs of name and value as a record keeps them: `Authorization: Bearer ••••`, `Set-Cookie: ••••`."""
        return [
            [name, _mask_value(name, value) if _is_secret_name(name) else self.text(value)] for name, value in headers
        ]

    def url(self, url: str) -> str:
        """The URL with every value of its query masked: readers of attempts need not know them, and many are keys."""
        url = self.text(url)
        if "?" not in url:
            return url
        parts = urlsplit(url)
        query = "&".join(quote(name) + "=" + MASK for name, _ in parse_qsl(parts.query, keep_blank_values=True))
        return urlunsplit(parts._replace(query=query))


def _leaves(value: Any) -> Iterable[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)


def _parts_of_url(secret: str) -> set[str]:
    """Of a secret that is a URL: path and query, the last name in the path, each value in the query."""
    scheme, _, rest = secret.partition("://")
    if scheme not in ("https", "http"):
        return set()
    path_and_query = rest.partition("/")[2]
    path, _, query = path_and_query.partition("?")
    parts = {path_and_query, path, path.rstrip("/").rpartition("/")[2], *(value for _, value in parse_qsl(query))}
    return {part for part in parts if len(part) >= SHORTEST_PART}


def _forms(secret: str) -> set[str]:
    plain = secret.removeprefix("whsec_")
    return {secret, plain, json.dumps(secret)[1:-1], quote(secret, safe=""), base64.b64encode(secret.encode()).decode()}


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _mask_value(name: str, value: str) -> str:
    scheme, space, _ = value.partition(" ")
    return f"{scheme} {MASK}" if space and name.lower().endswith("authorization") else MASK
