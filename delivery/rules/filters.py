"""Compile a filter: the JSON dialect of Hookdeck and Convoy, checked once when a rule is saved.

    {"payload": {"lead": {"score": {"$gte": 50}}}}          objects lead down by names
    {"payload.lead.score": {"$gte": 50}, "event.type": "lead.created"}      dotted names too; members are joined by and
    {"$or": [{"payload.plan": "pro"}, {"payload.seats": {"$gt": 10}}]}

A literal is `$eq`, an array literal asks that each of its members be there, `{}` matches everything. The table of
answers is in docs/routing.md.

What a filter says and can hardly mean is refused with the right spelling when it comes in, or told as a warning.
Refused is what never holds, or always; a warning is for what may be meant. Only what comes in now is asked, so a filter
from before goes on as it is. Other dialects are known by their signs and words for operators, however they are joined.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from delivery.rules.conditions import Clause, Condition, Group, compare, shorten
from delivery.rules.patterns import CONTEXT, EVENT_TYPE, Note, RuleError, check_document, misread, note, within
from delivery.rules.regexes import compile_regex
from meshes.kit import ids
from meshes.kit.metering import RULE_STEPS, Meter
from meshes.kit.spelling import suggested
from meshes.kit.strictjson import MAX_KEYS, join_path, split_path

MAX_DEPTH = 8
"""Objects inside each other. Lists, of $and or $in, do not count."""
MAX_NESTING = 32
"""Objects and lists inside each other, operands of $eq included."""
MAX_NODES = 200
MAX_LIST = 200
MAX_REGEX_LENGTH = 512
MAX_REGEX_WORK = 60_000
"""What the regular expressions of a new filter may cost to compile, together, in microseconds (`Regex.work`): one is
mostly some hundred, one with `\\pL` two thousand."""
Tokens = tuple[str | int, ...]
Path = tuple[str, ...]
EQUALITIES = ("$eq", "$neq", "$in", "$nin")
ORDERS = ("$gt", "$gte", "$lt", "$lte")
_CONTAINMENTS = ("$startsWith", "$endsWith", "$contains")
OPERATORS = ("$eq", "$neq", *ORDERS, "$in", "$nin", "$exist", *_CONTAINMENTS, "$regex", "$and", "$or", "$not")
"""The names of all."""


class Filter:
    """A compiled filter. Threads may share it."""

    def __init__(self, root: Condition) -> None:
        self.root = root

    def explain(self, context: dict[str, Any], meter: Meter | None = None) -> Clause | None:
        """None if `context` (`{event, payload, workspace}`) matches, else the first clause that failed.

        Raises OutOfWorkError, and nothing else: what cannot be decided is no answer. `meter.at` is then the clause.
        """
        return self.root.explain(context, Meter(RULE_STEPS) if meter is None else meter)

    def matches(self, context: dict[str, Any]) -> bool:
        """Does `context` match? Raises OutOfWorkError."""
        return self.explain(context) is None


def compile_filter(document: Any, max_regex_work: int | None = None, *, folds_addresses: bool = False) -> Filter:
    """Compile a filter document; `{}` matches everything. Raises RuleError with a pointer to the mistake.

    What is stored already is compiled whatever it costs; what comes in has a `max_regex_work`. With `folds_addresses`
    it finds addresses however people have typed them (`conditions.FOLDED`).
    """
    if not isinstance(document, dict):
        raise RuleError("must be an object")
    check_document(document, MAX_NESTING, MAX_KEYS)
    compiler = _Compiler(max_regex_work, folds_addresses)
    return Filter(compiler.read_object(document, (), 0) if document else Group("$and", ()))


def filter_mistakes(document: Any, at: str) -> list[Note]:
    """Why a filter, the member `at` of a body, is refused; empty where it is not."""
    try:
        compile_filter(document, MAX_REGEX_WORK)
    except RuleError as error:
        return [note(error.message, "filter", at, below=error.pointer)]
    found = []
    for tokens, path, operator, operand, _ in _parts_of(document):
        settled = ("event", "type") if path == ("event",) else path
        words = _impossible(settled, operator, operand) if operator else _misspelt(path, settled, operand)
        if words:
            found.append(note(words, "never" if operator else "operator", at, *tokens))
    return found


def filter_warnings(document: Any, at: str) -> list[Note]:
    """What a filter that is not refused says and mostly does not mean."""
    notes = []
    for tokens, path, operator, operand, names in _parts_of(document):
        if operator:
            operands = operand if operator in ("$in", "$nin") else [operand]
            texts = [each for each in operands if isinstance(each, str)]
            found = [("literal", words) for text in texts if (words := _odd_text(operator, text))]
        else:
            found = list(_odd_names(path, names, operand))
        notes += [note(words, rule, at, *tokens) for rule, words in found]
    return notes


class _Compiler:
    """Reads one filter. `path` is where in the event a part looks; `depth` counts the objects around it."""

    def __init__(self, max_regex_work: int | None, folds_addresses: bool) -> None:
        self.max_regex_work = max_regex_work
        self.folds_addresses = folds_addresses
        self.nodes = 0
        self.regex_work: dict[str, int] = {}

    def read(self, document: Any, path: Path, depth: int) -> Condition:
        """A condition on what `path` reaches: an object of fields or operators, or a literal."""
        if isinstance(document, dict):
            return self.read_object(document, path, depth)
        if not path:
            raise RuleError("must be an object of fields or operators")
        if not isinstance(document, list):
            return self.read_operator("$eq", document, path, depth)
        if not document:
            raise RuleError('an empty array says nothing; use {"$eq": []}')
        parts = []
        for index, member in enumerate(document):
            with within(index):
                parts.append(self.read_operator("$eq", member, path, depth))
        return self.join(parts)

    def read_object(self, document: dict[str, Any], path: Path, depth: int) -> Condition:
        if depth + 1 > MAX_DEPTH:
            raise RuleError(f"objects are nested more than {MAX_DEPTH} deep")
        if not document:
            raise RuleError('an empty object says nothing; use {"$exist": true} or {"$eq": {}}')
        if not path and (meant := read_described(document)):
            raise RuleError(f"a filter names the field, then the operator. Did you mean {meant}?")
        operators = sum(name.startswith("$") for name in document)
        if operators not in (0, len(document)):
            raise RuleError("an object holds either operators or fields, not both; join them by $and")
        read = self.read_operator if operators else self.read_field
        parts = []
        for name, inner in document.items():
            with within(name):
                parts.append(read(name, inner, path, depth + 1))
        return self.join(parts)

    def read_field(self, name: str, document: Any, path: Path, depth: int) -> Condition:
        try:
            names = split_path(name)
        except ValueError as error:
            raise RuleError(str(error)) from None
        if not path and names[0] not in CONTEXT:
            raise RuleError(_misread_root(name, names, document))
        return self.read(document, path + names, depth)

    def read_operator(self, name: str, operand: Any, path: Path, depth: int) -> Condition:
        if name in ("$and", "$or"):
            return self.read_group(name, operand, path, depth)
        if name == "$not":
            self.count()
            return Group(name, (self.read(operand, path, depth),), path, shorten(operand))
        if name not in OPERATORS:
            near = f" Did you mean {meant}?" if (meant := operator_meant(name)) else suggested(name, OPERATORS)
            raise RuleError(f"unknown operator; known are {', '.join(OPERATORS)}.{near}")
        if not path:
            raise RuleError("an operator needs a field to look at")
        self.count()
        path = _settle(path)
        _check_operand(name, operand)
        if name == "$regex":
            self.check_regex(operand)
        return compare(path, name, operand, folds_addresses=self.folds_addresses)

    def check_regex(self, pattern: str) -> None:
        try:
            self.regex_work[pattern] = compile_regex(pattern).work
        except ValueError as error:
            raise RuleError(f"not a regular expression of RE2: {error}") from None
        if self.max_regex_work is not None and sum(self.regex_work.values()) > self.max_regex_work:
            raise RuleError(
                "the regular expressions of the filter are too large together; shorten their counts ({1,255}), "
                r"or write fewer classes such as \pL"
            )

    def read_group(self, name: str, operand: Any, path: Path, depth: int) -> Condition:
        if not isinstance(operand, list) or not operand:
            raise RuleError("takes a list of at least one condition")
        parts = []
        for index, part in enumerate(operand):
            with within(index):
                parts.append(self.read(part, path, depth))
        if name == "$and":
            return self.join(parts)
        self.count()
        return Group(name, tuple(parts), path, shorten(operand))

    def join(self, parts: list[Condition]) -> Condition:
        if len(parts) == 1:
            return parts[0]
        self.count()
        return Group("$and", tuple(parts))

    def count(self) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise RuleError(f"the filter has more than {MAX_NODES} conditions and groups")


def _settle(path: Path) -> Path:
    """The path that a test looks at. `event` alone is short for its type; the rest must be something that is there."""
    root, *below = path
    known = CONTEXT[root]
    if known is None or (len(below) == 1 and below[0] in known):
        return path
    if root == "event" and not below:
        return (*path, "type")
    raise RuleError(misread(path) or f"{root} has the members {', '.join(known)}.")


def _misread_root(name: str, path: Path, document: Any) -> str:
    """Why a member of the whole filter is none, and what may be meant: a field, or an operator."""
    operator = operator_meant(name)
    is_group = operator in ("$and", "$or", "$not", "$in", "$nin") and isinstance(document, (dict, list))
    if operator and (is_group or sign_meant(name)):
        needs = "" if operator in ("$and", "$or", "$not") else " An operator needs a field to look at."
        return f"{name.strip()} is no operator. Did you mean {operator}?{needs}"
    needs = f" The operator {operator} needs a field to look at." if operator else ""
    return misread(path) + needs


def _check_operand(name: str, operand: Any) -> None:
    """Raises RuleError for what an operator does not take; `$eq` and `$neq` take anything."""
    if name in ("$in", "$nin"):
        if not isinstance(operand, list) or not 0 < len(operand) <= MAX_LIST:
            raise RuleError(f"takes a list of 1 to {MAX_LIST} values")
        for index, member in enumerate(operand):
            if isinstance(member, (dict, list)):
                raise RuleError("must be a string, a number, true, false or null", index)
    elif name in ORDERS and (isinstance(operand, bool) or not isinstance(operand, (int, float, str))):
        raise RuleError("takes a number or a string")
    elif name == "$exist" and not isinstance(operand, bool):
        raise RuleError("takes true or false")
    elif name in ("$startsWith", "$endsWith") and not (isinstance(operand, str) and operand):
        raise RuleError("takes a string of at least one character")
    elif name == "$contains" and isinstance(operand, (dict, list)):
        raise RuleError("takes a string, a number, true, false or null")
    elif name == "$regex" and not (isinstance(operand, str) and 0 < len(operand) <= MAX_REGEX_LENGTH):
        raise RuleError(f"takes a regular expression of 1 to {MAX_REGEX_LENGTH} characters")


# --- other dialects -------------------------------------------------------------------------------------------------

SIGNS = {
    ">": "$gt", ">=": "$gte", "=>": "$gte", "≥": "$gte", "⩾": "$gte", "<": "$lt", "<=": "$lte", "=<": "$lte",
    "≤": "$lte", "⩽": "$lte", "=": "$eq", "==": "$eq", "===": "$eq", "!=": "$neq", "!==": "$neq", "<>": "$neq",
    "≠": "$neq", "~": "$regex", "=~": "$regex", "~=": "$regex", "&&": "$and", "||": "$or", "!": "$not",
}  # fmt: skip
WORDS = {
    word: operator
    for operator, words in {
        "$eq": "eq equal equals equalto isequalto ieq iexact",
        "$neq": "ne neq notequal notequals notequalto isnot",
        "$gt": "gt greater greaterthan isgreaterthan morethan",
        "$gte": "gte ge atleast greaterthanorequal greaterthanorequals greaterorequal greaterthanorequalto"
        " greaterequal",
        "$lt": "lt less lessthan islessthan fewerthan",
        "$lte": "lte le atmost lessthanorequal lessthanorequals lessorequal lessthanorequalto lessequal",
        "$in": "in isin isoneof oneof anyof",
        "$nin": "nin notin isnotin noneof",
        "$exist": "exist exists isset ispresent isnull",
        "$startsWith": "startswith beginswith hasprefix prefix",
        "$endsWith": "endswith hassuffix suffix",
        "$contains": "contains icontains contain includes",
        "$regex": "regex regexp iregex matches matchesregex like ilike",
        "$and": "and allof",
        "$or": "or",
        "$not": "not",
    }.items()
    for word in words.split()
}
_SUFFIX = re.compile(
    r"(?=[\s\S]{1,200}\Z)(.*\w)(?:\s*([<>!]==?|=[<>]|<>|[≥≤≠⩾⩽])|\s+(={1,3}|[<>]|=~|~)|__([a-z_]+)"
    r"|\s+(gte?|lte?|eq|neq?|ge|le))\s*",
    re.IGNORECASE,
)
"""Of a short name only, for its time is worse than linear."""
_COMPARISON = re.compile(r"\s*([<>!=]=|=[<>]|<>|[≥≤≠⩾⩽]|>|<(?![A-Za-z/!])|\$[A-Za-z]+(?=\s))\s*(\S.*)", re.DOTALL)
_NAMED = frozenset({"field", "path", "key", "property", "attribute", "fact", "lhs", "left", "name"})
_ASKED = frozenset({"op", "operator", "comparison", "comparator", "condition", "predicate", "cmp"})


def operator_meant(word: str) -> str | None:
    """The operator that a word or a sign of another dialect stands for."""
    bare = word.strip().removeprefix("$")
    return SIGNS.get(bare) or WORDS.get(re.sub(r"[\s_-]", "", bare).casefold())


def sign_meant(word: str) -> str | None:
    """The operator that a sign stands for, which is no name of anything."""
    return SIGNS.get(word.strip())


def read_suffix(name: str) -> tuple[str, str, bool] | None:
    """`score >=`, `score__gte` as the name, the operator, and whether that is a sign; None without one at the end."""
    found = _SUFFIX.fullmatch(name)
    operator = operator_meant(found[2] or found[3] or found[4] or found[5]) if found else None
    return (found[1], operator, bool(found[2] or found[3])) if found and operator else None


def read_described(document: Mapping[str, Any]) -> str | None:
    """`{"field": "payload.score", "op": ">=", "value": 50}` in the form of a filter; None for anything else."""
    by_name = {name.casefold(): value for name, value in document.items()}
    named, asked = _NAMED & by_name.keys(), _ASKED & by_name.keys()
    if not named or not asked:
        return None
    path, word = by_name[min(named)], by_name[min(asked)]
    operator = operator_meant(word) if isinstance(word, str) else None
    field = path if isinstance(path, str) and 0 < len(path) <= 64 else "payload.score"
    rest = [value for name, value in by_name.items() if name not in named | asked]
    operand = rest[0] if operator and len(rest) == 1 and not isinstance(rest[0], (dict, list)) else 50
    return json.dumps({field: {operator or "$gte": operand}}, ensure_ascii=False)


# --- the parts of a filter ------------------------------------------------------------------------------------------


def _parts_of(document: Any, tokens: Tokens = (), path: Path = ()) -> Iterator[tuple[Tokens, Path, str, Any, Path]]:
    """All of a filter that compiles: `(tokens, path, operator, operand, names)` of each operator, a literal being
    `$eq`, and, with an empty operator, of each member that names a field, `names` being what it adds to the path."""
    if isinstance(document, list):
        for index, member in enumerate(document):
            yield (*tokens, index), path, "$eq", member, ()
    elif not isinstance(document, Mapping):
        yield tokens, path, "$eq", document, ()
    else:
        for name, inner in document.items():
            here = (*tokens, name)
            if name in ("$and", "$or"):
                for index, part in enumerate(inner):
                    yield from _parts_of(part, (*here, index), path)
            elif name == "$not":
                yield from _parts_of(inner, here, path)
            elif name.startswith("$"):
                yield here, path, name, inner, ()
            else:
                names = split_path(name)
                yield here, (*path, *names), "", inner, names
                yield from _parts_of(inner, here, (*path, *names))


def _written(path: Path, operator: str, operand: Any) -> str:
    """The filter that is meant; what the user gave is repeated where it is short."""
    short = operand if len(json.dumps(operand, ensure_ascii=False)) <= 60 else "…"
    return json.dumps({join_path(path): {operator: short}}, ensure_ascii=False)


# --- names ----------------------------------------------------------------------------------------------------------

_SUBSCRIPT = re.compile(r"(.+)\[([0-9]*|\*)\]")


def _misspelt(path: Path, settled: Path, operand: Any) -> str:
    """Names that are written like operators: no event has such a member."""
    *before, name = path
    if operator := sign_meant(name):
        return f"{name.strip()} is no operator. Did you mean {operator}?"
    if name in OPERATORS and before:
        return f"An operator has an object of its own. Did you mean {_written(tuple(before), name, operand)}?"
    suffix = read_suffix(name)
    if suffix and suffix[2]:
        return f"{name} is no field. Did you mean {_written((*before, suffix[0]), suffix[1], operand)}?"
    if isinstance(operand, list) and len(operand) > 1 and settled in _TEXTS:
        return f"An array asks that all of it be there. Did you mean {_written(path, '$in', operand)}?"
    return ""


def _odd_names(path: Path, names: Path, operand: Any) -> Iterator[tuple[str, str]]:
    """Names that an event may have, and that mostly are another language's."""
    *before, name = path
    operator = operator_meant(name)
    if operator and len(path) > 2:
        yield "operator", f"This looks at a member {name} of {join_path(before)}. The operator is {operator}."
    elif suffix := read_suffix(name):
        meant = _written((*before, suffix[0]), suffix[1], operand)
        yield "operator", f"This looks at a member {name}. Did you mean {meant}?"
    plain = {each: _plain_names(each) for each in names}
    if odd := next((each for each in names if plain[each] != (each,)), None):
        meant = join_path((*path[: len(path) - len(names)], *(step for each in names for step in plain[each])))
        yield "path", f'This looks at a member that is called "{odd}". Did you mean {meant}?'


