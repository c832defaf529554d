"""Stage vae: the autoencoder, on crops around sprites."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lab.microworld.autoencoder import Autoencoder
from lab.microworld.scenes import SIZE, draw_scenes
from lab.training.config import StageSettings
from lab.training.state import load_ema
from lab.training.task import Losses, Task

CROP, SCENES, DRAWN = 64, 3072, 128  # pixels; scenes in all, and at once


class VaeTask(Task):
    """The autoencoder. Three of its four channels are a thumbnail of the picture: one colour in the
    picture is then one value in the latents, and pictures are learned far sooner."""

    def __init__(self, settings: StageSettings, device: torch.device) -> None:
        super().__init__()
        torch.manual_seed(settings.seed)
        self.n, self.device = settings.micro_batch, device
        self.autoencoder = Autoencoder()
        self.autoencoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        g = torch.Generator().manual_seed(11)
        count = max(1, int(settings.scenes * SCENES) // DRAWN)
        drawn = [draw_scenes(DRAWN, g) for _ in range(count)]
        self.pictures = torch.cat([(part.picture * 255).round().byte() for part in drawn])
        boxes = torch.cat([part.boxes[:, 0] for part in drawn])  # of the first subject
        self.centres = (boxes[:, :2] + boxes[:, 2:]) / 2

    @property
    def trained(self) -> Autoencoder:
        return self.autoencoder

    def draw(self, g: Generator, step: int) -> tuple[Tensor, Tensor]:
        """Crops [n, 3, CROP, CROP] in 0..1, and noise for their latents."""
        rows = torch.randint(0, len(self.pictures), (self.n,), generator=g)
        crops = crop_at(self.pictures[rows], self.centres[rows], g)
        return crops, 0.08 * torch.randn(self.n, 4, CROP // 8, CROP // 8, generator=g)

    def forward(self, micro_batch: tuple[Tensor, Tensor]) -> Losses:
        crops, noise = micro_batch
        x = crops.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        z = self.autoencoder.encode(x)
        error = self.autoencoder.decode(z + noise.to(self.device)) - x
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
        square = error.square().mean()
        thumbnail = (z[:, :3] - 3 * (F.avg_pool2d(x, 8) - 0.5)).square().mean()
        loss = (
            error.abs().mean()
            + 2 * square
            + 0.5 * edges
            + 0.02 * (mean[3].square() + (std[3] - 1).square())
            + 0.01 * F.relu(z.abs() - 3).square().mean()
            + 0.2 * thumbnail
        )
        return {"loss": loss, "square": square.detach(), "thumbnail": thumbnail.detach()}


def crop_at(pictures: Tensor, centres: Tensor, g: Generator) -> Tensor:
    """uint8 [n, 3, H, W], centres [n, 2] in 0..1 -> crops [n, 3, CROP, CROP] in 0..1."""
    jitter = torch.randint(-20, 21, (len(centres), 2), generator=g)
    corners = (centres * SIZE - CROP / 2 + jitter).long().clamp(0, SIZE - CROP)
    parts = [
        picture[:, y : y + CROP, x : x + CROP]
        for picture, (x, y) in zip(pictures, corners.tolist(), strict=True)
    ]
    return torch.stack(parts).float().div(255)


def load_vae(folder: Path) -> Autoencoder:
    """The autoencoder that the stage resulted in."""
    autoencoder = Autoencoder()
    autoencoder.load_state_dict(load_ema(folder, "vae"))
    return autoencoder.eval().requires_grad_(False)
