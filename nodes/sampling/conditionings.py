"""Which rows of a batch belong to which conditioning, however the host and other packs batch,
repeat, reorder and crop them.

The host's `cond_or_uncond` doesn't tell, nor do its `uuids`: some guiders count the negative as 0,
an area's uncond twin shares the positive's uuid, and a model function wrapper may pass on one row,
or tiles of several. So each conditioning carries a tensor with a row for each picture, which
everyone slices, repeats and reorders along with the latent's rows, as they must for its text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.conds
import torch
from torch import Tensor

from ...msd_core.coverage import Window
from .latent import UNKNOWN, SampledLatent

ROWS = "ms_diffusion_rows"  # model cond
CONDITIONINGS = "ms_diffusion_conditionings"  # transformer option: those of the run
COND, UNCOND = 0, 1  # in the host's cond_or_uncond


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One conditioning of a run."""

    positive: int | None  # which of the positive ones; None for any other, called negative here
    text: Tensor | None = None  # [1, K, C], which the host may repeat to its neighbours' length

    @property
    def text_length(self) -> int | None:
        return None if self.text is None else self.text.shape[1]


class Row(NamedTuple):
    """One row of a batch."""

    conditioning: Conditioning
    picture: int  # of the run's batch, or UNKNOWN
    window: Window | None  # what it shows of the latent; None for all of it


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a batch that have a conditioning and a window in common."""

    rows: slice
    conditioning: Conditioning
    pictures: tuple[int, ...] = (0,)  # of the run's batch, one a row
    batch: int = 1  # pictures of the run
    window: Window | None = None  # of the latent; None for all of it
    own_text: bool = True  # an attention-couple pack puts others beside the conditioning's


class RowsCond(comfy.conds.CONDRegular):
    """Carries to the model, for each row: the index of its conditioning, that of its picture in the
    run's batch, and height, width, top and left of its area, zeros without one.

    int32 [batch, 6, 1]: of rank 3, since some packs take rank 4 for pictures.
    """

    cond: Tensor

    def process_cond(
        self, batch_size: int, area: Sequence[int] | None = None, **kwargs: Any
    ) -> "RowsCond":
        rows = self.cond
        if len(rows) != batch_size:
            many = len(rows) > 1
            rows = rows[:1].repeat(batch_size, 1, 1)
            if many:
                rows[:, 1] = UNKNOWN
        if area is not None:
            frames = len(area) // 2 - 2  # a latent with frames has them first, in both halves
            spatial = (*area[frames : frames + 2], *area[-2:])
            rows = rows.clone()
            rows[:, 2:, 0] = torch.tensor(spatial, dtype=rows.dtype)
        return RowsCond(rows)


def mark(conds: dict[str, Any], batch: int) -> list[Conditioning]:
    """Give all conditionings of a guider their rows; returns the conditionings."""
    conditionings: list[Conditioning] = []
    positives = 0
    for name, of_name in conds.items():
        marked = []
        for cond in of_name:
            number = None
            if name.endswith("positive"):  # some guiders have several
                number, positives = positives, positives + 1
            rows = torch.zeros(batch, 6, 1, dtype=torch.int32)
            rows[:, 0], rows[:, 1, 0] = len(conditionings), torch.arange(batch)
            text = cond["model_conds"].get("c_crossattn")
            conditionings.append(Conditioning(number, None if text is None else text.cond))
            marked.append({**cond, "model_conds": {**cond["model_conds"], ROWS: RowsCond(rows)}})
        conds[name] = marked
    return conditionings


def is_marked(conds: Sequence[Any]) -> bool:
    """Whether all conditionings of a call to the host's calc_cond_batch carry their rows."""
    everyone = [cond for of_name in conds if of_name for cond in of_name]
    return bool(everyone) and all(ROWS in cond["model_conds"] for cond in everyone)


