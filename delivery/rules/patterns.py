"""What a rule can name: event types by a pattern, places in an event by a path; and how a mistake in it is told.

A type is 1 to 128 of `A-Z a-z 0-9 _ . -`, by convention nouns and a verb separated by full stops: `lead.created`.
A pattern is

* a type: it matches that type alone, case sensitive;
* a type's beginning and `.*`: `lead.*` matches every type that starts with `lead.`, however many full stops follow,
  so `lead.created` and `lead.score.changed`, but not `lead` nor `leads.created`;
* `*`: it matches every type.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from meshes.kit.spelling import nearest, suggested
from meshes.kit.strictjson import InvalidJson, check_value, join_path, pointer

Note = dict[str, str]
"""A mistake or a warning as the API tells it: `{"pointer", "detail", "rule"}`."""
MAX_SOURCE_SIZE = 65_536
"""Of a filter or a mapping, as `written_size` counts."""
EVENT_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,128}")
EVENT_TYPE_WORDS = "An event type is 1 to 128 of A-Z a-z 0-9 _ . and -, as in lead.created."


class RuleError(ValueError):
    """A part of a rule is refused. `pointer` (RFC 6901) leads to the mistake in it; `message` is for the user."""

    def __init__(self, message: str, *tokens: str | int, below: str = "") -> None:
        self.pointer, self.message = pointer(*tokens) + below, message
        super().__init__(f"{self.pointer}: {message}" if self.pointer else message)


def note(detail: str, rule: str, *tokens: str | int, below: str = "") -> Note:
    return {"pointer": pointer(*tokens) + below, "detail": detail, "rule": rule}


@contextmanager
def within(*tokens: str | int) -> Iterator[None]:
    """Put these tokens before the pointer of what is refused inside."""
    try:
        yield
    except RuleError as error:
        raise RuleError(error.message, *tokens, below=error.pointer) from None


def check_document(document: Any, max_depth: int, max_keys: int) -> None:
    """What filters and mappings alike have to be: strict JSON of a bounded size. Raises RuleError."""
    try:
        check_value(document, max_depth=max_depth, max_keys=max_keys)
    except InvalidJson as fault:
        raise RuleError(fault.message, below=fault.pointer) from None
    if written_size(document) > MAX_SOURCE_SIZE:
        raise RuleError(f"is longer than {MAX_SOURCE_SIZE // 1024} KB")


def written_size(document: Any) -> int:
    """About how long a document is: the characters of its names and strings, and 8 for every other value.

    Unlike the length of its text it is the same before and after PostgreSQL's jsonb, which writes 1e300 as 301 digits,
    so a rule that was accepted stays acceptable.
    """
    size, stack = 0, [document]
    while stack:
        current = stack.pop()
        size += len(current) if isinstance(current, str) else 8
        if isinstance(current, dict):
            size += sum(map(len, current))
            stack.extend(current.values())
        elif isinstance(current, list):
            stack.extend(current)
    return size


# --- event types ----------------------------------------------------------------------------------------------------


def check_pattern(pattern: str) -> None:
    """Raises RuleError unless `pattern` is a type, a beginning with `.*`, or `*`."""
    if pattern != "*" and (len(pattern) > 128 or not EVENT_TYPE.fullmatch(pattern.removesuffix(".*"))):
        tidy = re.sub(r"[^A-Za-z0-9_.-]+", "", pattern) if len(pattern) <= 128 else ""
        tidy = re.sub(r"\.{2,}", ".", tidy).strip(".")
        meant = f" Did you mean {tidy}{'.*' if '*' in pattern else ''}?" if tidy else ""
        raise RuleError(
            f"must be an event type such as lead.created (1 to 128 of A-Z a-z 0-9 _ . -), lead.* or *.{meant}"
        )


def odd_pattern(pattern: str) -> str:
    """What to say of full stops that separate nothing, which types may have and hardly ever do; empty where none is."""
    plain = pattern.removesuffix(".*") if pattern != "*" else "x"
    if not (plain.startswith(".") or plain.endswith(".") or ".." in plain):
        return ""
    tidy = re.sub(r"\.{2,}", ".", plain).strip(".") or "lead"
    return f"A full stop separates nothing here. Did you mean {tidy} or {tidy}.*?"


def pattern_matches(pattern: str, event_type: str) -> bool:
    """Does a checked pattern name this event type?"""
    return event_type.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == event_type


# --- places in an event ---------------------------------------------------------------------------------------------

CONTEXT = {"event": ("type", "id", "created_at"), "payload": None, "workspace": ("id", "external_id", "name")}
"""What filters and mappings look at: the roots, with the members that are known."""


def misread(path: Sequence[str]) -> str:
    """Why a path from the root never finds anything, and what may be meant; empty where it may find something.

    Rules are asked about it when they are saved; one that was saved before goes on, and finds nothing there.
    """
    root, *below = path
    if root not in CONTEXT:
        near = nearest(root, CONTEXT)
        meant = join_path([near, *below] if near else ["payload", *path])
        return f"{join_path(path)} begins with none of {', '.join(CONTEXT)}. Did you mean {meant}?"
    known = CONTEXT[root]
    if known is None or not below or below[0] in known:
        return ""
    near = f" Did you mean {join_path(below)}?" if below[0] in CONTEXT else suggested(below[0], known)
    return f"{root} has the members {', '.join(known)}.{near}"
