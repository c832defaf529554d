"""The scenes of the micro world: pictures of one to three sprites (shape, texture, colour) in boxes
on a background, with captions and references. Batched, seeded, plain torch."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
TEXTURES = ("plain", "striped", "split", "checked")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "pink")
BACKGROUNDS = ("grass", "sand", "sky", "snow", "night")
HUES = torch.tensor([0.0, 0.14, 0.34, 0.5, 0.63, 0.87])
BACKGROUND_COLOURS = torch.tensor(
    [
        [0.27, 0.50, 0.20],
        [0.82, 0.70, 0.45],
        [0.52, 0.74, 0.93],
        [0.92, 0.94, 0.96],
        [0.1, 0.1, 0.3],
    ]
)
BACKGROUND_NOISE = torch.tensor([0.20, 0.12, 0.14, 0.05, 0.08])
OUTLINE = 0.07  # brightness of the dark line around a sprite
WHITE = 0.97  # every texture's other colour
MAX_SUBJECTS = 3  # subjects of a scene
SIZE, REFERENCE_SIZE = 128, 64
SMALL_SIZE, SMALL_REFERENCE_SIZE = 96, 48  # the micro Flux's: a sprite is about as large in both
SIZES = {"square": (128, 128), "upright": (144, 96), "wide": (96, 144)}  # height, width


@dataclass(frozen=True)
class Looks:
    """What sprites look like; every field has the same leading shape."""

    shape: Tensor  # [...] index into SHAPES
    texture: Tensor  # [...] index into TEXTURES
    colour: Tensor  # [...] index into COLOURS
    first: Tensor  # [..., 3] the colour as drawn
    second: Tensor  # [..., 3] white; of a plain sprite, `first`

    def __getitem__(self, index: Any) -> "Looks":
        return Looks(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def flat(self) -> "Looks":
        """[n, MAX_SUBJECTS, ...] -> [n * MAX_SUBJECTS, ...]."""
        return Looks(*(getattr(self, name).flatten(0, 1) for name in self.__dataclass_fields__))

    @staticmethod
    def cat(parts: "list[Looks]") -> "Looks":
        names = Looks.__dataclass_fields__
        return Looks(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes of one size."""

    picture: Tensor  # [n, 3, H, W] in 0..1
    sprites: Tensor  # [n, H, W] in 0..1, where sprites are
    boxes: Tensor  # [n, MAX_SUBJECTS, 4], x0, y0, x1, y1 in 0..1; zeros where there is no subject
    looks: Looks  # [n, MAX_SUBJECTS]
    background: Tensor  # [n] index into BACKGROUNDS

    def __getitem__(self, index: Any) -> "Scenes":
        return Scenes(
            self.picture[index],
            self.sprites[index],
            self.boxes[index],
            self.looks[index],
            self.background[index],
        )


def uniform(size: tuple[int, ...], low: float, high: float, g: Generator) -> Tensor:
    return torch.rand(size, generator=g) * (high - low) + low


def rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """HSV [...] in 0..1 -> RGB [..., 3]."""
    i = torch.stack([5 + hue * 6, 3 + hue * 6, 1 + hue * 6], -1) % 6
    ramp = torch.minimum(i, 4 - i).clamp(0, 1)
    return value[..., None] - (value * saturation)[..., None] * ramp


def held_out(shape: Tensor, texture: Tensor, colour: Tensor) -> Tensor:
    """Combinations that no training scene shows: one colour of each shape in each texture."""
    return (shape + 2 * texture + colour) % len(COLOURS) == 0


def draw_looks(n: int, g: Generator, evaluation: bool = False) -> Looks:
    """[n, MAX_SUBJECTS] looks. The subjects of a scene differ in shape and colour name; those of an
    evaluation differ in texture too, and all are held-out combinations."""

    def draw(m: int) -> Tensor:  # [m, MAX_SUBJECTS, 3]
        shape = torch.rand(m, len(SHAPES), generator=g).argsort(1)[:, :MAX_SUBJECTS]
        colour = torch.rand(m, len(COLOURS), generator=g).argsort(1)[:, :MAX_SUBJECTS]
        texture = torch.randint(0, len(TEXTURES), (m, MAX_SUBJECTS), generator=g)
        if evaluation:
            texture = torch.rand(m, len(TEXTURES), generator=g).argsort(1)[:, :MAX_SUBJECTS]
            colour = -(shape + 2 * texture) % len(COLOURS)
        return torch.stack([shape, texture, colour], -1)

    words = draw(n)
    while True:
        out = held_out(*words.unbind(-1))
        colours = words[..., 2].sort(1).values
        twice = (colours[:, 1:] == colours[:, :-1]).any(1)
        bad = twice | ((~out).any(1) if evaluation else out.any(1))
        if not bad.any():
            break
        words[bad] = draw(int(bad.sum()))
    shape, texture, colour = words.unbind(-1)
    hue = (HUES[colour] + uniform((n, MAX_SUBJECTS), -0.02, 0.02, g)) % 1
    first = rgb(
        hue, uniform((n, MAX_SUBJECTS), 0.8, 1.0, g), uniform((n, MAX_SUBJECTS), 0.8, 1.0, g)
    )
    second = torch.where((texture == 0)[..., None], first, WHITE)
    return Looks(shape, texture, colour, first, second)


