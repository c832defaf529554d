"""The figures of MS-Diffusion's paper: the whole picture against prompt and references."""

import math
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from lab.evaluation.encoders import Clip, Dino
from lab.evaluation.made import Made, open_picture

COLUMNS = ("clip_t", "clip_i", "dino", "m_dino")


class Paper:
    """Scores of whole pictures by CLIP ViT-B/32 and DINO ViT-S/16."""

    def __init__(self, clip: Clip, dino: Dino) -> None:
        self.clip, self.dino = clip, dino
        self.made_by = {"clip": clip.hash, "dino": dino.hash}
        self.text = cache(clip.text)
        self.reference = cache(self._features)

    def score(self, made: Made) -> dict[str, Any]:
        """Cosines by column, one for each subject or one alone.

        Raises ValueError, OSError or RuntimeError: an encoder can't say.
        """
        clip, dino = self._features(made.picture)
        references = [self.reference(subject.reference) for subject in made.subjects]
        by_dino = [float(dino @ seen) for _, seen in references]
        return {
            "clip_t": [float(clip @ self.text(made.prompt))],
            "clip_i": [float(clip @ seen) for seen, _ in references],
            "dino": by_dino,
            "m_dino": [product(by_dino)],
        }

    def _features(self, path: Path) -> tuple[Tensor, Tensor]:
        picture = [open_picture(path)]
        return self.clip.pictures(picture)[0], self.dino.pictures(picture)[0]


def product(similarities: list[float]) -> float:
    """M-DINO. What is unlike counts as 0, so that two that are make nothing alike."""
    return math.prod(max(0.0, value) for value in similarities)
