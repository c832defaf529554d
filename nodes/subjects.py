"""What the one wire through the graph carries: the subjects, and what is known of each so far."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from comfy_api.latest import io
from torch import Tensor

from ..msd_core.layout import Window, box_coverage, mask_coverage

MOST_SUBJECTS = 16
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Subject:
    """One subject. Later nodes fill in what earlier ones don't know."""

    phrase: str
    box: Box  # x0, y0, x1, y1 as shares of the picture; all zeros means no box
    weight: float
    photos: Tensor  # [n, H, W, 3] in 0..1, n photos of it
    photo_masks: Tensor | None = None  # [n, H, W], where in its photos the subject is
    region: Tensor | None = None  # [H, W], where in the picture it goes, instead of the box
    features: Tensor | None = None  # [n, P, E], set by MSDEncodeReferences
    image_tokens: Tensor | None = None  # [n, T, C], set by MSDGroundReferences
    prompt_tokens: tuple[int, ...] = ()  # places of its phrase in the prompt, by MSDAutoLayout
    adapter_digest: str | None = None  # of the adapter that made the image tokens

    def coverage(self, height: int, width: int, window: Window | None = None) -> Tensor:
        """Coverage of the cells of one attention level.

        Args:
            height, width: cells of the level.
            window: the part of the latent that the level shows; None is all of it.
        Returns:
            [height * width], bool for a box, float for a region.
        """
        if self.region is not None:
            return mask_coverage(self.region[None], height, width, window)[0]
        return box_coverage(torch.tensor([self.box]), height, width, window)[0]


@dataclass(frozen=True)
class AutoLayoutSettings:
    threshold: float
    start_step: int  # counted from 1
    # [P, C], what the text encoder makes of the prompt that the phrases were found in, its first
    # encoder's channels; one for each that a schedule of it gives. None: every positive text is it.
    texts: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Subjects:
    """All subjects of a picture."""

    subjects: tuple[Subject, ...]
    auto_layout: AutoLayoutSettings | None = None
    size: tuple[int, int] | None = None  # width and height in pixels, as laid out


class Kept:
    """A model's results for the subjects of its last run, so that of several subjects only the
    changed one is computed anew. They go with the model."""

    def __init__(self) -> None:
        self._results: WeakKeyDictionary[Any, OrderedDict[bytes, Tensor]] = WeakKeyDictionary()

    def get(self, model: Any, *made_from: Tensor | str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gave for these, or gives now. It must not be written to."""
        digest = hashlib.blake2b()
        for given in made_from:
            if isinstance(given, str):
                digest.update(given.encode())
                continue
            digest.update(f"{given.dtype}{tuple(given.shape)}".encode())
            digest.update(given.cpu().contiguous().numpy().data)
        results = self._results.setdefault(model, OrderedDict())
        key = digest.digest()
        if key not in results:
            results[key] = make()
        results.move_to_end(key)
        while len(results) > MOST_SUBJECTS:
            results.popitem(last=False)
        return results[key]


# Of a schema: the node shows something on itself. Older hosts show it without being told.
SHOWS_OUTPUT: dict[str, Any] = {}
if "has_intermediate_output" in io.Schema.__dataclass_fields__:
    SHOWS_OUTPUT["has_intermediate_output"] = True

MSDSubjects = io.Custom("MSD_SUBJECTS")
MSDAdapterType = io.Custom("MSD_ADAPTER")
