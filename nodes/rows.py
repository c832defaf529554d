"""Which rows of a batch belong to which conditioning, however the host and other packs batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.conds
import torch
from torch import Tensor

from .subjects import WHOLE_PICTURE, Box

ROWS = "ms_diffusion_rows"  # model cond, which the UNet gets too and leaves alone


@dataclass(frozen=True)
class Rows:
    """What a batch's rows of one conditioning are."""

    positive: int | None  # which of the positive conditionings; None for any other
    text_tokens: int | None = None  # length of its own text, which the host may repeat
    picture: tuple[int, int] = (1, 1)  # height and width of the whole latent
    area: tuple[int, int, int, int] | None = None  # height, width, top, left of the shown part

    @property
    def crop(self) -> Box:
        """The shown part, as shares of the picture: left, top, right, bottom."""
        if self.area is None:
            return WHOLE_PICTURE
        (height, width), (h, w, y, x) = self.picture, self.area
        return x / width, y / height, (x + w) / width, (y + h) / height


class RowsCond(comfy.conds.CONDRegular):
    """Carries `Rows` with a conditioning to the model, through whatever batching the host does.

    Neither the host's `cond_or_uncond` nor its `uuids` tell the positive rows: some guiders count
    the negative as 0, and an area's uncond twin shares the positive's uuid.
    """

    cond: tuple[Rows, ...]

    def process_cond(
        self, batch_size: int, area: Sequence[int] | None = None, **kwargs: Any
    ) -> "RowsCond":
        if area is None:
            return self
        return RowsCond((replace(self.cond[0], area=tuple(area)),))

    def can_concat(self, other: "RowsCond") -> bool:
        return True

    def concat(self, others: Sequence["RowsCond"]) -> tuple[Rows, ...]:
        return sum((other.cond for other in others), self.cond)

    def size(self) -> list[int]:
        return [1]


@dataclass(frozen=True)
class Batch:
    """The batch of one call of the model."""

    rows: tuple[Rows, ...]
    size: int
    order: Sequence[int]  # the host's cond_or_uncond

    def positive_parts(self, q: Tensor, couple: bool) -> list[tuple[slice, Rows]]:
        """Slices of an attention's query [B, N, C] that belong to positive conditionings.

        Args:
            couple: whether an attention-couple pack says that it has enlarged the batch.
        Raises:
            ValueError: another pack has changed the batch in a way of its own.
        """
        rows, each = self.rows, self.size // len(self.rows)
        if q.shape[0] != self.size:
            rows = self._repeated(each, q, couple)
        return [
            (slice(n * each, (n + 1) * each), row)
            for n, row in enumerate(rows)
            if row.positive is not None
        ]

    def _repeated(self, each: int, q: Tensor, couple: bool) -> tuple[Rows, ...]:
        """Rows of a batch that an attention-couple pack has enlarged: all but the negative's stand
        there once for each of the pack's texts, with the same query."""
        negatives = self.order.count(1)
        times, rest = divmod(len(q) - each * negatives, each * max(1, len(self.rows) - negatives))
        counts = [1 if index == 1 else times for index in self.order]
        explained = not rest and sum(counts) * each == len(q)
        if explained and not couple:  # not all packs say so
            parts = iter(q.split(each))
            for count in counts:
                first, *copies = (next(parts) for _ in range(count))
                explained &= all(torch.equal(first, copy) for copy in copies)
        if not explained:
            raise ValueError(
                f"MSD Apply: another node changed the batch of the attention from {self.size} to "
                f"{len(q)} rows, so that the positive ones can't be told."
            )
        return tuple(
            row for row, count in zip(self.rows, counts, strict=True) for _ in range(count)
        )


def marked(cond: dict[str, Any], positive: int | None, picture: tuple[int, int]) -> dict[str, Any]:
    """A conditioning that tells its rows."""
    text = cond["model_conds"].get("c_crossattn")
    rows = Rows(positive, None if text is None else text.cond.shape[1], picture)
    return {**cond, "model_conds": {**cond["model_conds"], ROWS: RowsCond((rows,))}}


def guess_rows(transformer_options: dict[str, Any]) -> tuple[Rows, ...]:
    """Rows of a call whose conditionings carry no mark: outside a sampling run the first is the
    positive, as everywhere in the host; inside one, a pack evaluates something of its own."""
    inside = "sample_sigmas" in transformer_options
    order = transformer_options.get("cond_or_uncond", [])
    return tuple(Rows(0 if index == 0 and not inside else None) for index in order)
