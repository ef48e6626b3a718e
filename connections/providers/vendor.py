"""What vendors with a JSON API have in common: requests of JSON, and answers whose code says more than the status.

A vendor's file declares `answers`, from its error codes and statuses to verdicts, and writes `error_of`, which finds
code and message in a body. What it does not declare is read by the status.
"""

import base64
import json
import re
import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

from connections.messages import OutboundError, Request, Response
from connections.providers.base import MappingField, NotAuthorized, Provider, Shipment, Unsendable
from connections.providers.verdicts import (
    MAX_RETRY_AFTER_SECONDS,
    Outcome,
    Verdict,
    disabled,
    header,
    read_date,
    read_error,
    reauthorize,
    rejected,
    retry,
    retry_after,
    throttled,
    uncertain,
    with_known_end,
)
from meshes.kit.jsonpaths import split_path

MAX_MESSAGE = 300
"""Characters of a vendor's message that are shown."""
MAX_URL_PART = 1000
"""Characters of a value inside a URL, encoded. A longer URL is refused at the door, which would stop the connection."""

FULL_NAME = (
    "payload.name || (payload.first_name || payload.last_name)"
    " && join(' ', [payload.first_name, payload.last_name][?@]) || payload.full_name"
)
"""The default source of a name in one piece, in JMESPath."""
FIRST_NAME = "payload.first_name || ([payload][?!last_name].name | [0])"
"""The default source of a first name: the whole name, where an event has it in one piece only."""
SUMMARY = (
    "join(': ', [event.type, join(', ', [payload.name || payload.first_name, payload.email, payload.company]"
    "[?type(@) == 'string' && @ != ''])][?@ != ''])"
)
"""The default text of a message, in JMESPath: `lead.created: Ada, ada@example.com`. No event is without one."""
USER = "payload.user_id || payload.email"
"""Whom an event is about, by default, in JMESPath."""
CHECK_MAPPING = "Check what the rule's mapping makes of the event, then replay."
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


class VendorError(NamedTuple):
    """What a body says went wrong; empty where it says nothing."""

    code: str = ""
    message: str = ""


