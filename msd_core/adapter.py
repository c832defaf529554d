"""The MS-Diffusion adapter as it is released: resampler, a key and a value projection for every
cross-attention of the UNet, and dummy tokens. Every size is read from the tensors' shapes."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .resampler import FOURIER_WIDTH, GroundingResampler

RELEASED_HEAD_WIDTH = 64
_LAYER = re.compile(r"image_proj\.layers\.(\d+)\.")


class Projection(nn.Module):
    """Image tokens -> key and value of one cross-attention."""

    def __init__(self, context: int, width: int, operations: Any, device: Any) -> None:
        super().__init__()
        self.to_k_ip = operations.Linear(context, width, bias=False, device=device)
        self.to_v_ip = operations.Linear(context, width, bias=False, device=device)

    def __iter__(self) -> Iterator[nn.Module]:
        """The pair: to_k, to_v."""
        return iter((self.to_k_ip, self.to_v_ip))

    def forward(self, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """image_tokens [..., K, C] -> key and value [..., K, width]."""
        return self.to_k_ip(image_tokens), self.to_v_ip(image_tokens)


def _resampler_sizes(shapes: Mapping[str, Sequence[int]], head_width: int | None) -> dict[str, int]:
    """Arguments of `GroundingResampler`, read from the shapes of its parameters."""

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
    return {
        "dim": dim,
        "depth": 1 + max(depths),
        "dim_head": head_width,
        "heads": inner // head_width,
        "num_queries": num_queries,
        "embedding_dim": shape("proj_in.weight")[1],
        "output_dim": shape("proj_out.weight")[0],
        "ff_mult": shape("layers.0.1.1.weight")[0] // dim,
        "phrase_embeddings_dim": shape("latent_proj.0.weight")[1] - FOURIER_WIDTH,
    }


def flat_keys(sd: Mapping[Any, Any]) -> dict[str, Any]:
    """The released file's table of tables (`image_proj`, `ms_adapter`) as flat keys; flat ones
    stay."""
    flat: dict[str, Any] = {}
    for name, value in sd.items():
        if isinstance(value, Mapping):
            part = cast(Mapping[Any, Any], value)
            flat |= {f"{name}.{key}": tensor for key, tensor in part.items()}
        else:
            flat[str(name)] = value
    return flat


def weights_digest(flat: Mapping[str, Tensor], head_width: int) -> str:
    """Hash of all that an adapter computes with: keys, types, shapes, values, width of the heads.
    The release's 1.84 GB take about a second, a fraction of reading them."""
    digest = hashlib.sha256(str(head_width).encode())
    for key, tensor in sorted(flat.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class MSAdapter(nn.Module):
    """The adapter; build it with `from_state_dict` or `msd_core.checkpoint.load_adapter`.

    Its `state_dict()` has the flat keys of a released file: `image_proj.*`,
    `ms_adapter.<odd number>.to_k_ip.weight` / `.to_v_ip.weight` and `dummy_image_tokens`.
    """

    def __init__(
        self,
        resampler: GroundingResampler,
        projections: Mapping[str, Projection],
        dummy_image_tokens: Tensor,
        head_width: int,
    ) -> None:
        super().__init__()
        self.image_proj = resampler
        self.ms_adapter = nn.ModuleDict(projections)
        self.dummy_image_tokens = nn.Parameter(dummy_image_tokens, requires_grad=False)
        self.head_width = head_width
        # Of the weights as they were read, whatever a host casts them to later; None: made by hand.
        self.digest: str | None = None

    @property
    def resampler(self) -> GroundingResampler:
        return self.image_proj

    @property
    def projections(self) -> list[Projection]:
        """The key and value projections in released order: down blocks, up blocks, middle."""
        return list(self.ms_adapter.values())  # type: ignore[arg-type]

    @property
    def dummy_tokens(self) -> Tensor:
        """[1, D, C]. Without effect on inference (docs/method.md, section 4); files keep them."""
        return self.dummy_image_tokens

    @property
    def image_token_count(self) -> int:
        """Image tokens a subject, T."""
        return self.image_proj.grounding_latents.shape[1]

    @property
    def feature_width(self) -> int:
        """Width E of the image encoder's features."""
        return self.image_proj.proj_in.in_features  # type: ignore[return-value]

    @property
    def phrase_width(self) -> int:
        """Width F of the phrase embedding."""
        return self.image_proj.latent_proj[0].in_features - FOURIER_WIDTH  # type: ignore[operator]

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
        expected = {key: tuple(value.shape) for key, value in adapter.state_dict().items()}
        for key, shape in expected.items():
            if key not in shapes:
                raise ValueError(f"key {key!r} is missing")
            if tuple(shapes[key]) != shape:
                raise ValueError(f"{key!r} has shape {tuple(shapes[key])}, expected {shape}")
        if extra := sorted(shapes.keys() - expected.keys()):
            raise ValueError(f"key {extra[0]!r} is none of an MS-Diffusion adapter's")
        return adapter

    @classmethod
    def from_state_dict(
        cls,
        sd: Mapping[str, Any],
        head_width: int | None = None,
        operations: Any = nn,
    ) -> "MSAdapter":
        """An adapter that owns these tensors, in their types.

        Args:
            sd: the weights, under flat keys or as the released file nests them.
            head_width: as in `from_shapes`, whose errors this raises.
            operations: namespace with `Linear` and `LayerNorm`; a host passes its own.
        """
        flat = flat_keys(sd)
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
        numbers = [
            int(n) for k in shapes if (n := k.partition("ms_adapter.")[2].split(".")[0]).isdigit()
        ]
        projections: dict[str, Projection] = {}
        # diffusers numbers all attentions; the odd ones are the cross-attentions.
        for number in range(1, max(numbers, default=1) + 1, 2):
            key = f"ms_adapter.{number}.to_k_ip.weight"
            if key not in shapes:
                raise ValueError(f"key {key!r} is missing")
            if len(shapes[key]) != 2:
                raise ValueError(f"{key!r} has shape {tuple(shapes[key])}, expected 2 sizes")
            width = shapes[key][0]
            projections[str(number)] = Projection(sizes["output_dim"], width, operations, "meta")
        return cls(
            GroundingResampler(**sizes, operations=operations, device="meta"),
            projections,
            torch.empty(*shapes["dummy_image_tokens"], device="meta"),
            sizes["dim_head"],
        )

    def keys_and_values(self, image_tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Key and value [..., K, width] of every cross-attention, in released order, for the
        image tokens [..., K, C] of all subjects."""
        return [projection(image_tokens) for projection in self.projections]
