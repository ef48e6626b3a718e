"""Compile a filter: the JSON dialect of Hookdeck and Convoy, checked once when a rule is saved.

    {"payload": {"lead": {"score": {"$gte": 50}}}}          objects lead down by names
    {"payload.lead.score": {"$gte": 50}, "event.type": "lead.created"}      dotted names too; members are joined by and
    {"$or": [{"payload.plan": "pro"}, {"payload.seats": {"$gt": 10}}]}

A literal is `$eq`, an array literal asks that each of its members be there, `{}` matches everything. The table of
answers is in docs/routing.md.
"""

from typing import Any

from delivery.rules.conditions import Clause, Condition, Group, compare, preview
from delivery.rules.filter_spelling import (
    OPERATORS,
    ORDERS,
    odd_parts,
    operator_meant,
    parts_of,
    read_described,
    sign_meant,
    spelling_mistake,
)
from delivery.rules.patterns import CONTEXT, Note, RuleError, check_document, misread, within
from delivery.rules.regexes import compile_regex
from meshes.kit.jsonpaths import pointer, split_path
from meshes.kit.metering import RULE_STEPS, Meter
from meshes.kit.spelling import suggested
from meshes.kit.strictjson import MAX_KEYS

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
Path = tuple[str, ...]


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
    """Why a filter, which stands under the member `at` of a body, is refused; empty where it is not."""
    try:
        compile_filter(document, MAX_REGEX_WORK)
    except RuleError as error:
        return [{"pointer": f"{pointer(at)}{error.pointer}", "detail": error.message, "rule": "filter"}]
    found = []
    for tokens, path, operator, operand, _ in parts_of(document):
        if words := spelling_mistake(path, operator, operand):
            rule = "never" if operator else "operator"
            found.append({"pointer": pointer(at, *tokens), "detail": words, "rule": rule})
    return found


def filter_warnings(document: Any, at: str) -> list[Note]:
    """What a filter that is not refused says and mostly does not mean."""
    return [
        {"pointer": pointer(at, *tokens), "detail": words, "rule": rule} for tokens, rule, words in odd_parts(document)
    ]


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
            return Group(name, (self.read(operand, path, depth),), path, preview(operand))
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
        return Group(name, tuple(parts), path, preview(operand))

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
