"""Figures of what is found in a picture: where each subject is, and whose looks it has."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_iou

from lab.evaluation.encoders import Detection, Detector, Dino
from lab.evaluation.made import Made, open_picture
from lab.evaluation.paper import product

COLUMNS = ("dino", "m_dino", "iou", "missed", "confused")
FORBIDDEN = -1e3  # in an assignment, worse than any number of pairs


class Detected:
    """Scores of OWLv2's crops by DINOv2-B.

    Each subject is the crop of its phrase that looks most like its reference, each crop at most one
    subject's. Each slot, the asked box, shows the crop of any phrase that overlaps it most, and in
    it the subject whose reference that looks most like, each in one slot at most. Slots with the
    same box can't be told apart; what they show isn't judged.
    """

    def __init__(self, detector: Detector, dino: Dino) -> None:
        self.detector, self.dino = detector, dino
        self.made_by = {"owlv2": detector.hash, "dinov2": dino.hash}
        self.reference = cache(self._reference)

    def score(self, made: Made) -> dict[str, Any]:
        """Scores by column, and what AP and confusion are computed from.

        Raises ValueError, OSError or RuntimeError: a network can't say.
        """
        picture = open_picture(made.picture)
        phrases = [subject.phrase for subject in made.subjects]
        found = self.detector.find(picture, list(dict.fromkeys(phrases)))
        asked = torch.tensor([subject.box for subject in made.subjects])  # [S, 4]
        alike, overlaps = torch.zeros(len(asked), 0), torch.zeros(len(asked), 0)  # [S, n]
        if found:
            crops = self.dino.pictures([crop(picture, detection) for detection in found])
            references = [self.reference(subject.reference) for subject in made.subjects]
            alike = torch.stack(references) @ crops.T
            overlaps = box_iou(asked, torch.tensor([detection.box for detection in found]))
        named = torch.tensor([[d.phrase == phrase for d in found] for phrase in phrases])
        own = assign(alike, named)
        dino = [0.0 if n is None else float(alike[j, n]) for j, n in enumerate(own)]
        alone = torch.tensor([(asked == box).all(1).sum() == 1 for box in asked])
        shown = shown_subjects(alike, overlaps * alone[:, None])
        confused = [float(s != j) if s else math.nan for j, s in enumerate(shown, 1)]
        return {
            "dino": dino,
            "m_dino": [product(dino)],
            "iou": [0.0 if n is None else float(overlaps[j, n]) for j, n in enumerate(own)],
            "missed": [float(n is None) for n in own],
            "confused": confused if len(asked) > 1 else [math.nan],
            "shown": shown,
            "phrases": phrases,
            "boxes": [list(subject.box) for subject in made.subjects],
            "found_phrases": [detection.phrase for detection in found],
            "found_boxes": [list(detection.box) for detection in found],
            "found_scores": [detection.score for detection in found],
        }

    def _reference(self, path: Path) -> Tensor:
        return self.dino.pictures([open_picture(path)])[0]


def crop(picture: Image.Image, detection: Detection) -> Image.Image:
    """The pixels that a detection touches."""
    x0, y0, x1, y1 = detection.box
    width, height = picture.size
    return picture.crop(
        (
            math.floor(x0 * width),
            math.floor(y0 * height),
            math.ceil(x1 * width),
            math.ceil(y1 * height),
        )
    )


def shown_subjects(alike: Tensor, overlaps: Tensor) -> list[int]:
    """Which subject each slot shows, counted from 1; 0 where nothing is found.

    Args:
        alike: similarities [S, n] of references and crops.
        overlaps: IoU [S, n] of asked boxes and crops.
    """
    in_slots = assign(overlaps, overlaps > 0)
    filled = [j for j, n in enumerate(in_slots) if n is not None]
    of_slots = alike[:, [in_slots[j] for j in filled]].T  # [filled slots, S]
    shown = [0] * len(in_slots)
    for j, subject in zip(filled, assign(of_slots, of_slots == of_slots), strict=True):
        shown[j] = 0 if subject is None else subject + 1
    return shown


def assign(scores: Tensor, allowed: Tensor) -> list[int | None]:
    """A column for each row, each column for one row at most: as many as are allowed, and of those
    the best in all.

    Args:
        scores: [rows, columns]. allowed: [rows, columns] bool.
    """
    chosen: list[int | None] = [None] * len(scores)
    if scores.numel():
        values = np.where(allowed.numpy(), scores.numpy(), FORBIDDEN)
        for row, column in zip(*linear_sum_assignment(values, maximize=True), strict=True):
            if allowed[row, column]:
                chosen[row] = int(column)
    return chosen
