"""The cases of the micro world's evaluation: held-out scenes, and the ways to sample them."""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

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
OF_FLUX = "small"  # the set of the micro Flux, which draws nothing larger
ADAPTER = "ms_adapter_micro.safetensors"
PROMPT = "the prompt"  # where an input is it
# Inputs of microworld.json, by the titles of its nodes.
EVERYWHERE = {"MSD Apply": {"subjects": ["everywhere", 0]}}
AUTO_LAYOUT = {
    "MSD Auto Layout": {"prompt": PROMPT},
    "MSD Apply": {"subjects": ["auto layout", 0]},
}
FLUX = {"Positive prompt": {"clip": ["flux", 1]}, "Negative prompt": {"clip": ["flux", 1]}}
OWN_TEXTS = "MSD Place References, own texts"


@dataclass(frozen=True)
class Case:
    """One way to get pictures of one set of scenes.

    Attributes:
        weight: of MSD Apply; of every subject where the micro Flux samples.
        full_caption: the prompt names looks, not shapes alone.
        shift: of the boxes, as a fraction of their size.
        inputs: of the workflow, by title and name.
        sampled: else the pictures come from the scenes as drawn.
    """

    name: str
    scenes: str = "two"
    count: int = FEW
    weight: float = 1.0
    full_caption: bool = False
    shift: float = 0.0
    adapter: str = ADAPTER
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    sampled: bool = True


def _placed(model: str) -> dict[str, dict[str, Any]]:
    """Inputs for the micro Flux, from a node of the workflow that gives a model."""
    sampled = {"model": [model, 0], "positive": ["referenced", 0], "scheduler": "simple"}
    return {**FLUX, "KSampler": sampled}


def _placed_with_texts(first_stage: float = 0.0) -> dict[str, dict[str, Any]]:
    """Each subject's phrase in the prompt is its own."""
    texts = {"prompt": PROMPT, "first_stage": first_stage}
    return {**_placed("placed, own texts"), OWN_TEXTS: texts}


CASES = (
    Case("masks", count=MANY),
    Case(
        "without masks",
        count=48,
        adapter="ms_adapter_micro_without_masks.safetensors",
        inputs=EVERYWHERE,
    ),
    Case("masks switched off", count=48, inputs=EVERYWHERE),
    Case("text only", full_caption=True, count=60, weight=0.0),
    Case("no grounding", count=48, inputs={"MSD Ground References": {"use_grounding": False}}),
    Case("three subjects", "three"),
    Case("overlapping", "overlapping"),
    Case("upright 2:3", "upright", count=SOME),
    Case("wide 3:2", "wide", count=SOME),
    Case("shifted boxes, auto layout", shift=0.15, inputs=AUTO_LAYOUT),
    Case("weight 0", weight=0.0),
    Case("weight 0.3", weight=0.3),
    Case("weight 0.6", weight=0.6),
    Case("weight 1.2", weight=1.2),
    Case("shifted boxes, fixed", shift=0.15),
    Case("IP-Adapter, boxes", count=SOME, adapter="ip_adapter_micro.safetensors"),
    Case("MIP-Adapter, names", count=SOME, adapter="mip_adapter_micro.safetensors"),
    Case("not placed", OF_FLUX, SOME, inputs=_placed("flux")),
    Case("placed, text shared", OF_FLUX, SOME, inputs=_placed("placed")),
    Case("placed, own texts", OF_FLUX, SOME, inputs=_placed_with_texts()),
    Case("placed, own texts, first stage 0.1", OF_FLUX, SOME, inputs=_placed_with_texts(0.1)),
    Case("placed, own texts, first stage 0.3", OF_FLUX, SOME, inputs=_placed_with_texts(0.3)),
    Case("the same, weight 2", OF_FLUX, SOME, weight=2.0, inputs=_placed_with_texts(0.3)),
)
AS_DRAWN = "as drawn, "  # and the name of a set
ROUND_TRIP = "VAE round trip, "  # the ceiling of every figure


def drawn_cases(scenes: str, count: int) -> tuple[Case, ...]:
    """What the judge says of a set's scenes themselves."""
    return tuple(
        Case(
            f"{name}{scenes}",
            scenes,
            count,
            inputs={"Save Image": {"images": [node, 0]}},
            sampled=False,
        )
        for name, node in ((AS_DRAWN, "scene"), (ROUND_TRIP, "round trip"))
    )


def line_name(case: Case, i: int) -> str:
    """Of the line of a scene."""
    return f"{case.name}/{case.scenes} {i}"


def read_line_name(name: str) -> tuple[str, str, int]:
    """Case, set and number of a scene.

    Raises ValueError: it isn't the name of such a line.
    """
    found = re.fullmatch(rf"(.+)/({'|'.join(SETS)}) (0|[1-9]\d*)", name)
    if not found or int(found[3]) >= MANY:
        raise ValueError(f"expected a line of the micro world, got one named {name!r}.")
    return found[1], found[2], int(found[3])


@dataclass
class HeldOut:
    """Held-out scenes, with one reference of each subject."""

    scenes: Scenes
    references: Tensor  # [n, MAX_SUBJECTS, 3, h, w]
    means: Tensor  # [n, MAX_SUBJECTS, 3], mean colour of each sprite as drawn
    subjects: int


@cache
def draw_held_out(name: str) -> HeldOut:
    """A set of SETS by name. Training never draws its seeds, nor shows its combinations of shape,
    texture and colour."""
    seed = 4242 + SETS.index(name)
    g = torch.Generator().manual_seed(seed)
    count = 3 if name == "three" else 2
    overlapping = 1.0 if name == "overlapping" else 0.0
    small = name == OF_FLUX
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


def held_out_hash() -> str:
    """Of what is drawn of all sets, as far as pictures of 8 bits show it."""
    content = hashlib.sha256()
    for name in SETS:
        held_out = draw_held_out(name)
        scenes, looks = held_out.scenes, held_out.scenes.looks
        drawn = (scenes.picture, held_out.references, held_out.means, scenes.boxes)
        for values in (*(part * 255 for part in drawn), looks.shape, looks.texture, looks.colour):
            content.update(values.round().int().numpy().tobytes())
        content.update(scenes.background.numpy().tobytes())
    return content.hexdigest()[:16]


def shifted(boxes: Tensor, share: float, seed: int) -> Tensor:
    """Boxes moved by a fraction of their size, each in its own direction, within the picture."""
    angle = torch.rand(boxes.shape[:-1], generator=torch.Generator().manual_seed(seed)) * 6.2832
    move = torch.stack([angle.cos(), angle.sin()], -1) * share * (boxes[..., 2:] - boxes[..., :2])
    low = torch.maximum(move, -boxes[..., :2])
    move = torch.minimum(low, 1 - boxes[..., 2:])
    return (boxes + move.repeat(*[1] * (boxes.ndim - 1), 2)).clamp(0, 1)
