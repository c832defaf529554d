"""The image branch of a sampling run: what it makes once, and what it adds to each attention."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.model_management import cast_to_device
from torch import Tensor

from ..msd_core.attention import (
    SubjectMask,
    masked_attention,
    phrase_maps,
    split_heads,
    subject_mask,
)
from ..msd_core.auto_layout import AutoLayout
from ..msd_core.layout import Window
from ..msd_core.phrases import phrase_positions
from .rows import UNKNOWN, Conditioning, Part
from .subjects import AutoLayoutSettings, Subjects

Block = tuple[str, int, int]
KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Cells:
    """Where the subjects' boxes and regions are in one grid."""

    queries: slice | Tensor  # the n covered ones; a slice where they are in a row
    coverage: Tensor  # [1, sets of image tokens, n], of just these
    mask: SubjectMask  # the same for the attention


@dataclass
class Run:
    """State of one sampling run."""

    sigmas: list[float]  # the schedule; empty outside a sampling run
    sigma_range: tuple[float, float] = (float("inf"), 0.0)  # the subjects act from, down to
    pictures: int = 1  # of the batch
    latent_size: tuple[int, int] = (0, 0)  # height and width of the sampler's latent
    latent: Tensor | None = None  # [B, C, H, W], while it is evaluated
    window: Window | None = None  # the part of it that the host evaluates
    backend: str | None = None  # of TorchCompileModel
    keys_values: dict[Any, KeyValue] = field(default_factory=dict)
    cells: dict[Any, Cells] = field(default_factory=dict)
    phrase_weights: dict[Any, Tensor] = field(default_factory=dict)
    positions: dict[Conditioning, list[tuple[int, ...]]] = field(default_factory=dict)
    auto_layouts: dict[Any, "StepLayout"] = field(default_factory=dict)
    step: int = 0
    last_sigma: float = float("inf")
    # The model's options while the host evaluates conditionings that all carry their rows
    evaluated: Mapping[str, Any] | None = None
    saw_positive: bool | None = None  # among the rows of its calls; None before the first
    warned: set[str] = field(default_factory=set)

    def warn(self, message: str) -> None:
        """Log a line, once a run."""
        if message not in self.warned:
            self.warned.add(message)
            logging.warning(message)

    def enter(self, sigma: float) -> None:
        """Find the step, counted from 1, that a call at this sigma belongs to. Samplers may call
        the model more than once a step, also between the sigmas of the schedule; a call that
        looks ahead to the next sigma, as heun's second, counts for the next step."""
        if self.sigmas:
            self.step = max(1, sum(s >= sigma * (1 - 1e-5) for s in self.sigmas))
        elif sigma > self.last_sigma:  # outside a run, a rising sigma is a new one
            self.keys_values.clear()
            self.cells.clear()
            self.phrase_weights.clear()
            self.positions.clear()
            self.auto_layouts.clear()
            self.step = 1
        elif sigma != self.last_sigma:
            self.step += 1
        self.last_sigma = sigma


@dataclass
class StepLayout:
    """Auto layout of one attention and one conditioning, fed once a step."""

    layout: AutoLayout
    step: int = 0


