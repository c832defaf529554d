"""The MS-Diffusion adapter as it is released: resampler, a key and a value projection for every
cross-attention of the UNet, and dummy tokens. Every size is read from the tensors' shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from .family import Needs, image_encoder
from .perceiver import HEAD_WIDTH, perceiver_sizes, shape_of
from .projections import Projection, build_projections
from .released import ReleasedAdapter
from .resampler import FOURIER_WIDTH, GroundingResampler, ResamplerSizes


class MSAdapter(ReleasedAdapter):
    """The adapter. Its `state_dict()` has the flat keys of a released file: `image_proj.*`,
    `ms_adapter.<odd number>.to_k_ip.weight` / `.to_v_ip.weight` and `dummy_image_tokens`."""

    name, part = "MS-Diffusion", "ms_adapter"

    def __init__(
        self,
        resampler: GroundingResampler,
        projections: Mapping[str, Projection],
        dummy_image_tokens: Tensor,
    ) -> None:
        sizes = resampler.sizes
        needs = Needs(
            features="hidden_states",
            feature_width=sizes.embedding_dim,
            image_encoder=image_encoder("hidden_states", sizes.embedding_dim),
            phrase="pooled",
            phrase_width=sizes.phrase_embeddings_dim,
            box=True,
        )
        super().__init__(resampler, projections, needs)
        # They never influence inference (docs/method.md, section 4); files have them.
        self.dummy_image_tokens = nn.Parameter(dummy_image_tokens, requires_grad=False)

    @property
    def resampler(self) -> GroundingResampler:
        return cast(GroundingResampler, self.image_proj)

    @property
    def head_width(self) -> int:
        """Of the resampler; the one size that the weights' shapes don't tell."""
        return self.resampler.sizes.dim_head

    @classmethod
    def build(
        cls, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str], operations: Any
    ) -> Self:
        common = perceiver_sizes(shapes, "image_proj.grounding_latents", metadata)
        grounding = shape_of(shapes, "image_proj.latent_proj.0.weight")[1]
        sizes = ResamplerSizes(**asdict(common), phrase_embeddings_dim=grounding - FOURIER_WIDTH)
        if "dummy_image_tokens" not in shapes:
            raise ValueError("key 'dummy_image_tokens' is missing")
        return cls(
            GroundingResampler(sizes, operations, device="meta"),
            build_projections(shapes, "ms_adapter.", sizes.output_dim, operations),
            torch.empty(*shapes["dummy_image_tokens"], device="meta"),
        )

    def settings(self) -> tuple[object, ...]:
        return (self.head_width,)

    def metadata(self) -> dict[str, str]:
        return {
            "format": "pt", "architecture": "ms-diffusion", HEAD_WIDTH: str(self.head_width)
        }  # fmt: skip

    def image_tokens(
        self, features: Tensor, phrases: Tensor, boxes: Tensor, use_grounding: bool
    ) -> Tensor:
        drop = torch.full((len(features),), not use_grounding, device=features.device)
        return self.resampler(features, phrases, boxes, drop)

    def blank_image_tokens(self, features: Tensor) -> None:
        return None
