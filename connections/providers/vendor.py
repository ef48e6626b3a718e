"""What vendors with a JSON API have in common: requests of JSON, and answers whose code says more than the status.

A vendor's file declares `answers`, from its error codes and statuses to verdicts, and writes `error_of`, which finds
code and message in a body. What it does not declare is read by the status.
"""

import base64
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import quote

from connections.messages import OutboundError, Request, Response
from connections.providers.answers import (
    MAX_RETRY_AFTER_SECONDS,
    Path,
    is_cut_object,
    number_header,
    retry_after,
    seconds_until,
    shown,
    text_at,
)
from connections.providers.base import Account, Choice, Granted, MappingField, Provider, Shipment
from connections.providers.fields import NotAuthorized, Unsendable
from connections.providers.verdicts import (
    Outcome,
    Verdict,
    disabled,
    read_error,
    reauthorize,
    rejected,
    retry,
    throttled,
    uncertain,
    with_known_end,
)
from meshes.kit.strictjson import split_path

MAX_URL_PART = 1000
"""Characters of a value inside a URL, encoded. A longer URL is refused, which would stop the connection."""

CHECK_MAPPING = "Check what the rule's mapping makes of the event, then replay."


STANDARD = {
    401: reauthorize("{name} does not accept the credentials (401). Replace them, then test the connection."),
    402: disabled("The {name} account is not paid for (402). Settle that there, then resume.", "unpaid"),
    403: reauthorize(
        "The credentials may not do this at {name} (403). Give them the permission, then test.", "forbidden"
    ),
    410: disabled("{name} no longer offers this address (410): Meshes must be updated."),
    429: throttled("{name} asks for fewer requests (429)."),
}
"""What a status means at most vendors, where their code is not declared; `read_status` has the others."""
VALUE_REFUSED = rejected("{name} refuses a value. Mend the rule's mapping.")
"""For the `answers` of vendors whose 400 is about a value."""


