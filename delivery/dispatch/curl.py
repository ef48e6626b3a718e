"""A request as a command for a shell: to be copied, its masks filled in, and run."""

import re
import shlex
from collections.abc import Iterable

from delivery.models import Attempt

MOST_IN_ARGUMENT = 100_000
"""Bytes of a body that stand in curl's arguments; Linux takes 128 KB in one. More are piped from `printf`, which the
shell runs itself."""
_PLAIN = re.compile(rb"[ !-$&(-,./-\[\]-~]")
"""What stands for itself in the single-quoted format of `printf`: ASCII but for `%`, quote, dash and backslash."""


def of_attempt(attempt: Attempt) -> str | None:
    """The attempt's last request, with its secrets masked; None where its body is not kept whole."""
    if not attempt.request_url or attempt.request_body is None or attempt.request_truncated:
        return None
    body = bytes(attempt.request_body)
    return command(attempt.request_method, attempt.request_url, attempt.request_headers, body)


def command(method: str, url: str, headers: Iterable[Iterable[str]], body: bytes) -> str:
    """A command for a POSIX shell with curl that sends these bytes.

    Headers that curl would add by itself to a body are left out where the request had none. What could not be pasted
    into a terminal, control characters and what is not UTF-8, is written in octal.
    """
    lines = [f"curl --globoff -X {shlex.quote(method)} {shlex.quote(url)}"]
    names = set()
    for name, value in headers:
        names.add(name.lower())
        lines.append(f"-H {shlex.quote(f'{name}: {value}' if value else f'{name};')}")
    if not body and method in ("GET", "HEAD", "DELETE"):
        return " \\\n  ".join(lines)
    if "content-type" not in names:
        lines.append("-H 'content-type:'")
    text = _pasteable(body)
    if text is not None and len(body) <= MOST_IN_ARGUMENT:
        return " \\\n  ".join([*lines, f"--data-raw {shlex.quote(text)}"])
    printed = _octal(body) if text is None else f"%s {shlex.quote(text)}"
    return f"printf {printed} |\n" + " \\\n  ".join([*lines, "--data-binary @-"])


def _pasteable(body: bytes) -> str | None:
    """The body as text, if every character of it can be seen or ends a line."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return text if text.replace("\n", "").isprintable() else None


def _octal(body: bytes) -> str:
    pieces = (chr(byte) if _PLAIN.match(bytes([byte])) else f"\\{byte:03o}" for byte in body)
    return "'" + "".join(pieces) + "'"
