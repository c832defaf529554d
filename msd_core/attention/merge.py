"""References merged by the subjects' names (docs/ip_adapter.md): where each acts follows from where
the layer's text query looks at its name. Maps and weights are float32."""

import math

import torch
from torch import Tensor

from .subjects import split_heads


def name_weights(query: Tensor, name_key: Tensor, heads: int, shares: Tensor) -> Tensor:
    """How much of each query is each subject's; sums to 1 over the subjects.

    Args:
        query: [B, N, C], the layer's own text query.
        name_key: [1, L, C], the layer's own text key of all names' tokens.
        shares: [L, S], of each token in its subject's map: 1 / the name's length, else 0. A subject
            without any gets an even map.
    Returns:
        [B, N, S] float32
    """
    q, k = (split_heads(x.float(), heads) for x in (query, name_key))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # [B, heads, N, L]
    # Over the positions, not over the tokens; as logarithms, since where all maps are next to
    # nothing their parts would be zeros by zeros.
    maps = scores.log_softmax(2)[..., None] + shares.log()  # [B, heads, N, L, S]
    maps = maps.logsumexp((1, 3)) - math.log(heads)
    maps = torch.where(shares.sum(0) == 0, -math.log(query.shape[1]), maps)
    return maps.softmax(-1)


def merged_attention(query: Tensor, key: Tensor, value: Tensor, weights: Tensor) -> Tensor:
    """An attention to each subject's tokens, added up with weights.

    Args:
        query: [B, N, C].
        key, value: [1, heads, S * T, d]; tokens of subject 1, of subject 2, ...
        weights: [B or 1, N, S].
    Returns:
        [B, N, C], before the output projection.
    """
    q = split_heads(query, key.shape[1])
    scores = q @ key.transpose(-1, -2) * q.shape[-1] ** -0.5
    each = scores.unflatten(-1, (weights.shape[-1], -1)).softmax(-1)  # [B, heads, N, S, T]
    each = each * weights.to(each)[:, None, ..., None]
    return (each.flatten(-2) @ value).transpose(1, 2).flatten(2)


def text_strength(text: Tensor, text_weight: Tensor) -> Tensor:
    """How strongly the references act on each query, 1 in the mean over the queries.

    Args:
        text: [B, N, C], the text attention, before its output projection.
        text_weight: [C], learned.
    Returns:
        [B, N, 1] float32
    """
    gate = (text.float() @ text_weight.float()).sigmoid()
    return (gate / gate.mean(-1, keepdim=True))[..., None]
