"""Stage judge: the networks that score pictures, on drawn scenes, clean and through the autoencoder
with noise on the latents."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lab.microworld.autoencoder import Autoencoder
from lab.microworld.judge import NOTHING, Judge, windows
from lab.microworld.scenes import SIZES, Looks, draw_scenes
from lab.training.config import StageSettings
from lab.training.stages.vae import load_vae
from lab.training.task import Losses, Task

SCENES = {"square": 1536, "upright": 384, "wide": 384}
ORDER = ("square", "square", "upright", "wide")  # of the sizes, by step
DRAWN = 64  # scenes at once
PICTURES = 12  # whole pictures of a micro batch, beside its windows


@dataclass
class ShownScenes:
    """Scenes of one size as the judge is shown them."""

    pictures: Tensor  # uint8 [n, 3, H, W]
    sprites: Tensor  # bool [n, H / 2, W / 2]
    boxes: Tensor  # [n, MAX_SUBJECTS, 4]
    looks: Looks  # [n, MAX_SUBJECTS]


@dataclass
class Windows:
    """Windows and what they show."""

    pictures: Tensor  # [n, 3, WINDOW, WINDOW]
    shape: Tensor  # [n] index into SHAPES, or NOTHING
    texture: Tensor  # [n]
    colour: Tensor  # [n]


@dataclass
class JudgeSamples:
    """A micro batch: whole pictures with their sprites, and windows."""

    pictures: Tensor  # uint8 [PICTURES, 3, H, W]
    sprites: Tensor  # bool [PICTURES, H / 2, W / 2]
    windows: Windows


class JudgeTask(Task):
    """A sample is a window."""

    def __init__(self, settings: StageSettings, folder: Path, device: torch.device) -> None:
        super().__init__()
        torch.manual_seed(settings.seed)
        self.n, self.device = settings.micro_batch, device
        self.judge = Judge().to(device)
        self.autoencoder = [load_vae(folder)]  # in a list: it is no part of what is trained
        g = torch.Generator().manual_seed(51)
        self.scenes = {
            name: draw_shown_scenes(
                self.autoencoder[0], int(settings.scenes * SCENES[name]), SIZES[name], g
            )
            for name in SIZES
        }

    @property
    def trained(self) -> Judge:
        return self.judge

    def draw(self, g: Generator, step: int) -> JudgeSamples:
        scenes = self.scenes[ORDER[step % len(ORDER)]]
        rows = torch.randint(0, len(scenes.pictures), (PICTURES,), generator=g)
        shown = draw_windows(scenes, self.n, g)
        return JudgeSamples(scenes.pictures[rows], scenes.sprites[rows], shown)

    def forward(self, micro_batch: JudgeSamples) -> Losses:
        logits = self.judge.foreground(micro_batch.pictures.to(self.device).float().div(255))
        sprites = micro_batch.sprites.to(self.device).float()
        foreground = F.binary_cross_entropy_with_logits(logits, sprites)
        shown = micro_batch.windows
        shape, texture, colour = self.judge.attributes(shown.pictures.to(self.device))
        sprite = shown.shape != NOTHING
        attributes = (
            F.cross_entropy(shape, shown.shape.to(self.device))
            + F.cross_entropy(texture[sprite], shown.texture[sprite].to(self.device))
            + F.cross_entropy(colour[sprite], shown.colour[sprite].to(self.device))
        )
        return {
            "loss": foreground + attributes,
            "foreground": foreground.detach(),
            "attributes": attributes.detach(),
        }

    @torch.no_grad()
    def check(self) -> None:
        """Print how often the judge is right on new scenes."""
        judge, g = self.judge.cpu().eval(), torch.Generator().manual_seed(52)
        scenes = draw_shown_scenes(self.autoencoder[0], 256, SIZES["square"], g)
        found = judge.sprites(scenes.pictures.float().div(255))
        iou = (found & scenes.sprites).sum() / (found | scenes.sprites).sum()
        shown = draw_windows(scenes, 512, g)
        sprite = shown.shape != NOTHING
        logits = judge.attributes(shown.pictures)
        right = [
            (of_kind.argmax(1) == expected)[sprite].float().mean().item()
            for of_kind, expected in zip(
                logits, (shown.shape, shown.texture, shown.colour), strict=True
            )
        ]
        shape, texture, colour = right
        print(
            f"judge on new scenes: IoU of sprites {iou:.3f}; right about shape {shape:.3f}, "
            f"texture {texture:.3f}, colour {colour:.3f}"
        )


def draw_shown_scenes(
    autoencoder: Autoencoder, n: int, size: tuple[int, int], g: Generator
) -> ShownScenes:
    parts = []
    for _ in range(max(1, n // DRAWN)):
        drawn = draw_scenes(DRAWN, g, size)
        latents = autoencoder.encode(drawn.picture)
        strength = 0.3 * torch.rand(DRAWN, 1, 1, 1, generator=g)
        through = autoencoder.decode(latents + strength * torch.randn(latents.shape, generator=g))
        clean = torch.rand(DRAWN, generator=g) < 0.25
        picture = torch.where(clean[:, None, None, None], drawn.picture, through)
        sprites = F.avg_pool2d(drawn.sprites[:, None], 2)[:, 0] > 0.5
        parts.append(
            ((picture.clamp(0, 1) * 255).round().byte(), sprites, drawn.boxes, drawn.looks)
        )
    pictures, sprites, boxes, looks = zip(*parts, strict=True)
    return ShownScenes(
        torch.cat(pictures), torch.cat(sprites), torch.cat(boxes), Looks.cat(list(looks))
    )


def draw_windows(scenes: ShownScenes, n: int, g: Generator) -> Windows:
    """n windows: around sprites, with boxes that are slightly off, and some around nothing."""
    rows = torch.randint(0, len(scenes.pictures), (n,), generator=g)
    counts = scenes.boxes[rows].any(-1).sum(1)
    which = (torch.rand(n, generator=g) * counts).long()
    boxes = scenes.boxes[rows, which] + (torch.rand(n, 4, generator=g) - 0.5) * 0.06
    looks = scenes.looks[rows, which]
    corner = torch.rand(n, 2, generator=g) * 0.6
    elsewhere = torch.cat([corner, corner + 0.4], 1)
    empty = _shows_nothing(scenes.sprites[rows], elsewhere) & (torch.rand(n, generator=g) < 0.3)
    boxes = torch.where(empty[:, None], elsewhere, boxes)
    pictures = scenes.pictures[rows].float().div(255)
    shape = torch.where(empty, NOTHING, looks.shape)
    return Windows(windows(pictures, boxes), shape, looks.texture, looks.colour)


def _shows_nothing(sprites: Tensor, boxes: Tensor) -> Tensor:
    """Bool [n], for sprites [n, h, w] and boxes [n, 4]."""
    height, width = sprites.shape[1:]
    x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    inside = (x >= boxes[:, :1]) & (x < boxes[:, 2:3])
    inside = inside[:, None] & ((y >= boxes[:, 1:2]) & (y < boxes[:, 3:]))[..., None]
    return (sprites & inside).flatten(1).sum(1) < 0.04 * inside.flatten(1).sum(1)