def _plain_names(name: str) -> Path:
    """`items[0]` as a path of filters says it: `items.0`; arrays are gone through without a sign for it."""
    plain, steps = name.strip(), []
    while found := _SUBSCRIPT.fullmatch(plain):
        plain = found[1]
        steps += [found[2]] if found[2] not in ("", "*") else []
    return (*(() if plain in ("*", "[]", "[*]") else (plain or name,)), *reversed(steps))


# --- operands -------------------------------------------------------------------------------------------------------

_EXTERNAL_ID = ("workspace", "external_id")
_TEXTS = {
    ("event", "type"), ("event", "id"), ("event", "created_at"), ("workspace", "id"), _EXTERNAL_ID,
    ("workspace", "name"),
}  # fmt: skip


def _impossible(path: Path, operator: str, operand: Any) -> str:
    """Why an operand meets nothing where every event has a value of a known form; empty where it may."""
    if operator == "$exist":
        null = ', null where there is none. Did you mean {"$eq": null}?' if path == _EXTERNAL_ID else "."
        is_impossible = not operand and path in {("payload",), *_TEXTS}
        return f"{join_path(path)} is always there{null}" if is_impossible else ""
    if path == ("payload",):
        is_object = operator in ("$eq", "$neq") and isinstance(operand, dict)
        return "" if is_object else "payload is an object: name a member of it, such as payload.email."
    if path in _TEXTS:
        operands = operand if operator in ("$in", "$nin") else [operand]
        return next(filter(None, (_misfit(path, operator, each) for each in operands)), "")
    return ""


