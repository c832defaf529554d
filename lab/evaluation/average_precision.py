"""COCO's average precision of detections against asked boxes, phrases as classes. The values are
torchmetrics'. For their intervals lines are drawn again, which changes how often each counts, but
not which detection is which box: that is found once, by COCO's rule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

from lab.evaluation.score_files import Row
from lab.evaluation.statistics import Interval, draw_groups, quantiles

OVERLAPS = np.linspace(0.5, 0.95, 10)  # IoU of a detection that is right
RECALLS = np.linspace(0, 1, 101)
MAX_FOUND = 100  # detections of a phrase in a picture that count


@dataclass(frozen=True)
class Detections:
    """A phrase in all lines.

    Attributes:
        asked: [lines], how many boxes of it each line asks for.
        lines: [n], the line of each detection, the surest first.
        right: [OVERLAPS, n], whether it is one of the boxes.
    """

    asked: np.ndarray
    lines: np.ndarray
    right: np.ndarray


def average_precision(rows: Sequence[Row], groups: Sequence[str]) -> tuple[Interval, Interval]:
    """AP, and that at an IoU of 0.5.

    Args:
        rows: scores of the set `detected`, of lines that have any.
        groups: of each line; what has the same is drawn together.
    """
    of_line = np.unique(np.asarray(groups), return_inverse=True)[1]
    found = find(rows)
    drawn = [
        weighted_precision(found, np.bincount(picks, minlength=of_line.max() + 1)[of_line])
        for picks in draw_groups(of_line.max() + 1)
    ]
    values = _by_torchmetrics(rows)
    whole, half = (
        (value, *quantiles(np.array(of_draws)))
        for value, of_draws in zip(values, zip(*drawn, strict=True), strict=True)
    )
    return whole, half


def find(rows: Sequence[Row]) -> list[Detections]:
    """Each phrase that any line asks for."""
    found = []
    for phrase in sorted({phrase for row in rows for phrase in row["phrases"]}):
        asked = np.array([row["phrases"].count(phrase) for row in rows])
        parts = [_match(row, phrase) for row in rows]
        scores = np.concatenate([scores for scores, _ in parts])
        lines = np.repeat(np.arange(len(rows)), [len(scores) for scores, _ in parts])
        surest = np.argsort(-scores, kind="stable")
        right = np.concatenate([right for _, right in parts], axis=1)
        found.append(Detections(asked, lines[surest], right[:, surest]))
    return found


def weighted_precision(found: Sequence[Detections], weights: np.ndarray) -> tuple[float, float]:
    """As `average_precision` gives them.

    Args:
        weights: [lines], how often each counts.
    """
    by_phrase = [_by_overlap(each, weights) for each in found if weights @ each.asked]
    means = np.mean(by_phrase, axis=0)
    return float(means.mean()), float(means[0])


def _by_overlap(found: Detections, weights: np.ndarray) -> np.ndarray:
    """[OVERLAPS], a phrase's precision, the mean over recalls."""
    counts = weights[found.lines]
    right = np.cumsum(found.right * counts, axis=1)
    precision = right / np.maximum(np.cumsum(counts), 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = right / (weights @ found.asked)
    means = np.zeros(len(OVERLAPS))
    for n, (reached, of_overlap) in enumerate(zip(recall, precision, strict=True)):
        places = np.searchsorted(reached, RECALLS)
        means[n] = np.append(of_overlap, 0.0)[places].mean()
    return means


def _match(row: Row, phrase: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n] of a line's detections of a phrase, the surest first, and whether each is right
    [OVERLAPS, n]: each takes the box, of those left, that it overlaps most."""
    mine = [n for n, name in enumerate(row["found_phrases"]) if name == phrase]
    mine = sorted(mine, key=lambda n: -row["found_scores"][n])[:MAX_FOUND]
    asked = [box for name, box in zip(row["phrases"], row["boxes"], strict=True) if name == phrase]
    right = np.zeros((len(OVERLAPS), len(mine)), dtype=bool)
    if mine and asked:
        boxes = torch.tensor([row["found_boxes"][n] for n in mine])
        overlaps = box_iou(boxes.double(), torch.tensor(asked).double()).numpy()
        for k, least in enumerate(OVERLAPS):
            left = overlaps.copy()
            for d in range(len(mine)):
                box = int(left[d].argmax())
                if left[d, box] >= least:
                    right[k, d] = True
                    left[:, box] = -1
    return np.array([row["found_scores"][n] for n in mine]), right


def _by_torchmetrics(rows: Sequence[Row]) -> tuple[float, float]:
    import faster_coco_eval  # noqa: F401  (torchmetrics would say less if it is missing)
    from torchmetrics.detection import MeanAveragePrecision

    phrases = sorted({phrase for row in rows for phrase in row["phrases"]})
    numbers = {phrase: number for number, phrase in enumerate(phrases)}
    metric = MeanAveragePrecision(backend="faster_coco_eval")
    for row in rows:
        # COCO's code is for pixels, and IoU doesn't mind.
        found = {
            "boxes": 1000 * torch.tensor(row["found_boxes"]).reshape(-1, 4),
            "scores": torch.tensor(row["found_scores"]),
            "labels": torch.tensor([numbers[p] for p in row["found_phrases"]], dtype=torch.long),
        }
        asked = {
            "boxes": 1000 * torch.tensor(row["boxes"]),
            "labels": torch.tensor([numbers[p] for p in row["phrases"]]),
        }
        metric.update([found], [asked])
    values = metric.compute()
    return float(values["map"]), float(values["map_50"])
