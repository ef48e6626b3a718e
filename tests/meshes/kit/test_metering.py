"""How the steps of one event are shared out among its rules."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.metering import Corpus
from meshes.kit.metering import EVENT_STEPS, RULE_STEPS, Meter, OutOfWorkError, share_out


def share(costs: list[int], steps: int) -> tuple[list[int | None], int]:
    """Units that cost so much; the answers are what they cost, None where they were given up."""

    def work(cost: int, meter: Meter) -> int | None:
        meter.charge(cost)
        return cost

    return share_out(costs, steps, work, lambda cost, meter: None)


def test_each_has_an_equal_share_whatever_the_others_do():
    assert share([90, 1_000_000, 90, 1_000_000], 400) == ([90, None, 90, None], 380)


def test_what_cheap_ones_leave_goes_to_dear_ones_in_order():
    assert share([1, 240, 1, 240], 500) == ([1, 240, 1, None], 1 + 125 + 1 + 125 + 240)
    assert share([250, 1, 1, 1], 500) == ([250, 1, 1, 1], 125 + 3 + 250)


def test_one_dear_rule_beside_cheap_ones_has_all_that_a_rule_may_take():
    answers, _ = share([10] * 499 + [RULE_STEPS], EVENT_STEPS)
    assert answers == [10] * 499 + [RULE_STEPS]
    assert share([RULE_STEPS + 1], EVENT_STEPS) == ([None], RULE_STEPS)


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(0, 2_000))
def test_no_more_is_spent_than_there_is(costs, steps):
    answers, spent = share(costs, steps)
    assert spent <= steps
    assert all(answer in (None, cost) for answer, cost in zip(answers, costs, strict=True))
    fair = steps // max(1, len(costs))
    assert all(answer == cost for answer, cost in zip(answers, costs, strict=True) if cost <= fair)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_case_costs_the_same_steps_every_time(seed):
    first, again = ([_steps(case) for case in Corpus(seed).cases(200)] for _ in range(2))
    assert first == again
    assert all(0 < steps <= EVENT_STEPS for steps in first)
    random.seed(seed + 1)
    assert [_steps(case) for case in Corpus(seed).cases(200)] == first


def _steps(case) -> int:
    meter = Meter(EVENT_STEPS)
    try:
        case.run(meter)
    except OutOfWorkError:
        return EVENT_STEPS
    return meter.spent
