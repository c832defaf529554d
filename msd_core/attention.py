"""The image branch of a text cross-attention (paper section 3.3): each query attends to the image
tokens of the subjects that cover it, and of nothing else."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def subject_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    coverage: Tensor,
    heads: int,
    subject_scales: Tensor | None = None,
) -> Tensor:
    """Masked multi-subject attention: one softmax over the tokens of all subjects that cover a
    query, zeros where none does.

    A soft coverage c weighs a subject's tokens by c inside the softmax, and the query's result by
    the largest c of its subjects: with c of 0 and 1 that is the published rule, and between them
    nothing jumps.

    Args:
        query: [B, N, C], the layer's own text query.
        key, value: [B, K, C], tokens of subject 1, of subject 2, ..., equally many of each.
        coverage: [B, S, N], bool, or float in 0..1.
        heads: attention heads that C holds.
        subject_scales: [S] or [B, S], multiplies the subjects' probabilities after the softmax.
    Returns:
        [B, N, C], before the output projection.
    Raises:
        ValueError: the tokens don't divide among the subjects.
    """
    subjects = coverage.shape[1]
    if subjects == 0:
        return torch.zeros_like(query)
    if key.shape[1] % subjects:
        raise ValueError(f"{key.shape[1]} image tokens don't divide among {subjects} subjects")
    tokens = key.shape[1] // subjects
    if subject_scales is not None:
        # Scaling a probability after the softmax is scaling what it multiplies.
        scales = subject_scales.to(value).repeat_interleave(tokens, dim=-1)
        value = value * scales[..., None]

    mask = subject_mask(coverage, tokens, query.dtype)
    return masked_attention(query, split_heads(key, heads), split_heads(value, heads), mask)


class SubjectMask(NamedTuple):
    """A coverage as `masked_attention` takes it: it holds for all layers of one grid."""

    scores: Tensor  # [B, 1, N, K], what to add to the scores
    strength: Tensor | None  # [B, N, 1], what to multiply the result by; None for ones


def subject_mask(coverage: Tensor, tokens: int, dtype: torch.dtype) -> SubjectMask:
    """The mask of `subject_attention`.

    Args:
        coverage: [B, S, N], bool, or float in 0..1. tokens: of each subject. dtype: of the query.
    """
    exact = dtype if coverage.dtype == torch.bool else torch.float32
    per_query = coverage.transpose(1, 2).to(exact)  # [B, N, S]
    strength = per_query.amax(-1, keepdim=True)  # [B, N, 1]
    # An uncovered query sees everything, so that no softmax is empty, and is then zeroed.
    scores = per_query.masked_fill(strength == 0, 1.0).log().to(dtype)
    return SubjectMask(scores.repeat_interleave(tokens, -1)[:, None], strength.to(dtype))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """View [B, N, heads * d] as [B, heads, N, d]."""
    # Not einops: in a step of 70 layers its microseconds are a part of what we add.
    return x.view(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: SubjectMask) -> Tensor:
    """`subject_attention` with heads and a mask that were made before.

    Args:
        query: [B, N, C]. key, value: [B, heads, K, d], or [1, heads, K, d] for all of the batch.
    """
    q = split_heads(query, key.shape[1])
    batch = q.shape[0]
    k, v = key.expand(batch, -1, -1, -1), value.expand(batch, -1, -1, -1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.scores)
    out = out.transpose(1, 2).flatten(2)
    return out if mask.strength is None else out * mask.strength


def phrase_maps(query: Tensor, key: Tensor, heads: int, token_weights: Tensor) -> Tensor:
    """How much each query's text attention looks at each phrase: the mean over heads and over the
    phrase's tokens of the text attention's probabilities.

    Args:
        query: [B, N, C]. key: [B, K, C], projected text tokens. heads: that C holds.
        token_weights: [K, S]; 1 / length at the tokens of a phrase, 0 elsewhere.
    Returns:
        float32 [B, S, N]
    """
    q, k = split_heads(query, heads), split_heads(key, heads)
    scores = q @ (k * k.shape[-1] ** -0.5).transpose(-1, -2)
    probabilities = scores.softmax(-1, dtype=torch.float32).mean(1)  # [B, N, K]
    return (probabilities @ token_weights).transpose(1, 2)
