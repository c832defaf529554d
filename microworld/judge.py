"""The judge: two small networks that only ever saw the generator's pictures (clean, and through
the autoencoder with noise on the latents), never a sampled one. They take no part in training
anything else.

Foreground: where sprites are. Attributes: what the sprite in a window is.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from microworld.autoencoder import Autoencoder
from microworld.scenes import COLOURS, SHAPES, SIZES, TEXTURES, Looks, draw_scenes
from microworld.train_vae import load_vae
from microworld.trainer import Trainer

WINDOW, MARGIN = 40, 0.12  # pixels of a window, and how much more than its box it shows
NOTHING = len(SHAPES)  # class of a window without a sprite
SCENES = {"square": 1536, "upright": 384, "wide": 384}


class Dilated(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Foreground(nn.Module):
    """[n, 3, H, W] -> logits [n, H / 2, W / 2] that a sprite is there."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 16, 5, 2, 2)
        self.down = nn.Conv2d(16, 32, 3, 2, 1)
        self.middle = nn.Sequential(Dilated(32, 1), Dilated(32, 2), Dilated(32, 4))
        self.up = nn.Conv2d(48, 24, 3, padding=1)
        self.out = nn.Conv2d(24, 1, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        fine = F.relu(self.fine(picture - 0.5))
        coarse = F.interpolate(self.middle(self.down(fine)), scale_factor=2.0)
        return self.out(F.relu(self.up(torch.cat([fine, coarse], 1))))[:, 0]


class Attributes(nn.Module):
    """Windows [n, 3, 40, 40] -> logits of shape (one more: nothing), texture and colour."""

    def __init__(self) -> None:
        super().__init__()
        layers = []
        for inputs, outputs, stride in (
            *((3, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2), (64, 64, 1), (64, 64, 2)),
        ):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 25, 96), nn.ReLU())
        self.heads = nn.Linear(96, len(SHAPES) + 1 + len(TEXTURES) + len(COLOURS))

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.heads(self.body(windows - 0.5))
        shape, texture, colour = logits.split([len(SHAPES) + 1, len(TEXTURES), len(COLOURS)], 1)
        return shape, texture, colour


@dataclass
class Verdict:
    """What the judge sees in windows."""

    shape: Tensor  # [n] index into SHAPES, or NOTHING
    texture: Tensor  # [n]
    colour: Tensor  # [n]
    look: Tensor  # [n, textures + colours], probabilities, to compare looks by


class Judge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.foreground, self.attributes = Foreground(), Attributes()

    def sprites(self, pictures: Tensor) -> Tensor:
        """[n, 3, H, W] -> bool [n, H / 2, W / 2]."""
        return self.foreground(pictures) > 0

    def look(self, pictures: Tensor, boxes: Tensor) -> Verdict:
        """pictures [n, 3, H, W] and one box [n, 4] in each."""
        shape, texture, colour = self.attributes(windows(pictures, boxes))
        look = torch.cat([texture.softmax(1), colour.softmax(1)], 1)
        return Verdict(shape.argmax(1), texture.argmax(1), colour.argmax(1), look)


def windows(pictures: Tensor, boxes: Tensor) -> Tensor:
    """[n, 3, H, W], boxes [n, 4] as shares -> [n, 3, WINDOW, WINDOW], boxes with a margin."""
    size = boxes[:, 2:] - boxes[:, :2]
    low, high = boxes[:, :2] - MARGIN * size, boxes[:, 2:] + MARGIN * size
    steps = (torch.arange(WINDOW) + 0.5) / WINDOW
    x = (low[:, :1] + (high - low)[:, :1] * steps) * 2 - 1
    y = (low[:, 1:] + (high - low)[:, 1:] * steps) * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, WINDOW, -1), y[:, :, None].expand(-1, -1, WINDOW)])
    return F.grid_sample(pictures, grid.movedim(0, -1), padding_mode="border", align_corners=False)


@dataclass
class Material:
    """Scenes of one size as the judge is shown them."""

    pictures: Tensor  # uint8 [n, 3, H, W]
    sprites: Tensor  # bool [n, H / 2, W / 2]
    boxes: Tensor  # [n, MOST, 4]
    looks: Looks  # [n, MOST]


