"""The image branch of one MSD Apply: what it adds to each text cross-attention."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from comfy.model_management import cast_to_device
from torch import Tensor

from ...msd_core.adapters.family import Rule
from ...msd_core.attention.covered import EVERY_QUERY, CoveredQueries, covered_queries
from ...msd_core.attention.phrase_maps import AutoLayout, phrase_maps, restore_boxes
from ...msd_core.attention.subjects import split_heads, subject_mask
from ...msd_core.models.unet import Block
from ...msd_core.phrases import phrase_positions, token_weights
from ..subjects import AutoLayoutSettings, Subjects
from .conditionings import Conditioning, Part
from .latent import UNKNOWN
from .run import GridCoverage, KeyValue, Run, StepLayout


class Layer(NamedTuple):
    """A text cross-attention of the UNet in one call."""

    block: Block
    heads: int
    height: int  # of the grid, whose height * width elements are the queries
    width: int


class Branch(ABC):
    """What one MSD Apply adds to each text cross-attention, by whichever rule.

    Args:
        keys_values: block -> key and value [K, width] of all image tokens, weights included.
        blank_keys_values: what the rows of negative conditionings get instead; None leaves those
            rows as they are.
        subjects: their boxes, regions and phrases.
    """

    reads_text = False  # it needs the text attention as it was before any branch

    def __init__(
        self,
        keys_values: Mapping[Block, KeyValue],
        blank_keys_values: Mapping[Block, KeyValue] | None,
        subjects: Subjects,
    ) -> None:
        self.keys_values = keys_values
        self.blank_keys_values = blank_keys_values or {}
        self.subjects = subjects

    @property
    def acts_on_all(self) -> bool:
        """Whether it acts on the rows of all conditionings, not on the positive ones' alone."""
        return bool(self.blank_keys_values)

    @abstractmethod
    def add(
        self, run: Run, part: Part, layer: Layer, out: Tensor, q: Tensor, k: Tensor,
        text: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Add the branch to some rows of a text attention's output, in place.

        Args:
            part: the rows.
            out: [B, N, C], the text attention's output. q: [B, N, C]. k: [B, K, C], of the text.
            text: [B, N, C], `out` before any branch was added, for a branch that reads it; None
                is `out` itself.
        """

    def _keys_values(self, run: Run, part: Part, layer: Layer, query: Tensor) -> KeyValue:
        """A layer's key and value [1, heads, K, d], moved to the query's device once a run."""
        positive = part.conditioning.positive is not None
        cached = layer.block, positive, query.device, query.dtype
        if cached not in run.keys_values:
            of_blocks = self.keys_values if positive else self.blank_keys_values
            key, value = (
                split_heads(cast_to_device(x[None], query.device, query.dtype), layer.heads)
                for x in of_blocks[layer.block]
            )
            run.keys_values[cached] = key, value
        return run.keys_values[cached]


class ImageBranch(Branch):
    """References in boxes and regions.

    Args:
        rule: of the adapter's family.
        subject_indices: of each set of image tokens, the index of its subject; several references
            of one subject are several sets under the same coverage.
        blank_keys_values: of blank image tokens in each subject's place.
    """

    def __init__(
        self,
        keys_values: Mapping[Block, KeyValue],
        rule: Rule,
        subjects: Subjects,
        subject_indices: Sequence[int],
        blank_keys_values: Mapping[Block, KeyValue] | None = None,
    ) -> None:
        super().__init__(keys_values, blank_keys_values, subjects)
        self.rule = rule
        self.subject_indices = list(subject_indices)
        self.tokens = next(iter(keys_values.values()))[0].shape[0] // len(self.subject_indices)

    def add(
        self, run: Run, part: Part, layer: Layer, out: Tensor, q: Tensor, k: Tensor,
        text: Tensor | None = None,
    ) -> None:  # fmt: skip
        query = q[part.rows]
        grid = self._grid_coverage(run, part, layer, query)
        queries, mask = grid.queries, grid.mask
        auto = self.subjects.auto_layout
        if auto is not None:
            if part.conditioning.positive is None:
                followed = self._follow_positives(auto, run, part, layer, grid)
            else:
                followed = self._follow(auto, run, part, layer, query, k, grid)
            if followed is not None:
                queries, mask = EVERY_QUERY, subject_mask(followed, self.tokens, query.dtype)
        if not run.acts or mask.scores.numel() == 0:
            return
        key, value = self._keys_values(run, part, layer, query)
        image = self.rule(queries.take(query), key, value, mask)
        # Another pack's attention may give another type.
        queries.add(out[part.rows], image.to(out.dtype))

    def _grid_coverage(self, run: Run, part: Part, layer: Layer, query: Tensor) -> GridCoverage:
        """Computed once a run for each grid, and moved to the query's device."""
        _, _, height, width = layer
        cached = height, width, part.window, query.device, query.dtype
        if cached not in run.coverages:
            each = self.subjects.coverage(height, width, part.window)
            whole = each[self.subject_indices]
            queries = covered_queries(whole)
            coverage = cast_to_device(whole[None, :, queries.index], query.device, None)
            if isinstance(queries.index, Tensor):
                queries = CoveredQueries(cast_to_device(queries.index, query.device, None))
            mask = subject_mask(coverage, self.tokens, query.dtype)
            if not self.subjects.is_soft:
                mask = mask._replace(strength=None)  # 1 for each covered query
            run.coverages[cached] = GridCoverage(queries, coverage, mask)
        return run.coverages[cached]

    def _follow(
        self,
        settings: AutoLayoutSettings,
        run: Run,
        part: Part,
        layer: Layer,
        query: Tensor,
        text_key: Tensor,
        grid: GridCoverage,
    ) -> Tensor | None:
        """Auto layout: the coverage [B, sets of image tokens, N] by where the text attention looks
        at the phrases; None where the boxes stay."""
        if not part.own_text:
            run.warn(
                "MSD Auto Layout: another node puts texts of its own beside the positive prompt's, "
                "so the phrases can't be found in them; the boxes stay."
            )
            return None
        layouts = self._step_layouts(settings, run, part, layer)
        positions = self._token_positions(settings, run, part.conditioning)
        if any(run.step > each.step for each in layouts):
            length = text_key.shape[1]
            cached = length, part.conditioning, query.device
            if cached not in run.token_weights:
                weights = token_weights(
                    [positions[index] for index in self.subject_indices],
                    length,
                    part.conditioning.text_length or length,
                )
                run.token_weights[cached] = cast_to_device(weights, query.device, None)
            maps = phrase_maps(query, text_key[part.rows], layer.heads, run.token_weights[cached])
            for each, own in zip(layouts, _split(maps, len(layouts)), strict=True):
                if run.step > each.step:
                    each.layout.add(own)
                    each.step = run.step
        if run.step < settings.start_step:
            return None
        return self._followed(layouts, positions, grid)

    def _follow_positives(
        self, settings: AutoLayoutSettings, run: Run, part: Part, layer: Layer, grid: GridCoverage
    ) -> Tensor | None:
        """Auto layout in a negative conditioning's rows: all that the positive ones follow in the
        same part of the latent; up to the step before, where the host evaluates those later."""
        if run.step < settings.start_step:
            return None
        followed: list[Tensor] = []
        for conditioning, positions in run.token_positions.items():
            of_positive = replace(part, conditioning=conditioning)
            layouts = self._step_layouts(settings, run, of_positive, layer)
            if all(each.step for each in layouts):
                followed.append(self._followed(layouts, positions, grid))
        return torch.stack(followed).amax(0) if followed else None

    def _followed(
        self, layouts: list[StepLayout], positions: list[tuple[int, ...]], grid: GridCoverage
    ) -> Tensor:
        """Coverage by auto layout; by the boxes where a phrase has no `positions`."""
        coverages = [each.layout.coverage() for each in layouts]
        coverage = coverages[0] if len(coverages) == 1 else torch.cat(coverages)
        coverage = coverage.to(grid.coverage)
        missing = [n for n, index in enumerate(self.subject_indices) if not positions[index]]
        restore_boxes(coverage, grid.coverage, grid.queries, missing)
        return coverage

    def _step_layouts(
        self, settings: AutoLayoutSettings, run: Run, part: Part, layer: Layer
    ) -> list[StepLayout]:
        """The part's auto layout in a layer: one for all pictures of the batch, or one for each
        where only some of them are evaluated, as by context windows over a batch."""
        pictures = [part.pictures]
        if len(part.pictures) != part.batch:
            pictures = [(picture,) for picture in part.pictures]
            if UNKNOWN in part.pictures:
                raise ValueError(
                    f"MSD Auto Layout: another node evaluates {len(part.pictures)} pictures where "
                    f"the batch has {part.batch}, and which ones can't be told. Bypass it, or MSD "
                    "Auto Layout."
                )
        block, _, height, width = layer
        return [
            run.auto_layouts.setdefault(
                (block, height, width, part.conditioning, part.window, of),
                StepLayout(AutoLayout(settings.threshold)),
            )
            for of in pictures
        ]

    def _token_positions(
        self, settings: AutoLayoutSettings, run: Run, conditioning: Conditioning
    ) -> list[tuple[int, ...]]:
        """Of each subject, where its phrase's tokens are in a conditioning's text; () where it
        isn't in it."""
        if conditioning not in run.token_positions:
            text, length = conditioning.text, conditioning.text_length
            found = []
            for number, subject in enumerate(self.subjects.subjects, 1):
                positions = subject.token_positions
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
            run.token_positions[conditioning] = found
        return run.token_positions[conditioning]


def _split(maps: Tensor, count: int) -> Sequence[Tensor]:
    return maps.chunk(count) if count > 1 else [maps]
