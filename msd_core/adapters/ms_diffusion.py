"""The MS-Diffusion adapter as it is released: resampler, a key and a value projection for every
cross-attention of the UNet, and dummy tokens. Every size is read from the tensors' shapes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.subjects import subject_attention
from .family import IMAGE_ENCODERS, Needs, Rule, check_shapes, flat_keys, weights_digest
from .projections import Projection, build_projections
from .resampler import FOURIER_WIDTH, GroundingResampler, ResamplerSizes

RELEASED_HEAD_WIDTH = 64
_HEAD_WIDTH = "resampler_head_width"  # in a safetensors file's metadata
_LAYER = re.compile(r"image_proj\.layers\.(\d+)\.")


def _resampler_sizes(shapes: Mapping[str, Sequence[int]], head_width: int | None) -> ResamplerSizes:
    """Sizes of the resampler, read from the shapes of its parameters."""

    def shape(key: str, rank: int = 2) -> Sequence[int]:
        if (key := f"image_proj.{key}") not in shapes:
            raise ValueError(f"key {key!r} is missing")
        if len(shapes[key]) != rank or 0 in shapes[key]:
            raise ValueError(f"{key!r} has shape {tuple(shapes[key])}, expected {rank} sizes")
        return shapes[key]

    _, num_queries, dim = shape("grounding_latents", rank=3)
    inner = shape("layers.0.0.to_q.weight")[0]
    depths = [int(match[1]) for k in shapes if (match := _LAYER.match(k))]
    if head_width is None:
        # The number of heads is the one size that no shape tells. The release's heads are 64
        # wide; what that would leave with one head or a part of one can only be a miniature.
        several = inner > RELEASED_HEAD_WIDTH and inner % RELEASED_HEAD_WIDTH == 0
        head_width = RELEASED_HEAD_WIDTH if several else 16
    if inner % head_width:
        raise ValueError(f"its resampler is {inner} wide, which heads of {head_width} don't divide")
    return ResamplerSizes(
        dim=dim,
        depth=1 + max(depths),
        dim_head=head_width,
        heads=inner // head_width,
        num_queries=num_queries,
        embedding_dim=shape("proj_in.weight")[1],
        output_dim=shape("proj_out.weight")[0],
        ff_mult=shape("layers.0.1.1.weight")[0] // dim,
        phrase_embeddings_dim=shape("latent_proj.0.weight")[1] - FOURIER_WIDTH,
    )


class MSAdapter(nn.Module):
    """The adapter (an `Adapter` of `msd_core.adapters.family`); build it with `from_state_dict` or
    `msd_core.checkpoint.load_adapter`.

    Its `state_dict()` has the flat keys of a released file: `image_proj.*`,
    `ms_adapter.<odd number>.to_k_ip.weight` / `.to_v_ip.weight` and `dummy_image_tokens`.
    """

    name = "MS-Diffusion"
    needs: Needs
    digest: str | None = None  # of the weights as they were read, whatever a host casts them to

    def __init__(
        self,
        resampler: GroundingResampler,
        projections: Mapping[str, Projection],
        dummy_image_tokens: Tensor,
    ) -> None:
        super().__init__()
        self.image_proj = resampler
        self.ms_adapter = nn.ModuleDict(projections)
        # They never influence inference (docs/method.md, section 4); files have them.
        self.dummy_image_tokens = nn.Parameter(dummy_image_tokens, requires_grad=False)
        sizes = resampler.sizes
        self.needs = Needs(
            features="hidden_states",
            feature_width=sizes.embedding_dim,
            image_encoder=IMAGE_ENCODERS["hidden_states"].get(
                sizes.embedding_dim, "another encoder"
            ),
            phrase="pooled",
            phrase_width=sizes.phrase_embeddings_dim,
            box=True,
        )

    @property
    def resampler(self) -> GroundingResampler:
        return self.image_proj

    @property
    def projections(self) -> list[Projection]:
        """The key and value projections in released order: down blocks, up blocks, middle."""
        return list(self.ms_adapter.values())  # type: ignore[arg-type]

    @property
    def head_width(self) -> int:
        """Of the resampler; the one size that the weights' shapes don't tell."""
        return self.resampler.sizes.dim_head

    @property
    def layers(self) -> list[tuple[int, int]]:
        return [(p.to_k_ip.out_features, p.to_k_ip.in_features) for p in self.projections]

    @property
    def rule(self) -> Rule:
        return subject_attention

    @staticmethod
    def owns(keys: Iterable[str]) -> bool:
        """Whether a file with these flat keys is meant to be one of this family."""
        return any(key.startswith("ms_adapter.") for key in keys)

    @classmethod
    def from_shapes(
        cls, shapes: Mapping[str, Sequence[int]], head_width: int | None = None
    ) -> "MSAdapter":
        """An adapter without weights (device meta) whose parameters have exactly these shapes.

        Args:
            shapes: flat released key -> shape.
            head_width: width of the resampler's heads; None takes the release's.
        Raises:
            ValueError: a key is missing, left over, or of a shape that fits nothing.
        """
        adapter = cls._build(shapes, head_width, nn)
        check_shapes(shapes, adapter, cls.name)
        return adapter

    @classmethod
    def from_state_dict(
        cls, sd: Mapping[str, Any], metadata: Mapping[str, str] | None = None, operations: Any = nn
    ) -> "MSAdapter":
        """An adapter that owns these tensors, in their types.

        Args:
            sd: the weights, under flat keys or as the released file nests them.
            metadata: of the file, as `metadata()` gives it.
            operations: namespace with `Linear` and `LayerNorm`; a host passes its own.
        Raises:
            ValueError: as `from_shapes`.
        """
        flat = flat_keys(sd)
        given = (metadata or {}).get(_HEAD_WIDTH, "")
        head_width = int(given) if given.isdigit() and int(given) else None
        shapes = {key: value.shape for key, value in flat.items()}
        # Checked on plain modules: a host's may hold no parameters before they are loaded.
        cls.from_shapes(shapes, head_width)
        adapter = cls._build(shapes, head_width, operations)
        adapter.load_state_dict(flat, assign=True)
        adapter.digest = weights_digest(flat, adapter.head_width)
        return adapter.requires_grad_(False)

    @classmethod
    def _build(
        cls, shapes: Mapping[str, Sequence[int]], head_width: int | None, operations: Any
    ) -> "MSAdapter":
        sizes = _resampler_sizes(shapes, head_width)
        if "dummy_image_tokens" not in shapes:
            raise ValueError("key 'dummy_image_tokens' is missing")
        return cls(
            GroundingResampler(sizes, operations, device="meta"),
            build_projections(shapes, "ms_adapter.", sizes.output_dim, operations),
            torch.empty(*shapes["dummy_image_tokens"], device="meta"),
        )

    def metadata(self) -> dict[str, str]:
        """What a safetensors file of it says besides its weights."""
        return {
            "format": "pt", "architecture": "ms-diffusion", _HEAD_WIDTH: str(self.head_width)
        }  # fmt: skip

    def image_tokens(
        self, features: Tensor, phrases: Tensor, boxes: Tensor, use_grounding: bool
    ) -> Tensor:
        drop = torch.full((len(features),), not use_grounding, device=features.device)
        return self.resampler(features, phrases, boxes, drop)

    def blank_image_tokens(self) -> None:
        return None

    def keys_and_values(self, image_tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [projection(image_tokens) for projection in self.projections]
