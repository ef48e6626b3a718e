"""Event types, and the patterns by which a rule names them.

A type is 1 to 128 of `A-Z a-z 0-9 _ . -`, by convention nouns and a verb separated by full stops: `lead.created`.
A pattern is

* a type: it matches that type alone, case sensitive;
* a type's beginning and `.*`: `lead.*` matches every type that starts with `lead.`, however many full stops follow,
  so `lead.created` and `lead.score.changed`, but not `lead` nor `leads.created`;
* `*`: it matches every type.
"""

import re

_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class PatternError(ValueError):
    """The text is not an event pattern; the message is for the user."""


def is_event_type(name: str) -> bool:
    """Is `name` a well-formed event type?"""
    return _TYPE.fullmatch(name) is not None


def check_pattern(pattern: str) -> None:
    """Raises PatternError unless `pattern` is a type, a beginning with `.*`, or `*`."""
    beginning = pattern.removesuffix(".*")
    if pattern != "*" and (len(pattern) > 128 or not is_event_type(beginning)):
        words = "must be an event type such as lead.created (1 to 128 of A-Z a-z 0-9 _ . -), lead.* or *"
        meant = _meant(pattern)
        raise PatternError(f"{words}. Did you mean {meant}?" if meant else f"{words}.")


def _meant(pattern: str) -> str:
    """A pattern that is none, as it may be meant; empty where that cannot be told."""
    tidy = re.sub(r"[^A-Za-z0-9_.-]+", "", pattern) if len(pattern) <= 128 else ""
    tidy = re.sub(r"\.{2,}", ".", tidy).strip(".")
    return f"{tidy}.*" if tidy and "*" in pattern else tidy


def odd_pattern(pattern: str) -> str:
    """What to say of full stops that separate nothing, which types may have and hardly ever do; empty where none is."""
    plain = pattern.removesuffix(".*") if pattern != "*" else "x"
    if not (plain.startswith(".") or plain.endswith(".") or ".." in plain):
        return ""
    tidy = re.sub(r"\.{2,}", ".", plain).strip(".") or "lead"
    return f"A full stop separates nothing here. Did you mean {tidy} or {tidy}.*?"


def pattern_matches(pattern: str, event_type: str) -> bool:
    """Does a checked pattern name this event type?"""
    if pattern.endswith("*"):
        return event_type.startswith(pattern[:-1])
    return pattern == event_type


def matching_patterns(event_type: str) -> list[str]:
    """Every pattern that matches this type, so that rules are found by equality: `WHERE event = ANY(…)`.

    `a.b.c` → `a.b.c`, `a.*`, `a.b.*`, `*`; at most 129 of them.
    """
    beginnings = [event_type[:end] for end, character in enumerate(event_type) if character == "." and end]
    return [event_type, *(f"{beginning}.*" for beginning in beginnings), "*"]
