"""Fields of a declaration: what a connection's config and credentials may hold.

Validation, masking, the catalogue, the admin form and the docs page all derive from these.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from meshes.kit.spelling import none_of

FieldType = Literal["string", "url", "integer", "number", "boolean", "select", "headers"]

MAX_HEADERS = 20
MAX_HEADER_NAME = 64
MAX_HEADER_VALUE = 1024

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token of RFC 9110, section 5.6.2
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_RESERVED_HEADERS = frozenset(
    {
        "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host",
        "http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
        "user-agent",
    }
)  # fmt: skip
_IDENTIFYING_HEADERS = frozenset(
    {
        "cf-connecting-ip", "fastly-client-ip", "forwarded", "metadata", "true-client-ip", "via", "x-client-ip",
        "x-cluster-client-ip", "x-original-host", "x-original-url", "x-real-ip", "x-rewrite-url",
    }
)  # fmt: skip
"""By these a proxy tells who asks and for what, and a cloud's metadata service takes a request for one of its own."""
_IDENTIFYING_PREFIXES = ("metadata-", "x-aws-", "x-envoy-", "x-forwarded-", "x-google-", "x-metadata-")
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True)
class Field:
    """One value that a connection of this kind has.

    `sensitive`: sealed in the vault and shown as a mask; all credential fields are. `generated`: made by Meshes, not
    taken from the user. `frozen`: shapes the body, so a delivery keeps the value that it was routed with. `pattern`
    must match the whole text. A URL is also checked by the outbound client when it is saved and when it is dialled.

    `selects_host`: the value has a part in where requests go, so that changing it needs the credentials again. URLs,
    `region` and what an OAuth URL names do so without saying.
    """

    key: str
    label: str
    type: FieldType = "string"
    required: bool = False
    sensitive: bool = False
    generated: bool = False
    frozen: bool = False
    selects_host: bool = False
    pattern: str = ""
    options: tuple[str, ...] = ()
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    max_length: int = 2048
    help: str = ""
    example: str = ""
    """A made-up value that `pattern` takes, in which every # stands for any hexadecimal digit."""

    def describe(self) -> dict[str, Any]:
        """The field as the catalogue shows it; what does not apply is left out."""
        described: dict[str, Any] = {
            "key": self.key,
            "label": self.label,
            "type": self.type,
            "required": self.required,
            "sensitive": self.sensitive,
            "generated": self.generated,
        }
        optional = {
            "pattern": self.pattern or None,
            "options": list(self.options) or None,
            "default": self.default,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "max_length": self.max_length if self.type in {"string", "url"} else None,
            "help": self.help or None,
            "example": self.example or None,
        }
        return described | {key: value for key, value in optional.items() if value is not None}


def region(*options: str, help: str = "") -> Field:
    """Where the vendor keeps the account, the first by default; by it a provider's `base_urls` are chosen."""
    return Field("region", "Region", type="select", options=options, default=options[0], help=help)


def access_token(help: str = "", label: str = "Access token") -> Field:
    """What an authorization brings, or the customer."""
    return Field("access_token", label, sensitive=True, help=help)


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one value: a JSON pointer into the request's body, a sentence, and the name of the rule."""

    pointer: str
    detail: str
    rule: str


