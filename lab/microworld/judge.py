"""The judge: two small networks that score pictures. They are trained on drawn scenes only (clean,
and through the autoencoder with noise on the latents), and train nothing themselves.

Foreground: where sprites are. AttributeClassifier: what the sprite in a window is.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from lab.microworld.scenes import COLOURS, SHAPES, TEXTURES

WINDOW, MARGIN = 40, 0.12  # pixels of a window, and how much more than its box it shows
NOTHING = len(SHAPES)  # class of a window without a sprite


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


class AttributeClassifier(nn.Module):
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
        self.foreground, self.attributes = Foreground(), AttributeClassifier()

    def sprites(self, pictures: Tensor) -> Tensor:
        """[n, 3, H, W] -> bool [n, H / 2, W / 2]."""
        return self.foreground(pictures) > 0

    def look(self, pictures: Tensor, boxes: Tensor) -> Verdict:
        """pictures [n, 3, H, W] and one box [n, 4] in each."""
        shape, texture, colour = self.attributes(windows(pictures, boxes))
        look = torch.cat([texture.softmax(1), colour.softmax(1)], 1)
        return Verdict(shape.argmax(1), texture.argmax(1), colour.argmax(1), look)


def windows(pictures: Tensor, boxes: Tensor) -> Tensor:
    """[n, 3, H, W], boxes [n, 4] in 0..1 -> [n, 3, WINDOW, WINDOW], boxes with a margin."""
    size = boxes[:, 2:] - boxes[:, :2]
    low, high = boxes[:, :2] - MARGIN * size, boxes[:, 2:] + MARGIN * size
    steps = (torch.arange(WINDOW) + 0.5) / WINDOW
    x = (low[:, :1] + (high - low)[:, :1] * steps) * 2 - 1
    y = (low[:, 1:] + (high - low)[:, 1:] * steps) * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, WINDOW, -1), y[:, :, None].expand(-1, -1, WINDOW)])
    return F.grid_sample(pictures, grid.movedim(0, -1), padding_mode="border", align_corners=False)


def load_judge(path: Path) -> Judge:
    """The trained judge from its file, in float32.

    Raises OSError, SafetensorError or RuntimeError: there is none, or it's another network's.
    """
    judge = Judge()
    weights = load_file(path)
    judge.load_state_dict(
        {k: v.float() if v.dtype == torch.half else v for k, v in weights.items()}
    )
    return judge.eval()
