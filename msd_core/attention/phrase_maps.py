"""Auto layout (the authors' later addition): coverage from where the text attention itself looks
at each subject's phrase."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .covered import CoveredQueries
from .subjects import split_heads


def phrase_maps(query: Tensor, key: Tensor, heads: int, token_weights: Tensor) -> Tensor:
    """How much each query's text attention looks at each phrase: the mean over heads and over the
    phrase's tokens of the text attention's probabilities.

    Args:
        query: [B, N, C].
        key: [B, K, C], projected text tokens.
        heads: attention heads that C holds.
        token_weights: [K, S], by `msd_core.phrases.token_weights`.
    Returns:
        float32 [B, S, N]
    """
    q, k = split_heads(query, heads), split_heads(key, heads)
    scores = q @ (k * k.shape[-1] ** -0.5).transpose(-1, -2)
    probabilities = scores.softmax(-1, dtype=torch.float32).mean(1)  # [B, N, K]
    return (probabilities @ token_weights).transpose(1, 2)


class AutoLayout:
    """Running mean of the maps of one layer and one run, and the coverage that follows from it.

    Args:
        threshold: a cell is covered where its min-max normalised mean map exceeds this.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.steps = 0
        self._sum: Tensor | None = None

    def add(self, maps: Tensor) -> None:
        """Add one step's maps [B, S, N]."""
        maps = maps.float()
        self._sum = maps.clone() if self._sum is None else self._sum + maps.to(self._sum.device)
        self.steps += 1

    def coverage(self) -> Tensor:
        """bool [B, S, N], from the mean over all steps so far.

        Raises:
            ValueError: no maps were added.
        """
        if self._sum is None:
            raise ValueError("auto layout has no maps yet")
        low, high = self._sum.amin(-1, keepdim=True), self._sum.amax(-1, keepdim=True)
        # (mean - low) / (high - low + 1e-5) > threshold, of the sums and without dividing: on a GPU
        # each operation counts, here in each layer.
        return self._sum > low.lerp(high, self.threshold) + self.threshold * self.steps * 1e-5


def restore_boxes(
    coverage: Tensor, boxes: Tensor, queries: CoveredQueries, subjects: Sequence[int]
) -> None:
    """Give subjects whose phrase the text doesn't hold their boxes' coverage back, in place.

    Args:
        coverage: [B, S, N], by the maps.
        boxes: [1, S, n], by the boxes, of the `queries` that they cover.
        subjects: indices along S.
    """
    for index in subjects:
        coverage[:, index] = 0
        coverage[:, index, queries.index] = boxes[:, index]