class Fields(dict[str, Any]):
    """What a mapping made of an event. Each way to read one of them raises Unsendable for what `vendor` cannot take."""

    vendor: str

    def needed(self, key: str, longest: int | None = None, shortest: int = 1) -> str:
        """A field that the request cannot be made without, as text of so many characters."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise Unsendable(f"The field {key} is required, and this event has nothing usable for it.")
        text = value.strip() if isinstance(value, str) else number_text(value)
        return text if longest is None else limited(key, text, longest, self.vendor, shortest)

    def given(self, key: str) -> str | None:
        """A field as text; None where this event has nothing for it."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise Unsendable(f"The field {key} must be text.")
        if value is None:
            return None
        return value.strip() or None if isinstance(value, str) else number_text(value)

    def object(self, key: str) -> dict[str, Any]:
        """A field that holds an object; empty where this event has none."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            raise Unsendable(f"The field {key} must be an object.")
        return value or {}

    def array(self, key: str) -> list[Any]:
        """A field that holds an array; empty where this event has none."""
        value = self.get(key)
        if value is not None and not isinstance(value, list):
            raise Unsendable(f"The field {key} must be an array.")
        return value or []


class Vendor(Provider):
    """A provider with a JSON API: its subclass declares how it is called and where its answers say what."""

    answer_bytes = 4 * 1024 * 1024
    answers: ClassVar[Mapping[Any, Verdict]] = {}
    """By the vendor's error code, or by status, or by several in a tuple; the code comes first. `{name}` is `name`."""
    authorization: ClassVar[str] = "Bearer {access_token}"
    """The header's value, with the names of credentials; after `Basic` in plain text. Empty: none is sent."""
    headers: ClassVar[tuple[tuple[str, str], ...]] = ()
    """What `call` sends beside content type and authorization."""
    content_type: ClassVar[str] = "application/json"
    code_at: ClassVar[Path] = ()
    message_at: ClassVar[Path] = ()
    """Where the body of an answer of 300 and above has its error's code and message."""
    account_at: ClassVar[tuple[Path, Path] | None] = None
    """Where the test's answer has the account's id and its name."""
    granted: ClassVar[Mapping[str, Path]] = {}
    """Where `{reply, details}` of an authorization have what is added to the config, by its key."""
    granted_account_at: ClassVar[tuple[Path, Path] | None] = None
    """Where they have the account's id and its name."""
    test_path: ClassVar[str] = ""
    """What the test asks for by GET."""
    repeatable: ClassVar[tuple[str, ...]] = ()
    """Ends of the URLs of calls by POST that do no harm twice, such as a search."""
    limit_headers: ClassVar[tuple[str, str, float | None] | None] = None
    """Header of the requests that are left, header of the seconds until there are more, and what stands for 0 or none
    of them."""

    limit_ends_at: ClassVar[bool] = False
    """Whether the second of them tells the moment, in unix seconds."""

    def __init_subclass__(cls) -> None:
        listed = ((keys if isinstance(keys, tuple) else (keys,), verdict) for keys, verdict in cls.answers.items())
        cls.answers = {key: verdict for keys, verdict in listed for key in keys}

    def error_of(self, response: Response) -> tuple[str, str]:
        """Code and message of what went wrong by the body, also below a 200; empty where it says nothing. Total."""
        if response.status < 300:
            return "", ""
        document = response.json()
        code, message = (text_at(document, *path) if path else "" for path in (self.code_at, self.message_at))
        return code, message

    def is_done(self, response: Response, action: str) -> bool:
        """Whether a 2xx to the last call of a delivery, whose body tells of no error, proves that it was done. Total.

        Where a vendor answers nothing by which to tell, it is `is_no_page`.
        """
        raise NotImplementedError

    def rest_of(self, response: Response) -> float | None:
        """Seconds for which nothing is left of the vendor's limit, by its headers; None where something is."""
        if self.limit_headers is None:
            return None
        left, reset, otherwise = self.limit_headers
        if number_header(response, left) != 0:
            return None
        seconds = number_header(response, reset)
        if self.limit_ends_at:
            return otherwise if seconds is None else seconds_until(response, seconds)
        return seconds or otherwise or seconds  # 0 is not the same as no header: it asks for a retry at once

    def build_test(self, shipment: Shipment) -> Request | None:
        return self.call("GET", self.test_path, shipment) if self.test_path else None

    def read_account(self, response: Response) -> Account | None:
        return account_of(response, *self.account_at) if self.account_at else None

    def read_grant(self, reply: Mapping[str, Any], details: Mapping[str, Any]) -> Granted:
        said = {"reply": reply, "details": details}
        config = {key: text_at(said, *path) for key, path in self.granted.items()}
        return Granted(config, account_of(said, *self.granted_account_at) if self.granted_account_at else None)

    def call(
        self, method: str, path: str, shipment: Shipment, document: object = None, *headers: tuple[str, str]
    ) -> Request:
        """A request below `root`, with the credentials. Raises NotAuthorized where there are none yet."""
        url = self.root(shipment) + path
        own = (*self.authorized(shipment), *self.headers, *headers)
        return json_request(method, url, document, *own, content_type=self.content_type)

    def authorized(self, shipment: Shipment) -> tuple[tuple[str, str], ...]:
        """The headers that carry the credentials. Raises NotAuthorized."""
        return filled(self.authorization, shipment)

    def may_repeat(self, action: str, request: Request) -> bool:
        return request.url.endswith(self.repeatable) or super().may_repeat(action, request)

    def classify(self, answer: Response | OutboundError, action: str) -> Verdict:
        if isinstance(answer, OutboundError):
            return read_error(answer)
        verdict = self.read(answer)
        if verdict.outcome == Outcome.DELIVERED and not (is_cut_object(answer) or self.is_done(answer, action)):
            words = f"{self.name}'s answer does not say that it was done."
            unproven = retry if self.is_idempotent(action) else uncertain
            return self.completed(unproven(words, "unproven"), answer, "")
        return verdict if self.is_idempotent(action) else with_known_end(verdict, answer, self.name)

    def read(self, response: Response) -> Verdict:
        """What an answer means, whatever was asked: by its code, else its status."""
        code, message = self.error_of(response)
        verdict = self.answers.get(code) or self.answers.get(response.status) or self.read_status(response.status, code)
        return self.completed(verdict, response, message)

    def read_status(self, status: int, code: str) -> Verdict:
        """What a status means at most vendors, with a code that is not declared."""
        if 200 <= status <= 299 and not code:
            return Verdict(Outcome.DELIVERED)
        if 200 <= status <= 299:
            return rejected(f"{{name}} did not accept it ({shown(code)}). {CHECK_MAPPING}", "vendor_error")
        if status in STANDARD:
            return STANDARD[status]
        if status in (408, 409, 423, 425) or status >= 500:
            return retry(f"{{name}} cannot take it just now ({status}).")
        if status >= 400:
            return rejected(f"{{name}} refuses the request ({status}). {CHECK_MAPPING}")
        return retry(f"{{name}}'s answer is not a final one ({status}).", "unexpected_status")

    def completed(self, verdict: Verdict, response: Response, message: str) -> Verdict:
        """With the vendor's name and its own words, and with what its headers ask for."""
        rest = self.rest_of(response)
        if rest:
            rest = min(rest, MAX_RETRY_AFTER_SECONDS)
            verdict = replace(verdict, rest_seconds=rest)
        if verdict.outcome == Outcome.DELIVERED:
            return verdict
        message = shown(message)
        words = verdict.words.replace("{name}", self.name) + (f" {self.name}: “{message}”" if message else "")
        verdict = replace(verdict, words=words)
        if verdict.outcome == Outcome.RETRY:
            asked = [wait for wait in (retry_after(response), rest, verdict.retry_after_seconds) if wait is not None]
            return replace(verdict, retry_after_seconds=max(asked, default=None))
        return verdict

    def classify_test(self, answer: Response | OutboundError) -> Verdict:
        """Tests ask for objects, so a page, or nothing, is no answer of the vendor's."""
        if isinstance(answer, OutboundError):
            return read_error(answer)
        verdict = self.read(answer)
        if verdict.outcome == Outcome.DELIVERED and not (is_cut_object(answer) or answer.json_object()):
            return retry(f"{self.name}'s answer cannot be read. Look for a proxy in its stead.", "unproven")
        return verdict

    def classify_options(self, answer: Response | OutboundError) -> Verdict:
        """In words about a list, where those about a delivery would mislead."""
        if isinstance(answer, OutboundError):
            return read_error(answer)
        verdict = self.read(answer)
        if verdict.outcome == Outcome.RETRY:
            wait = verdict.retry_after_seconds
            when = f"in {wait:,.0f} seconds" if wait else "later"
            words = f"{self.name} does not list the choices just now ({answer.status}). Ask again {when}."
        elif verdict.hold == "disabled" or (answer.status == 400 and verdict.outcome != Outcome.DELIVERED):
            words = f"{self.name} refuses to list the choices ({answer.status})."
        else:
            return verdict
        return self.completed(replace(verdict, words=words), answer, self.error_of(answer)[1])

    def fields(self, shipment: Shipment) -> Fields:
        """What the mapping made: an object, whose declared fields have their declared types where nothing is lost by
        that, and no spaces around texts; a copy of such a text, as in a payload mapped whole, has none either. Raises
        Unsendable."""
        made, texts = json.loads(shipment.body), set[str]()
        if not isinstance(made, dict):
            raise Unsendable("The mapping must make an object of fields.")
        for declared in self.action(shipment.action).fields:
            *path, last = split_path(declared.key)
            place: Any = made
            for name in path:
                place = place.get(name) if isinstance(place, dict) else None
            if isinstance(place, dict) and place.get(last) is not None:
                place[last] = typed(declared, place[last])
                if isinstance(place[last], str):
                    texts.add(place[last])
        fields = Fields({key: _as_known(value, texts) for key, value in made.items()})
        fields.vendor = self.name
        return fields


