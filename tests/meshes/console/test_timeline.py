"""The ledger and causes in words: pure."""

import pytest

from meshes.console import timeline


@pytest.mark.parametrize(
    ("clause", "words"),
    [
        (
            {"path": "payload.score", "operator": "$gte", "expected": 50, "actual": 12, "found": True},
            "payload.score is 12, wanted: at least 50",
        ),
        (
            {"path": "payload.plan", "operator": "$eq", "expected": "pro", "actual": None, "found": False},
            'payload.plan is missing, wanted: equal to "pro"',
        ),
        (
            {"path": "payload.plan", "operator": "$eq", "expected": "pro", "actual": None, "found": True},
            'payload.plan is null, wanted: equal to "pro"',
        ),
        (
            {"path": "payload.plan", "operator": "$in", "expected": '["a","b"]', "actual": "c", "found": True},
            'payload.plan is "c", wanted: one of ["a","b"]',
        ),
        (
            {"path": "payload.id", "operator": "$exist", "expected": True, "actual": None, "found": False},
            "payload.id is missing, wanted: anything",
        ),
        (
            {"path": "payload.id", "operator": "$exist", "expected": False, "actual": 1, "found": True},
            "payload.id is there, wanted: nothing",
        ),
        (
            {"path": "", "operator": "$or", "expected": '[{"a":1}]', "actual": None, "found": False},
            'wanted: one of [{"a":1}]',
        ),
    ],
)
def test_a_failed_clause_reads_as_a_sentence(clause, words):
    assert timeline.describe_clause(clause) == words


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"result": "matched"}, "Matched; a delivery was made."),
        ({"result": "held", "reason": "paused"}, "Matched; the delivery is held. The connection is paused."),
        ({"result": "held", "reason": "novel_state"}, "Matched; the delivery is held. The connection was novel state."),
        ({"result": "disabled"}, "The rule, or its connection, was out of use."),
        ({"result": "mapping_failed", "reason": "/0: no"}, "Matched, but the mapping failed: /0: no"),
        (
            {"result": "evaluation_limit", "reason": "rule_1: the clause a.b $eq needs more", "steps": 9},
            "It was not decided whether the rule matches: rule_1: the clause a.b $eq needs more",
        ),
        ({"result": "filtered"}, "The filter did not match."),
        ({"result": "expired", "reason": "It was not routed in time."}, "It was not routed in time."),
        ({"result": "from_the_future"}, "from the future"),
        ({}, "unknown"),
    ],
)
def test_every_ledger_entry_reads_as_a_sentence(entry, words):
    assert timeline.describe_entry(entry) == words
