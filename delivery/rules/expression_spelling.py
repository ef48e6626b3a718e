"""What an expression of another language says in JMESPath: JSONPath, JavaScript, templates, paths of filters."""

import re

from delivery.rules.context import misread, paths_from_root
from delivery.rules.expressions import ExpressionError, compile_expression

_WRAPPED = re.compile(r"(?:\{\{\{?|\$\{|#\{|<%=?)\s*(.+?)\s*(?:\}?\}\}|\}|%>)", re.DOTALL)
_STEPS = (
    (re.compile(r"^\$\.?(?=[\w\[])"), ""),
    (re.compile(r"""\[\s*['"]([A-Za-z_]\w*)['"]\s*\]"""), r".\1"),
    (re.compile(r"(?<=[\w\])])(?:\?\.|->|\.{2,}|/)(?=[A-Za-z_])"), "."),
    (re.compile(r"\.(\d+)(?=[.\[]|$)"), r"[\1]"),
    (re.compile(r"^[./](?=[A-Za-z_])"), ""),
)


def expression_meant(text: str) -> str | None:
    """`$.payload.email`, `{{payload.email}}`, `payload['email']`, `payload.items.0` as JMESPath; None for others."""
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
        paths = list(paths_from_root(compile_expression(meant).tree))
    except ExpressionError:
        return None
    if any(map(misread, paths)):
        return f"payload.{meant}" if len(paths) == 1 and re.fullmatch(r"[A-Za-z_][\w.]*", meant) else None
    return meant
