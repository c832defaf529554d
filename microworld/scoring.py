"""Scores of sampled pictures by the judge, against their references and boxes."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from skimage.measure import label, regionprops
from torch import Tensor

from microworld.evaluation import Evaluation
from microworld.judge import NOTHING, Judge
from microworld.scenes import BACKGROUND_COLOURS, Looks


@dataclass
class Scores:
    """Per scene and subject, in scene order; NaN where a score has no meaning."""

    iou: list[list[float]] = field(default_factory=list)
    miss: list[list[float]] = field(default_factory=list)
    shape: list[list[float]] = field(default_factory=list)
    texture: list[list[float]] = field(default_factory=list)
    colour: list[list[float]] = field(default_factory=list)
    confused: list[list[float]] = field(default_factory=list)  # by the judge
    confused_colour: list[list[float]] = field(default_factory=list)  # by mean colour, no network
    outside: list[list[float]] = field(default_factory=list)  # one a scene
    anywhere: list[list[float]] = field(default_factory=list)  # named shape and hue anywhere
    look_anywhere: list[list[float]] = field(default_factory=list)  # and texture
    background: list[list[float]] = field(default_factory=list)  # one a scene


MISSED = 0.15  # a subject is missed if less of its box than this is sprite
SMALLEST = 160  # pixels of a sprite that counts
RIM = 2  # pixels of a sprite's outline
BRIGHT = 0.45  # every sprite's brightest channel is brighter inside of its outline


def score(judge: Judge, evaluation: Evaluation, pictures: Tensor) -> Scores:
    """Scores of pictures [n, 3, H, W] of the first n scenes of an evaluation."""
    scores, scenes = Scores(), evaluation.scenes
    with torch.no_grad():
        found = judge.sprites(pictures)  # [n, h, w]
        small = F.avg_pool2d(pictures, 2)
        for i, picture in enumerate(pictures):
            _score_scene(scores, judge, evaluation, i, picture, found[i], small[i])
    assert len(scores.iou) == len(pictures) <= len(scenes.boxes)
    return scores


def _score_scene(
    scores: Scores,
    judge: Judge,
    evaluation: Evaluation,
    i: int,
    picture: Tensor,
    found: Tensor,
    small: Tensor,
) -> None:
    subjects = evaluation.subjects
    height, width = found.shape
    boxes, looks = evaluation.scenes.boxes[i, :subjects], evaluation.scenes.looks[i, :subjects]
    cells = (boxes * torch.tensor([width, height, width, height])).round().long()
    verdict = judge.look(picture.expand(subjects, -1, -1, -1), boxes)
    whole = torch.tensor([[0.1, 0.1, 0.9, 0.9]]).expand(subjects, 4)
    wanted = judge.look(evaluation.references[i, :subjects], whole).look
    others = torch.cdist(verdict.look, wanted)  # [S, S], a verdict and each reference's
    rows: dict[str, list[float]] = {
        name: [] for name in ("iou", "miss", "shape", "texture", "colour", "confused_colour")
    }
    confused = (others.argmin(1) != torch.arange(subjects)).float()
    allowed = torch.zeros_like(found)
    for j in range(subjects):
        x0, y0, x1, y1 = cells[j].tolist()
        allowed[max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1] = True
        missed = found[y0:y1, x0:x1].float().mean().item() < MISSED
        near = torch.zeros_like(found)
        near[max(0, y0 - 6) : y1 + 6, max(0, x0 - 6) : x1 + 6] = True
        for k in range(subjects):  # what a neighbour's box holds is the neighbour's
            if k != j:
                a0, b0, a1, b1 = cells[k].tolist()
                near[b0:b1, a0:a1] = False
        near[y0:y1, x0:x1] = True
        sprite = found & near
        rows["miss"].append(float(missed))
        rows["iou"].append(0.0 if missed else _tight_iou(sprite, (x0, y0, x1, y1)))
        rows["shape"].append(float(not missed and verdict.shape[j] == looks.shape[j]))
        rows["texture"].append(float(not missed and verdict.texture[j] == looks.texture[j]))
        rows["colour"].append(float(not missed and verdict.colour[j] == looks.colour[j]))
        if sprite.any():
            mean = small[:, sprite].mean(1)
            nearest = (evaluation.means[i, :subjects] - mean).norm(dim=1).argmin().item()
            rows["confused_colour"].append(float(nearest != j))
        else:
            rows["confused_colour"].append(float("nan"))
    for name, row in rows.items():
        getattr(scores, name).append(row)
    scores.confused.append(confused.tolist())
    total = found.sum().item()
    scores.outside.append([(found & ~allowed).sum().item() / total if total else float("nan")])
    free = small[:, ~found]
    behind = free.mean(1) if free.numel() else torch.zeros(3)
    nearest = (BACKGROUND_COLOURS - behind).norm(dim=1).argmin()
    scores.background.append([float(nearest == evaluation.scenes.background[i])])
    seen = _sprites_anywhere(judge, picture, found)
    scores.anywhere.append(
        [float((int(a.shape), int(a.colour)) in {s[:2] for s in seen}) for a in _each(looks)]
    )
    scores.look_anywhere.append(
        [float((int(a.shape), int(a.colour), int(a.texture)) in seen) for a in _each(looks)]
    )


def _each(looks: Looks) -> list[Looks]:
    return [looks[j] for j in range(len(looks.shape))]


def _tight_iou(sprite: Tensor, box: tuple[int, int, int, int]) -> float:
    """Of the tight box around a sprite with a box, both in cells."""
    rows, columns = sprite.any(1).nonzero(), sprite.any(0).nonzero()
    x0, x1 = columns[0].item(), columns[-1].item() + 1
    y0, y1 = rows[0].item(), rows[-1].item() + 1
    common = max(0, min(x1, box[2]) - max(x0, box[0])) * max(0, min(y1, box[3]) - max(y0, box[1]))
    areas = (x1 - x0) * (y1 - y0) + (box[2] - box[0]) * (box[3] - box[1])
    return common / (areas - common)


def _sprites_anywhere(judge: Judge, picture: Tensor, found: Tensor) -> set[tuple[int, int, int]]:
    """Shape, colour and texture of every sprite. Dark outlines part those that touch."""
    height, width = picture.shape[1:]
    sprite = F.interpolate(found[None, None].float(), (height, width))[0, 0] > 0
    inside = sprite & (picture.amax(0) > BRIGHT)
    boxes = [
        [(x0 - rim) / width, (y0 - rim) / height, (x1 + rim) / width, (y1 + rim) / height]
        for where, rim in ((sprite, 0), (inside, RIM))
        for region in regionprops(label(where.numpy(), connectivity=1))
        if region.area >= SMALLEST
        for y0, x0, y1, x1 in [region.bbox]
    ]
    if not boxes:
        return set()
    verdict = judge.look(picture.expand(len(boxes), -1, -1, -1), torch.tensor(boxes))
    words = torch.stack([verdict.shape, verdict.colour, verdict.texture], 1)
    return {tuple(row) for row in words.tolist() if row[0] != NOTHING}  # type: ignore[misc]


def mean_and_interval(rows: list[list[float]], draws: int = 2000) -> tuple[float, float, float]:
    """Mean over all subjects, and its 95 % bootstrap interval over scenes."""
    values = np.array([np.nanmean(row) if not np.isnan(row).all() else np.nan for row in rows])
    values = values[~np.isnan(values)]
    picks = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def load_judge(models: Path) -> Judge:
    judge = Judge()
    weights = load_file(models / "judge" / "judge.safetensors")
    judge.load_state_dict(
        {k: v.float() if v.dtype == torch.half else v for k, v in weights.items()}
    )
    return judge.eval()


def share(part: list[list[float]], whole: list[list[float]]) -> tuple[float, float, float]:
    """Ratio of two means over the same scenes, with its 95 % bootstrap interval."""
    a, b = (np.array([np.nanmean(row) for row in rows]) for rows in (part, whole[: len(part)]))
    picks = np.random.default_rng(0).integers(0, len(a), (2000, len(a)))
    low, high = np.quantile(a[picks].mean(1) / b[picks].mean(1), [0.025, 0.975])
    return float(a.mean() / b.mean()), float(low), float(high)


def difference(a: list[list[float]], b: list[list[float]]) -> tuple[float, float, float]:
    """Mean of a minus b over the scenes that both have, with its 95 % bootstrap interval."""
    n = min(len(a), len(b))
    gap = np.array(a[:n]).mean(1) - np.array(b[:n]).mean(1)
    picks = np.random.default_rng(0).integers(0, n, (2000, n))
    low, high = np.quantile(gap[picks].mean(1), [0.025, 0.975])
    return float(gap.mean()), float(low), float(high)


# What a sound build never leaves on the first 12 or more scenes of "two" with masks: the least
# or the most that a mean may be. Each fault that the tests inject trips at least one.
AT_LEAST = {"iou": 0.82, "shape": 0.93, "texture": 0.92}
AT_MOST = {"miss": 0.02, "outside": 0.01, "confused_colour": 0.03, "confused": 0.03}


def guard(scores: Scores) -> list[str]:
    """The figures that are out of their bounds."""
    means = {name: mean_and_interval(getattr(scores, name))[0] for name in (*AT_LEAST, *AT_MOST)}
    low = [name for name, bound in AT_LEAST.items() if means[name] < bound]
    return low + [name for name, bound in AT_MOST.items() if means[name] > bound]
