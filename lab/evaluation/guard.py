"""Bounds that a sound build stays within: the tests' guard on the pictures."""

from lab.evaluation.statistics import Scores, mean_and_interval

# Of the means over the first 12 or more scenes of "two" with masks. Each mistake that the tests
# inject breaks at least one.
MIN_MEAN = {"iou": 0.82, "shape": 0.93, "texture": 0.92}
MAX_MEAN = {"miss": 0.02, "outside": 0.01, "confused_colour": 0.03, "confused": 0.03}


def out_of_bounds(scores: Scores) -> list[str]:
    """The scores whose means are out of their bounds."""
    means = {name: mean_and_interval(scores[name])[0] for name in (*MIN_MEAN, *MAX_MEAN)}
    low = [name for name, bound in MIN_MEAN.items() if means[name] < bound]
    return low + [name for name, bound in MAX_MEAN.items() if means[name] > bound]
