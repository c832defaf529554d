"""The perceiver that IP-Adapter plus and MS-Diffusion have in common: learned latents attend to the
features of an image. Parameters have the names of the released files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

HEAD_WIDTH = "resampler_head_width"  # in a safetensors file's metadata
_RELEASED_HEAD_WIDTH = 64
_LAYER = re.compile(r"image_proj\.layers\.(\d+)\.")


@dataclass(frozen=True)
class PerceiverSizes:
    """Sizes of a perceiver, by the research code's names."""

    dim: int  # its own width
    depth: int  # its layers
    dim_head: int
    heads: int
    num_queries: int  # image tokens a subject, T
    embedding_dim: int  # width of the image features, E
    output_dim: int  # width of the UNet's cross-attention, C
    ff_mult: int  # the feed-forward layers are this many times as wide as the perceiver


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


class PerceiverLayers(nn.ModuleList):
    """Each an attention of the latents to the features, and a feed-forward layer."""

    def __init__(self, sizes: PerceiverSizes, operations: Any, device: Any) -> None:
        dim, hidden = sizes.dim, sizes.dim * sizes.ff_mult
        super().__init__(
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

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        """features [S, P, dim], latents [S, T, dim] -> [S, T, dim]."""
        for layer in self:
            attention, feed_forward = cast(nn.ModuleList, layer)
            latents = latents + cast(Tensor, attention(features, latents))
            latents = latents + cast(Tensor, feed_forward(latents))
        return latents


def learned_latents(sizes: PerceiverSizes, device: Any) -> nn.Parameter:
    """[1, T, dim], where the latents start from."""
    latents = nn.Parameter(torch.empty(1, sizes.num_queries, sizes.dim, device=device))
    if not latents.is_meta:  # there it would import seconds of torch's compiler
        nn.init.normal_(latents, std=sizes.dim**-0.5)
    return latents


def shape_of(shapes: Mapping[str, Sequence[int]], key: str, rank: int = 2) -> Sequence[int]:
    """A file's shape under a key.

    Raises:
        ValueError: the key is missing, or its shape has not so many sizes.
    """
    if key not in shapes:
        raise ValueError(f"key {key!r} is missing")
    if len(shapes[key]) != rank or 0 in shapes[key]:
        raise ValueError(f"{key!r} has shape {tuple(shapes[key])}, expected {rank} sizes")
    return shapes[key]


def perceiver_sizes(
    shapes: Mapping[str, Sequence[int]], latents: str, metadata: Mapping[str, str]
) -> PerceiverSizes:
    """Sizes of a perceiver, read from the shapes of its parameters.

    Args:
        shapes: flat released key -> shape.
        latents: the key of the learned latents.
        metadata: of the file.
    Raises:
        ValueError: a key is missing, or of a shape that fits nothing.
    """
    _, num_queries, dim = shape_of(shapes, latents, rank=3)
    inner = shape_of(shapes, "image_proj.layers.0.0.to_q.weight")[0]
    depths = [int(match[1]) for k in shapes if (match := _LAYER.match(k))]
    given = metadata.get(HEAD_WIDTH, "")
    if given.isdigit() and int(given):
        head_width = int(given)
    else:
        # The number of heads is the one size that no shape tells. The releases' heads are 64
        # wide; what that would leave with one head or a part of one can only be a miniature.
        several = inner > _RELEASED_HEAD_WIDTH and inner % _RELEASED_HEAD_WIDTH == 0
        head_width = _RELEASED_HEAD_WIDTH if several else 16
    if inner % head_width:
        raise ValueError(f"its resampler is {inner} wide, which heads of {head_width} don't divide")
    return PerceiverSizes(
        dim=dim,
        depth=1 + max(depths),
        dim_head=head_width,
        heads=inner // head_width,
        num_queries=num_queries,
        embedding_dim=shape_of(shapes, "image_proj.proj_in.weight")[1],
        output_dim=shape_of(shapes, "image_proj.proj_out.weight")[0],
        ff_mult=shape_of(shapes, "image_proj.layers.0.1.1.weight")[0] // dim,
    )
