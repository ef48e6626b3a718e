"""Takes secrets out of what is written down: the request as it was sent, the answer, which may quote it, and errors."""

import base64
import html
import json
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit, urlunsplit

from connections.messages import Request, with_ascii_host
from workspaces.vault.secret import MASK, Secret

SHORTEST_NEEDLE = 6
"""Secrets below this length are not searched for in texts: they would take ordinary words out with them."""

SHORTEST_PART = 16
"""Parts of a secret URL from this length are searched for by themselves: vendors quote the token in a webhook's URL."""

_MASK_BYTES = MASK.encode()
_CUT = "…"
"""Where a text was cut, which may have left the beginning of a secret."""
_SECRET_NAME = re.compile(r"authorization|cookie|token|secret|api-?key|password|credential|session", re.IGNORECASE)


class QuotedSecretError(Exception):
    """Stands for an exception whose text quoted a secret; `str()` is its traceback, masked."""


class Redactor:
    """Knows the secrets of one attempt and replaces them wherever they appear, also JSON- or URL-encoded."""

    def __init__(self, credentials: Mapping[str, Any], *requests: Request) -> None:
        """`credentials` as the vault opened them; `requests` for what was made of them, such as a Basic header."""
        secrets = set(_leaves(credentials))
        for request in requests:
            secrets |= {value.rpartition(" ")[2] for name, value in request.headers if _is_secret_name(name)}
        secrets |= {part for secret in secrets for part in _parts_of_url(secret)}
        needles = {form for secret in secrets if len(secret) >= SHORTEST_NEEDLE for form in _forms(secret)}
        self._needles = sorted(needles, key=len, reverse=True)
        self._byte_needles = [needle.encode() for needle in self._needles]

    def text(self, text: str) -> str:
        for needle in self._needles:
            text = text.replace(needle, MASK)
        if _CUT in text:
            *cut, rest = text.split(_CUT)
            text = _CUT.join([*(self._without_beginning(part) for part in cut), rest])
        return text

    def body(self, body: bytes, *, is_cut: bool = False) -> bytes:
        """`is_cut`: the body was longer, so its end may be the beginning of a secret."""
        for needle in self._byte_needles:
            body = body.replace(needle, _MASK_BYTES)
        if is_cut and (kept := _length_without_beginning(body, self._byte_needles)) < len(body):
            return body[:kept] + _MASK_BYTES
        return body

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """An exception that quotes a secret, in its own text or that of its causes, leaves as QuotedSecretError."""
        try:
            yield
        except Exception as error:
            if any(self.text(said) != said for said in _said_by(error)):
                raise QuotedSecretError(self.trace(error)) from None
            raise

    def trace(self, error: BaseException) -> str:
        """The traceback of an error, for a log."""
        return self.text("".join(traceback.format_exception(error)))

    def _without_beginning(self, text: str) -> str:
        kept = _length_without_beginning(text, self._needles)
        return text[:kept] + MASK if kept < len(text) else text

    def headers(self, headers: Iterable[tuple[str, str]]) -> list[list[str]]:
        """Pairs of name and value as a record keeps them: `Authorization: Bearer ••••`, `Set-Cookie: ••••`."""
        return [
            [name, _mask_value(name, value) if _is_secret_name(name) else self.text(value)] for name, value in headers
        ]

    def url(self, url: str) -> str:
        """The URL with every value of its query masked: readers of attempts need not know them, and many are keys.

        Its host is shown as punycode.
        """
        url = with_ascii_host(self.text(url))
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


def _said_by(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield "".join(traceback.format_exception_only(error))
        error = error.__cause__ or error.__context__


def _length_without_beginning(text: Any, needles: Iterable[Any]) -> int:
    """How much of a cut text (or of bytes) stays when it ends with the first characters of a needle."""
    for needle in needles:
        for length in range(min(len(needle) - 1, len(text)), SHORTEST_NEEDLE - 1, -1):
            if text.endswith(needle[:length]):
                return len(text) - length
    return len(text)


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
    """The secret as it is, on one line, and as JSON, Python, URLs, HTML and base64 write it."""
    return {
        secret,
        secret.removeprefix("whsec_"),
        " ".join(secret.split()),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        quote(secret, safe=""),
        quote_plus(secret),
        html.escape(secret),
        base64.b64encode(secret.encode()).decode(),
    }


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _mask_value(name: str, value: str) -> str:
    scheme, space, _ = value.partition(" ")
    return f"{scheme} {MASK}" if space and name.lower().endswith("authorization") else MASK
