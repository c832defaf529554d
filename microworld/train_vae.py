"""Stage vae: the autoencoder, on crops around sprites."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from microworld.autoencoder import Autoencoder
from microworld.scenes import SIZE, draw_scenes
from microworld.trainer import Trainer, load_average

CROP, POOL, BATCH = 64, 3072, 16


def crops(pictures: Tensor, centres: Tensor, g: Generator) -> Tensor:
    """uint8 [n, 3, H, W], centres [n, 2] as shares -> crops [n, 3, CROP, CROP] in 0..1 there."""
    corner = (
        centres * SIZE - CROP / 2 + torch.randint(-20, 21, (len(centres), 2), generator=g)
    ).long()
    corner = corner.clamp(0, SIZE - CROP)
    parts = [
        picture[:, y : y + CROP, x : x + CROP]
        for picture, (x, y) in zip(pictures, corner.tolist(), strict=True)
    ]
    return torch.stack(parts).float().div(255)


def train_vae(folder: Path, minutes: float, scenes: float, device: torch.device) -> None:
    torch.manual_seed(1)
    autoencoder = Autoencoder().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = Trainer("vae", autoencoder, folder, minutes, rate=2e-3, weight_decay=0, seed=1)
    g = torch.Generator().manual_seed(11)
    drawn = [draw_scenes(128, g) for _ in range(max(1, int(scenes * POOL) // 128))]
    pictures = torch.cat([(batch.picture * 255).round().byte() for batch in drawn])
    boxes = torch.cat([batch.boxes[:, 0] for batch in drawn])  # of the first subject
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    g = trainer.generator
    for _ in trainer.steps():
        rows = torch.randint(0, len(pictures), (BATCH,), generator=g)
        x = crops(pictures[rows], centres[rows], g)
        x = x.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        z = autoencoder.encode(x)
        y = autoencoder.decode(z + 0.08 * torch.randn(z.shape, generator=g).to(device))
        error = y - x
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        mean, deviation = z.mean((0, 2, 3)), z.std((0, 2, 3))
        square = error.square().mean()
        # Three of the four channels are a thumbnail. Pictures are then learnt far sooner than from
        # latents that are free: what is one colour in the picture is one value in the latents.
        thumbnail = (z[:, :3] - 3 * (F.avg_pool2d(x, 8) - 0.5)).square().mean()
        loss = (
            error.abs().mean()
            + 2 * square
            + 0.5 * edges
            + 0.02 * (mean[3].square() + (deviation[3] - 1).square())
            + 0.01 * F.relu(z.abs() - 3).square().mean()
            + 0.2 * thumbnail
        )
        trainer.update(loss, BATCH, square=square, thumbnail=thumbnail)


def load_vae(folder: Path) -> Autoencoder:
    autoencoder = Autoencoder()
    autoencoder.load_state_dict(load_average(folder, "vae"))
    return autoencoder.eval().requires_grad_(False)
