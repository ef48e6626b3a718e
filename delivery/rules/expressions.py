"""JMESPath (https://jmespath.org) as mappings use it: read once when a rule is saved, then evaluated within bounds.

The language has no loops, but projections inside functions, and values named twice in every step, multiply; a one-line
expression could run for hours or fill the memory. So an expression is bounded when it is read, and its evaluation pays
from a meter for every node visited and for everything that a function or a comparison walks, before it is walked.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from jmespath.exceptions import JMESPathError, JMESPathTypeError, LexerError, ParseError
from jmespath.functions import Functions, signature
from jmespath.lexer import Lexer
from jmespath.parser import Parser
from jmespath.visitor import Options, TreeInterpreter

from delivery.rules.patterns import RuleError, misread
from delivery.rules.transforms import PLAIN_TRANSFORMS, ShapingError, join_bounded, kind_of, measure, text_of, to_number
from meshes.kit.metering import Meter, searching_steps
from meshes.kit.spelling import nearest, suggested
from meshes.kit.strictjson import InvalidJson, check_value, text_fault

MAX_LENGTH = 1000
MAX_TOKENS = 200
"""Also bounds how deep the parser, which recurses, can go."""
MAX_DEPTH = 32
STEPS_PER_NODE = 10
STEPS_PER_CALL = 50
ORDERED_PER_STEP = 200
"""Characters of texts that are put in order, or turned around, in a step."""


class Expression:
    """A parsed expression. Threads may share it."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree

    def evaluate(self, context: Any, meter: Meter) -> Any:
        """What the expression finds in `context`, parts of which it shares; None for nothing.

        Raises ShapingError when a function cannot take what it is given, OutOfWorkError.
        """
        try:
            return _Interpreter(meter).visit(self.tree, context)
        except JMESPathTypeError as error:
            expected = " or ".join(error.expected_types)
            raise ShapingError(f"{error.function_name}() takes {expected}, not {error.actual_type}") from None
        except (JMESPathError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
            raise ShapingError("the expression cannot be evaluated on this event") from None


def compile_expression(source: Any) -> Expression:
    """Parse and check an expression. Raises RuleError."""
    if not isinstance(source, str) or not 0 < len(source) <= MAX_LENGTH:
        raise RuleError(f"must be a JMESPath expression of 1 to {MAX_LENGTH:,} characters")
    try:
        tokens = list(_StrictLexer().tokenize(source))
        if len(tokens) > MAX_TOKENS:
            raise RuleError(f"the expression has more than {MAX_TOKENS} words and signs")
        tree = Parser().parse(source).parsed
    except LexerError as error:
        raise RuleError(f"not JMESPath: {error.message} at character {error.lexer_position}") from None
    except ParseError as error:
        raise RuleError(f"not JMESPath: {error.msg} at character {error.lex_position}") from None
    except (JMESPathError, RecursionError):
        raise RuleError("not JMESPath") from None
    _check_tree(tree)
    return Expression(tree)


# --- reading ----------------------------------------------------------------------------------------------------------


class _StrictLexer(Lexer):
    """Refuses what the library's lexer lets pass inside quotes: literals that are not JSON, or not strict JSON."""

    _position: int

    def _consume_literal(self) -> Any:
        start = self._position
        lexeme = self._consume_until("`").replace("\\`", "`")  # type: ignore[attr-defined]  # not in its stubs
        try:
            value = json.loads(lexeme)
            check_value(value)
        except InvalidJson as fault:
            raise LexerError(start, lexeme, f"a literal {fault.message}") from None
        except ValueError:
            raise LexerError(start, lexeme, "a literal between backticks is not JSON") from None
        return {"type": "literal", "value": value, "start": start, "end": start + len(lexeme)}

    def _consume_quoted_identifier(self) -> Any:
        token = super()._consume_quoted_identifier()  # type: ignore[misc]  # not in its stubs
        fault = text_fault(token["value"])
        if fault is not None:
            raise LexerError(token["start"], token["value"], f"a name {fault[1]}")
        return token


def _check_tree(tree: Any) -> None:
    stack = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise RuleError(f"the expression is nested more than {MAX_DEPTH} deep")
        children = [child for child in node["children"] if isinstance(child, dict)]
        if node["type"] == "function_expression":
            _check_call(node["value"], children)
        elif any(child["type"] == "expref" for child in children) or (node is tree and node["type"] == "expref"):
            raise RuleError("& stands only before an argument of map, sort_by, min_by and max_by")
        elif node["type"] == "slice" and node["children"][2] == 0:
            raise RuleError("the step of a slice must not be 0")
        stack.extend((child, depth + 1) for child in children)


def _check_call(name: str, arguments: list[Any]) -> None:
    known = _Functions.FUNCTION_TABLE.get(name)
    if known is None:
        functions = sorted(_Functions.FUNCTION_TABLE)
        near = "" if name in PLAIN_TRANSFORMS else suggested(name, functions)
        if transform := None if near else nearest(name, PLAIN_TRANSFORMS):
            near = f' The transform {transform} is written "transforms": ["{transform}"].'
        known = f"{', '.join(functions)}.{near}"
        raise RuleError(f"unknown function {name}(); known are {known}")
    expected = known["signature"]
    variadic = expected[-1].get("variadic", False)
    if len(arguments) < len(expected) or (len(arguments) > len(expected) and not variadic):
        raise RuleError(f"{name}() takes {len(expected)}{' or more' if variadic else ''} arguments")
    for index, argument in enumerate(arguments):
        wanted = expected[min(index, len(expected) - 1)]["types"] == ["expref"]
        if wanted is not (argument["type"] == "expref"):
            raise RuleError(f"argument {index + 1} of {name}() must {'' if wanted else 'not '}begin with &")


# --- evaluation -------------------------------------------------------------------------------------------------------


class _Interpreter(TreeInterpreter):
    """The library's interpreter, paying from a meter."""

    def __init__(self, meter: Meter) -> None:
        super().__init__(Options(custom_functions=_Functions(meter)))
        self.meter = meter

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self.meter.charge(STEPS_PER_NODE)
        return super().visit(node, *args, **kwargs)

    def visit_comparator(self, node: Any, value: Any) -> Any:
        """As in the library, but paid for, and null instead of an exception when a string meets a number."""
        self.meter.charge(STEPS_PER_NODE)
        left, right = (self.visit(child, value) for child in node["children"])
        compare = self.COMPARATOR_FUNC[node["value"]]
        if compare in _EQUALITY:
            if type(left) is type(right):
                self.meter.charge(measure(left, self.meter) // 1_000)
            return compare(left, right)
        if isinstance(left, str) and isinstance(right, str):
            self.meter.charge(min(len(left), len(right)) // ORDERED_PER_STEP)
            return compare(left, right)
        are_numbers = all(isinstance(side, (int, float)) and not isinstance(side, bool) for side in (left, right))
        return compare(left, right) if are_numbers else None

    def visit_flatten(self, node: Any, value: Any) -> Any:
        base = self.visit(node["children"][0], value)
        if not isinstance(base, list):
            return None
        self.meter.charge(sum(len(member) if isinstance(member, list) else 1 for member in base))
        flat = []
        for member in base:
            flat.extend(member if isinstance(member, list) else [member])
        return flat

    def visit_slice(self, node: Any, value: Any) -> Any:
        if isinstance(value, list):
            self.meter.charge(len(value))
        return super().visit_slice(node, value)


_EQUALITY = (TreeInterpreter.COMPARATOR_FUNC["eq"], TreeInterpreter.COMPARATOR_FUNC["ne"])


_UNWEIGHED = frozenset({"abs", "ceil", "ends_with", "floor", "length", "not_null", "starts_with", "to_array", "type"})
"""Functions that look at their arguments, but not into them."""


_WALKING = frozenset({"contains", "max", "max_by", "min", "min_by", "reverse"})
"""Functions that go through texts, too, where arguments or their members are such."""


class _Functions(Functions):
    """The library's functions: each pays for all that lies below its arguments; three behave as our transforms do."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def call_function(self, function_name: str, resolved_args: Iterable[Any]) -> Any:
        arguments = list(resolved_args)
        self.meter.charge(STEPS_PER_CALL)
        for argument in () if function_name in _UNWEIGHED else arguments:
            if argument is None or isinstance(argument, (str, bool, int, float, list, dict)):
                weight = measure(argument, self.meter)
                if function_name.startswith("sort") and isinstance(argument, list):
                    self.meter.charge((weight // ORDERED_PER_STEP + len(argument)) * len(argument).bit_length())
                elif function_name in _WALKING:
                    self.meter.charge(weight // ORDERED_PER_STEP)
        return super().call_function(function_name, arguments)

    @signature({"types": ["array", "string"]}, {"types": []})
    def _func_contains(self, subject: list[Any] | str, search: Any) -> bool:
        if isinstance(subject, str):
            if not isinstance(search, str):
                raise ShapingError(f"contains() finds a string in a string, not {kind_of(search)}")
            self.meter.charge(searching_steps(subject, search))
        return search in subject

    @signature({"types": ["string"]}, {"types": ["array-string"]})
    def _func_join(self, separator: str, words: list[str]) -> str:
        return join_bounded(separator, words, self.meter)

    @signature({"types": []})
    def _func_to_string(self, value: Any) -> str:
        return text_of(value, self.meter)

    @signature({"types": []})
    def _func_to_number(self, value: Any) -> int | float | None:
        try:
            return to_number(value, self.meter)
        except ShapingError:
            return None


FUNCTIONS = _Functions.FUNCTION_TABLE
"""By name, with the types that each takes."""

# --- what it looks at -----------------------------------------------------------------------------------------------

_ALL_CHILDREN = frozenset(
    {
        "multi_select_list", "multi_select_dict", "key_val_pair", "function_expression", "or_expression",
        "and_expression", "not_expression", "comparator",
    }
)  # fmt: skip
"""Nodes whose parts look at what the node itself looks at."""
_WRAPPED = re.compile(r"(?:\{\{\{?|\$\{|#\{|<%=?)\s*(.+?)\s*(?:\}?\}\}|\}|%>)", re.DOTALL)
_STEPS = (
    (re.compile(r"^\$\.?(?=[\w\[])"), ""),
    (re.compile(r"""\[\s*['"]([A-Za-z_]\w*)['"]\s*\]"""), r".\1"),
    (re.compile(r"(?<=[\w\])])(?:\?\.|->|\.{2,}|/)(?=[A-Za-z_])"), "."),
    (re.compile(r"\.(\d+)(?=[.\[]|$)"), r"[\1]"),
    (re.compile(r"^[./](?=[A-Za-z_])"), ""),
)


def paths_from_root(tree: Any) -> Iterator[list[str]]:
    """The names, two at most, by which an expression goes down from the root, for each place where it does."""
    kind, children = tree["type"], [child for child in tree["children"] if isinstance(child, dict)]
    if kind == "field":
        yield [tree["value"]]
    elif kind in _ALL_CHILDREN:
        for child in children:
            yield from paths_from_root(child)
    elif kind == "subexpression":
        chain = children[1:] if children[0]["type"] == "current" else children
        names = [child["value"] for child in chain[:2] if child["type"] == "field"]
        if chain and chain[0]["type"] == "field":
            yield names
        elif chain:
            yield from paths_from_root(chain[0])
    elif children and kind != "expref":  # pipes, projections, slices: what follows looks at what the first part found
        yield from paths_from_root(children[0])


def misread_root(tree: Any) -> str:
    """Why a path of an expression from the root never finds anything; empty where all of them may."""
    return next(filter(None, map(misread, paths_from_root(tree))), "")


def expression_meant(text: str) -> str | None:
    """What JSONPath, JavaScript, templates and paths of filters say in JMESPath: `$.payload.email`,
    `{{payload.email}}`, `payload['email']`, `payload.items.0`; None for others."""
    meant = text.strip()
    if len(meant) > 200:
        return None
    if wrapped := _WRAPPED.fullmatch(meant):
        meant = wrapped[1]
    for step, written in _STEPS:
        meant = step.sub(written, meant)
    if meant == text:
        return None
    try:
        tree = compile_expression(meant).tree
    except RuleError:
        return None
    if not misread_root(tree):
        return meant
    is_path = re.fullmatch(r"[A-Za-z_][\w.]*", meant) and len([*paths_from_root(tree)]) == 1
    return f"payload.{meant}" if is_path else None
