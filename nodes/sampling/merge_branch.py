"""The image branch of one MSD Apply whose references follow their subjects' names, as MIP-Adapter's
do: in all rows and queries, whatever the boxes."""

from collections.abc import Mapping, Sequence

import torch
from comfy.model_management import cast_to_device
from torch import Tensor, nn

from ...msd_core.attention.merge import merged_attention, name_weights, text_strength
from ...msd_core.models.unet import Block
from ..subjects import Subjects
from .conditionings import Part
from .image_branch import Branch, Layer
from .run import KeyValue, Run


class MergeBranch(Branch):
    """What the subjects are, and their names.

    Args:
        keys_values: block -> key and value [S * T, width] of all image tokens, weights included.
        blank_keys_values: the same [T, width] of the blank image tokens, for the rows of negative
            conditionings.
        text_weights: block -> [width], how the text attention weighs the references.
        text_keys: block -> the layer's own text key projection.
        names: [L, C] of each subject, its name's tokens; none for an even map.
        subjects: without what their boxes mean.
    """

    reads_text = True

    def __init__(
        self,
        keys_values: Mapping[Block, KeyValue],
        blank_keys_values: Mapping[Block, KeyValue],
        text_weights: Mapping[Block, Tensor],
        text_keys: Mapping[Block, nn.Module],
        names: Sequence[Tensor],
        subjects: Subjects,
    ) -> None:
        super().__init__(keys_values, blank_keys_values, subjects)
        self.text_weights = text_weights
        self.text_keys = text_keys
        self.names = torch.cat(list(names))[None]
        shares = [torch.full((len(name), 1), 1 / max(1, len(name))) for name in names]
        self.shares = torch.block_diag(*shares)

    def add(
        self, run: Run, part: Part, layer: Layer, out: Tensor, q: Tensor, k: Tensor,
        text: Tensor | None = None,
    ) -> None:  # fmt: skip
        if not run.acts:
            return
        query = q[part.rows]
        key, value = self._keys_values(run, part, layer, query)
        weights = query.new_ones(1, query.shape[1], 1)
        if part.conditioning.positive is not None:
            names, shares = self._names(run, query)
            weights = name_weights(query, self.text_keys[layer.block](names), layer.heads, shares)
        before = (out if text is None else text)[part.rows]
        strength = text_strength(before, self._text_weight(run, layer, query))
        image = merged_attention(query, key, value, weights) * strength
        # Another pack's attention may give another type.
        out[part.rows] += image.to(out.dtype)

    def _names(self, run: Run, query: Tensor) -> tuple[Tensor, Tensor]:
        """All names' tokens [1, L, C], and their shares [L, S], on the query's device."""
        cached = query.device, query.dtype
        if cached not in run.names:
            run.names[cached] = (
                cast_to_device(self.names, query.device, query.dtype),
                cast_to_device(self.shares, query.device, None),
            )
        return run.names[cached]

    def _text_weight(self, run: Run, layer: Layer, query: Tensor) -> Tensor:
        cached = layer.block, query.device
        if cached not in run.text_weights:
            weight = self.text_weights[layer.block]
            run.text_weights[cached] = cast_to_device(weight, query.device, None)
        return run.text_weights[cached]
