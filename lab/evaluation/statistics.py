"""Statistics of scores: means, differences and ratios with 95 % bootstrap intervals over scenes, or
over the groups that scenes are in."""

from collections.abc import Sequence

import numpy as np

Rows = list[
    list[float]
]  # a row a scene, a value a subject or one alone; NaN where it has no meaning
Scores = dict[str, Rows]  # by column
Interval = tuple[float, float, float]  # the value, and the interval's low and high end
DRAWS = 2000


def mean_and_interval(rows: Rows, groups: Sequence[str] | None = None) -> Interval:
    """Mean over scenes of their means; NaN doesn't count.

    Args:
        groups: of each scene; what has the same is drawn together. None for a group each.
    Returns: NaN where nothing counts.
    """
    values = np.array([np.nanmean(row) if not np.isnan(row).all() else np.nan for row in rows])
    counts = ~np.isnan(values)
    if not counts.any():
        return np.nan, np.nan, np.nan
    names = np.arange(len(values)) if groups is None else np.asarray(groups)
    of_group = np.unique(names[counts], return_inverse=True)[1]
    sums, sizes = np.bincount(of_group, values[counts]), np.bincount(of_group)
    picks = draw_groups(len(sums))
    low, high = quantiles(sums[picks].sum(1) / sizes[picks].sum(1))
    return float(values[counts].mean()), low, high


def ratio(part: Rows, whole: Rows) -> Interval:
    """Ratio of two means over the scenes of `part`."""
    a, b = (np.array([np.nanmean(row) for row in rows]) for rows in (part, whole[: len(part)]))
    picks = draw_groups(len(a))
    low, high = quantiles(a[picks].mean(1) / b[picks].mean(1))
    return float(a.mean() / b.mean()), low, high


def difference(a: Rows, b: Rows) -> Interval:
    """Mean of a minus b over the scenes that both have."""
    n = min(len(a), len(b))
    gap = np.array(a[:n]).mean(1) - np.array(b[:n]).mean(1)
    low, high = quantiles(gap[draw_groups(n)].mean(1))
    return float(gap.mean()), low, high


def draw_groups(n: int) -> np.ndarray:
    """[DRAWS, n], which of n groups each draw has, some more than once; always the same."""
    return np.random.default_rng(0).integers(0, n, (DRAWS, n))


def quantiles(means: np.ndarray) -> tuple[float, float]:
    """The ends of the interval, from the means [DRAWS] of draws."""
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
