"""Where in the picture each subject acts: coverage of the cells of an attention level
(paper section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def box_coverage(
    boxes: Tensor, height: int, width: int, crop: tuple[float, float, float, float] | None = None
) -> Tensor:
    """Cells that boxes cover: column j is in when floor(x0 * width) <= j < ceil(x1 * width),
    rows alike.

    Touching boxes whose edge lies inside a cell share that cell; a box of zero area covers nothing
    on a cell's edge and one cell off it; what lies outside the picture is cut off; an inverted
    box covers nothing.

    Args:
        boxes: [..., S, 4], x0, y0, x1, y1 as shares of the picture, origin top left.
        height, width: cells of the level.
        crop: the part of the picture that the level shows, as a box; None is all of it.
    Returns:
        bool [..., S, height * width], row-major.
    """
    cells = torch.tensor([width, height, width, height], device=boxes.device)
    if crop is None:
        edges = boxes * cells
    else:
        start = torch.tensor(crop[:2] * 2, dtype=torch.float64, device=boxes.device)
        end = torch.tensor(crop[2:] * 2, dtype=torch.float64, device=boxes.device)
        # Rounded, so that an edge on a cell's edge stays on it through the division.
        edges = ((boxes.double() - start) / (end - start) * cells).round(decimals=4)
    x0, y0, x1, y1 = edges[..., None].unbind(-2)  # each [..., S, 1]
    columns = torch.arange(width, device=boxes.device)
    rows = torch.arange(height, device=boxes.device)
    in_columns = (columns >= x0.floor()) & (columns < x1.ceil())
    in_rows = (rows >= y0.floor()) & (rows < y1.ceil())
    return (in_rows[..., :, None] & in_columns[..., None, :]).flatten(-2)


def mask_coverage(masks: Tensor, height: int, width: int) -> Tensor:
    """Share of each cell that a mask covers; grey masks stay soft.

    Args:
        masks: [S, H, W] in 0..1, the whole picture at any resolution.
        height, width: cells of the level.
    Returns:
        float [S, height * width] in 0..1, row-major.
    """
    cells = F.interpolate(masks[:, None].float().clamp(0, 1), (height, width), mode="area")
    return cells.flatten(1)


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
