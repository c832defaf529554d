"""Placed references on trained weights: the micro Flux draws each subject in its box, and doesn't
without the placing. docs/quality_placed.md has its figures on 100 scenes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from measured import Evaluation
from torch import Tensor

from lab.evaluation.cases import CASES
from lab.evaluation.statistics import mean_and_interval

NOT_PLACED, PLACED = (
    next(case for case in CASES if case.name == name)
    for name in ("not placed", "placed, own texts, first stage 0.1")
)
SCENES = 12
MAX_MEAN = {"miss": 0.3, "outside": 0.15, "confused_colour": 0.2, "confused": 0.2}


@pytest.fixture
def out_of_bounds(evaluation: Evaluation) -> Callable[..., set[str]]:
    def measure(case: Any = PLACED) -> set[str]:
        scores = evaluation.scores(replace(case, count=SCENES))
        means = {name: mean_and_interval(scores[name])[0] for name in MAX_MEAN}
        return {name for name, bound in MAX_MEAN.items() if means[name] > bound}

    return measure


def test_subjects_are_in_their_boxes(out_of_bounds: Callable[..., set[str]]) -> None:
    assert not out_of_bounds()


def test_they_are_not_without_placing(out_of_bounds: Callable[..., set[str]]) -> None:
    assert out_of_bounds(NOT_PLACED) == set(MAX_MEAN)


def test_transposed_boxes_trip(
    out_of_bounds: Callable[..., set[str]], pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pack.module("nodes.subjects")
    right = module.box_coverage

    def transposed(boxes: Tensor, *rest: Any) -> Tensor:
        return right(boxes[..., [1, 0, 3, 2]], *rest)

    monkeypatch.setattr(module, "box_coverage", transposed)
    assert out_of_bounds()


def test_swapped_references_trip(
    out_of_bounds: Callable[..., set[str]], pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = pack.module("nodes.sampling.placed_references").Layout
    monkeypatch.setattr(layout, "owners", lambda self, references: [1, 0])
    assert {"confused", "confused_colour"} <= out_of_bounds()