def _misfit(path: Path, operator: str, operand: Any) -> str:
    name = join_path(path)
    if not isinstance(operand, str):
        return "" if operand is None and path == _EXTERNAL_ID else f"{name} is a string, and nothing else."
    if path == ("event", "type") and operator in (*EQUALITIES, *_CONTAINMENTS) and not EVENT_TYPE.fullmatch(operand):
        start = operand.rstrip("*")
        is_beginning = start != operand and EVENT_TYPE.fullmatch(start)
        meant = f' Did you mean {{"$startsWith": "{start}"}}?' if is_beginning else ""
        return f"No event type is or holds {operand[:40]!r}.{meant}"
    if path[1] == "id" and operator in EQUALITIES:
        of_event = path[0] == "event"
        if ids.decode(ids.EVENT if of_event else ids.WORKSPACE, operand) is None:
            other = "" if of_event else " Did you mean workspace.external_id?"
            return f"{operand[:40]!r} is no id of {'an event' if of_event else 'a workspace'}.{other}"
    if path == ("event", "created_at") and operator in ORDERS and not re.match(r"[0-9]{4}(-|\Z)", operand):
        return f'{name} is a text such as "2026-05-01T10:00:00Z", and is ordered as one.'
    return ""


_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_REGEX = re.compile(r"/(.+)/([a-z]*)", re.DOTALL)


