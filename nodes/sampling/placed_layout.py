"""What MSD Place References places: the subjects, and where the prompt speaks of which."""

from dataclasses import dataclass

from torch import Tensor

from ...msd_core.phrases import same_tokens
from ..subjects import Subjects


@dataclass(frozen=True)
class PromptTokens:
    """Where a prompt's encoded text speaks of which subject."""

    texts: tuple[Tensor, ...]  # [T, C], several where a schedule encodes the prompt in several ways
    own: tuple[tuple[int, ...], ...]  # of each subject, () where its phrase isn't in the prompt
    padding: tuple[int, ...]

    def start_in(self, text: Tensor) -> int | None:
        """Where in an encoded text [K, C] the prompt begins: what stands before it is padding that
        the model puts there. None if it is another text."""
        for prompt in self.texts:
            start = len(text) - len(prompt)
            if start < 0 or text.shape[1] != prompt.shape[1] or text[:start].any():
                continue
            if same_tokens(prompt, text[start:].to(prompt)):
                return start
        return None


@dataclass(frozen=True)
class Layout:
    """What MSDPlaceReferences places.

    Args:
        subjects: their boxes, regions and weights. One without a box may be anywhere.
        reference_counts: how many references each subject has.
        prompt: None where all text is shared.
        first_stage: share of the steps in which subjects see neither each other nor the shared
            text.
    """

    subjects: Subjects
    reference_counts: tuple[int, ...]
    prompt: PromptTokens | None
    first_stage: float

    @property
    def has_first_stage(self) -> bool:
        """Whether one is asked for: it needs texts of the subjects' own."""
        return self.first_stage > 0 and self.prompt is not None and any(self.prompt.own)

    def first_steps(self, steps: int) -> int:
        """How many of a run's steps are the first stage."""
        return round(self.first_stage * steps) if self.has_first_stage else 0

    def owners(self, references: int) -> list[int]:
        """The subject of each of a conditioning's references: one for each subject, or as many as
        the subjects have.

        Raises:
            ValueError: they are neither.
        """
        subjects = range(len(self.reference_counts))
        if references == len(subjects):
            return list(subjects)
        if references == sum(self.reference_counts):
            return [n for n in subjects for _ in range(self.reference_counts[n])]
        raise ValueError(
            f"MSD Place References: expected a reference latent for each of the {len(subjects)} "
            f"subjects, got {references}, so which is whose can't be told. Let MSD Reference "
            "Latents put them there, and take other nodes that add reference latents away."
        )
