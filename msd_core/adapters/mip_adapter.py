"""MIP-Adapter as it is released (AAAI 2025, arXiv 2409.17920): IP-Adapter whose references follow
their subjects' names instead of boxes, and a learned text weight a layer (docs/ip_adapter.md)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from .ip_adapter import ImageProj, IPAdapter
from .projections import Projection


class MIPProjection(Projection):
    """The projections of one cross-attention, and how its text output weighs the references."""

    def __init__(self, context: int, width: int, operations: Any, device: Any) -> None:
        super().__init__(context, width, operations, device)
        self.text_to_weight = operations.Linear(width, 1, bias=False, device=device)


class MIPAdapter(IPAdapter):
    """The adapter. Its files have IP-Adapter's keys, and a `text_to_weight` for each attention."""

    name, projection = "MIP-Adapter", MIPProjection

    def __init__(self, image_proj: ImageProj, projections: Mapping[str, Projection]) -> None:
        super().__init__(image_proj, projections)
        self.needs = replace(self.needs, phrase="tokens", phrase_width=image_proj.output_dim)

    @classmethod
    def owns(cls, keys: Iterable[str]) -> bool:
        return any(key.startswith("ip_adapter.") and ".text_to_weight." in key for key in keys)

    @property
    def text_weights(self) -> list[Tensor]:
        projections = cast(list[MIPProjection], self.projections)
        return [each.text_to_weight.weight[0] for each in projections]

    def image_tokens(
        self, features: Tensor, phrases: Tensor, boxes: Tensor, use_grounding: bool
    ) -> Tensor:
        # Several references of a subject: the mean of their tokens.
        return super().image_tokens(features, phrases, boxes, use_grounding).mean(0, keepdim=True)
