"""Contact sheets of the micro world's pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from lab.evaluation.cases import draw_held_out
from lab.evaluation.made import open_picture
from lab.microworld.scenes import to_pil

SHOWN = 10  # scenes


def draw_sheet(cases: Mapping[str, Sequence[Path]], scenes: str) -> Image.Image:
    """Rows: the references of a set's first scenes, then the pictures of each case with the asked
    boxes.

    Args:
        cases: pictures by case, in the scenes' order.
    """
    held_out, count = draw_held_out(scenes), min(SHOWN, *map(len, cases.values()))
    boxes = held_out.scenes.boxes[:count]
    rows = [held_out.references[:count, j] for j in range(held_out.subjects)]
    for pictures in cases.values():
        shown = torch.stack([to_tensor(open_picture(picture)) for picture in pictures[:count]])
        rows.append(_with_boxes(shown, boxes))
    height = held_out.scenes.picture.shape[-2]
    strips = [
        torch.cat(list(F.interpolate(row, (height, height * row.shape[-1] // row.shape[-2]))), -1)
        for row in rows
    ]
    sheet = torch.cat(strips, -2)
    return to_pil(sheet)


def _with_boxes(pictures: Tensor, boxes: Tensor) -> Tensor:
    """Draw the outlines of boxes [n, S, 4] into their pictures [n, 3, H, W]; returns these."""
    height, width = pictures.shape[-2:]
    colours = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.9, 1.0], [1.0, 0.3, 0.9]])[:, :, None]
    for picture, of_picture in zip(pictures, boxes, strict=True):
        for box, colour in zip(of_picture, colours, strict=False):
            if not box.any():
                continue
            x0, x1 = (round(float(x) * (width - 1)) for x in (box[0], box[2]))
            y0, y1 = (round(float(y) * (height - 1)) for y in (box[1], box[3]))
            picture[:, [y0, y1], x0 : x1 + 1] = colour[..., None]
            picture[:, y0 : y1 + 1, [x0, x1]] = colour[..., None]
    return pictures
