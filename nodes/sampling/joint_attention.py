"""The joint attentions of one call of a transformer, in which references are placed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...msd_core.attention.placed_references import (
    Group,
    Placement,
    attend_in_groups,
    dense_mask,
    placed_groups,
)
from ...msd_core.coverage import Window
from ...msd_core.models.reference_transformers import (
    Part,
    ReferenceTransformer,
    token_count,
    token_grid,
)
from .conditionings import Conditioning, Row
from .placed_layout import Layout
from .run import StepClock


@dataclass
class PlacedRun(StepClock):
    """A sampling run as one MSD Place References sees it: the step clock and its caches."""

    # By all that they depend on, see `PlacedCall.groups`
    groups: dict[tuple[Any, ...], list[Group]] = field(default_factory=dict)
    # By conditioning: where its text is the prompt, how many tokens stand before it; else None
    prompt_starts: dict[Conditioning, int | None] = field(default_factory=dict)

    def clear(self) -> None:
        self.groups.clear()
        self.prompt_starts.clear()


@dataclass
class PlacedCall:
    """One call of the model, while its attentions are answered."""

    layout: Layout
    transformer: ReferenceTransformer
    run: PlacedRun
    rows: tuple[Row, ...]
    grid: tuple[int, int, int]  # of the picture's tokens
    references: tuple[tuple[int, int], ...]  # subject and tokens of each
    text: int  # tokens
    refiners: tuple[int, ...]  # how many attentions of each kind come before the joint ones
    first_stage: bool
    attentions: int = 0  # so far
    joint_attentions: int = 0

    @staticmethod
    def of(
        layout: Layout,
        transformer: ReferenceTransformer,
        run: PlacedRun,
        rows: tuple[Row, ...],
        model: Any,
        x: Tensor,
        context: Tensor,
        references: Sequence[Tensor],
    ) -> "PlacedCall":
        edges = getattr(model, transformer.patch)

        def shape(latent: Tensor) -> Sequence[int]:
            frames_too = latent.ndim == 5 and not transformer.frames_in_batch
            return latent.shape if frames_too else (*latent.shape[:2], *latent.shape[-2:])

        owners = layout.owners(len(references))
        counts = [token_count(shape(reference), edges) for reference in references]
        return PlacedCall(
            layout=layout,
            transformer=transformer,
            run=run,
            rows=rows,
            grid=token_grid(shape(x), edges),
            references=tuple(zip(owners, counts, strict=True)),
            text=context.shape[1],
            refiners=tuple(len(getattr(model, name)) for name in transformer.refiners),
            first_stage=0 < run.step <= layout.first_steps(len(run.sigmas)),
        )

    @property
    def picture(self) -> int:
        """Tokens of the picture."""
        return prod(self.grid)

    @property
    def of_references(self) -> int:
        """Tokens of all references."""
        return sum(count for _, count in self.references)

    def sequence(self, queries: int, keys: int) -> Sequence[Part] | None:
        """The parts that the next attention's sequence consists of, by its numbers of tokens; None
        where it isn't one that references are placed in."""
        order = self.transformer.order
        number, self.attentions = self.attentions, self.attentions + 1
        if number < sum(self.refiners):
            of_references = number >= sum(self.refiners[:2]) and keys == self.of_references
            return (Part.REFERENCES,) if of_references else None
        whole = self.text + self.picture + self.of_references
        # Flux KV Cache leaves the references out of the queries.
        cached = order[-1] is Part.REFERENCES and queries == keys - self.of_references
        if keys == whole and (queries == keys or cached):
            self.joint_attentions += 1
            return order
        if self.transformer.without_text and queries == keys == whole - self.text:
            return tuple(part for part in order if part is not Part.TEXT)
        return None

    def parts(
        self, order: Sequence[Part], query: Tensor, batch: int
    ) -> list[tuple[slice, list[Group]]]:
        """Consecutive rows of an attention, and the groups that they attend in.

        Args:
            order: what `sequence` gives.
            query: [..., tokens, channels]. batch: its rows.
        """
        times, rest = divmod(batch, len(self.rows))
        if rest:
            raise ValueError(
                f"MSD Place References: another node changed the batch of the attention from "
                f"{len(self.rows)} to {batch} rows, so their layout can't be told."
            )
        parts: list[tuple[slice, list[Group]]] = []
        begin = 0
        for _, same in groupby(self.rows, lambda row: (row.window, self._prompt_start(row))):
            alike = list(same)
            end = begin + times * len(alike)
            parts.append((slice(begin, end), self._groups(order, query, alike[0])))
            begin = end
        return parts

    def _groups(self, order: Sequence[Part], query: Tensor, row: Row) -> list[Group]:
        """Computed once a run for each kind of attention, and moved to the query's device."""
        start = self._prompt_start(row)
        layout = self.grid, self.references, self.text, row.window, start, self.first_stage
        cached = (*layout, tuple(order), query.shape[-2], query.device, query.dtype)
        if cached not in self.run.groups:
            placement = self._placement(row.window, start)
            self.run.groups[cached] = [
                group.to(query.device, query.dtype)
                for group in placed_groups(placement, order, query.shape[-2])
            ]
        return self.run.groups[cached]

    def _placement(self, window: Window | None, prompt_start: int | None) -> Placement:
        frames, height, width = self.grid
        subjects = self.layout.subjects.subjects
        coverage = self.layout.subjects.coverage(height, width, window)
        coverage[[n for n, subject in enumerate(subjects) if not subject.is_placed]] = 1
        weights = [subject.weight for subject in subjects]
        for n, own in enumerate(coverage):
            # In a window it is only elsewhere.
            if not own.any() and window is None:
                weights[n] = 0.0
                self.run.warn(
                    f"MSD Place References: subject {n + 1} covers none of the picture's {height} "
                    f"x {width} tokens, so its reference isn't seen."
                )
        own_text = torch.zeros(len(subjects), self.text, dtype=torch.bool)
        padding = torch.zeros(self.text, dtype=torch.bool)
        if prompt_start is not None and self.layout.prompt is not None:
            padding[:prompt_start] = True
            padding[[prompt_start + n for n in self.layout.prompt.padding]] = True
            for n, positions in enumerate(self.layout.prompt.own):
                own_text[n, [prompt_start + position for position in positions]] = True
        return Placement(
            coverage.repeat(1, frames),
            self.references,
            weights,
            own_text,
            padding,
            self.first_stage and bool(own_text.any()),
        )

    def _prompt_start(self, row: Row) -> int | None:
        """Where in a row's text the prompt begins, None where it isn't the prompt."""
        prompt, conditioning = self.layout.prompt, row.conditioning
        if prompt is None:
            return None
        if conditioning not in self.run.prompt_starts:
            start = None
            if conditioning.text is not None:
                start = prompt.start_in(conditioning.text[0])
            if start is None and conditioning.positive is not None:
                self.run.warn(
                    "MSD Place References: one of the positive texts isn't the prompt, so all of "
                    "it is shared by the subjects. A text that was encoded with pictures, or by "
                    "another CLIP than the one that is connected here, is another text."
                )
            self.run.prompt_starts[conditioning] = start
        return self.run.prompt_starts[conditioning]


