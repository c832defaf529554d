"""Micro batches of encoded samples, with noise and drops."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from lab.training.draws import draw_timesteps
from lab.training.real.encoders import Encoded
from lab.training.real.settings import RunSettings


@dataclass
class Batch:
    """A micro batch of n samples of one size, with m subjects in all, S at most in a sample."""

    latents: Tensor  # [n, 4, h, w]
    noise: Tensor
    timesteps: Tensor  # [n] in 0..999
    context: Tensor  # [n, L, C] of the text
    pooled: Tensor | None  # [n, P], SDXL's
    features: Tensor  # [m, ...]
    phrases: list[Tensor]  # m
    boxes: Tensor  # [n, S, 4]; zeros where there is no subject
    without_image: Tensor  # [n] bool
    without_grounding: Tensor  # [n] bool

    @property
    def present(self) -> Tensor:
        """[n, S] bool, m of them true."""
        return self.boxes.any(-1)

    def of_subjects(self, of_samples: Tensor) -> Tensor:
        """[n] of the samples -> [m] of their subjects."""
        return of_samples[:, None].expand_as(self.present)[self.present]

    def to(self, device: torch.device) -> "Batch":
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, phrases=[each.to(device) for each in self.phrases], **moved)


def draw_batch(
    samples: Sequence[Encoded], blank: Encoded, settings: RunSettings, g: Generator
) -> Batch:
    """Samples of one size with new noise and drops.

    Args:
        blank: what stands for no text.
    """
    n = len(samples)
    draw = torch.rand(n, generator=g)
    without_text = draw < settings.text + settings.both
    without_image = (draw >= settings.text) & (
        draw < settings.text + settings.both + settings.image
    )
    texts = [
        blank if without else sample for sample, without in zip(samples, without_text, strict=True)
    ]
    latents = torch.stack([sample["latent"] for sample in samples]).float()
    return Batch(
        latents,
        torch.randn(latents.shape, generator=g),
        draw_timesteps(n, g),
        torch.stack([text["context"] for text in texts]).float(),
        torch.stack([text["pooled"] for text in texts]).float() if "pooled" in blank else None,
        torch.cat([sample["features"] for sample in samples]).float(),
        [
            sample[f"phrase_{number}"].float()
            for sample in samples
            for number in range(1, len(sample["boxes"]) + 1)
        ],
        nn.utils.rnn.pad_sequence([sample["boxes"] for sample in samples], batch_first=True),
        without_image,
        torch.rand(n, generator=g) < settings.grounding,
    )
