"""Sampling of the evaluation's cases, in the real host through the pack's nodes."""

from typing import Any

import torch
from torch import Tensor

from lab.evaluation.cases import Case, draw_held_out, shifted
from lab.host.sampler import Sampler
from lab.microworld.scenes import SHAPES, caption


def sample(case: Case, sampler: Sampler, count: int) -> Tensor:
    """Pictures [count, 3, H, W] of a case."""
    held_out = draw_held_out(case.scenes)
    scenes, n, pictures = held_out.scenes, held_out.subjects, []
    size = (scenes.picture.shape[-2], scenes.picture.shape[-1])
    for i in range(count):
        text = "a photo of " + caption(
            scenes.looks[i], scenes.boxes[i], int(scenes.background[i]), case.full_caption
        )
        subjects = None
        if not case.full_caption:
            boxes = scenes.boxes[i, :n]
            phrases = [SHAPES[int(shape)] for shape in scenes.looks.shape[i, :n]]
            subjects = sampler.subjects(
                held_out.references[i, :n],
                phrases,
                shifted(boxes, case.shift, i) if case.shift else boxes,
                size,
                case.grounding,
            )
            if case.auto_layout:
                subjects = sampler.auto_layout(subjects, text)
            if not case.masks:
                subjects = sampler.everywhere(subjects)
        pictures.append(sampler.picture(text, size, i, subjects, case.weight))
    return torch.stack(pictures)


def round_trip(vae: Any, pictures: Tensor) -> Tensor:
    """Pictures [n, 3, H, W] through the family's VAE in the host and back: the ceiling of every
    figure."""
    with torch.no_grad():
        decoded = [vae.decode(vae.encode(p[None].movedim(1, -1))) for p in pictures]
    return torch.cat(decoded).movedim(-1, 1).clamp(0, 1)
