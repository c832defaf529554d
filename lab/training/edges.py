"""The edges of boxes in the cells of the attention, and what helps the resampler to learn them.

A query is 8 pixels wide, and the UNet draws an edge within it only as well as the image tokens say
where it is. The error of the noise alone teaches that only after very many samples.
"""

import math

import torch
from torch import Tensor, nn

from lab.microworld.scenes import SIZES
from msd_core.adapters.resampler import FOURIER_WIDTH, GroundingResampler

# Queries of the finest attention along the edges of the pictures that there are.
CELLS = torch.tensor(sorted({edge / 8 for size in SIZES.values() for edge in size}))
EDGE_NUMBERS = 4 + 8 * len(CELLS)  # see edges_in_cells


def edges_in_cells(boxes: Tensor) -> Tensor:
    """[m, 4] -> [m, EDGE_NUMBERS]: edges, and sine and cosine of their positions in their cells."""
    turns = 2 * math.pi * (boxes[:, None] * CELLS.to(boxes)[:, None]).flatten(1)
    return torch.cat([3 * boxes, turns.sin(), turns.cos()], 1)


def separate_coordinates(resampler: GroundingResampler) -> None:
    """Let three quarters of the hidden units of the grounding start on one coordinate of the box
    each. Functions of one edge are then learned in minutes; from mixed units, not in an hour."""
    first = resampler.latent_proj[0]
    assert isinstance(first, nn.Linear)
    width, units = FOURIER_WIDTH // 4, first.out_features * 3 // 4
    own = torch.arange(units)[:, None] % 4 == torch.arange(FOURIER_WIDTH) % 4
    with torch.no_grad():
        first.weight[:units, -FOURIER_WIDTH:] = torch.randn(own.shape) * own * 3 / width**0.5
        first.weight[:units, :-FOURIER_WIDTH] *= 0.3
        first.bias[:units].uniform_(-1, 1)