class InvalidFields(Exception):  # noqa: N818 - named by what is wrong
    """Some values break the declaration; `.problems` says which and how. Holds no value."""

    def __init__(self, problems: Iterable[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{problem.pointer}: {problem.detail}" for problem in self.problems))


class Unsendable(Exception):  # noqa: N818 - named by what is wrong
    """The payload cannot be expressed as a request to this vendor; the delivery is rejected. `.words` says why, for the
    tenant."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class NotAuthorized(Unsendable):
    """The connection has no credentials yet: it is held until its owner has given them."""


def pointer_to(root: str, *path: str) -> str:
    """A JSON pointer (RFC 6901) below `root`."""
    return root + "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)


def clean(fields: Iterable[Field], values: Mapping[str, Any], root: str, kept: Collection[str] = ()) -> dict[str, Any]:
    """The values with defaults filled in. Raises InvalidFields for unknown, missing or malformed ones.

    Required fields among `kept` are stored already.
    """
    known = {declared.key: declared for declared in fields}
    found: list[tuple[str, ...]] = []
    for key in values.keys() - known.keys():
        words = none_of(key, sorted(known)) if known else "There are none."
        found.append((f"This field is not known here: {words}", "unknown_field", key))
    cleaned: dict[str, Any] = {}
    for key, declared in known.items():
        value = values.get(key)
        if value is not None:
            cleaned[key] = value
            found += ((detail, rule, key, *below) for detail, rule, *below in _problems(declared, value))
        elif declared.default is not None:
            cleaned[key] = declared.default
        elif declared.required and key not in kept:
            found.append(("This field is required.", "required", key))
    if found:
        raise InvalidFields(FieldProblem(pointer_to(root, *path), detail, rule) for detail, rule, *path in found)
    return cleaned


def _problems(declared: Field, value: Any) -> Iterator[tuple[str, ...]]:
    """What is wrong with a value, the rule that it breaks, and where in the value."""
    match declared.type:
        case "string" | "url":
            yield from _text_problems(declared, value)
        case "select" if value not in declared.options:
            yield f"Must be one of: {none_of(str(value), declared.options)}", "options"
        case "boolean" if not isinstance(value, bool):
            yield "Must be true or false.", "type"
        case "integer" | "number":
            yield from _number_problems(declared, value)
        case "headers" if not isinstance(value, dict):
            yield "Must be an object of header names and values.", "type"
        case "headers" if len(value) > MAX_HEADERS:
            yield f"Must not have more than {MAX_HEADERS} headers.", "max_items"
        case "headers":
            seen: set[str] = set()
            for name, text in value.items():
                if problem := _header_problem(name, text, seen):
                    yield *problem, name
                seen.add(name.lower())


def _text_problems(declared: Field, value: Any) -> Iterator[tuple[str, ...]]:
    if not isinstance(value, str):
        yield "Must be a string.", "type"
    elif not value:
        yield "Must not be empty.", "required"
    elif len(value) > declared.max_length:
        yield f"Must not be longer than {declared.max_length} characters.", "max_length"
    elif _CONTROL.search(value):
        yield "Must not contain control characters.", "characters"
    elif declared.pattern and not re.fullmatch(declared.pattern, value):
        yield f"Must match {declared.pattern}", "pattern"


def _number_problems(declared: Field, value: Any) -> Iterator[tuple[str, ...]]:
    wants_integer = declared.type == "integer"
    if isinstance(value, bool) or not isinstance(value, int | float) or (wants_integer and isinstance(value, float)):
        yield f"Must be {'an integer' if wants_integer else 'a number'}.", "type"
    elif declared.minimum is not None and value < declared.minimum:
        yield f"Must be at least {declared.minimum}.", "minimum"
    elif declared.maximum is not None and value > declared.maximum:
        yield f"Must be at most {declared.maximum}.", "maximum"


def _header_problem(name: str, value: Any, seen: set[str]) -> tuple[str, str] | None:
    lower = name.lower()
    meant = lower.replace("_", "-")  # many servers take the two for the same
    if len(name) > MAX_HEADER_NAME or not _HEADER_NAME.fullmatch(name):
        return "This is not a valid header name.", "header_name"
    if meant in _SECRET_HEADERS:
        return "This header carries a secret: give it as a credential instead.", "header_secret"
    if meant in _RESERVED_HEADERS or meant.startswith(("webhook-", "meshes-", "proxy-")):
        return "This header is set by Meshes or belongs to the connection.", "header_reserved"
    if meant in _IDENTIFYING_HEADERS or meant.startswith(_IDENTIFYING_PREFIXES):
        return "This header tells servers who asks, so it is not yours to set.", "header_reserved"
    if lower in seen:
        return "This header is given twice.", "header_twice"
    if not isinstance(value, str) or len(value) > MAX_HEADER_VALUE or not _HEADER_VALUE.fullmatch(value):
        return (
            f"A header's value is 1 to {MAX_HEADER_VALUE} printable ASCII characters, without spaces at its ends.",
            "header_value",
        )
    return None
