"""The goals of the evaluation, each beside what was measured."""

from collections.abc import Iterator

from lab.evaluation.cases import ROUND_TRIP
from lab.evaluation.judged import COLUMNS
from lab.evaluation.statistics import Interval, Scores, difference, mean_and_interval, ratio

Measured = tuple[str, str, Interval]  # what, its goal, its value


def goals(scores: dict[str, Scores]) -> list[Measured]:
    """All goals for the scores by case; those of a case that wasn't sampled are left out."""
    rows = [*_subjects(scores), *_without_masks(scores), *_grounding(scores), *_text(scores)]
    return [*rows, *_scenes(scores), *_weights(scores), *_auto_layout(scores)]


def _subjects(scores: dict[str, Scores]) -> Iterator[Measured]:
    """Each subject in its box, with its own looks."""
    masks, ceiling = scores["masks"], scores[f"{ROUND_TRIP}two"]
    yield "IoU, share of the VAE round trip's", ">= 97 %", ratio(masks["iou"], ceiling["iou"])
    yield "subjects missed", "0", mean_and_interval(masks["miss"])
    for name, goal in (("shape", ">= 95 %"), ("texture", ">= 85 %")):
        share = ratio(masks[name], ceiling[name])
        yield f"{name} kept, share of the round trip's", goal, share
    confused = "confused with the other subject, by"
    yield f"{confused} mean colour", "<= 2 %", mean_and_interval(masks["confused_colour"])
    yield f"{confused} the judge", "<= 3 %", mean_and_interval(masks["confused"])
    yield "sprite pixels outside the boxes", "<= 0.5 %", mean_and_interval(masks["outside"])


def _without_masks(scores: dict[str, Scores]) -> Iterator[Measured]:
    masks = scores["masks"]
    for case, words, against in (
        ("without masks", "adapter trained and used without masks", "the adapter with masks"),
        ("masks switched off", "same adapter, masks switched off", "masks"),
    ):
        if case in scores:
            other = scores[case]
            by_colour = mean_and_interval(other["confused_colour"])
            yield f"confused, {words}, by mean colour", "reported", by_colour
            yield "the same, by the judge", "reported", mean_and_interval(other["confused"])
            gap = difference(other["confused"], masks["confused"])
            yield f"gap to {against}, by the judge", "reported", gap


def _grounding(scores: dict[str, Scores]) -> Iterator[Measured]:
    if "no grounding" in scores:
        dropped = scores["no grounding"]["shape"]
        words = "named shape in its own box, grounding dropped"
        yield words, "reported", mean_and_interval(dropped)
        gap = difference(scores["masks"]["shape"], dropped)
        yield "gap to grounding kept", "reported", gap


def _text(scores: dict[str, Scores]) -> Iterator[Measured]:
    if "text only" in scores:
        named = mean_and_interval(scores["text only"]["anywhere"])
        yield "text alone: named shape and hue anywhere", ">= 80 %", named


def _scenes(scores: dict[str, Scores]) -> Iterator[Measured]:
    """Harder scenes and other sizes against two subjects on a square."""
    masks, ceiling = scores["masks"], scores[f"{ROUND_TRIP}two"]
    for case, kind in (
        ("three subjects", "three"),
        ("overlapping", "overlapping"),
        ("upright 2:3", "upright"),
        ("wide 3:2", "wide"),
    ):
        if case not in scores:
            continue
        own = scores[f"{ROUND_TRIP}{kind}"]
        for name in ("iou", "shape", "texture"):
            mean, low, high = ratio(scores[case][name], own[name])
            on_square = ratio(masks[name], ceiling[name])[0]
            words = f"{case}: {COLUMNS[name]}, share of round trip, against two on square"
            yield words, ">= -5 points", (mean - on_square, low - on_square, high - on_square)


def _weights(scores: dict[str, Scores]) -> Iterator[Measured]:
    for case in ("weight 0", "weight 0.3", "weight 0.6", "weight 1.2"):
        if case in scores:
            for name in ("shape", "texture", "colour"):
                values = mean_and_interval(scores[case][name])
                yield f"{case}: {name}", "rises with weight", values
            background = mean_and_interval(scores[case]["background"])
            yield f"{case}: background word", ">= 95 %", background
    background = mean_and_interval(scores["masks"]["background"])
    yield "weight 1: background word", ">= 95 %", background


def _auto_layout(scores: dict[str, Scores]) -> Iterator[Measured]:
    if "shifted boxes, auto layout" in scores:
        words = "auto layout, boxes shifted by 15 %: shape and hue anywhere, against true boxes"
        gap = difference(
            scores["shifted boxes, auto layout"]["anywhere"], scores["masks"]["anywhere"]
        )
        yield words, ">= -5 points", gap
