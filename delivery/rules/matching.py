"""Which events a rule wants: its event pattern and its filter. Pure; the seam behind which both live."""

from delivery.rules.clauses import Clause
from delivery.rules.filters import Filter, FilterError, compile_filter
from delivery.rules.patterns import (
    PatternError,
    check_pattern,
    is_event_type,
    matching_patterns,
    odd_pattern,
    pattern_matches,
)

__all__ = [
    "Clause",
    "Filter",
    "FilterError",
    "PatternError",
    "check_pattern",
    "compile_filter",
    "is_event_type",
    "matching_patterns",
    "odd_pattern",
    "pattern_matches",
]
