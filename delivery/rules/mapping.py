"""Shape an event for a destination: a mapping is a list of what to write where, data and never code.

    [
      {"to": "properties.email", "from": "payload.lead.email", "transforms": ["trim", "lower"]},
      {"to": "properties.source", "value": "meshes"},
      {"to": "properties.score", "from": "payload.lead.score", "transforms": ["to_number"], "on_error": "skip"}
    ]

`from` is JMESPath over `{event, payload, workspace}`, `value` a literal. The transforms run in order. `escape` names
the markup of the place that the value goes to: every text that `from` takes from the event is escaped for it. What
cannot be made, an expression that finds nothing included, is dealt with by `on_error`: `fail` (the default), `skip` or
`null`. With `skip_blanks` a text of nothing but spaces counts as missing.
The tables are in docs/routing.md.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from connections.providers.markup import ESCAPES, escape_values
from delivery.rules.expression_spelling import expression_meant
from delivery.rules.expressions import Expression, ExpressionError, compile_expression
from delivery.rules.jsonvalues import MAX_SIZE, ShapingError, measure, writing_steps, written_size
from delivery.rules.transforms import OperandError, Transform, compile_transform
from meshes.kit.jsonpaths import join_path, pointer, split_path
from meshes.kit.metering import RULE_STEPS, Meter, stripping_steps
from meshes.kit.spelling import none_of, suggested
from meshes.kit.strictjson import InvalidJson, check_value

MAX_ENTRIES = 200
MAX_TRANSFORMS = 20
MAX_PATH_DEPTH = 8
MAX_SOURCE_SIZE = 65_536
STEPS_PER_ENTRY = 50
STEPS_PER_FAILURE = 80
STEPS_PER_COPY = 100
COPIES = 4
"""The output is written, read again, and written for the delivery and for the database."""

OnError = Literal["fail", "skip", "null"]
_MEMBERS = ("to", "from", "value", "transforms", "on_error", "escape", "skip_blanks")
_ON_ERROR: tuple[OnError, ...] = ("fail", "skip", "null")
_MEANT: dict[str, OnError] = {
    **dict.fromkeys(("ignore", "omit", "drop", "continue", "pass", "leave_out"), "skip"),
    **dict.fromkeys(("raise", "error", "abort", "stop", "throw", "dead_letter"), "fail"),
    **dict.fromkeys(("none", "nil", "empty", "set_null"), "null"),
}
"""What others call it."""


class MappingError(ValueError):
    """A mapping was refused. `pointer` (RFC 6901) leads to the mistake in it, `message` says what is wrong."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(f"{pointer or 'mapping'}: {message}")
        self.pointer = pointer
        self.message = message


class MappingFailed(Exception):  # noqa: N818 - an outcome of an event, not an error of the program
    """An event could not be shaped: `pointer` leads into the mapping, `message` repeats nothing of the event."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(f"{pointer or 'mapping'}: {message}")
        self.pointer = pointer
        self.message = message


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of the output."""

    to: tuple[str, ...]
    source: Expression | None
    literal: Any
    transforms: tuple[Transform, ...]
    on_error: OnError
    escape: str = ""
    skip_blanks: bool = False

    def __str__(self) -> str:
        return f"the mapping's entry to {join_path(self.to)}"


@dataclass(frozen=True, slots=True)
class Mapping:
    """A compiled mapping. Threads may share it."""

    entries: tuple[Entry, ...]

    def apply(self, context: dict[str, Any], meter: Meter | None = None) -> dict[str, Any]:
        """The shaped object, which shares nothing with `context` (`{event, payload, workspace}`).

        Its JSON text in UTF-8, unescaped and without spaces, has at most 262,144 bytes. The same context gives the same
        object. Raises MappingFailed, OutOfWorkError, of which `meter.at` is the entry, and nothing else.
        """
        output: dict[str, Any] = {}
        meter, size, views = Meter(RULE_STEPS) if meter is None else meter, 0, _Views(context)
        for index, entry in enumerate(self.entries):
            meter.at = entry
            meter.charge(STEPS_PER_ENTRY)
            try:
                value, length = _evaluate(entry, views, meter)
            except _EntryFailedError as failure:
                meter.charge(STEPS_PER_FAILURE)
                if entry.on_error == "fail":
                    raise MappingFailed(pointer(index, *failure.tokens), failure.message) from None
                if entry.on_error == "skip":
                    continue
                value, length = None, 0
            size += length
            if size > MAX_SIZE:
                raise _too_large()
            _write(output, entry.to, value)
        meter.charge(STEPS_PER_COPY + COPIES * writing_steps(size))
        return _detach(output)