def draw_material(
    autoencoder: Autoencoder, n: int, size: tuple[int, int], g: Generator
) -> Material:
    parts = []
    for _ in range(max(1, n // 64)):
        scenes = draw_scenes(64, g, size)
        latents = autoencoder.encode(scenes.picture)
        strength = 0.3 * torch.rand(64, 1, 1, 1, generator=g)
        through = autoencoder.decode(latents + strength * torch.randn(latents.shape, generator=g))
        clean = torch.rand(64, generator=g) < 0.25
        picture = torch.where(clean[:, None, None, None], scenes.picture, through)
        sprites = F.avg_pool2d(scenes.sprites[:, None], 2)[:, 0] > 0.5
        parts.append(
            ((picture.clamp(0, 1) * 255).round().byte(), sprites, scenes.boxes, scenes.looks)
        )
    pictures, sprites, boxes, looks = zip(*parts, strict=True)
    return Material(
        torch.cat(pictures), torch.cat(sprites), torch.cat(boxes), Looks.cat(list(looks))
    )


def draw_windows(material: Material, n: int, g: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Windows around sprites, boxes a little off, and some around nothing; with their classes."""
    rows = torch.randint(0, len(material.pictures), (n,), generator=g)
    counts = material.boxes[rows].any(-1).sum(1)
    which = (torch.rand(n, generator=g) * counts).long()
    boxes = material.boxes[rows, which]
    boxes = boxes + (torch.rand(n, 4, generator=g) - 0.5) * 0.06
    looks = material.looks[rows, which]
    corner = torch.rand(n, 2, generator=g) * 0.6
    elsewhere = torch.cat([corner, corner + 0.4], 1)
    sprites = material.sprites[rows]
    height, width = sprites.shape[1:]
    x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    inside = (x >= elsewhere[:, :1]) & (x < elsewhere[:, 2:3])
    inside = inside[:, None] & ((y >= elsewhere[:, 1:2]) & (y < elsewhere[:, 3:]))[..., None]
    empty = (sprites & inside).flatten(1).sum(1) < 0.04 * inside.flatten(1).sum(1)
    empty &= torch.rand(n, generator=g) < 0.3
    boxes = torch.where(empty[:, None], elsewhere, boxes)
    shape = torch.where(empty, NOTHING, looks.shape)
    pictures = material.pictures[rows].float().div(255)
    return windows(pictures, boxes), shape, looks.texture, looks.colour


def train_judge(folder: Path, minutes: float, scenes: float, device: torch.device) -> None:
    torch.manual_seed(5)
    judge = Judge().to(device)
    g, autoencoder = torch.Generator().manual_seed(51), load_vae(folder)
    material = [
        draw_material(autoencoder, int(scenes * SCENES[name]), SIZES[name], g) for name in SIZES
    ]
    trainer = Trainer("judge", judge, folder, minutes, rate=2e-3, decay=0.99, seed=5)
    g = trainer.generator
    for step in trainer.steps():
        these = material[(0, 0, 1, 2)[step % 4]]
        rows = torch.randint(0, len(these.pictures), (12,), generator=g)
        logits = judge.foreground(these.pictures[rows].to(device).float().div(255))
        sprites = these.sprites[rows].to(device).float()
        foreground = F.binary_cross_entropy_with_logits(logits, sprites)
        drawn = draw_windows(these, 64, g)
        seen, shape, texture, colour = (x.to(device) for x in drawn)
        said = judge.attributes(seen)
        sprite = shape != NOTHING
        attributes = (
            F.cross_entropy(said[0], shape)
            + F.cross_entropy(said[1][sprite], texture[sprite])
            + F.cross_entropy(said[2][sprite], colour[sprite])
        )
        trainer.update(foreground + attributes, 64, foreground=foreground, attributes=attributes)
    judge.cpu().eval()
    fresh = draw_material(autoencoder, 256, SIZES["square"], torch.Generator().manual_seed(52))
    with torch.no_grad():
        found = judge.sprites(fresh.pictures.float().div(255))
        iou = (found & fresh.sprites).sum() / (found | fresh.sprites).sum()
        seen, *classes = draw_windows(fresh, 512, g)
        right = [
            (said.argmax(1) == wanted)[classes[0] != NOTHING].float().mean()
            for said, wanted in zip(judge.attributes(seen), classes, strict=True)
        ]
    print(f"judge on fresh scenes: sprites IoU {iou:.3f}, shape, texture, colour {right}")