def attend_placed(
    call: PlacedCall,
    previous: Callable[..., Tensor] | None,
    function: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """optimized_attention_override: a joint attention in groups, others as they are.

    Args:
        previous: the override that was there before.
        function: the host's attention. q, k, v: [B, heads, tokens, d] or [B, tokens, heads * d].
    """

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if previous is not None:
            return previous(function, query, key, value, heads, mask, *args, **kwargs)
        return function(query, key, value, heads, mask, *args, **kwargs)

    queries, keys = q.shape[-2], k.shape[-2]
    order = call.sequence(queries, keys)
    if order is None:
        return attend(q, k, v, mask)
    if mask is not None:
        mask = _additive(mask, q)
    parts = call.parts(order, q, len(q))
    if not any(groups for _, groups in parts):
        return attend(q, k, v, mask)
    # Another MSD Place References knows the attention by its length, so it must stay one call.
    whole = isinstance(previous, partial) and previous.func is attend_placed
    outs = []
    for rows, groups in parts:
        own = None if mask is None else mask[rows] if len(mask) > 1 else mask
        if whole:
            dense = dense_mask(groups, queries, keys, q.dtype, q.device)
            outs.append(attend(q[rows], k[rows], v[rows], dense if own is None else dense + own))
        else:
            outs.append(attend_in_groups(attend, q[rows], k[rows], v[rows], groups, own))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _additive(mask: Tensor, query: Tensor) -> Tensor:
    """An attention's mask as [B or 1, heads or 1, queries or 1, keys] that is added to the
    scores."""
    if mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, lowest)
    if mask.ndim == 2:
        return mask[None, None]
    return mask[:, None] if mask.ndim == 3 else mask