def compile_mapping(document: Any) -> Mapping:
    """Compile a mapping document. Raises MappingError with a pointer to the mistake."""
    if not isinstance(document, list) or not document:
        raise MappingError("", "must be a list of at least one entry")
    if len(document) > MAX_ENTRIES:
        raise MappingError("", f"has more than {MAX_ENTRIES} entries")
    try:
        check_value(document, max_depth=32, max_keys=10_000)
    except InvalidJson as fault:
        raise MappingError(fault.pointer, fault.message) from None
    if written_size(document) > MAX_SOURCE_SIZE:
        raise MappingError("", f"is longer than {MAX_SOURCE_SIZE // 1024} KB")
    entries = tuple(_compile_entry(entry, index) for index, entry in enumerate(document))
    _check_targets(entries)
    return Mapping(entries)


# --- compiling --------------------------------------------------------------------------------------------------------


def _compile_entry(document: Any, index: int) -> Entry:
    if not isinstance(document, dict):
        raise MappingError(pointer(index), "must be an object")
    for name in document:
        if name not in _MEMBERS:
            raise MappingError(pointer(index, name), f"unknown: {none_of(name, _MEMBERS)}")
    if ("from" in document) is ("value" in document):
        raise MappingError(pointer(index), "needs either from or value")
    return Entry(
        to=_compile_target(document.get("to"), index),
        source=_compile_source(document["from"], index) if "from" in document else None,
        literal=document.get("value"),
        transforms=_compile_transforms(document.get("transforms", []), index),
        on_error=_compile_on_error(document.get("on_error", "fail"), index),
        escape=_compile_escape(document.get("escape", "none"), index),
        skip_blanks=_compile_flag(document.get("skip_blanks", False), index),
    )


def _compile_target(target: Any, index: int) -> tuple[str, ...]:
    if not isinstance(target, str):
        raise MappingError(pointer(index, "to"), "must be a dotted path")
    try:
        path = split_path(target)
    except ValueError as error:
        raise MappingError(pointer(index, "to"), str(error)) from None
    if len(path) > MAX_PATH_DEPTH:
        raise MappingError(pointer(index, "to"), f"a path in the output has at most {MAX_PATH_DEPTH} names")
    return path


def _compile_source(source: Any, index: int) -> Expression:
    try:
        return compile_expression(source)
    except ExpressionError as error:
        meant = expression_meant(source) if isinstance(source, str) else None
        words = f"{error}. Did you mean {meant}?" if meant else str(error)
        raise MappingError(pointer(index, "from"), words) from None


def _compile_transforms(documents: Any, index: int) -> tuple[Transform, ...]:
    if not isinstance(documents, list) or len(documents) > MAX_TRANSFORMS:
        raise MappingError(pointer(index, "transforms"), f"must be a list of at most {MAX_TRANSFORMS} transforms")
    transforms = []
    for position, document in enumerate(documents):
        try:
            transforms.append(compile_transform(document))
        except OperandError as error:
            raise MappingError(pointer(index, "transforms", position, *error.tokens), error.message) from None
    return tuple(transforms)


def _compile_on_error(choice: Any, index: int) -> OnError:
    for known in _ON_ERROR:
        if choice == known:
            return known
    word = choice.casefold() if isinstance(choice, str) and len(choice) <= 32 else ""
    near = f" Did you mean {_MEANT[word]}?" if word in _MEANT else suggested(word, _ON_ERROR)
    raise MappingError(pointer(index, "on_error"), f"must be fail, skip or null (the word).{near}")


def _compile_escape(choice: Any, index: int) -> str:
    if choice == "none":
        return ""
    if isinstance(choice, str) and choice in ESCAPES:
        return choice
    raise MappingError(pointer(index, "escape"), f"must be none, {', '.join(ESCAPES)} (the word)")


