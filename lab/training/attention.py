"""Attention that trains well on a CPU, and shows its probabilities."""

from typing import Any

from lab.microworld import networks  # noqa: F401  # isort: skip  # before the host looks for a GPU
import comfy.clip_model
import comfy.ldm.flux.math
import comfy.ldm.modules.attention as host_attention
import comfy.model_management
from torch import Tensor


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **kwargs: Any
) -> Tensor:
    """The host's attention, [n, length, width] each, written out: the fused ones train slowly on a
    CPU."""
    return attention_and_probabilities(q, k, v, heads, mask)[0]


def attention_and_probabilities(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same, and the probabilities [n, heads, queries, keys]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    probabilities = scores.softmax(-1)
    return (probabilities @ v).transpose(1, 2).flatten(2), probabilities


def plain_joint_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **kwargs: Any) -> Tensor:
    """The same of [n, heads, length, width] each, as Flux calls it."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def make_host_trainable() -> None:
    """Give the host's classes a backward pass, and a fast one: their CLIP layers add in place."""

    def forward(self, x, mask=None, optimized_attention=None):
        x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
        return x + self.mlp(self.layer_norm2(x))

    comfy.clip_model.CLIPLayer.forward = forward
    host_attention.optimized_attention = plain_attention
    host_attention.optimized_attention_masked = plain_attention
    comfy.clip_model.optimized_attention_for_device = lambda *args, **kwargs: plain_attention
    comfy.ldm.flux.math.optimized_attention = plain_joint_attention
    comfy.model_management.in_training = True  # its quick rotary embedding has no backward pass
