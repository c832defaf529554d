"""What every family of adapters has in common: what it needs of a subject, and what it gives."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from ..attention.subjects import SubjectMask

# The image encoder's last hidden states but one, or its pooled and projected output.
FeatureKind = Literal["hidden_states", "pooled"]
# CLIP-L's pooled output, or the last hidden states but one of all text encoders side by side.
PhraseKind = Literal["pooled", "tokens"]
# By the width of their features: one width stands for two.
_IMAGE_ENCODERS: dict[FeatureKind, dict[int, str]] = {
    "hidden_states": {1664: "CLIP-ViT-bigG-14", 1280: "CLIP-ViT-H-14", 1024: "CLIP-ViT-L-14"},
    "pooled": {1280: "CLIP-ViT-bigG-14", 1024: "CLIP-ViT-H-14", 768: "CLIP-ViT-L-14"},
}
# (query [B, N, C], key, value [B or 1, heads, K, d], mask) -> [B, N, C], what the attention of the
# covered queries to the image tokens adds to that to the text.
Rule = Callable[[Tensor, Tensor, Tensor, SubjectMask], Tensor]


def image_encoder(features: FeatureKind, width: int) -> str:
    """What users call the image encoder whose features are so wide."""
    return _IMAGE_ENCODERS[features].get(width, "another encoder")


@dataclass(frozen=True)
class Needs:
    """What an adapter needs to make a subject's image tokens."""

    features: FeatureKind
    feature_width: int  # E
    image_encoder: str  # the name that users know it by
    phrase: PhraseKind | None  # None: the text encoder isn't asked
    phrase_width: int  # F, 0 without a phrase
    box: bool  # it guides what is taken from the reference; it places the subject anyway


class Adapter(Protocol):
    """An adapter of any family. Image tokens are [n, T, C] for n references of one subject."""

    name: str  # of the family, in messages
    needs: Needs
    digest: str | None  # `weights_digest` of what was read; None for one that wasn't read

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Width and context of each cross-attention, in released order."""
        ...

    @property
    def rule(self) -> Rule:
        """What a covered query does with the keys and values."""
        ...

    @property
    def text_weights(self) -> list[Tensor] | None:
        """[width] of each cross-attention, for a family whose references follow the subjects' names
        (`msd_core.attention.merge`); None for one whose rule places them by coverage."""
        ...

    def image_tokens(
        self, features: Tensor, phrases: Tensor, boxes: Tensor, use_grounding: bool
    ) -> Tensor:
        """Image tokens [n, T, C].

        Args:
            features: hidden states [n, P, E] or pooled [n, E], float32.
            phrases: pooled [n, F], L tokens [n, L, F], or [n, 0] without; float32.
            boxes: [n, 4], normalised x0, y0, x1, y1, or [n, 0] without.
            use_grounding: let phrase and box guide what is taken from the reference.
        """
        ...

    def blank_image_tokens(self, features: Tensor) -> Tensor | None:
        """[T, C], what the rows of negative (all but the positive) conditionings get in place of
        each subject's image tokens; None leaves those rows as they are.

        Args:
            features: what stands for no reference: hidden states [P, E] for pixel values of zeros,
                or zeros [E] for the pooled output; float32.
        """
        ...

    def keys_and_values(self, image_tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Key and value [..., K, width] of each cross-attention, in released order, for the image
        tokens [..., K, C] of all subjects."""
        ...


def flat_keys(sd: Mapping[Any, Any]) -> dict[str, Any]:
    """A released file's table of tables (`image_proj`, `ms_adapter`) as flat keys; flat ones
    stay."""
    flat: dict[str, Any] = {}
    for name, value in sd.items():
        if isinstance(value, Mapping):
            part = cast(Mapping[Any, Any], value)
            flat |= {f"{name}.{key}": tensor for key, tensor in part.items()}
        else:
            flat[str(name)] = value
    return flat


def weights_digest(flat: Mapping[str, Tensor], *settings: object) -> str:
    """Hash of all that an adapter computes with: settings, keys, types, shapes and values. 1.84 GB
    take about a second, a fraction of reading them."""
    digest = hashlib.sha256(" ".join(map(str, settings)).encode())
    for key, tensor in sorted(flat.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_shapes(given: Mapping[str, Sequence[int]], module: torch.nn.Module, name: str) -> None:
    """Check that a file's keys and shapes are exactly those of a family's module.

    Raises:
        ValueError: a key is missing, left over, or of another shape.
    """
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    for key, shape in expected.items():
        if key not in given:
            raise ValueError(f"key {key!r} is missing")
        if tuple(given[key]) != shape:
            raise ValueError(f"{key!r} has shape {tuple(given[key])}, expected {shape}")
    if extra := sorted(given.keys() - expected.keys()):
        raise ValueError(f"key {extra[0]!r} is none of an {name} adapter's")
