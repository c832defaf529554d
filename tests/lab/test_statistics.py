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
