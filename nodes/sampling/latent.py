"""The sampler's latent, and which part of it a call of the model shows: hosts and packs evaluate
areas, context windows and tiles. A tile that nobody announces is found by its content."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...msd_core.coverage import Window

UNKNOWN = -1  # which picture of the batch a row shows


@dataclass
class SampledLatent:
    """The latent [B, C, H, W] or [B, C, T, H, W] of a sampling run."""

    batch: int
    size: tuple[int, int]  # height and width
    values: Tensor | None = None  # while it is evaluated
    window: Window | None = None  # the part of it that the host evaluates; None for all

    def window_of(self, row: Tensor, picture: int, area: Sequence[int]) -> Window | None:
        """The part that a row [C, h, w] or [C, T, h, w] of a call shows, None for all of it.

        Args:
            picture: of the batch, or UNKNOWN.
            area: height, width, top and left of the conditioning's area, zeros without one.
        Raises:
            ValueError: it is no part that can be found.
        """
        height, width = row.shape[-2:]
        evaluated = self.size
        if self.window is not None:
            evaluated = len(self.window.rows), len(self.window.columns)
        corners: set[tuple[int, int]] = set()
        if self.window is None and area[0] and (height, width) == tuple(area[:2]):
            corners = {(area[2], area[3])}
        elif (height, width) == evaluated:
            return self.window
        elif self.values is not None:
            pictures = range(len(self.values)) if picture == UNKNOWN else (picture,)
            corners = {corner for n in pictures for corner in _find(row, self.values[n])}
        if len(corners) != 1:
            raise ValueError(
                f"the model is called with {height} x {width} cells that are neither the sampler's "
                f"{self.size[0]} x {self.size[1]} nor a part of them that can be found, so the "
                "subjects can't be placed in them"
            )
        ((top, left),) = corners
        return Window(range(top, top + height), range(left, left + width), self.size)

    def context_window(self, window: Any, retained: Sequence[int], x: Tensor) -> Window | None:
        """The part that one of the host's context windows shows; None where it isn't what is
        evaluated, since the host leaves the last one in its options.

        Args:
            window: the host's. retained: indices that the host shows in every window.
            x: what is evaluated.
        """
        if self.values is None or self.values.ndim != 4 or window.dim not in (2, 3):
            return None
        height, width = self.values.shape[-2:]
        index = torch.arange(height * width).view(1, 1, height, width)
        shown = window.get_tensor(index, retain_index_list=retained)
        if shown.shape[-2:] != x.shape[-2:] or not torch.equal(
            window.get_tensor(self.values, retain_index_list=retained), x
        ):
            return None
        rows, columns = shown[0, 0, :, 0] // width, shown[0, 0, 0] % width
        return Window(_indices(rows.tolist()), _indices(columns.tolist()), (height, width))


def _find(part: Tensor, whole: Tensor) -> list[tuple[int, int]]:
    """Row and column of the upper left corner wherever a part [..., h, w] occurs in a latent
    [..., H, W]."""
    part, whole = part.flatten(0, -3), whole.flatten(0, -3)
    (channels, height, width), (_, rows, columns) = part.shape, whole.shape
    if channels != len(whole) or height > rows or width > columns:
        return []
    corners = whole[:, : rows - height + 1, : columns - width + 1]
    candidates = (corners == part[:, :1, :1]).all(0).nonzero().tolist()
    return [
        (top, left)
        for top, left in candidates
        if torch.equal(whole[:, top : top + height, left : left + width], part)
    ]


def _indices(given: list[int]) -> Sequence[int]:
    if all(b == a + 1 for a, b in pairwise(given)):
        return range(given[0], given[-1] + 1)
    return tuple(given)
