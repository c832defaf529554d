"""IP-Adapter as it is released (arXiv 2308.06721): an image projection, and a key and a value
projection for every cross-attention of a UNet of SDXL or SD1.5. It takes no phrase; the box only
places the subject (docs/ip_adapter.md)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import Self

from .family import FeatureKind, Needs, image_encoder
from .perceiver import (
    HEAD_WIDTH,
    PerceiverLayers,
    PerceiverSizes,
    learned_latents,
    perceiver_sizes,
    shape_of,
)
from .projections import Projection, build_projections
from .released import ReleasedAdapter

Shapes = Mapping[str, Sequence[int]]


class ImageProj(nn.Module, ABC):
    """Image features of n references -> image tokens [n, T, C]."""

    features: FeatureKind
    feature_width: int  # E
    output_dim: int  # C

    @classmethod
    @abstractmethod
    def from_shapes(cls, shapes: Shapes, metadata: Mapping[str, str], operations: Any) -> Self:
        """One without weights (device meta), of the sizes of a file.

        Raises:
            ValueError: a key is missing, or of a shape that fits nothing.
        """


class LinearImageProj(ImageProj):
    """A few image tokens from the encoder's pooled output."""

    features: FeatureKind = "pooled"

    def __init__(
        self, feature_width: int, tokens: int, output_dim: int, operations: Any = nn,
        device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.feature_width, self.output_dim = feature_width, output_dim
        self.proj = operations.Linear(feature_width, tokens * output_dim, device=device)
        self.norm = operations.LayerNorm(output_dim, device=device)

    @classmethod
    def from_shapes(cls, shapes: Shapes, metadata: Mapping[str, str], operations: Any) -> Self:
        rows, feature_width = shape_of(shapes, "image_proj.proj.weight")
        output_dim = shape_of(shapes, "image_proj.norm.weight", rank=1)[0]
        return cls(feature_width, max(1, rows // output_dim), output_dim, operations, "meta")

    def forward(self, features: Tensor) -> Tensor:
        """[n, E] -> [n, T, C]."""
        return self.norm(self.proj(features).unflatten(-1, (-1, self.output_dim)))


class PlusImageProj(ImageProj):
    """Learned latents that attend to the encoder's hidden states."""

    features: FeatureKind = "hidden_states"

    def __init__(self, sizes: PerceiverSizes, operations: Any = nn, device: Any = None) -> None:
        super().__init__()
        self.sizes = sizes
        self.feature_width, self.output_dim = sizes.embedding_dim, sizes.output_dim
        self.latents = learned_latents(sizes, device)
        self.proj_in = operations.Linear(sizes.embedding_dim, sizes.dim, device=device)
        self.proj_out = operations.Linear(sizes.dim, sizes.output_dim, device=device)
        self.norm_out = operations.LayerNorm(sizes.output_dim, device=device)
        self.layers = PerceiverLayers(sizes, operations, device)

    @classmethod
    def from_shapes(cls, shapes: Shapes, metadata: Mapping[str, str], operations: Any) -> Self:
        return cls(perceiver_sizes(shapes, "image_proj.latents", metadata), operations, "meta")

    def forward(self, features: Tensor) -> Tensor:
        """[n, P, E] -> [n, T, C]."""
        x = self.proj_in(features)
        latents = self.latents.to(x).expand(len(x), -1, -1)
        return self.norm_out(self.proj_out(self.layers(x, latents)))


class FullImageProj(ImageProj):
    """An image token for each of the encoder's hidden states."""

    features: FeatureKind = "hidden_states"

    def __init__(
        self, feature_width: int, output_dim: int, operations: Any = nn, device: Any = None
    ) -> None:
        super().__init__()
        self.feature_width, self.output_dim = feature_width, output_dim
        self.proj = nn.Sequential(
            operations.Linear(feature_width, feature_width, device=device),
            nn.GELU(),
            operations.Linear(feature_width, output_dim, device=device),
            operations.LayerNorm(output_dim, device=device),
        )

    @classmethod
    def from_shapes(cls, shapes: Shapes, metadata: Mapping[str, str], operations: Any) -> Self:
        output_dim, feature_width = shape_of(shapes, "image_proj.proj.2.weight")
        return cls(feature_width, output_dim, operations, "meta")

    def forward(self, features: Tensor) -> Tensor:
        """[n, P, E] -> [n, P, C]."""
        return self.proj(features)


# By a key that only files with such a projection have.
_IMAGE_PROJS: dict[str, type[ImageProj]] = {
    "image_proj.proj.weight": LinearImageProj,
    "image_proj.latents": PlusImageProj,
    "image_proj.proj.3.weight": FullImageProj,
}


class IPAdapter(ReleasedAdapter):
    """The adapter. Its `state_dict()` has the flat keys of a released file: `image_proj.*` and
    `ip_adapter.<odd number>.to_k_ip.weight` / `.to_v_ip.weight`."""

    name, part = "IP-Adapter", "ip_adapter"
    projection: type[Projection] = Projection

    def __init__(self, image_proj: ImageProj, projections: Mapping[str, Projection]) -> None:
        needs = Needs(
            features=image_proj.features,
            feature_width=image_proj.feature_width,
            image_encoder=image_encoder(image_proj.features, image_proj.feature_width),
            phrase=None,
            phrase_width=0,
            box=False,
        )
        super().__init__(image_proj, projections, needs)

    @classmethod
    def build(cls, shapes: Shapes, metadata: Mapping[str, str], operations: Any) -> Self:
        kinds = [kind for key, kind in _IMAGE_PROJS.items() if key in shapes]
        if not kinds:
            raise ValueError(f"key {next(iter(_IMAGE_PROJS))!r} is missing")
        image_proj = kinds[0].from_shapes(shapes, metadata, operations)
        prefix = f"{cls.part}."
        projections = build_projections(
            shapes, prefix, image_proj.output_dim, operations, cls.projection
        )
        return cls(image_proj, projections)

    def settings(self) -> tuple[object, ...]:
        proj = self.image_proj
        return (proj.sizes.dim_head,) if isinstance(proj, PlusImageProj) else ()

    def metadata(self) -> dict[str, str]:
        known = {"format": "pt", "architecture": "ip-adapter"}
        for head_width in self.settings():
            known[HEAD_WIDTH] = str(head_width)
        return known

    def image_tokens(
        self, features: Tensor, phrases: Tensor, boxes: Tensor, use_grounding: bool
    ) -> Tensor:
        return self.image_proj(features)

    def blank_image_tokens(self, features: Tensor) -> Tensor:
        return self.image_proj(features[None])[0]