def read_rows(
    marks: Tensor,
    x: Tensor,
    conditionings: Sequence[Conditioning],
    latent: SampledLatent,
    acts_on_all: bool,
) -> tuple[Row, ...]:
    """The rows of a latent x [B, C, H, W] that the model is called with.

    Args:
        marks: what has become of the conditionings' `RowsCond`.
        latent: the sampler's.
        acts_on_all: a branch acts on the negative conditionings' rows too.
    Raises:
        ValueError: a branch acts on some of them, and their rows can't be told.
    """
    given = marks[..., 0].tolist()
    of_rows = [conditionings[index] for index, *_ in given]
    if not any(acts_on(conditioning, acts_on_all) for conditioning in of_rows):
        return tuple(Row(conditioning, UNKNOWN, None) for conditioning in of_rows)
    if len(marks) != len(x):
        raise ValueError(
            f"the model is called with {len(x)} rows but given the conditionings of {len(marks)}, "
            "so the positive prompt's rows can't be told"
        )
    rows: list[Row] = []
    for n, (conditioning, (_, picture, *area)) in enumerate(zip(of_rows, given, strict=True)):
        window = None
        if acts_on(conditioning, acts_on_all):
            window = latent.window_of(x[n], picture, area)
        rows.append(Row(conditioning, picture, window))
    return tuple(rows)


_GUESSED, _GUESSED_NEGATIVE, _NOBODYS = Conditioning(0), Conditioning(None), Conditioning(None)


def acts_on(conditioning: Conditioning, acts_on_all: bool) -> bool:
    """Whether a branch acts on a conditioning's rows: on the positive ones', or on all."""
    return conditioning.positive is not None or (acts_on_all and conditioning is not _NOBODYS)


def guess_rows(transformer_options: Mapping[str, Any], x: Tensor) -> tuple[Row, ...]:
    """Rows of a call whose conditionings carry no mark: outside a sampling run the first is the
    positive, as everywhere in the host; inside one, a pack evaluates something of its own."""
    inside = "sample_sigmas" in transformer_options
    guessed = {} if inside else {COND: _GUESSED, UNCOND: _GUESSED_NEGATIVE}
    order = transformer_options.get("cond_or_uncond", ())
    return tuple(
        Row(guessed.get(index, _NOBODYS), picture, None)
        for index in order
        for picture in range(len(x) // len(order))
    )


def row_parts(
    rows: tuple[Row, ...],
    batch: int,
    order: Sequence[int],
    q: Tensor,
    couple_length: int,
    acts_on_all: bool,
) -> list[Part]:
    """Rows of an attention's query q [B, N, C] that a branch acts on; those of the positive
    conditionings first, since auto layout follows them in all others.

    Args:
        rows: of the call of the model. batch: pictures of the run.
        order: the host's cond_or_uncond of that call.
        couple_length: length of the order that an attention-couple pack, which enlarges the batch,
            says it now has.
        acts_on_all: the branch acts on the negative conditionings' rows too.
    Raises:
        ValueError: another pack has changed the batch in a way of its own.
    """
    own_text = len(q) == len(rows)
    if not own_text:
        rows = _coupled(rows, order, q, couple_length)
    parts: list[Part] = []
    begin = 0
    for end in range(1, len(rows) + 1):
        conditioning, _, window = rows[begin]
        if end < len(rows) and rows[end][0] is conditioning and rows[end][2] == window:
            continue
        if acts_on(conditioning, acts_on_all):
            pictures = tuple(picture for _, picture, _ in rows[begin:end])
            parts.append(Part(slice(begin, end), conditioning, pictures, batch, window, own_text))
        begin = end
    if acts_on_all:
        parts.sort(key=lambda part: part.conditioning.positive is None)
    return parts


def _coupled(
    rows: tuple[Row, ...], order: Sequence[int], q: Tensor, couple_length: int
) -> tuple[Row, ...]:
    """Rows of a batch that an attention-couple pack has enlarged: it repeats all but the negative's
    once for each of its texts, with the same query."""
    each, uneven = divmod(len(rows), max(1, len(order)))
    negatives = order.count(UNCOND)
    others = each * (len(order) - negatives)
    times, rest = divmod(len(q) - each * negatives, max(1, others))
    counts = [1 if index == UNCOND else times for index in order]
    chunks = [rows[n * each : (n + 1) * each] for n in range(len(counts))]
    explained = (
        not uneven
        and not rest
        and sum(counts) * each == len(q)
        and all(row.conditioning is chunk[0].conditioning for chunk in chunks for row in chunk)
    )
    if explained and couple_length != sum(counts):  # not all packs say so
        parts = iter(q.split(each))
        for count in counts:
            first, *copies = (next(parts) for _ in range(count))
            explained &= all(torch.equal(first, copy) for copy in copies)
    if not explained:
        raise ValueError(
            f"MSD Apply: another node changed the batch of the attention from {len(rows)} to "
            f"{len(q)} rows, so the positive prompt's can't be told."
        )
    return tuple(
        row for chunk, count in zip(chunks, counts, strict=True) for _ in range(count)
        for row in chunk
    )  # fmt: skip
