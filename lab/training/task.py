"""What a stage of training gives the trainer."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Generator, Tensor, nn

Losses = dict[str, Tensor]  # scalars; "loss" is minimised, the others are shown beside it


class Task(nn.Module, ABC):
    """A stage: what it trains, on what, and by which losses.

    Whatever is random is drawn by `draw`, so that a micro batch depends on its generator alone.
    """

    # Whether a step may leave out parameters that are trained.
    unused_parameters = False
    validate_steps = 0  # between two validations; 0 is never

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The weights that the stage results in. Every trained parameter is one of them."""

    @abstractmethod
    def draw(self, g: Generator, step: int) -> Any:
        """A micro batch, on the CPU."""

    @abstractmethod
    def forward(self, micro_batch: Any) -> Losses:
        """The losses of a micro batch."""

    def validate(self, step: int) -> Losses:
        """Losses of what isn't trained on, always at the same noise; with the EMA as weights, after
        so many steps."""
        return {}

    def check(self) -> None:
        """Print how good the result is; called at the end, with the EMA as weights."""