def _as_known(value: Any, texts: Collection[str]) -> Any:
    """A JSON value in which every text that is, but for the spaces around it, one of these is that one."""
    if isinstance(value, str):
        stripped = value.strip()
        return stripped if stripped in texts else value
    if isinstance(value, list):
        return [_as_known(member, texts) for member in value]
    return {name: _as_known(member, texts) for name, member in value.items()} if isinstance(value, dict) else value


_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_A = {"number": "a number", "boolean": "true or false", "object": "an object", "array": "an array", "string": "text"}


def typed(declared: MappingField, value: Any) -> Any:
    """A value in the type that its field has. Raises Unsendable where something would be lost."""
    if isinstance(value, str):
        value = value.strip()
    match declared.type, value:
        case "string", int() | float() if not isinstance(value, bool):
            return number_text(value)
        case "number", str() if len(value) <= 300 and _NUMBER.fullmatch(value):
            number = float(value) if set(value) & set(".eE") else int(value)
            if Decimal(repr(number)) == Decimal(value):
                return number
        case "boolean", "true" | "false":
            return value == "true"
        case ("any", _) | ("string", str()) | ("boolean", bool()) | ("object", dict()) | ("array", list()):
            return value
        case "number", int() | float() if not isinstance(value, bool):
            return value
        case "number" | "boolean" | "object" | "array", "":
            return None
    if declared.required and declared.type == "string":
        return value  # which `needed` refuses
    raise Unsendable(f"The field {declared.key} must be {_A[declared.type]}.")


