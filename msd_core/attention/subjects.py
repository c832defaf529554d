"""Masked multi-subject attention (docs/method.md, section 4): each query attends to the
image tokens of the subjects that cover it, and of nothing else."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class SubjectMask(NamedTuple):
    """A coverage as `subject_attention` takes it: it holds for all layers of one grid."""

    scores: Tensor  # [B, 1, N, K], added to the scores
    strength: Tensor | None  # [B, N, 1], multiplies the result; None for ones


def subject_mask(coverage: Tensor, tokens: int, dtype: torch.dtype) -> SubjectMask:
    """The mask of `subject_attention`.

    Args:
        coverage: [B, S, N], bool, or float in 0..1.
        tokens: image tokens of each subject.
        dtype: of the query.
    """
    exact = dtype if coverage.dtype == torch.bool else torch.float32
    per_query = coverage.transpose(1, 2).to(exact)  # [B, N, S]
    strength = per_query.amax(-1, keepdim=True)  # [B, N, 1]
    # An uncovered query sees everything, so that no softmax is empty, and is then zeroed.
    scores = per_query.masked_fill(strength == 0, 1.0).log().to(dtype)
    return SubjectMask(scores.repeat_interleave(tokens, -1)[:, None], strength.to(dtype))


def subject_attention(query: Tensor, key: Tensor, value: Tensor, mask: SubjectMask) -> Tensor:
    """One softmax over the tokens of all subjects that cover a query, zeros where none does.

    A soft coverage c weighs a subject's tokens by c inside the softmax, and the query's result by
    the largest c of its subjects: with c of 0 and 1 that is the published rule, and between them
    nothing jumps.

    Args:
        query: [B, N, C], the layer's own text query.
        key, value: [B, heads, K, d], or [1, heads, K, d] for the whole batch; tokens of subject 1,
            of subject 2, ..., equally many of each.
        mask: `subject_mask` of the coverage.
    Returns:
        [B, N, C], before the output projection.
    """
    q = split_heads(query, key.shape[1])
    batch = q.shape[0]
    k, v = key.expand(batch, -1, -1, -1), value.expand(batch, -1, -1, -1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.scores)
    out = out.transpose(1, 2).flatten(2)
    return out if mask.strength is None else out * mask.strength


def weighted_values(value: Tensor, weights: Tensor) -> Tensor:
    """Values that give each subject its weight.

    Multiplying a subject's values multiplies its probabilities after the softmax, which is where
    the method weighs subjects.

    Args:
        value: [..., K, C], tokens as in `subject_attention`. weights: [S].
    Raises:
        ValueError: the tokens don't divide among the subjects.
    """
    tokens, rest = divmod(value.shape[-2], len(weights))
    if rest:
        raise ValueError(
            f"{value.shape[-2]} image tokens don't divide among {len(weights)} subjects"
        )
    return value * weights.to(value).repeat_interleave(tokens)[:, None]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """View [B, N, heads * d] as [B, heads, N, d]."""
    # Not einops: in a step of 70 layers its microseconds are a part of what we add.
    return x.view(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)
