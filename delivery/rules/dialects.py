"""What other dialects write where this one has an operator: signs, and words, however they are joined."""

import json
import re
from collections.abc import Mapping
from typing import Any

SIGNS = {
    ">": "$gt", ">=": "$gte", "=>": "$gte", "≥": "$gte", "⩾": "$gte", "<": "$lt", "<=": "$lte", "=<": "$lte",
    "≤": "$lte", "⩽": "$lte", "=": "$eq", "==": "$eq", "===": "$eq", "!=": "$neq", "!==": "$neq", "<>": "$neq",
    "≠": "$neq", "~": "$regex", "=~": "$regex", "~=": "$regex", "&&": "$and", "||": "$or", "!": "$not",
}  # fmt: skip
WORDS = {
    "eq": "$eq", "equal": "$eq", "equals": "$eq", "equalto": "$eq", "isequalto": "$eq", "ieq": "$eq", "iexact": "$eq",
    "ne": "$neq", "neq": "$neq", "notequal": "$neq", "notequals": "$neq", "notequalto": "$neq", "isnot": "$neq",
    "gt": "$gt", "greater": "$gt", "greaterthan": "$gt", "isgreaterthan": "$gt", "morethan": "$gt",
    "gte": "$gte", "ge": "$gte", "atleast": "$gte", "greaterthanorequal": "$gte", "greaterthanorequals": "$gte",
    "greaterorequal": "$gte", "greaterthanorequalto": "$gte", "greaterequal": "$gte",
    "lt": "$lt", "less": "$lt", "lessthan": "$lt", "islessthan": "$lt", "fewerthan": "$lt",
    "lte": "$lte", "le": "$lte", "atmost": "$lte", "lessthanorequal": "$lte", "lessthanorequals": "$lte",
    "lessorequal": "$lte", "lessthanorequalto": "$lte", "lessequal": "$lte",
    "in": "$in", "isin": "$in", "isoneof": "$in", "oneof": "$in", "anyof": "$in",
    "nin": "$nin", "notin": "$nin", "isnotin": "$nin", "noneof": "$nin",
    "exist": "$exist", "exists": "$exist", "isset": "$exist", "ispresent": "$exist", "isnull": "$exist",
    "startswith": "$startsWith", "beginswith": "$startsWith", "hasprefix": "$startsWith", "prefix": "$startsWith",
    "endswith": "$endsWith", "hassuffix": "$endsWith", "suffix": "$endsWith",
    "contains": "$contains", "icontains": "$contains", "contain": "$contains", "includes": "$contains",
    "regex": "$regex", "regexp": "$regex", "iregex": "$regex", "matches": "$regex", "matchesregex": "$regex",
    "like": "$regex", "ilike": "$regex",
    "and": "$and", "allof": "$and", "or": "$or", "not": "$not",
}  # fmt: skip

_SUFFIX = re.compile(
    r"(?=[\s\S]{1,200}\Z)(.*\w)(?:\s*([<>!]==?|=[<>]|<>|[≥≤≠⩾⩽])|\s+(={1,3}|[<>]|=~|~)|__([a-z_]+)|\s+(gte?|lte?|eq|neq?|ge|le))\s*",
    re.IGNORECASE,
)
"""Of a short name only, for its time is worse than linear."""
_COMPARISON = re.compile(r"\s*([<>!=]=|=[<>]|<>|[≥≤≠⩾⩽]|>|<(?![A-Za-z/!])|\$[A-Za-z]+(?=\s))\s*(\S.*)", re.DOTALL)


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


def read_comparison(text: str) -> tuple[str, str] | None:
    """`>= 50` as the operator and what it is compared with; None for a text that begins with no comparison."""
    found = _COMPARISON.fullmatch(text)
    operator = operator_meant(found[1]) if found else None
    return (operator, found[2].rstrip()) if found and operator else None


_NAMED = frozenset({"field", "path", "key", "property", "attribute", "fact", "lhs", "left", "name"})
_ASKED = frozenset({"op", "operator", "comparison", "comparator", "condition", "predicate", "cmp"})


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
