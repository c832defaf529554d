"""The contact sheet of sampled pictures."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.microworld.scenes import to_pil


def save_sheet(rows: list[Tensor], path: Path, height: int = 128) -> None:
    """Write rows of pictures [n, 3, H, W] as one picture."""
    strips = [
        torch.cat(list(F.interpolate(row, (height, height * row.shape[-1] // row.shape[-2]))), -1)
        for row in rows
    ]
    width = max(strip.shape[-1] for strip in strips)
    sheet = torch.cat([F.pad(s, (0, width - s.shape[-1]), value=1.0) for s in strips], -2)
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil(sheet).save(path)


def with_boxes(pictures: Tensor, boxes: Tensor) -> Tensor:
    """Pictures [n, 3, H, W] with the outlines of their boxes [n, S, 4] drawn in."""
    pictures = pictures.clone()
    height, width = pictures.shape[-2:]
    colours = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.9, 1.0], [1.0, 0.3, 0.9]])[:, :, None]
    for i, of_picture in enumerate(boxes):
        picture = pictures[i]
        for box, colour in zip(of_picture, colours, strict=False):
            if not box.any():
                continue
            x0, x1 = (round(float(x) * (width - 1)) for x in (box[0], box[2]))
            y0, y1 = (round(float(y) * (height - 1)) for y in (box[1], box[3]))
            picture[:, [y0, y1], x0 : x1 + 1] = colour[..., None]
            picture[:, y0 : y1 + 1, [x0, x1]] = colour[..., None]
    return pictures