class Vendor(Provider):
    """A provider with a JSON API. `name` stands in the words that its customers read."""

    answer_bytes = 4 * 1024 * 1024
    answers: ClassVar[Mapping[str | int, Verdict]] = {}
    """By the vendor's error code, or by status; the code comes first."""

    def error_of(self, response: Response) -> VendorError:
        """What went wrong by the body, also below a 200. Total: any bytes."""
        return VendorError()

    def is_done(self, response: Response, action: str) -> bool:
        """Whether a 2xx to the last call of a delivery, whose body tells of no error, proves that it was done. Total.

        Where a vendor answers nothing by which to tell, it is `is_no_page`.
        """
        raise NotImplementedError

    def rest_of(self, response: Response) -> float | None:
        """Seconds for which nothing is left of the vendor's limit, by its headers; None where something is."""
        return None

    def classify(self, answer: Response | OutboundError, action: str) -> Verdict:
        if isinstance(answer, OutboundError):
            return read_error(answer)
        verdict = self.read(answer)
        if verdict.outcome == Outcome.DELIVERED and not (is_cut_object(answer) or self.is_done(answer, action)):
            words = f"{self.name}'s answer does not say that it was done."
            unproven = retry if self.is_idempotent(action) else uncertain
            return self._completed(unproven(words, "unproven"), answer, "")
        return verdict if self.is_idempotent(action) else with_known_end(verdict, answer, self.name)

    def read(self, response: Response) -> Verdict:
        """What an answer means, whatever was asked: by its code, else its status."""
        error = self.error_of(response)
        verdict = self.answers.get(error.code) or self.answers.get(response.status) or self.read_status(response, error)
        return self._completed(verdict, response, error.message)

    def classify_test(self, answer: Response | OutboundError) -> Verdict:
        """Tests ask for objects, so a page, or nothing, is no answer of the vendor's."""
        if isinstance(answer, OutboundError):
            return read_error(answer)
        verdict = self.read(answer)
        if verdict.outcome == Outcome.DELIVERED and not (is_cut_object(answer) or read_object(answer)):
            return retry(f"{self.name}'s answer cannot be read. Look for a proxy in its stead.", "unproven")
        return verdict

    def fields(self, shipment: Shipment) -> dict[str, Any]:
        """What the mapping made: an object, whose declared fields have their declared types where nothing is lost by
        that, and no spaces around texts; a copy of such a text, as in a payload mapped whole, has none either. Raises
        Unsendable."""
        fields, texts = json.loads(shipment.body), set[str]()
        if not isinstance(fields, dict):
            raise Unsendable("The mapping must make an object of fields.")
        for declared in self.action(shipment.action).fields:
            *path, last = split_path(declared.key)
            place: Any = fields
            for name in path:
                place = place.get(name) if isinstance(place, dict) else None
            if isinstance(place, dict) and place.get(last) is not None:
                place[last] = typed(declared, place[last])
                if isinstance(place[last], str):
                    texts.add(place[last])
        return {key: _as_known(value, texts) for key, value in fields.items()}

    def classify_options(self, answer: Response | OutboundError) -> Verdict:
        """In words about a list, where those about a delivery would mislead."""
        if isinstance(answer, OutboundError):
            return read_error(answer)
        verdict = self.read(answer)
        if verdict.outcome == Outcome.DELIVERED:
            return verdict
        if verdict.outcome == Outcome.RETRY:
            wait = verdict.retry_after_seconds
            when = f"in {wait:,.0f} seconds" if wait else "later"
            words = f"{self.name} does not list the choices just now ({answer.status}). Ask again {when}."
        elif verdict.hold == "disabled" or answer.status == 400:
            words = f"{self.name} refuses to list the choices ({answer.status})."
        else:
            return verdict
        return self._completed(replace(verdict, words=words), answer, self.error_of(answer).message)

    def read_status(self, response: Response, error: VendorError) -> Verdict:
        """What a status means at most vendors, where its code is not declared."""
        status = response.status
        if 200 <= status <= 299:
            if not error.code:
                return Verdict(Outcome.DELIVERED)
            return rejected(f"{self.name} did not accept it ({shown(error.code)}). {CHECK_MAPPING}", "vendor_error")
        if status == 401:
            return reauthorize(
                f"{self.name} does not accept the credentials (401). Replace them, then test the connection."
            )
        if status == 403:
            words = f"The credentials may not do this at {self.name} (403). Give them the permission, then test."
            return reauthorize(words, "forbidden")
        if status == 402:
            return disabled(f"The {self.name} account is not paid for (402). Settle that there, then resume.", "unpaid")
        if status == 429:
            return throttled(f"{self.name} asks for fewer requests (429).")
        if status in (408, 409, 423, 425) or status >= 500:
            return retry(f"{self.name} cannot take it just now ({status}).")
        if status == 410:
            return disabled(f"{self.name} no longer offers this address (410): Meshes must be updated.")
        if status >= 400:
            return rejected(f"{self.name} refuses the request ({status}). {CHECK_MAPPING}")
        return retry(f"{self.name}'s answer is not a final one ({status}).", "unexpected_status")

    def _completed(self, verdict: Verdict, response: Response, message: str) -> Verdict:
        """With the vendor's own words, and with what its headers ask for."""
        rest = self.rest_of(response)
        if rest:
            rest = min(rest, MAX_RETRY_AFTER_SECONDS)
            verdict = replace(verdict, rest_seconds=rest)
        if verdict.outcome == Outcome.DELIVERED:
            return verdict
        if message := shown(message):
            verdict = replace(verdict, words=f"{verdict.words} {self.name}: “{message}”")
        if verdict.outcome == Outcome.RETRY:
            asked = [wait for wait in (retry_after(response), rest, verdict.retry_after_seconds) if wait is not None]
            return replace(verdict, retry_after_seconds=max(asked, default=None))
        return verdict


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


def needed(fields: Mapping[str, Any], key: str) -> str:
    """A field that the request cannot be made without, as text. Raises Unsendable."""
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise Unsendable(f"The field {key} is required, and this event has nothing usable for it.")
    return value.strip() if isinstance(value, str) else number_text(value)


def given(fields: Mapping[str, Any], key: str) -> str | None:
    """A field as text; None where this event has nothing for it. Raises Unsendable for what is no text."""
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise Unsendable(f"The field {key} must be text.")
    if value is None:
        return None
    return value.strip() or None if isinstance(value, str) else number_text(value)


def limited(key: str, text: str, longest: int, vendor: str, shortest: int = 1) -> str:
    """The text, if the vendor takes one of its length. Raises Unsendable."""
    if shortest <= len(text) <= longest:
        return text
    between = f"at most {longest:,}" if shortest <= 1 else f"{shortest} to {longest:,}"
    raise Unsendable(f"The field {key} has {len(text):,} characters; {vendor} takes {between}. Map another, or cut it.")