def number_text(number: int | float) -> str:
    """A number as text: 42 for 42.0, which JSON does not tell apart."""
    is_whole = isinstance(number, float) and number.is_integer() and abs(number) < 2**53
    return str(int(number) if is_whole else number)


def limited(key: str, text: str, longest: int, vendor: str, shortest: int = 1) -> str:
    """The text, if the vendor takes one of its length. Raises Unsendable."""
    if shortest <= len(text) <= longest:
        return text
    between = f"at most {longest:,}" if shortest <= 1 else f"{shortest} to {longest:,}"
    raise Unsendable(f"The field {key} has {len(text):,} characters; {vendor} takes {between}. Map another, or cut it.")


def without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def url_part(text: str) -> str:
    """A value as one part of a path or query, encoded, so that it reaches nothing beside it. Raises Unsendable."""
    part = quote(text, safe="")
    if text in {".", ".."} or len(part) > MAX_URL_PART:
        raise Unsendable("A value that identifies the record is too long, or cannot stand in a URL.")
    return part


def json_request(
    method: str, url: str, document: Any, *headers: tuple[str, str], content_type: str = "application/json"
) -> Request:
    """A request with a JSON body, written without spaces; None: without a body."""
    if document is None:
        return Request(method, url, headers)
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Request(method, url, (("content-type", content_type), *headers), body)


def filled(authorization: str, shipment: Shipment) -> tuple[tuple[str, str], ...]:
    """The header of `Vendor.authorization`; Basic is in UTF-8 (RFC 7617, section 2.1). Raises NotAuthorized."""
    value = re.sub(r"\{(\w+)\}", lambda found: revealed(shipment, found[1]), authorization)
    scheme, _, pair = value.partition(" ")
    if scheme == "Basic":
        value = "Basic " + base64.b64encode(pair.encode()).decode()
    return (("authorization", value),) if value else ()


def revealed(shipment: Shipment, key: str) -> str:
    """A credential in plain text, for a header. Raises NotAuthorized where the connection has none yet."""
    secret = shipment.credentials.get(key)
    if secret is None:
        raise NotAuthorized(f"The connection has no {key} yet: authorize it, or set the credential.")
    text: str = secret.reveal()
    return text


def listed(response: Response, *path: str) -> list[dict[str, Any]]:
    """The objects of a list in an answer that must have one there. Raises Unsendable."""
    document = response.json()
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    if not isinstance(document, list):
        raise Unsendable("The vendor's answer could not be read as a list of choices.")
    return [row for row in document if isinstance(row, dict)]


def choices(response: Response, *path: str, value: str = "id", label: str = "name", only: str = "") -> list[Choice]:
    """The choices in a list, by the names of what is stored and what is shown; `only` rows of which that is true.
    Raises Unsendable."""
    rows = [row for row in listed(response, *path) if not only or row.get(only) is True]
    return [Choice(text_at(row, value), text_at(row, label)) for row in rows]


def account_of(document: Any, id_at: Path, name_at: Path) -> Account | None:
    """The account that a document or an answer speaks of."""
    account = text_at(document, *id_at)
    return Account(account, text_at(document, *name_at)) if account else None
