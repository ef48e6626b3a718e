"""Event types, and the patterns by which rules name them."""

import pytest

from delivery.rules.patterns import EVENT_TYPE, RuleError, check_pattern, pattern_matches


@pytest.mark.parametrize(
    ("pattern", "event_type", "expected"),
    [
        ("lead.created", "lead.created", True),
        ("lead.created", "lead.Created", False),
        ("lead.created", "lead.created.x", False),
        ("lead.*", "lead.created", True),
        ("lead.*", "lead.score.changed", True),
        ("lead.*", "lead", False),
        ("lead.*", "leads.created", False),
        ("lead.score.*", "lead.created", False),
        ("*", "anything", True),
    ],
)
def test_a_pattern_names_a_type_or_its_beginning(pattern, event_type, expected):
    check_pattern(pattern)
    assert pattern_matches(pattern, event_type) is expected


@pytest.mark.parametrize(
    "pattern",
    ["", "lead*", "*.created", "lead.*.x", "**", ".*", "lead created", "lead.\n", "é", "a" * 129, "a" * 127 + ".*"],
)
def test_other_patterns_are_refused(pattern):
    with pytest.raises(RuleError, match="must be an event type"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", True),
        ("A-z_0.9", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("a\n", False),
        ("a b", False),
        ("*", False),
    ],
)
def test_event_types_are_1_to_128_plain_characters(name, expected):
    assert (EVENT_TYPE.fullmatch(name) is not None) is expected