class ImageBranch:
    """Who goes where, and what of them is seen there.

    Args:
        keys_values: block -> key and value [K, width] of all image tokens, weights included.
        subjects: who goes where.
        owners: index of the subject that each set of image tokens belongs to; several photos of
            one subject are several sets under the same coverage.
    """

    def __init__(
        self, keys_values: Mapping[Block, KeyValue], subjects: Subjects, owners: Sequence[int]
    ) -> None:
        self.keys_values = keys_values
        self.subjects = subjects
        self.owners = list(owners)
        self.tokens = next(iter(keys_values.values()))[0].shape[0] // len(self.owners)

    def add(
        self,
        run: Run,
        acts: bool,
        parts: Sequence[Part],
        block: Block,
        out: Tensor,
        q: Tensor,
        k: Tensor,
        heads: int,
        height: int,
        width: int,
    ) -> None:
        """Add the image branch to the text attention's output, in place.

        Args:
            run: the sampling run. acts: otherwise auto layout only looks on.
            parts: of the batch, those that get the branch. block: that the attention is in.
            out: [B, N, C], the text attention's output. q: [B, N, C]. k: [B, K, C], of the text.
            heads: that C holds. height, width: of the grid whose N cells the queries are.
        """
        for part in parts:
            query = q[part.rows]
            cells = self._cells(run, part, query, height, width)
            queries, mask = cells.queries, cells.mask
            if (settings := self.subjects.auto_layout) is not None:
                place = block, height, width
                followed = self._followed(settings, run, part, place, query, k, heads, cells)
                if followed is not None:
                    queries, mask = slice(None), followed
            if not acts or mask.scores.numel() == 0:
                continue
            if isinstance(queries, slice):
                query = query[:, queries]
            else:
                query = query.index_select(1, queries)
            image = masked_attention(query, *self._keys_values(run, block, query, heads), mask)
            image = image.to(out.dtype)  # another pack's attention may give another type
            if isinstance(queries, slice):
                out[part.rows, queries].add_(image)
            else:
                out[part.rows].index_add_(1, queries, image)

    def _keys_values(self, run: Run, block: Block, query: Tensor, heads: int) -> KeyValue:
        """A layer's key and value [1, heads, K, d], moved to the query's device once a run."""
        place = (block, query.device, query.dtype)
        if place not in run.keys_values:
            key, value = (
                split_heads(cast_to_device(x[None], query.device, query.dtype), heads)
                for x in self.keys_values[block]
            )
            run.keys_values[place] = key, value
        return run.keys_values[place]

    def _cells(self, run: Run, part: Part, query: Tensor, height: int, width: int) -> Cells:
        """Made once a run for each grid, and moved to the query's device."""
        place = (height, width, part.window, query.device, query.dtype)
        if place not in run.cells:
            subjects = self.subjects.subjects
            soft = any(s.region is not None for s in subjects)
            kind = torch.float32 if soft else torch.bool
            of_subjects = [s.coverage(height, width, part.window).to(kind) for s in subjects]
            cells = torch.stack(of_subjects)[self.owners]
            covered = cells.amax(0) > 0
            start, count = int(covered.int().argmax()), int(covered.sum())
            queries: slice | Tensor = slice(start, start + count)
            if not covered[queries].all():
                queries = cast_to_device(covered.nonzero().flatten(), query.device, None)
            coverage = cast_to_device(cells[None, :, covered], query.device, None)
            mask = subject_mask(coverage, self.tokens, query.dtype)
            run.cells[place] = Cells(
                queries,
                coverage,
                mask if soft else mask._replace(strength=None),
            )
        return run.cells[place]

    def _followed(
        self,
        settings: AutoLayoutSettings,
        run: Run,
        part: Part,
        place: tuple[Block, int, int],
        query: Tensor,
        text_key: Tensor,
        heads: int,
        cells: Cells,
    ) -> SubjectMask | None:
        """Auto layout: where the text attention looks at the phrases; None before it starts.

        Maps belong to a block and a grid (place), a text, the pictures, and what is shown of them.
        """
        if not part.own_text:
            run.warn(
                "MSD Auto Layout: another node puts texts of its own beside the positive prompt's, "
                "so that where the phrases are in them can't be told; the boxes stay."
            )
            return None
        pictures = [part.pictures]
        if len(part.pictures) != run.pictures:  # windows over a batch: each picture by itself
            pictures = [(picture,) for picture in part.pictures]
            if UNKNOWN in part.pictures:
                raise ValueError(
                    f"MSD Auto Layout: another node evaluates {len(part.pictures)} pictures where "
                    f"the batch has {run.pictures}, and which ones can't be told. Bypass it, or "
                    "MSD Auto Layout."
                )
        states = [
            run.auto_layouts.setdefault(
                (place, part.conditioning.positive, part.window, of),
                StepLayout(AutoLayout(settings.threshold)),
            )
            for of in pictures
        ]
        positions = self._positions(settings, run, part.conditioning)
        if any(run.step > state.step for state in states):
            key = (text_key.shape[1], part.conditioning, query.device)
            if key not in run.phrase_weights:
                weights = self._phrase_weights(text_key.shape[1], part.conditioning, positions)
                run.phrase_weights[key] = cast_to_device(weights, query.device, None)
            maps = phrase_maps(query, text_key[part.rows], heads, run.phrase_weights[key])
            of_states = maps.chunk(len(states)) if len(states) > 1 else [maps]
            for state, own in zip(states, of_states, strict=True):
                if run.step > state.step:
                    state.layout.add(own)
                    state.step = run.step
        if run.step < settings.start_step:
            return None
        coverages = [state.layout.coverage() for state in states]
        coverage = coverages[0] if len(coverages) == 1 else torch.cat(coverages)
        coverage = coverage.to(cells.coverage)
        # A subject keeps its box where this conditioning's text doesn't hold its phrase.
        for n, owner in enumerate(self.owners):
            if not positions[owner]:
                coverage[:, n] = 0
                coverage[:, n, cells.queries] = cells.coverage[:, n]
        return subject_mask(coverage, self.tokens, query.dtype)

    def _positions(
        self, settings: AutoLayoutSettings, run: Run, conditioning: Conditioning
    ) -> list[tuple[int, ...]]:
        """Of each subject, where its phrase's tokens stand in a conditioning's text; () where it
        isn't in it."""
        if conditioning not in run.positions:
            text, length = conditioning.text, conditioning.text_length
            found = []
            for number, subject in enumerate(self.subjects.subjects, 1):
                positions = subject.prompt_tokens
                if text is not None and settings.texts is not None and positions:
                    positions = phrase_positions(positions, settings.texts, text[0].float().cpu())
                    if not positions:
                        run.warn(
                            f"MSD Auto Layout: {subject.phrase!r} isn't where the prompt has it in "
                            f"one of the positive texts; there subject {number} keeps its box. A "
                            "text that was encoded by another CLIP than the one that is connected "
                            "to MSD Auto Layout is another text."
                        )
                elif length is not None and positions and max(positions) >= length:
                    positions = ()
                found.append(positions)
            run.positions[conditioning] = found
        return run.positions[conditioning]

    def _phrase_weights(
        self, length: int, conditioning: Conditioning, positions: Sequence[Sequence[int]]
    ) -> Tensor:
        """[K, sets of image tokens]; 1 / length at the tokens of the subject's phrase, in every
        copy of a text that the host has repeated to the length of its neighbours in the batch."""
        own_length = conditioning.text_length or length
        weights = torch.zeros(length, len(self.owners))
        for n, owner in enumerate(self.owners):
            for position in positions[owner]:
                weights[position::own_length, n] = 1 / len(positions[owner])
        return weights
