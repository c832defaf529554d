"""What a node's patch remembers during a sampling run: the step clock, and for MSD Apply results
that hold for several calls of the model."""

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...msd_core.attention.covered import CoveredQueries
from ...msd_core.attention.phrase_maps import AutoLayout
from ...msd_core.attention.subjects import SubjectMask
from ...msd_core.coverage import Window
from ...msd_core.models.unet import Block
from .conditionings import Conditioning

KeyValue = tuple[Tensor, Tensor]
SIGMA_AT_START = 999999999.9  # what the host's percent_to_sigma gives for 0 percent
SAME_SIGMA = 1e-5  # by how much of itself a sigma of the schedule may differ from the sampler's

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GridCoverage:
    """What the subjects' boxes and regions cover of one grid."""

    queries: CoveredQueries  # n of them
    coverage: Tensor  # [1, sets of image tokens, n]
    mask: SubjectMask  # the same for the attention


@dataclass
class StepLayout:
    """Auto layout of one layer and conditioning, fed once a step."""

    layout: AutoLayout
    step: int = 0


@dataclass
class StepClock:
    """Which step of a sampling run it is, and whether the subjects act in it."""

    sigmas: list[float]  # the schedule; empty outside a sampling run
    sigma_range: tuple[float, float] = (SIGMA_AT_START, 0.0)  # the subjects act from, down to
    step: int = 0  # counted from 1
    sigma: float = float("inf")  # of the last call
    warned: set[str] = field(default_factory=set)

    @property
    def covers_all_steps(self) -> bool:
        start, end = self.sigma_range
        return start >= SIGMA_AT_START and end <= 0

    @property
    def acts(self) -> bool:
        """Whether the subjects act in the present step."""
        start, end = self.sigma_range
        return self.covers_all_steps or end <= self.sigma <= start

    def enter(self, sigma: float) -> None:
        """Find the step that a call at this sigma belongs to. Samplers may call the model more than
        once a step, also between the sigmas of the schedule; a call that looks ahead to the next
        sigma, as heun's second, counts for the next step."""
        if self.sigmas:
            self.step = max(1, sum(s >= sigma * (1 - SAME_SIGMA) for s in self.sigmas))
        elif sigma > self.sigma:  # outside a run, a rising sigma is a new one
            self.clear()
            self.step = 1
        elif sigma != self.sigma:
            self.step += 1
        self.sigma = sigma

    def clear(self) -> None:
        """Forget what belongs to an earlier run."""

    def warn(self, message: str) -> None:
        """Log a line, once a run."""
        if message not in self.warned:
            self.warned.add(message)
            logger.warning(message)


@dataclass
class Run(StepClock):
    """A sampling run as one MSD Apply sees it: the step clock and its caches."""

    # By block, whether they are for positive rows, device and type of the query
    keys_values: dict[tuple[Block, bool, torch.device, torch.dtype], KeyValue] = field(
        default_factory=dict
    )
    # By height, width and window of the grid, device and type of the query
    coverages: dict[
        tuple[int, int, Window | None, torch.device, torch.dtype], GridCoverage
    ] = field(default_factory=dict)  # fmt: skip
    # Of each subject, by conditioning: its phrase's tokens in the text, () where it isn't in it
    token_positions: dict[Conditioning, list[tuple[int, ...]]] = field(default_factory=dict)
    # By the length of the text in the attention, conditioning and device
    token_weights: dict[tuple[int, Conditioning, torch.device], Tensor] = field(
        default_factory=dict
    )
    # By block, height, width, conditioning, window and pictures
    auto_layouts: dict[
        tuple[Block, int, int, Conditioning, Window | None, tuple[int, ...]], StepLayout
    ] = field(default_factory=dict)  # fmt: skip
    # Where references follow names: by block and device, and by device and type of the query
    text_weights: dict[tuple[Block, torch.device], Tensor] = field(default_factory=dict)
    names: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(
        default_factory=dict
    )

    def clear(self) -> None:
        self.keys_values.clear()
        self.coverages.clear()
        self.token_positions.clear()
        self.token_weights.clear()
        self.auto_layouts.clear()
        self.text_weights.clear()
        self.names.clear()
