import pytest

from bench.spread import Spread, percentile, spread, spreads


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_the_nearest_rank(share, expected):
    assert percentile(range(1, 101), share) == expected


def test_there_is_no_percentile_of_nothing():
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)


def test_a_spread_is_the_middle_with_both_ends():
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_a_figure_that_some_runs_lack_is_taken_over_the_others():
    assert spreads([{"a": 1.0, "b": 5.0}, {"a": 3.0}]) == {"a": Spread(2.0, 1.0, 3.0), "b": Spread(5.0, 5.0, 5.0)}
