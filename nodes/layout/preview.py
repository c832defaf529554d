"""The preview of a layout: a numbered, coloured box for each subject, its reference inside."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...msd_core.collage import collage
from ..images import to_pil, to_tensor
from ..subjects import Subject

# Colours that people with colour blindness tell apart: Okabe and Ito,
# https://jfly.uni-koeln.de/color/
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
LONG_EDGE = 768
_BACKGROUND = 0x20 / 255
_OPACITY = 2 / 3


def draw_layout(
    subjects: Sequence[Subject], fronts: Sequence[int], width: int, height: int
) -> Tensor:
    """IMAGE [1, h, w, 3] of the layout, its longer edge 768 pixels; fronts as of `collage`."""
    scale = LONG_EDGE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    references, shown = draw_collage(subjects, fronts, *size)
    opacity = shown[..., None] * _OPACITY
    picture = to_pil(torch.full_like(references, _BACKGROUND).lerp(references, opacity))
    draw = ImageDraw.Draw(picture)
    font_size = LONG_EDGE // 36
    font, plain = _font(font_size)
    for number, subject in enumerate(subjects, 1):
        colour = COLOURS[(number - 1) % len(COLOURS)]
        x0, y0, x1, y1 = (round(at * edge) for at, edge in zip(subject.box, size * 2, strict=True))
        if subject.region is not None:
            _tint(picture, subject.region, colour)
        if x1 > x0 and y1 > y0:
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=4)
        phrase = " ".join(subject.phrase.split())  # Pillow measures one line at a time
        label = f" {number}  {phrase or '(no phrase)'} "
        if not (x1 > x0 and y1 > y0):
            label += "(no box) "
            x0, y0 = 0, (number - 1) * font_size * 1.5
        if plain:
            label = label.encode("latin-1", "replace").decode("latin-1")
        right = x0 + 4 + draw.textlength(label, font=font)
        draw.rectangle((x0, y0, right, y0 + font_size * 1.5), fill=colour)
        draw.text((x0 + 2, y0 + font_size * 0.15), label, fill="black", font=font)
    return to_tensor(picture)[None]


def draw_collage(
    subjects: Sequence[Subject], fronts: Sequence[int], width: int, height: int
) -> tuple[Tensor, Tensor]:
    """The first reference of each subject in its box, see `collage`."""
    return collage(
        [subject.references[0] for subject in subjects],
        [subject.mask_of_each[0] for subject in subjects],
        torch.tensor([subject.box for subject in subjects]),
        fronts,
        height,
        width,
    )


def _font(size: int) -> tuple[Any, bool]:
    """Pillow's own font, and whether it is the small one, of Pillow before 10.1 or without
    FreeType, which has one size and no letters beyond Latin-1."""
    try:
        return ImageFont.load_default(size), False
    except (TypeError, ImportError):
        return ImageFont.load_default(), True


def first_reference(subject: Subject) -> Image.Image:
    """The first reference of a subject as RGBA, transparent where the subject is not."""
    image, mask = to_pil(subject.references[0]).convert("RGBA"), subject.mask_of_each[0]
    if mask is not None:
        image.putalpha(to_pil(mask))
    return image


def _tint(picture: Image.Image, region: Tensor, colour: str) -> None:
    mask = Image.fromarray((region * 120).round().byte().cpu().numpy()).resize(picture.size)
    picture.paste(Image.new("RGB", picture.size, colour), (0, 0), mask)
