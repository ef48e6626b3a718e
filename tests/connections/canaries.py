"""Secrets to put in, a receiver that says them back, and the search for them in whatever was written."""

import base64
import html
import json
import re
from typing import Any
from urllib.parse import quote, quote_plus

from tests.receivers import Answer, Got

TOKEN = 'canary/7d1f0a52+b3"<e9>%&c41d'
PASSWORD = "canary pass \"51c0\" & 'word' 9d3e"


def forms(secret: str) -> set[str]:
    """The secret as it is, and as base64, hex, URLs, JSON, Python and HTML write it, also within something longer."""
    raw = secret.encode()
    written = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    written |= {quote(secret), quote(secret, safe=""), quote_plus(secret), html.escape(secret), raw.hex()}
    written |= {re.sub("%..", lambda code: code[0].lower(), quote(secret, safe="")), raw.hex().upper()}
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + raw).decode()
        own = whole[-(-8 * shift // 6) : 8 * (shift + len(raw)) // 6]  # the letters that the secret alone decides
        written |= {own, own.translate(str.maketrans("+/", "-_"))}
    return written


def found(text: str, *secrets: str) -> set[str]:
    """The forms of secrets that stand in a text."""
    return {form for secret in secrets for form in forms(secret) if form in text}


def echo(got: Got) -> Answer:
    """Says everything back that was sent, in the forms that answers have."""
    authorization = got.headers.get("authorization", "")
    scheme, _, told = authorization.partition(" ")
    if scheme == "Basic":
        told = base64.b64decode(told).decode().partition(":")[2]
    message = "x" * 285 + told if got.path.startswith("/cut") else f"bad token {told}"
    document: dict[str, Any] = {"code": "no", "message": message, "headers": got.headers}
    document |= {"url": quote(told, safe=""), "html": html.escape(told)}
    document |= {"base64": base64.b64encode(told.encode()).decode()}
    headers = {"x-echo": quote(told, safe=""), "www-authenticate": authorization}
    return Answer(int(got.path.rpartition("/")[2]), headers, json.dumps(document).encode())


def dump(cursor: Any) -> str:
    """Every value of every column of every table, as a dump without the encryption keys has them."""
    cursor.execute(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
        " AND relnamespace = 'public'::regnamespace"
    )
    values: list[str] = []
    for table in [row[0] for row in cursor.fetchall()]:
        cursor.execute(f"SELECT * FROM {table}")
        values += [_as_text(value) for row in cursor.fetchall() for value in row]
    return "\n".join(values)


def _as_text(value: Any) -> str:
    return bytes(value).decode("latin-1") if isinstance(value, memoryview) else str(value)