def _distance(kind: int, u: Tensor, v: Tensor) -> Tensor:
    """Signed distance from the outline of a shape that fills -1..1; negative inside."""
    if kind == 0:
        return (u * u + v * v).sqrt() - 0.96
    if kind == 1:
        return torch.maximum(u.abs(), v.abs()) - 0.92
    if kind == 2:
        return torch.maximum((u.abs() - (v + 0.96) * 0.5) * 0.894, v - 0.94)
    if kind == 3:
        sector = math.pi / 5
        angle = torch.atan2(u, -v - 0.08)
        angle = (torch.remainder(angle + sector, 2 * sector) - sector).abs()
        radius = (u * u + (v + 0.08) ** 2).sqrt()
        x, y = radius * angle.cos(), radius * angle.sin()
        outer, inner = 1.06, 0.50
        normal = (inner * math.sin(sector), outer - inner * math.cos(sector))
        return ((x - outer) * normal[0] + y * normal[1]) / math.hypot(*normal)
    if kind == 4:
        u = u.abs()
        lobe = ((u - 0.46) ** 2 + (v + 0.42) ** 2).sqrt() - 0.52
        point = torch.maximum(u * 0.80 + (v - 0.95) * 0.6, -(v + 0.34))
        return torch.minimum(lobe, point)
    u, v = u.abs(), v.abs()
    return torch.minimum(torch.maximum(u - 0.94, v - 0.36), torch.maximum(u - 0.36, v - 0.94))


def _pattern(kind: int, u: Tensor, v: Tensor) -> Tensor:
    """Share of the second colour, 0..1."""
    if kind == 0:
        return torch.zeros_like(u)
    if kind == 1:
        return torch.sigmoid(torch.cos(math.pi * 2.0 * v) * 8)
    if kind == 2:
        return torch.sigmoid(u * 25)
    return torch.sigmoid(u * 25) * torch.sigmoid(v * 25) + torch.sigmoid(-u * 25) * torch.sigmoid(
        -v * 25
    )


def paint(picture: Tensor, boxes: Tensor, turn: Tensor, looks: Looks) -> tuple[Tensor, Tensor]:
    """Draw one sprite on each picture.

    Args:
        picture: [n, 3, H, W]. boxes: [n, 4]; all zeros draws nothing. turn: [n] radians.
        looks: [n]
    Returns:
        the pictures, and [n, H, W] in 0..1 where the sprites are.
    """
    n, _, height, width = picture.shape
    x = ((torch.arange(width) + 0.5) / width)[None, None, :]
    y = ((torch.arange(height) + 0.5) / height)[None, :, None]
    x0, y0, x1, y1 = boxes[:, :, None, None].unbind(1)
    half_width, half_height = ((x1 - x0) / 2).clamp(min=1e-4), ((y1 - y0) / 2).clamp(min=1e-4)
    across, down = (x - (x0 + x1) / 2) / half_width, (y - (y0 + y1) / 2) / half_height
    cosine, sine = turn.cos()[:, None, None], turn.sin()[:, None, None]
    u, v = across * cosine + down * sine, down * cosine - across * sine
    distance, pattern = torch.empty(n, height, width), torch.empty(n, height, width)
    for table, names, words in (
        (distance, SHAPES, looks.shape),
        (pattern, TEXTURES, looks.texture),
    ):
        for kind in range(len(names)):
            rows = (words == kind).nonzero()[:, 0]
            if len(rows):
                function = _distance if table is distance else _pattern
                table[rows] = function(kind, u[rows], v[rows])
    pixel = 1 / (torch.minimum(half_width * width, half_height * height))
    drawn = (x1 > x0).float()
    sprite = torch.sigmoid(-distance / pixel * 2.5) * drawn
    inside = torch.sigmoid(-(distance + 0.08) / pixel * 2.5)[:, None]
    pattern = pattern[:, None]
    fill = looks.first[..., None, None] * (1 - pattern) + looks.second[..., None, None] * pattern
    fill = fill * inside + OUTLINE * (1 - inside)
    return picture * (1 - sprite[:, None]) + fill * sprite[:, None], sprite


def draw_background(kind: Tensor, height: int, width: int, g: Generator) -> Tensor:
    """kind [n] -> [n, 3, H, W]."""
    n = len(kind)

    def clouds(cells: int) -> Tensor:
        noise = torch.rand(n, 1, cells, cells, generator=g) - 0.5
        return F.interpolate(noise, (height, width), mode="bilinear", align_corners=True)

    noise = clouds(5) + 0.6 * clouds(17)
    base = BACKGROUND_COLOURS[kind][:, :, None, None]
    return (base + BACKGROUND_NOISE[kind][:, None, None, None] * noise).clamp(0, 1)