def object_in(fields: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A field that holds an object; empty where this event has none. Raises Unsendable."""
    value = fields.get(key)
    if value is not None and not isinstance(value, dict):
        raise Unsendable(f"The field {key} must be an object.")
    return value or {}


def array_in(fields: Mapping[str, Any], key: str) -> list[Any]:
    """A field that holds an array; empty where this event has none. Raises Unsendable."""
    value = fields.get(key)
    if value is not None and not isinstance(value, list):
        raise Unsendable(f"The field {key} must be an array.")
    return value or []


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


def bearer(shipment: Shipment, key: str = "access_token") -> tuple[str, str]:
    """The header with a token of the credentials. Raises NotAuthorized where the connection has none yet."""
    return ("authorization", f"Bearer {revealed(shipment, key)}")


def basic(user: str, password: str = "") -> tuple[str, str]:
    """The header of Basic authentication, in UTF-8 (RFC 7617, section 2.1)."""
    return ("authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())


def revealed(shipment: Shipment, key: str) -> str:
    """A credential in plain text, for a header. Raises NotAuthorized where the connection has none yet."""
    secret = shipment.credentials.get(key)
    if secret is None:
        raise NotAuthorized(f"The connection has no {key} yet: authorize it, or set the credential.")
    text: str = secret.reveal()
    return text


def uuid_of(shipment: Shipment) -> uuid.UUID:
    """What stands for the delivery at vendors whose keys take letters, digits and hyphens only: always the same."""
    return uuid.uuid5(uuid.NAMESPACE_URL, shipment.delivery_id)


def iso_time(moment: datetime) -> str:
    """`2026-03-04T05:06:00.250Z`"""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix_milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def read_json(response: Response) -> Any:
    """The body as JSON; None where it is not."""
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError):
        return None


def read_object(response: Response) -> dict[str, Any]:
    """The body as a JSON object; empty where it is not."""
    document = read_json(response)
    return document if isinstance(document, dict) else {}


def is_cut_object(response: Response) -> bool:
    """Whether the body is a JSON object that was not read to its end, as one that repeats what was sent may be."""
    return response.truncated and response.body.lstrip().startswith(b"{")


def is_no_page(response: Response) -> bool:
    """Whether the body is not one for people, by which a proxy or a portal answers in a vendor's stead."""
    return not response.body.lstrip().startswith(b"<")


def text_at(document: Any, *path: str | int) -> str:
    """The string (or number, as text) at a path of keys and indexes; empty where there is none. It can be stored and
    sent: what PostgreSQL or UTF-8 does not take is replaced."""
    for step in path:
        if isinstance(step, str) and isinstance(document, dict):
            document = document.get(step)
        elif isinstance(step, int) and isinstance(document, list) and -len(document) <= step < len(document):
            document = document[step]
        else:
            return ""
    if isinstance(document, bool) or not isinstance(document, str | int | float):
        return ""
    return _UNSTORABLE.sub("\ufffd", str(document))


def rows_at(document: Any, *path: str | int) -> list[Any]:
    """The list at a path; empty where there is none."""
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return document if isinstance(document, list) else []


def listed(response: Response, *path: str) -> list[dict[str, Any]]:
    """The objects of a list in an answer that must have one there. Raises Unsendable."""
    document = read_json(response)
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    if not isinstance(document, list):
        raise Unsendable("The vendor's answer could not be read as a list of choices.")
    return [row for row in document if isinstance(row, dict)]


def number_header(response: Response, name: str) -> float | None:
    """A header that holds a number of at most ten digits before its point."""
    text = header(response, name)
    if text is None or len(text) > 20 or not text.replace(".", "", 1).isdecimal() or not text.isascii():
        return None
    return float(text)


def seconds_until(response: Response, moment: float) -> float:
    """From the answer's own `Date`, or without one from now, to a moment in unix seconds; 0 to 86,400."""
    since = read_date(header(response, "date")) or datetime.now(UTC)
    return min(max(moment - since.timestamp(), 0.0), MAX_RETRY_AFTER_SECONDS)


_QUOTED = re.compile(r"\"[^\"]*\"|“[^“”]*”|`[^`]*`|'[^']*'")


def shown(message: str) -> str:
    """A vendor's message on one line, cut. What stands in quotes keeps its spaces, the unusual ones spelled out."""
    line, end = "", 0
    message = message[: 4 * MAX_MESSAGE].strip()
    for quoted in _QUOTED.finditer(message):
        line += _on_one_line(message[end : quoted.start()])
        line += "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in quoted[0])
        end = quoted.end()
    line += _on_one_line(message[end:])
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"


def _on_one_line(text: str) -> str:
    return re.sub(r" {2,}", " ", "".join(letter if letter.isprintable() else " " for letter in text))
