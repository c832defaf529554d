"""The grounding resampler: image features, phrase and box of a subject -> its image tokens
(docs/method.md, sections 2 and 3). Parameters have the names of `ms_adapter.bin`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .perceiver import PerceiverLayers, PerceiverSizes, learned_latents

FOURIER_FREQUENCIES = 8
FOURIER_TEMPERATURE = 100
FOURIER_WIDTH = FOURIER_FREQUENCIES * 2 * 4  # sine and cosine of four coordinates


def box_fourier(boxes: Tensor) -> Tensor:
    """Fourier embedding of boxes: frequency-major, then sine and cosine, then x0, y0, x1, y1.

    Args:
        boxes: [..., 4], normalised x0, y0, x1, y1.
    Returns:
        [..., 64] float32. In float16 these features would be off by up to 2e-2.
    """
    steps = torch.arange(FOURIER_FREQUENCIES, device=boxes.device) / FOURIER_FREQUENCIES
    frequencies = FOURIER_TEMPERATURE**steps
    angles = frequencies[:, None] * boxes.float()[..., None, :]  # [..., 8, 4]
    return torch.stack((angles.sin(), angles.cos()), dim=-2).flatten(-3)


@dataclass(frozen=True)
class ResamplerSizes(PerceiverSizes):
    """Sizes of a `GroundingResampler`, by the research code's names."""

    phrase_embeddings_dim: int  # width of the phrase embedding, F


class GroundingResampler(nn.Module):
    """The perceiver that turns encoder features into image tokens, started from latents that know
    the subject's phrase and box.

    Args:
        sizes: all of them.
        operations: namespace with `Linear` and `LayerNorm`; a host passes its own.
    """

    def __init__(self, sizes: ResamplerSizes, operations: Any = nn, device: Any = None) -> None:
        super().__init__()
        self.sizes = sizes
        dim = sizes.dim
        grounding = sizes.phrase_embeddings_dim + FOURIER_WIDTH
        self.grounding_latents = learned_latents(sizes, device)
        self.latent_proj = nn.Sequential(
            operations.Linear(grounding, grounding * 2, device=device),
            nn.GELU(),
            operations.Linear(grounding * 2, sizes.num_queries * dim, device=device),
        )
        self.latent_norm = operations.LayerNorm(dim, device=device)
        self.proj_in = operations.Linear(sizes.embedding_dim, dim, device=device)
        self.attention_norm = operations.LayerNorm(dim, device=device)
        self.proj_out = operations.Linear(dim, sizes.output_dim, device=device)
        self.norm_out = operations.LayerNorm(sizes.output_dim, device=device)
        self.layers = PerceiverLayers(sizes, operations, device)

    def latents(self, phrase_embeds: Tensor, boxes: Tensor, drop_grounding: Tensor) -> Tensor:
        """Start latents of each subject; see `forward` for the arguments. -> [S, T, dim]."""
        grounding = torch.cat((phrase_embeds, box_fourier(boxes).to(phrase_embeds)), dim=-1)
        latents = self.latent_proj(grounding).unflatten(1, (self.grounding_latents.shape[1], -1))
        learned = self.grounding_latents.to(latents)
        return torch.where(drop_grounding[:, None, None], learned, self.latent_norm(latents))

    def forward(
        self, features: Tensor, phrase_embeds: Tensor, boxes: Tensor, drop_grounding: Tensor
    ) -> Tensor:
        """Image tokens of each subject, each resampled on its own.

        Args:
            features: [S, P, E], hidden state of the image encoder's last layer but one.
            phrase_embeds: [S, F], unprojected pooled output of CLIP-L for the bare phrase.
            boxes: [S, 4], x0, y0, x1, y1 in 0..1.
            drop_grounding: [S] bool; True starts from the learned latents instead.
        Returns:
            [S, T, C]
        """
        x = self.proj_in(features)
        latents = self.latents(phrase_embeds, boxes, drop_grounding)
        latents = self.layers(x, latents)
        return self.norm_out(self.proj_out(self.attention_norm(latents)))
