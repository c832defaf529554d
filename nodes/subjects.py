"""What the one wire through the graph carries: the subjects, and what is known of each so far."""

from dataclasses import dataclass, replace

import torch
from comfy_api.latest import io
from torch import Tensor

from ..msd_core.coverage import Window, box_coverage, mask_coverage

MAX_SUBJECTS = 16
Box = tuple[float, float, float, float]  # normalised x0, y0, x1, y1


@dataclass(frozen=True)
class Features:
    """What an image encoder gives for n references of a subject; adapters need one or the other."""

    hidden_states: Tensor  # [n, P, E], of the last layer but one
    pooled: Tensor  # [n, E], after the encoder's projection
    # What stands for no reference in negative rows: for pixel values of zeros, and zeros; or the
    # outputs for a negative reference
    blank_hidden_states: Tensor  # [P, E]
    blank_pooled: Tensor  # [E]

    @property
    def has_negative_reference(self) -> bool:
        return bool(self.blank_pooled.any())


@dataclass(frozen=True)
class Subject:
    """One subject. Later nodes fill in what earlier ones don't know."""

    phrase: str
    box: Box  # all zeros means no box
    weight: float
    references: Tensor  # [n, H, W, 3] in 0..1, n references of it
    reference_masks: Tensor | None = None  # [n, H, W], where in its references the subject is
    region: Tensor | None = None  # [H, W], where in the picture it goes, instead of the box
    features: Features | None = None  # of the references, set by MSDEncodeReferences
    image_tokens: Tensor | None = None  # [n, T, C], set by MSDGroundReferences
    # [T, C], for negative rows, by families that act on them; set by MSDGroundReferences
    blank_image_tokens: Tensor | None = None
    # [L, C], its phrase as the text encoders give it, for families that merge by names; set by
    # MSDGroundReferences
    name_tokens: Tensor | None = None
    token_positions: tuple[int, ...] = ()  # of its phrase in the prompt, set by MSDAutoLayout
    adapter_digest: str | None = None  # of the adapter that gave the image tokens

    @property
    def mask_of_each(self) -> list[Tensor | None]:
        """Of each reference the mask [H, W], None where the subject may be anywhere in it."""
        if self.reference_masks is None:
            return [None] * len(self.references)
        return list(self.reference_masks)

    def without_references(self) -> "Subject":
        """Its phrase and layout alone: a model shouldn't hold on to references."""
        return replace(
            self,
            references=torch.empty(0),
            reference_masks=None,
            features=None,
            image_tokens=None,
            blank_image_tokens=None,
        )

    @property
    def is_placed(self) -> bool:
        """Whether it has a box or a region."""
        return self.region is not None or any(self.box)

    def coverage(self, height: int, width: int, window: Window | None = None) -> Tensor:
        """Coverage of the cells of one grid.

        Args:
            height, width: of the grid.
            window: the part of the latent that the grid shows; None is all of it.
        Returns:
            [height * width], bool for a box, float for a region.
        """
        if self.region is not None:
            return mask_coverage(self.region[None], height, width, window)[0]
        return box_coverage(torch.tensor([self.box]), height, width, window)[0]


@dataclass(frozen=True)
class AutoLayoutSettings:
    threshold: float
    start_step: int  # counted from 1
    # [P, C], the encoded prompt that the phrases were found in, the channels of its first encoder;
    # several where a schedule encodes it in several ways. None: every positive text is that prompt.
    texts: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Subjects:
    """All subjects of a picture."""

    subjects: tuple[Subject, ...]
    auto_layout: AutoLayoutSettings | None = None
    size: tuple[int, int] | None = None  # width and height in pixels, as laid out

    @property
    def is_soft(self) -> bool:
        """Whether any of them has a region, which may cover a cell in part."""
        return any(subject.region is not None for subject in self.subjects)

    def coverage(self, height: int, width: int, window: Window | None = None) -> Tensor:
        """[S, height * width], each subject's; float if soft, else bool. See `Subject.coverage`."""
        kind = torch.float32 if self.is_soft else torch.bool
        each = [subject.coverage(height, width, window) for subject in self.subjects]
        return torch.stack([of_subject.to(kind) for of_subject in each])


MSDSubjects = io.Custom("MSD_SUBJECTS")
MSDAdapterType = io.Custom("MSD_ADAPTER")
