"""The trained family, sampled through the nodes: a guard on 32 scenes, and faults that trip it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import lab.microworld.pack  # noqa: F401
from lab.evaluation.cases import CASES, draw_held_out
from lab.evaluation.guard import out_of_bounds
from lab.evaluation.metrics import score
from lab.evaluation.sampling import round_trip, sample
from lab.evaluation.statistics import Scores, mean_and_interval
from lab.host.sampler import Sampler
from lab.microworld import MODELS
from lab.microworld.judge import Judge, load_judge

MASKS = next(case for case in CASES if case.name == "masks")
FEW = 12


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge(MODELS)


@pytest.fixture(scope="module")
def sampler(registry: dict[str, Any]) -> Sampler:
    return Sampler(registry, MODELS)


@pytest.fixture(scope="module")
def measure(judge: Judge, sampler: Sampler) -> Callable[..., Scores]:
    held_out = draw_held_out("two")

    def scores(count: int = FEW, **changes: Any) -> Scores:
        return score(judge, held_out, sample(replace(MASKS, **changes), sampler, count))

    return scores


def test_32_scenes_are_within_the_out_of_bounds(measure: Callable[..., Scores]) -> None:
    assert out_of_bounds(measure(32)) == []


def test_the_judge_knows_the_generator(judge: Judge, sampler: Sampler) -> None:
    held_out = draw_held_out("two")
    drawn = held_out.scenes.picture[:32]
    for pictures in (drawn, round_trip(sampler.vae, drawn)):
        scores = score(judge, held_out, pictures)
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
    assert "confused" in out_of_bounds(measure(masks=False))


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
    assert "iou" in out_of_bounds(measure(grounding=False))


def test_swapped_subjects_trip(
    measure: Callable[..., Scores], sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Sampler.subjects

    def swapped(self: Sampler, *arguments: Any) -> Any:
        subjects = right(self, *arguments)
        first, second = subjects.subjects
        exchanged = (
            replace(first, image_tokens=second.image_tokens),
            replace(second, image_tokens=first.image_tokens),
        )
        return replace(subjects, subjects=exchanged)

    monkeypatch.setattr(Sampler, "subjects", swapped)
    assert {"confused", "confused_colour"} <= set(out_of_bounds(measure()))


def test_sampling_is_repeatable(sampler: Sampler) -> None:
    first, again = (sample(MASKS, sampler, 1) for _ in range(2))
    assert torch.equal(first, again)
