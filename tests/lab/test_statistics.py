"""Means, differences and ratios of scores, and their intervals."""

import math

import pytest

from lab.evaluation.statistics import difference, mean_and_interval, ratio

NAN = math.nan


def test_nan_does_not_count() -> None:
    mean, low, high = mean_and_interval([[1.0, NAN], [NAN, NAN], [0.0, 1.0]])
    assert mean == 0.75 and 0.5 <= low <= mean <= high <= 1.0


def test_equal_scores_leave_no_interval() -> None:
    assert mean_and_interval([[0.5], [0.5]]) == (0.5, 0.5, 0.5)
    assert ratio([[0.25], [0.25]], [[0.5], [0.5], [9.0]]) == (0.5, 0.5, 0.5)  # of the same scenes
    assert difference([[0.5], [0.5]], [[0.25], [0.25], [9.0]]) == (0.25, 0.25, 0.25)


def test_more_scenes_narrow_the_interval() -> None:
    few, many = ([[float(n % 2)] for n in range(count)] for count in (8, 200))
    widths = [high - low for _, low, high in map(mean_and_interval, (few, many))]
    assert widths[1] < 0.5 * widths[0]
    assert mean_and_interval(many)[0] == pytest.approx(0.5)


def test_groups_are_drawn_together() -> None:
    """Six scenes of a group say no more than one if they are alike: against each drawn alone, and
    against a plain bootstrap."""
    values = [float(n % 2) for n in range(20) for _ in range(6)]
    rows, groups = (
        [[value] for value in values],
        [f"group {n}" for n in range(20) for _ in range(6)],
    )
    mean, low, high = mean_and_interval(rows, groups)
    alone = mean_and_interval(rows)
    assert mean == alone[0] == 0.5
    assert high - low > 2 * (alone[2] - alone[1])
    assert (mean, low, high) == mean_and_interval([[float(n % 2)] for n in range(20)])


def test_groups_of_several_sizes() -> None:
    """The mean is over scenes, and each draw takes whole groups."""
    rows, groups = [[0.0], [0.0], [0.0], [1.0], [NAN]], ["a", "a", "a", "b", "c"]
    mean, low, high = mean_and_interval(rows, groups)
    assert (mean, low, high) == (0.25, 0.0, 1.0)


def test_nothing_that_counts() -> None:
    assert all(map(math.isnan, mean_and_interval([[NAN], [NAN, NAN]])))
