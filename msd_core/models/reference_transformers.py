"""Transformers that take references as further tokens of their joint attentions: in which order
text, picture and references stand there, and how many tokens a latent becomes."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod


class Part(Enum):
    """A part of the sequence of a joint attention."""

    TEXT = "text"
    PICTURE = "picture"
    REFERENCES = "references"


@dataclass(frozen=True)
class ReferenceTransformer:
    """One architecture.

    Args:
        order: of the parts in the sequence.
        patch: the attribute of the model that holds how many elements of the latent one token
            covers: of both edges, or of frames, height and width.
        frames_in_batch: the frames of a latent are rows of the batch rather than tokens.
        refiners: the attributes of the model that hold its layers of text, picture and references
            each alone, which it runs in this order before those of all; () for none.
        without_text: some joint attentions leave the text out.
    """

    order: tuple[Part, Part, Part]
    patch: str = "patch_size"
    frames_in_batch: bool = False
    refiners: tuple[str, str, str] | tuple[()] = ()
    without_text: bool = False


_REFERENCES_LAST = (Part.TEXT, Part.PICTURE, Part.REFERENCES)
_PICTURE_LAST = (Part.TEXT, Part.REFERENCES, Part.PICTURE)
_REFINERS = ("context_refiner", "noise_refiner", "ref_image_refiner")

# By the name that the host gives the architecture (`image_model`)
REFERENCE_TRANSFORMERS = {
    "flux": ReferenceTransformer(_REFERENCES_LAST),
    "flux2": ReferenceTransformer(_REFERENCES_LAST),
    "qwen_image": ReferenceTransformer(_REFERENCES_LAST),
    "mage_flow": ReferenceTransformer(_REFERENCES_LAST),
    "krea2": ReferenceTransformer(_REFERENCES_LAST, patch="patch", frames_in_batch=True),
    "omnigen2": ReferenceTransformer(_PICTURE_LAST, refiners=_REFINERS),
    "boogu": ReferenceTransformer(_PICTURE_LAST, refiners=_REFINERS, without_text=True),
    "joyimage": ReferenceTransformer((Part.PICTURE, Part.REFERENCES, Part.TEXT)),
}


def token_grid(latent: Sequence[int], patch: int | Sequence[int]) -> tuple[int, int, int]:
    """Frames, height and width of the grid of tokens that a latent becomes, padded to whole ones.

    Args:
        latent: its shape, [B, C, H, W] or [B, C, T, H, W].
        patch: elements of the latent that one token covers: of both edges, or of frames, height
            and width.
    """
    sizes = [*latent[2:]] if len(latent) == 5 else [1, *latent[2:]]
    edges = [1, patch, patch] if isinstance(patch, int) else patch
    frames, height, width = (-(-size // edge) for size, edge in zip(sizes, edges, strict=True))
    return frames, height, width


def token_count(latent: Sequence[int], patch: int | Sequence[int]) -> int:
    """Tokens that a latent becomes; the arguments are those of `token_grid`."""
    return prod(token_grid(latent, patch))
