"""The cells of a grid that each subject covers, by its box or mask (docs/method.md, section 4)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_LINES = 4  # of a pixel, for the inside of a polygon


class Window(NamedTuple):
    """The part of a latent that one call of the model shows: which of its rows and columns."""

    rows: Sequence[int]  # a range where they are consecutive
    columns: Sequence[int]
    latent_size: tuple[int, int]  # height and width of the whole latent


def box_coverage(boxes: Tensor, height: int, width: int, window: Window | None = None) -> Tensor:
    """Cells that boxes cover: column j is in when floor(x0 * width) <= j < ceil(x1 * width),
    rows alike.

    Touching boxes whose edge lies inside a cell share that cell; a box of zero area covers nothing
    on a cell's edge and one cell off it; what lies outside the picture is cut off; an inverted
    box covers nothing.

    Args:
        boxes: [..., S, 4], normalised x0, y0, x1, y1, origin top left.
        height, width: of the grid.
        window: the part of the latent that the grid shows; None is all of it.
    Returns:
        bool [..., S, height * width], row-major.
    """
    rows, columns, (whole_height, whole_width) = window or (None, None, (0, 0))
    in_columns = _axis_coverage(boxes[..., 0::2], width, columns, whole_width)
    in_rows = _axis_coverage(boxes[..., 1::2], height, rows, whole_height)
    return (in_rows[..., :, None] & in_columns[..., None, :]).flatten(-2)


def _axis_coverage(edges: Tensor, cells: int, indices: Sequence[int] | None, whole: int) -> Tensor:
    """bool [..., S, cells] of one axis, from its edges [..., S, 2].

    Args:
        indices: the cells of the whole latent that are shown; None for all.
    """
    if indices is None:
        edges = edges * cells
    else:
        # Rounded, so that an edge on a cell's edge stays on it through the products.
        edges = (edges.double() * whole).round(decimals=4)
        if not isinstance(indices, range):  # a window that wraps around, or leaves cells out
            shown = torch.tensor(indices, device=edges.device)
            inside = (shown < edges[..., 1:]) & (shown + 1 > edges[..., :1])
            pooled = F.adaptive_max_pool1d(inside.double().flatten(0, -2), cells)
            return pooled.view(*inside.shape[:-1], cells) > 0
        edges = ((edges - indices.start) / len(indices) * cells).round(decimals=4)
    index = torch.arange(cells, device=edges.device)
    return (index >= edges[..., :1].floor()) & (index < edges[..., 1:].ceil())


def mask_coverage(masks: Tensor, height: int, width: int, window: Window | None = None) -> Tensor:
    """Share of each cell that a mask covers; grey masks stay soft.

    Args:
        masks: [S, H, W] in 0..1, the whole picture at any resolution.
        height, width: of the grid.
        window: the part of the latent that the grid shows; None is all of it.
    Returns:
        float [S, height * width] in 0..1, row-major.
    """
    masks = masks[:, None].float().clamp(0, 1)
    if window is not None:
        masks = F.interpolate(masks, window.latent_size, mode="area")
        masks = masks[..., list(window.rows), :][..., list(window.columns)]
    return F.interpolate(masks, (height, width), mode="area").flatten(1)


def polygon_mask(points: Sequence[tuple[float, float]], height: int, width: int) -> Tensor:
    """The inside of a polygon as a mask: the share of each pixel that it covers, exact along x and
    of `_LINES` lines a pixel along y. Parts that it goes around several times count once.

    Args:
        points: [P, 2], normalised x, y, origin top left; the last is joined to the first.
        height, width: of the mask.
    Returns:
        float [height, width] in 0..1
    """
    starts = torch.tensor(points, dtype=torch.float64) * torch.tensor([width, height])
    ends = starts.roll(-1, 0)
    x, y = starts.T[..., None]
    end_x, end_y = ends.T[..., None]
    mask = torch.zeros(height, width)
    for line in range(_LINES):
        at = torch.arange(height) + (line + 0.5) / _LINES
        crossed = (y <= at) != (end_y <= at)  # [P, height]
        edge, row = crossed.nonzero(as_tuple=True)
        crossing = (x + (at - y) / (end_y - y) * (end_x - x))[edge, row].clamp(0, width)
        direction = (end_y > y)[edge, 0].double() * 2 - 1
        pixel = crossing.long()  # `width` at the right edge
        share = crossing - pixel  # of the pixel, left of the crossing
        # How often a place is gone around changes at each crossing; past the last pixel unseen.
        changes = torch.zeros(height, width + 2, dtype=torch.float64)
        changes.index_put_((row, pixel), direction * (1 - share), accumulate=True)
        changes.index_put_((row, pixel + 1), direction * share, accumulate=True)
        mask += changes.cumsum(1)[:, :width].abs().clamp(max=1).float() / _LINES
    return mask


def mask_box(mask: Tensor) -> tuple[float, float, float, float]:
    """Smallest box (x0, y0, x1, y1 in 0..1) around what is at least half as bright as the brightest
    part of a mask [H, W], so that a faint stray pixel doesn't count; all zeros for a black mask."""
    inside = (mask >= mask.max() / 2) & (mask > 0)
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    if len(rows) == 0:
        return 0.0, 0.0, 0.0, 0.0
    height, width = mask.shape
    return (
        columns[0].item() / width,
        rows[0].item() / height,
        (columns[-1].item() + 1) / width,
        (rows[-1].item() + 1) / height,
    )


def crop_box(
    box: tuple[float, float, float, float], part: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """A box of the picture as a part of the picture (a box too) has it; all zeros where the part
    shows nothing of it."""
    width, height = part[2] - part[0], part[3] - part[1]
    x0, x1 = ((min(max(x, part[0]), part[2]) - part[0]) / width for x in box[0::2])
    y0, y1 = ((min(max(y, part[1]), part[3]) - part[1]) / height for y in box[1::2])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else (0.0, 0.0, 0.0, 0.0)


def crop_mask(mask: Tensor, size: tuple[int, int], part: tuple[int, int, int, int]) -> Tensor:
    """A mask of the picture as a part of the picture has it.

    Args:
        mask: [H, W] in 0..1, the whole picture at any resolution.
        size: height and width of the picture in pixels.
        part: x0, y0, x1, y1 in pixels.
    Returns:
        [y1 - y0, x1 - x0] in 0..1
    """
    x0, y0, x1, y1 = part
    return F.interpolate(mask[None, None], size, mode="area")[0, 0, y0:y1, x0:x1]
