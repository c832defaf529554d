"""The grounding resampler: image features, phrase and box of a subject -> its image tokens
(docs/method.md, sections 2 and 3). Parameters have the names of `ms_adapter.bin`."""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

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


class PerceiverAttention(nn.Module):
    """Latents attend to the features and to themselves (pre-norm, no biases)."""

    def __init__(self, dim: int, dim_head: int, heads: int, operations: Any, device: Any) -> None:
        super().__init__()
        inner = dim_head * heads
        self.heads = heads
        self.norm1 = operations.LayerNorm(dim, device=device)
        self.norm2 = operations.LayerNorm(dim, device=device)
        self.to_q = operations.Linear(dim, inner, bias=False, device=device)
        self.to_kv = operations.Linear(dim, inner * 2, bias=False, device=device)
        self.to_out = operations.Linear(inner, dim, bias=False, device=device)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        """features [S, P, dim], latents [S, T, dim] -> [S, T, dim]."""
        latents = self.norm2(latents)
        q = self.to_q(latents)
        k, v = self.to_kv(torch.cat((self.norm1(features), latents), dim=1)).chunk(2, dim=-1)
        q, k, v = (rearrange(x, "s n (h d) -> s h n d", h=self.heads) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "s h n d -> s n (h d)"))


@dataclass(frozen=True)
class ResamplerSizes:
    """Sizes of a `GroundingResampler`, by the research code's names."""

    dim: int  # width of the perceiver
    depth: int  # its layers
    dim_head: int
    heads: int
    num_queries: int  # image tokens a subject, T
    embedding_dim: int  # width of the image features, E
    output_dim: int  # width of the UNet's cross-attention, C
    ff_mult: int  # the feed-forward layers are this many times as wide as the perceiver
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
        dim, num_queries = sizes.dim, sizes.num_queries
        hidden = dim * sizes.ff_mult
        grounding = sizes.phrase_embeddings_dim + FOURIER_WIDTH
        self.grounding_latents = nn.Parameter(torch.empty(1, num_queries, dim, device=device))
        if not self.grounding_latents.is_meta:  # there it would import seconds of torch's compiler
            nn.init.normal_(self.grounding_latents, std=dim**-0.5)
        self.latent_proj = nn.Sequential(
            operations.Linear(grounding, grounding * 2, device=device),
            nn.GELU(),
            operations.Linear(grounding * 2, num_queries * dim, device=device),
        )
        self.latent_norm = operations.LayerNorm(dim, device=device)
        self.proj_in = operations.Linear(sizes.embedding_dim, dim, device=device)
        self.attention_norm = operations.LayerNorm(dim, device=device)
        self.proj_out = operations.Linear(dim, sizes.output_dim, device=device)
        self.norm_out = operations.LayerNorm(sizes.output_dim, device=device)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    PerceiverAttention(dim, sizes.dim_head, sizes.heads, operations, device),
                    nn.Sequential(
                        operations.LayerNorm(dim, device=device),
                        operations.Linear(dim, hidden, bias=False, device=device),
                        nn.GELU(),
                        operations.Linear(hidden, dim, bias=False, device=device),
                    ),
                )
            )
            for _ in range(sizes.depth)
        )

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
        for layer in self.layers:
            attention, feed_forward = cast(nn.ModuleList, layer)
            latents = latents + cast(Tensor, attention(x, latents))
            latents = latents + cast(Tensor, feed_forward(latents))
        return self.norm_out(self.proj_out(self.attention_norm(latents)))