def _odd_text(operator: str, text: str) -> str:
    """What to say of a text that another language reads as a comparison, a number or a pattern."""
    if operator not in (*EQUALITIES, *ORDERS):
        return ""
    found = _COMPARISON.fullmatch(text)
    if found and (compared := operator_meant(found[1])):
        rest = found[2].rstrip()
        value = json.loads(rest) if _NUMBER.fullmatch(rest) and not rest.startswith(("0", "-0")) else rest
        meant = json.dumps({compared: value if len(rest) <= 40 else "…"}, ensure_ascii=False)
        return f"This asks for the very text {text[:40]!r}. A comparison is an object: {meant}."
    if operator in ORDERS:
        is_number = _NUMBER.fullmatch(text)
        return f"This orders texts, and no number. A number is written without quotes: {text}." if is_number else ""
    meant = _pattern_meant(text)
    return f"This asks for the very text {text[:40]!r}. Did you mean {meant}?" if meant else ""


def _pattern_meant(text: str) -> str:
    """The operator for a text that reads like a pattern of a shell, of SQL or between slashes."""
    bare = text.strip("*") if "*" in text else text.strip("%") if text.startswith("%") else text
    if bare != text and bare and not set(bare) & set("*%"):
        name = "$startsWith" if text.startswith(bare) else "$endsWith" if text.endswith(bare) else "$contains"
        return json.dumps({name: bare}, ensure_ascii=False) if len(bare) <= 40 else name
    found = _REGEX.fullmatch(text)
    if found and (re.fullmatch("[gimsuy]+", found[2]) or (not found[2] and set(found[1]) & set("^$*+?\\[(|"))):
        regex = f"{'(?i)' if 'i' in found[2] else ''}{found[1]}"
        return json.dumps({"$regex": regex}, ensure_ascii=False) if len(regex) <= 40 else "$regex"
    return ""