def _compile_flag(choice: Any, index: int) -> bool:
    if not isinstance(choice, bool):
        raise MappingError(pointer(index, "skip_blanks"), "must be true or false")
    return choice


def _check_targets(entries: tuple[Entry, ...]) -> None:
    """No entry may write over another: equal paths, or one inside the other."""
    written: dict[tuple[str, ...], int] = {}
    passed: dict[tuple[str, ...], int] = {}
    for index, entry in enumerate(entries):
        beginnings = [entry.to[:length] for length in range(1, len(entry.to))]
        clashes = [written[path] for path in (*beginnings, entry.to) if path in written]
        clashes += [passed[entry.to]] if entry.to in passed else []
        if clashes:
            raise MappingError(pointer(index, "to"), f"writes over what entry {clashes[0]} writes")
        written[entry.to] = index
        passed.update((beginning, index) for beginning in beginnings)


# --- applying ---------------------------------------------------------------------------------------------------------


class _EntryFailedError(Exception):
    """An entry's value could not be made; `tokens` lead from the entry to the part that failed."""

    def __init__(self, message: str, *tokens: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.tokens = tokens


class _Views:
    """An event as entries see it: with its texts escaped, and without the payload's blank ones. Each is made once."""

    def __init__(self, context: dict[str, Any]) -> None:
        self._made: dict[tuple[str, bool], Any] = {("", False): context}

    def of(self, entry: Entry, meter: Meter) -> Any:
        """Raises OutOfWorkError."""
        wanted = (entry.escape, entry.skip_blanks)
        if wanted not in self._made:
            view = self._made[("", False)]
            payload = view.get("payload")
            if entry.skip_blanks and isinstance(payload, dict):
                meter.charge(5 + 6 * len(payload))
                shown = {key: value for key, value in payload.items() if not _is_blank(value, meter)}
                view = {**view, "payload": shown}
            self._made[wanted] = escape_values(view, entry.escape, meter) if entry.escape else view
        return self._made[wanted]


def _is_blank(value: Any, meter: Meter) -> bool:
    if not isinstance(value, str):
        return False
    meter.charge(stripping_steps(value))
    return not value or value.isspace()


def _without_blanks(value: Any, meter: Meter) -> Any:
    """A JSON value without members that are texts of nothing but spaces, however deep; None for such a text."""
    if isinstance(value, (dict, list)):
        meter.charge(5 + 6 * len(value))
    if isinstance(value, dict):
        return {key: _without_blanks(member, meter) for key, member in value.items() if not _is_blank(member, meter)}
    if isinstance(value, list):
        return [_without_blanks(member, meter) for member in value if not _is_blank(member, meter)]
    return None if _is_blank(value, meter) else value


def _evaluate(entry: Entry, views: _Views, meter: Meter) -> tuple[Any, int]:
    """The value of an entry, and its size by `measure`."""
    step: tuple[str | int, ...] = ("value",) if entry.source is None else ("from",)
    try:
        value = entry.literal if entry.source is None else entry.source.evaluate(views.of(entry, meter), meter)
        if entry.skip_blanks:
            value = _without_blanks(value, meter)
        for position, transform in enumerate(entry.transforms):
            step = ("transforms", position)
            if value is not None or transform.takes_null:
                value = transform.shape(value, meter)
        size = measure(value, meter)
    except ShapingError as error:
        raise _EntryFailedError(str(error), *step) from None
    except UnicodeError:
        raise _EntryFailedError("the text cannot be written as UTF-8", *step) from None
    if value is None and entry.source is not None:
        raise _EntryFailedError("found nothing in this event", "from")
    return value, size


def _write(output: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        output = output.setdefault(name, {})
    output[path[-1]] = value


def _detach(output: dict[str, Any]) -> dict[str, Any]:
    """A copy through the text, which is also what its size is told by."""
    try:
        text = json.dumps(output, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if len(text.encode()) > MAX_SIZE:
            raise _too_large()
        copy: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        raise MappingFailed("", "the output is not JSON") from None
    return copy


def _too_large() -> MappingFailed:
    return MappingFailed("", f"the output is larger than {MAX_SIZE // 1024} KB")
