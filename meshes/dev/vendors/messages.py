"""What a vendor's server gets and gives: calls, answers, and the ways to refuse."""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `path` is as it was sent, without the query; header names are in lower case; `account` is whose
    credentials it carries, once they are known."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    account: str = ""

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self) -> Any:
        """The body. Raises Malformed."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Malformed(str(error)) from None

    def form(self) -> dict[str, str]:
        """The fields of a form; empty where the body is none."""
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))

    def fields(self) -> dict[str, Any]:
        """The fields of a form or of a JSON object, as the content type says. Raises Malformed."""
        if self.media_type != "application/json":
            return dict(self.form())
        document = self.json()
        if not isinstance(document, dict):
            raise Malformed("not an object")
        return document

    def credential(self, scheme: str) -> str:
        """What follows the scheme in the Authorization header; empty for another scheme."""
        given, _, credential = self.headers.get("authorization", "").partition(" ")
        return credential.strip() if given.lower() == scheme.lower() else ""

    def basic(self) -> tuple[str, str] | None:
        """User name and password of basic authentication."""
        try:
            user, colon, password = base64.b64decode(self.credential("Basic"), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return (user, password) if colon else None


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body and its headers. `of` makes JSON of a document."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Any, status: int = 200, media_type: str = "application/json", **headers: str) -> "Answer":
        """A JSON answer; keywords are headers, their underscores hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        return cls(status, body.encode(), {"content-type": media_type, **named})

    @classmethod
    def text(cls, words: str, status: int = 200, media_type: str = "text/plain; charset=utf-8") -> "Answer":
        return cls(status, words.encode(), {"content-type": media_type})

    def with_headers(self, headers: Mapping[str, str]) -> "Answer":
        """With these headers too; its own win."""
        return replace(self, headers={**headers, **self.headers})


def is_email(value: Any) -> bool:
    """Whether a text has the form of an address, as far as vendors look: one @, and a dot within the domain."""
    local, _, domain = str(value).partition("@")
    return bool(local) and "@" not in domain and "." in domain[1:-1] and str(value).split() == [str(value)]


class Why(StrEnum):
    """Why a server refuses before the vendor's own rules are asked."""

    MISSING_TOKEN = "missing_token"
    UNKNOWN_TOKEN = "unknown_token"
    EXPIRED_TOKEN = "expired_token"
    REVOKED_TOKEN = "revoked_token"
    MALFORMED = "malformed"
    WRONG_TYPE = "wrong_type"
    NOT_FOUND = "not_found"
    WRONG_METHOD = "wrong_method"
    THROTTLED = "throttled"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Problem:
    """What a vendor puts in its own words. `seconds` is how long the caller should wait, where that is known."""

    why: Why
    status: int
    words: str
    seconds: float = 0.0

    @property
    def retry_after(self) -> str:
        """For the header: whole seconds, one at least."""
        return str(max(1, math.ceil(self.seconds)))


class Refused(Exception):  # noqa: N818 - named by what happened
    """The call ends here, with this answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Malformed(Exception):  # noqa: N818 - named by what is wrong
    """The body cannot be read."""


class BadToken(Exception):  # noqa: N818 - named by what is wrong
    """The credentials do not open an account."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why
