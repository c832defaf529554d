"""The cases of the evaluation: held-out scenes, and the ways to sample them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lab.microworld.scenes import (
    MAX_SUBJECTS,
    REFERENCE_SIZE,
    SIZES,
    SMALL_REFERENCE_SIZE,
    SMALL_SIZE,
    Scenes,
    draw_references,
    draw_scenes,
    paint,
)

FEW, SOME, MANY = 32, 100, 200  # scenes
SETS = ("two", "three", "overlapping", "upright", "wide", "small")
WITHOUT_MASKS = "ms_adapter_micro_without_masks.safetensors"


@dataclass(frozen=True)
class Case:
    """One way to sample one set of scenes."""

    name: str
    scenes: str = "two"
    count: int = FEW
    weight: float = 1.0
    masks: bool = True
    grounding: bool = True
    full_caption: bool = False  # and no references
    shift: float = 0.0  # of the boxes, as a fraction of their size
    auto_layout: bool = False
    adapter: str = "ms_adapter_micro.safetensors"


CASES = (
    Case("masks", count=MANY),
    Case("without masks", masks=False, count=48, adapter=WITHOUT_MASKS),
    Case("masks switched off", masks=False, count=48),
    Case("text only", full_caption=True, count=60),
    Case("no grounding", grounding=False, count=48),
    Case("three subjects", "three"),
    Case("overlapping", "overlapping"),
    Case("upright 2:3", "upright", count=SOME),
    Case("wide 3:2", "wide", count=SOME),
    Case("shifted boxes, auto layout", shift=0.15, auto_layout=True),
    Case("weight 0", weight=0.0),
    Case("weight 0.3", weight=0.3),
    Case("weight 0.6", weight=0.6),
    Case("weight 1.2", weight=1.2),
    Case("shifted boxes, fixed", shift=0.15),
    Case("IP-Adapter, boxes", count=SOME, adapter="ip_adapter_micro.safetensors"),
    Case("MIP-Adapter, names", count=SOME, adapter="mip_adapter_micro.safetensors"),
)


@dataclass(frozen=True)
class PlacedCase:
    """One way to sample the scenes "small" by the micro Flux."""

    name: str
    place: bool = True
    own_texts: bool = False  # each subject's phrase in the prompt is its own
    first_stage: float = 0.0
    weight: float = 1.0
    count: int = SOME


PLACED_CASES = (
    PlacedCase("not placed", place=False),
    PlacedCase("placed, text shared"),
    PlacedCase("placed, own texts", own_texts=True),
    PlacedCase("placed, own texts, first stage 0.1", own_texts=True, first_stage=0.1),
    PlacedCase("placed, own texts, first stage 0.3", own_texts=True, first_stage=0.3),
    PlacedCase("the same, weight 2", own_texts=True, first_stage=0.3, weight=2.0),
)


@dataclass
class HeldOut:
    """Held-out scenes, with one reference of each subject."""

    scenes: Scenes
    references: Tensor  # [n, MAX_SUBJECTS, 3, h, w]
    means: Tensor  # [n, MAX_SUBJECTS, 3], mean colour of each sprite as drawn
    subjects: int


def draw_held_out(name: str) -> HeldOut:
    """A set of SETS by name. Training never draws its seeds, nor shows its combinations of shape,
    texture and colour."""
    seed = 4242 + SETS.index(name)
    g = torch.Generator().manual_seed(seed)
    count = 3 if name == "three" else 2
    overlapping = 1.0 if name == "overlapping" else 0.0
    small = name == "small"
    size = (SMALL_SIZE, SMALL_SIZE) if small else SIZES.get(name, SIZES["square"])
    scenes = draw_scenes(MANY, g, size, count, overlapping, evaluation=True)
    looks = scenes.looks.flat()
    n = len(looks.shape)
    references = draw_references(looks, g, SMALL_REFERENCE_SIZE if small else REFERENCE_SIZE)
    whole = torch.tensor([0.05, 0.05, 0.95, 0.95]).expand(n, 4)
    drawn, sprite = paint(torch.zeros(n, 3, 64, 64), whole, torch.zeros(n), looks)
    means = drawn.sum((2, 3)) / sprite.sum((1, 2))[:, None]
    return HeldOut(
        scenes,
        references.unflatten(0, (-1, MAX_SUBJECTS)),
        means.unflatten(0, (-1, MAX_SUBJECTS)),
        count,
    )


def shifted(boxes: Tensor, share: float, seed: int) -> Tensor:
    """Boxes moved by a fraction of their size, each in its own direction, within the picture."""
    angle = torch.rand(boxes.shape[:-1], generator=torch.Generator().manual_seed(seed)) * 6.2832
    move = torch.stack([angle.cos(), angle.sin()], -1) * share * (boxes[..., 2:] - boxes[..., :2])
    low = torch.maximum(move, -boxes[..., :2])
    move = torch.minimum(low, 1 - boxes[..., 2:])
    return boxes + move.repeat(*[1] * (boxes.ndim - 1), 2)
