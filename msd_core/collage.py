"""A collage of the subjects: each cut-out in its box."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 0.5


def collage(
    references: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    boxes: Tensor,
    fronts: Sequence[int],
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """The subjects on grey, each in the middle of its box with its aspect ratio kept. A box of no
    area shows nothing.

    Args:
        references: [h, w, 3] in 0..1 of each subject.
        masks: [h, w] in 0..1, where in its reference the subject is; None for all of it.
        boxes: [S, 4], normalised x0, y0, x1, y1.
        fronts: of each subject; higher ones are in front, of the same the smaller boxes.
        height, width: of the collage.
    Returns:
        the collage [height, width, 3], and where the subjects are in it [height, width]
    """
    picture, shown = torch.full((height, width, 3), GREY), torch.zeros(height, width)
    edges = (boxes * torch.tensor([width, height, width, height])).round().int()
    areas = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])
    for n in sorted(range(len(fronts)), key=lambda n: (fronts[n], -int(areas[n]))):
        left, top, right, bottom = (int(edge) for edge in edges[n])
        if left < right and top < bottom:
            part = slice(top, bottom), slice(left, right)
            reference, mask = references[n], masks[n]
            colours, alpha = _fitted(reference, mask, bottom - top, right - left)
            picture[part] = picture[part] * (1 - alpha[..., None]) + colours
            shown[part] = shown[part] * (1 - alpha) + alpha
    return picture.clamp(0, 1), shown.clamp(0, 1)


def _fitted(
    reference: Tensor, mask: Tensor | None, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """A reference in the middle of a box: colours times alpha [height, width, 3], and alpha."""
    h, w = int(reference.shape[0]), int(reference.shape[1])
    alpha = torch.ones(h, w) if mask is None else mask
    # Multiplied first, so that no background comes in at the edges.
    layers = torch.cat([reference * alpha[..., None], alpha[..., None]], -1).movedim(-1, 0)
    scale = min(width / w, height / h)
    size = max(1, int(h * scale)), max(1, int(w * scale))
    layers = F.interpolate(layers[None].float().cpu(), size, mode="bilinear", antialias=True)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    fitted = F.pad(layers[0], (left, width - size[1] - left, top, height - size[0] - top))
    return fitted[:3].movedim(0, -1), fitted[3]
