"""How the image branch's cost grows with subjects and with the picture, as a plot."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers import Box

SUBJECTS, EDGES, MIDDLE = (1, 2, 4, 8, 16), (32, 48, 64, 96, 128, 192), 64


def strips(count: int) -> list[Box]:
    """Boxes one upon the other over the middle half of the picture."""
    return [(0.25, n / count, 0.75, (n + 1) / count) for n in range(count)]


def scale(
    time_layouts: Callable[[dict[int, Sequence[Box]], int], tuple[dict[int, float], float]],
) -> dict[str, Any]:
    """Times as multiples of the first (subjects) and of 64 x 64 cells (the latent's edge).

    Args:
        time_layouts: boxes by number, cells of the latent's edge -> seconds that each adds to a
            step, and seconds of the plain step.
    """
    of_subjects, _ = time_layouts({count: strips(count) for count in SUBJECTS}, MIDDLE)
    of_edges, of_plain = {}, {}
    for edge in EDGES:
        added, of_plain[edge] = time_layouts({2: strips(2)}, edge)
        of_edges[edge] = added[2]
    return {
        "subjects": {n: seconds / of_subjects[1] for n, seconds in of_subjects.items()},
        "latent": {edge: seconds / of_edges[MIDDLE] for edge, seconds in of_edges.items()},
        "plain step": {edge: seconds / of_plain[MIDDLE] for edge, seconds in of_plain.items()},
        "share": {edge: of_edges[edge] / of_plain[edge] for edge in EDGES},
        "exponent of subjects": exponent(of_subjects),
        "exponent of cells": exponent({e**2: s for e, s in of_edges.items()}),
        "exponent of cells, plain step": exponent({e**2: s for e, s in of_plain.items()}),
    }


def exponent(times: dict[int, float]) -> float:
    """Slope of the line through the logarithms."""
    return float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])


def plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    edges = found["plain step"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    what = f"the plain step (exponent {found['exponent of cells, plain step']:.2f})"
    right.loglog(list(edges), list(edges.values()), "s--", color="tab:orange", label=what)
    for axis, name, grown, label, ticks in (
        (left, "subjects", "subjects", "subjects on half of 64 x 64 cells", (1, 2, 3)),
        (right, "latent", "cells", "cells of the latent's edge, 2 subjects", (0.3, 1, 3, 10, 30)),
    ):
        what = f"MSD Apply adds (exponent {found[f'exponent of {grown}']:.2f})"
        axis.loglog(list(found[name]), list(found[name].values()), "o-", label=what)
        for set_ticks, values in (
            (axis.set_xticks, [int(n) for n in found[name]]),
            (axis.set_yticks, ticks),
        ):
            set_ticks(values, [str(n) for n in values])
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        axis.legend()
    left.set_ylabel("time of 1 subject = 1")
    right.set_ylabel("time of 64 x 64 cells = 1")
    figure.savefig(path, dpi=100)