def overlap(boxes: Tensor) -> Tensor:
    """[..., S, 4] -> [...], the largest fraction of a box that a larger one covers."""
    low = torch.maximum(boxes[..., :, None, :2], boxes[..., None, :, :2])
    high = torch.minimum(boxes[..., :, None, 2:], boxes[..., None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)  # [..., S, S]
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    smaller = torch.minimum(area[..., :, None], area[..., None, :]).clamp(min=1e-6)
    pairs = torch.triu(common / smaller, diagonal=1)
    return pairs.flatten(-2).amax(-1)


def draw_boxes(
    counts: Tensor, overlapping: Tensor, height: int, width: int, g: Generator, tries: int = 48
) -> Tensor:
    """Boxes [n, MAX_SUBJECTS, 4] of varied size and aspect in the picture; zeros beyond `counts`.
    Where `overlapping` [n], a pair shares 8 to 25 % of the smaller one; else next to nothing."""
    n, scale = len(counts), math.sqrt(height * width)
    few = (counts < MAX_SUBJECTS)[:, None, None]
    edge = torch.where(
        few,
        uniform((n, tries, MAX_SUBJECTS), 0.38, 0.52, g),
        uniform((n, tries, MAX_SUBJECTS), 0.33, 0.43, g),
    )
    aspect = uniform((n, tries, MAX_SUBJECTS), -0.16, 0.16, g).exp()
    size = torch.stack([edge * aspect * scale / width, edge / aspect * scale / height], -1)
    size = size.clamp(max=0.9)
    corner = 0.015 + torch.rand(n, tries, MAX_SUBJECTS, 2, generator=g) * (0.97 - size)
    boxes = torch.cat([corner, corner + size], -1)
    boxes = boxes * (torch.arange(MAX_SUBJECTS) < counts[:, None])[:, None, :, None]
    shared = overlap(boxes)  # [n, tries]
    fault = torch.where(
        overlapping[:, None], (shared - 0.165).abs().sub(0.085).clamp(min=0), shared.sub(0.01)
    ).clamp(min=0)
    return boxes[torch.arange(n), fault.argmin(1)]  # the first of the best


def draw_scenes(
    n: int,
    g: Generator,
    size: tuple[int, int] = (SIZE, SIZE),
    count: int | None = None,
    overlapping: float = 0.1,
    evaluation: bool = False,
) -> Scenes:
    """n scenes.

    Args:
        size: height and width in pixels.
        count: subjects of every scene; None draws 1 (15 %), 2 (60 %) or 3 (25 %).
        overlapping: fraction of the scenes with two or three subjects whose boxes overlap.
        evaluation: see `draw_looks`; more tries for boxes that don't touch.
    """
    counts = torch.bucketize(torch.rand(n, generator=g), torch.tensor([0.15, 0.75])) + 1
    if count is not None:
        counts = torch.full((n,), count)
    together = (torch.rand(n, generator=g) < overlapping) & (counts > 1)
    boxes = draw_boxes(counts, together, *size, g, tries=256 if evaluation else 48)
    looks = draw_looks(n, g, evaluation)
    background = torch.randint(0, len(BACKGROUNDS), (n,), generator=g)
    picture = draw_background(background, *size, g)
    sprites = torch.zeros(n, *size)
    for j in range(MAX_SUBJECTS):
        picture, sprite = paint(picture, boxes[:, j], uniform((n,), -0.1, 0.1, g), looks[:, j])
        sprites = torch.maximum(sprites, sprite)
    return Scenes(picture, sprites, boxes, looks, background)


def draw_references(looks: Looks, g: Generator, size: int = REFERENCE_SIZE) -> Tensor:
    """References [n, 3, size, size] of sprites `looks` [n], each of another size, position and turn
    than in any scene, on a plain background; some on black, as a reference mask leaves them."""
    n = len(looks.shape)
    extent = uniform((n, 1), 0.74, 0.94, g) * uniform((n, 2), 0.88, 1.0, g)
    corner = torch.rand(n, 2, generator=g) * (1 - extent)
    shade = uniform((n, 1), 0.5, 1.0, g) + uniform((n, 3), -0.06, 0.06, g)
    shade = shade * (torch.rand(n, 1, generator=g) < 0.8)
    picture = shade.clamp(0, 1)[:, :, None, None].expand(n, 3, size, size)
    boxes = torch.cat([corner, corner + extent], -1)
    return paint(picture, boxes, uniform((n,), -0.12, 0.12, g), looks)[0]


def to_pil(picture: Tensor) -> Image.Image:
    """A picture or reference [3, H, W] in 0..1."""
    return Image.fromarray((picture * 255).round().byte().movedim(0, -1).numpy())


def phrase(looks: Looks, full: bool = False) -> str:
    """Name of one sprite: "star", or in full "striped red star"."""
    shape = SHAPES[int(looks.shape)]
    if not full:
        return shape
    return f"{TEXTURES[int(looks.texture)]} {COLOURS[int(looks.colour)]} {shape}"


def caption(looks: Looks, boxes: Tensor, background: int, full: bool = False) -> str:
    """Caption of one scene. full: looks are named; else only the references show them."""
    names = [f"a {phrase(looks[j], full)}" for j in range(MAX_SUBJECTS) if boxes[j].any()]
    return f"{' and '.join(names)} on {BACKGROUNDS[background]}"
