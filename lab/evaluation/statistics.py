"""Statistics of scores: means, differences and ratios with 95 % bootstrap intervals over scenes."""

import numpy as np

Interval = tuple[float, float, float]  # the value, and the interval's low and high end
DRAWS = 2000


def mean_and_interval(rows: list[list[float]]) -> Interval:
    """Mean over all subjects; NaN doesn't count."""
    values = np.array([np.nanmean(row) if not np.isnan(row).all() else np.nan for row in rows])
    values = values[~np.isnan(values)]
    low, high = _interval(values[_picks(len(values))].mean(1))
    return float(values.mean()), low, high


def ratio(part: list[list[float]], whole: list[list[float]]) -> Interval:
    """Ratio of two means over the scenes of `part`."""
    a, b = (np.array([np.nanmean(row) for row in rows]) for rows in (part, whole[: len(part)]))
    picks = _picks(len(a))
    low, high = _interval(a[picks].mean(1) / b[picks].mean(1))
    return float(a.mean() / b.mean()), low, high


def difference(a: list[list[float]], b: list[list[float]]) -> Interval:
    """Mean of a minus b over the scenes that both have."""
    n = min(len(a), len(b))
    gap = np.array(a[:n]).mean(1) - np.array(b[:n]).mean(1)
    low, high = _interval(gap[_picks(n)].mean(1))
    return float(gap.mean()), low, high


def _picks(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, n, (DRAWS, n))


def _interval(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
