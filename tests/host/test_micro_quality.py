"""The trained family, sampled through the nodes: a guard on 32 scenes, and faults that trip it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from measured import Evaluation
from torch import Tensor

from lab.evaluation.cases import CASES, EVERYWHERE, drawn_cases
from lab.evaluation.statistics import Scores, mean_and_interval

MASKS = next(case for case in CASES if case.name == "masks")
FEW = 12
# Of the means over the first 12 or more scenes of "two" with masks. Each mistake that the tests
# inject breaks at least one.
MIN_MEAN = {"iou": 0.82, "shape": 0.93, "texture": 0.92}
MAX_MEAN = {"miss": 0.02, "outside": 0.01, "confused_colour": 0.03, "confused": 0.03}


def out_of_bounds(scores: Scores) -> list[str]:
    """The scores whose means are out of their bounds."""
    means = {name: mean_and_interval(scores[name])[0] for name in (*MIN_MEAN, *MAX_MEAN)}
    low = [name for name, bound in MIN_MEAN.items() if means[name] < bound]
    return low + [name for name, bound in MAX_MEAN.items() if means[name] > bound]


@pytest.fixture
def measure(evaluation: Evaluation) -> Callable[..., Scores]:
    def scores(count: int = FEW, **changes: Any) -> Scores:
        return evaluation.scores(replace(MASKS, count=count, **changes))

    return scores


def test_32_scenes_are_within_the_out_of_bounds(measure: Callable[..., Scores]) -> None:
    assert out_of_bounds(measure(32)) == []


def test_the_judge_knows_the_generator(evaluation: Evaluation) -> None:
    for case in drawn_cases("two", 32):
        scores = evaluation.scores(case)
        assert out_of_bounds(scores) == []
        for name in ("shape", "texture", "colour"):
            assert mean_and_interval(scores[name])[0] > 0.9


def test_transposed_masks_trip(
    measure: Callable[..., Scores], pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pack.module("nodes.subjects")
    right = module.box_coverage

    def transposed(boxes: Tensor, *rest: Any) -> Tensor:
        return right(boxes[..., [1, 0, 3, 2]], *rest)

    monkeypatch.setattr(module, "box_coverage", transposed)
    assert {"iou", "confused"} & set(out_of_bounds(measure()))


def test_missing_masks_trip(measure: Callable[..., Scores]) -> None:
    assert "confused" in out_of_bounds(measure(inputs=EVERYWHERE))


def test_a_layer_table_off_by_one_trips(
    measure: Callable[..., Scores], pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each projection goes to the next cross-attention of the same width, so that every shape
    fits."""
    module = pack.module("nodes.apply")
    right = module.cross_attentions

    def shifted(shapes: Any) -> Any:
        attentions = right(shapes)
        moved = list(attentions)
        for width in {attention.width for attention in attentions}:
            same = [i for i, attention in enumerate(attentions) if attention.width == width]
            for here, after in zip(same, same[1:] + same[:1], strict=True):
                moved[here] = attentions[here]._replace(block=attentions[after].block)
        return moved

    monkeypatch.setattr(module, "cross_attentions", shifted)
    assert out_of_bounds(measure())


def test_dropped_grounding_trips(measure: Callable[..., Scores]) -> None:
    """The tokens no longer say where in its cell an edge lies."""
    assert "iou" in out_of_bounds(
        measure(inputs={"MSD Ground References": {"use_grounding": False}})
    )


def test_swapped_subjects_trip(
    measure: Callable[..., Scores], pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = pack.MSDGroundReferences.execute.__func__

    def swapped(node: Any, *arguments: Any, **inputs: Any) -> Any:
        output = right(node, *arguments, **inputs)
        first, second = output.result[0].subjects
        exchanged = (
            replace(first, image_tokens=second.image_tokens),
            replace(second, image_tokens=first.image_tokens),
        )
        output.args = (replace(output.result[0], subjects=exchanged),)
        return output

    monkeypatch.setattr(pack.MSDGroundReferences, "execute", classmethod(swapped))
    assert {"confused", "confused_colour"} <= set(out_of_bounds(measure()))


def test_sampling_is_repeatable(evaluation: Evaluation) -> None:
    first, again = (evaluation.made(replace(MASKS, count=1)) for _ in range(2))
    assert first[0].picture.read_bytes() == again[0].picture.read_bytes()
