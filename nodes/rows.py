"""Which rows of a batch belong to which conditioning, and which part of which picture each shows,
however the host and other packs batch, repeat, reorder and crop them.

Neither the host's `cond_or_uncond` nor its `uuids` tell: some guiders count the negative as 0, an
area's uncond twin shares the positive's uuid, and a model function wrapper may hand on one row, or
tiles of several. So each conditioning carries a tensor with a row a picture, which everyone slices,
repeats and reorders along with the latent's rows, as they must for its text. Which part of the
latent a tile shows is found by comparing it with the latent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import comfy.conds
import torch
from torch import Tensor

from ..msd_core.layout import Window

ROWS = "ms_diffusion_rows"  # model cond
CONDITIONINGS = "ms_diffusion_conditionings"  # transformer option: those of the run
NEGATIVE = 1  # in the host's cond_or_uncond
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One conditioning of a run."""

    positive: int | None  # which of the positive ones; None for any other
    text: Tensor | None = None  # [1, K, C], which the host may repeat to its neighbours' length

    @property
    def text_length(self) -> int | None:
        return None if self.text is None else self.text.shape[1]


@dataclass(frozen=True)
class Part:
    """Rows of a batch that stand together and show the same."""

    rows: slice
    conditioning: Conditioning
    pictures: tuple[int, ...] = (0,)  # of the run's batch, one a row
    window: Window | None = None  # of the latent; None for all of it
    own_text: bool = True  # an attention-couple pack puts others beside the conditioning's


Row = tuple[Conditioning, int, Window | None]  # its conditioning, its picture, what it shows of it


class RowsCond(comfy.conds.CONDRegular):
    """Takes to the model, for each row: the index of its conditioning, that of its picture in the
    run's batch, and of an area height, width, top and left, zeros without one.

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
                rows[:, 1] = UNKNOWN  # which of the pictures, nobody says
        if area is not None:
            rows = rows.clone()
            rows[:, 2:, 0] = torch.tensor(area, dtype=rows.dtype)
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
    rows: Tensor,
    x: Tensor,
    conditionings: Sequence[Conditioning],
    whole: Tensor | None,
    whole_size: tuple[int, int],
    window: Window | None,
) -> tuple[Row, ...]:
    """The rows of a latent [B, C, H, W] that the model is called with.

    Args:
        rows: what has become of the conditionings' `RowsCond`.
        whole: the sampler's latent, None where it isn't known. whole_size: its height and width.
        window: the part of it that the host evaluates; None for all of it.
    Raises:
        ValueError: a positive conditioning is among them, and who goes where can't be told.
    """
    marks = rows[..., 0].tolist()
    of_rows = [conditionings[index] for index, *_ in marks]
    if all(conditioning.positive is None for conditioning in of_rows):
        return tuple((conditioning, UNKNOWN, None) for conditioning in of_rows)
    if len(rows) != len(x):
        raise ValueError(
            f"the model is called with {len(x)} rows but told the conditionings of {len(rows)}, so "
            "that which are the positive prompt's can't be told"
        )
    read: list[Row] = []
    for n, (conditioning, (_, picture, *area)) in enumerate(zip(of_rows, marks, strict=True)):
        shown = None
        if conditioning.positive is not None:
            shown = _window(x[n], picture, area, whole, whole_size, window)
        read.append((conditioning, picture, shown))
    return tuple(read)


def _window(
    x: Tensor,
    picture: int,
    area: Sequence[int],
    whole: Tensor | None,
    whole_size: tuple[int, int],
    window: Window | None,
) -> Window | None:
    """The part of a picture's latent that a row [C, H, W] shows, None for all of it."""
    height, width = x.shape[-2:]
    if window is None and area[0] and (height, width) == tuple(area[:2]):
        corners = {(area[2], area[3])}
    elif (height, width) == (
        whole_size if window is None else (len(window.rows), len(window.columns))
    ):
        return window
    elif whole is not None:
        pictures = range(len(whole)) if picture == UNKNOWN else (picture,)
        corners = {corner for of in pictures for corner in _find(x, whole[of])}
    else:
        corners = set()
    if len(corners) != 1:
        raise ValueError(
            f"the model is called with {height} x {width} cells that are neither the sampler's "
            f"{whole_size[0]} x {whole_size[1]} nor a part of them that can be found, so that "
            "where the subjects are in them can't be told"
        )
    ((top, left),) = corners
    return Window(range(top, top + height), range(left, left + width), whole_size)


def _find(part: Tensor, whole: Tensor) -> list[tuple[int, int]]:
    """Where a part [C, h, w] of a latent [C, H, W] stands in it: rows and columns of its corner."""
    (_, height, width), (_, rows, columns) = part.shape, whole.shape
    if height > rows or width > columns:
        return []
    corners = whole[:, : rows - height + 1, : columns - width + 1]
    places = (corners == part[:, :1, :1]).all(0).nonzero().tolist()
    return [
        (top, left)
        for top, left in places
        if torch.equal(whole[:, top : top + height, left : left + width], part)
    ]


def window_of(
    context_window: Any, retained: Sequence[int], x: Tensor, whole: Tensor
) -> Window | None:
    """The part of the sampler's latent [B, C, H, W] that one of the host's context windows shows;
    None where it isn't what is evaluated, since the host leaves the last one in its options.

    Args:
        context_window: the host's. retained: indices that the host shows in every window.
        x: what is evaluated.
    """
    if whole.ndim != 4 or context_window.dim not in (2, 3):
        return None
    height, width = whole.shape[-2:]
    index = torch.arange(height * width).view(1, 1, height, width)
    shown = context_window.get_tensor(index, retain_index_list=retained)
    if shown.shape[-2:] != x.shape[-2:] or not torch.equal(
        context_window.get_tensor(whole, retain_index_list=retained), x
    ):
        return None
    rows, columns = shown[0, 0, :, 0] // width, shown[0, 0, 0] % width
    return Window(_indices(rows.tolist()), _indices(columns.tolist()), (height, width))


def _indices(given: list[int]) -> Sequence[int]:
    if all(b == a + 1 for a, b in pairwise(given)):
        return range(given[0], given[-1] + 1)
    return tuple(given)


@dataclass(frozen=True)
class Batch:
    """The batch of one call of the model."""

    rows: tuple[Row, ...]
    # The host's cond_or_uncond. A copy: some packs write into the host's list.
    order: tuple[int, ...]

    def positive_parts(self, q: Tensor, listed: int) -> list[Part]:
        """Rows of an attention's query [B, N, C] that belong to positive conditionings.

        Args:
            listed: length of the order that an attention-couple pack, which enlarges the batch,
                says it now has.
        Raises:
            ValueError: another pack has changed the batch in a way of its own.
        """
        rows = self.rows if len(q) == len(self.rows) else self._repeated(q, listed)
        parts: list[Part] = []
        begin = 0
        for end in range(1, len(rows) + 1):
            conditioning, _, window = rows[begin]
            if end < len(rows) and rows[end][0] is conditioning and rows[end][2] == window:
                continue
            if conditioning.positive is not None:
                pictures = tuple(picture for _, picture, _ in rows[begin:end])
                own_text = rows is self.rows
                parts.append(Part(slice(begin, end), conditioning, pictures, window, own_text))
            begin = end
        return parts

    def _repeated(self, q: Tensor, listed: int) -> tuple[Row, ...]:
        """Rows of a batch that an attention-couple pack has enlarged: all but the negative's stand
        there once for each of the pack's texts, with the same query."""
        each, uneven = divmod(len(self.rows), max(1, len(self.order)))
        negatives = self.order.count(NEGATIVE)
        others = each * (len(self.order) - negatives)
        times, rest = divmod(len(q) - each * negatives, max(1, others))
        counts = [1 if index == NEGATIVE else times for index in self.order]
        chunks = [self.rows[n * each : (n + 1) * each] for n in range(len(counts))]
        explained = (
            not uneven
            and not rest
            and sum(counts) * each == len(q)
            and all(row[0] is chunk[0][0] for chunk in chunks for row in chunk)
        )
        if explained and listed != sum(counts):  # not all packs say so
            parts = iter(q.split(each))
            for count in counts:
                first, *copies = (next(parts) for _ in range(count))
                explained &= all(torch.equal(first, copy) for copy in copies)
        if not explained:
            raise ValueError(
                f"MSD Apply: another node changed the batch of the attention from {len(self.rows)} "
                f"to {len(q)} rows, so that the positive ones can't be told."
            )
        repeated = zip(chunks, counts, strict=True)
        return tuple(row for chunk, count in repeated for _ in range(count) for row in chunk)


_GUESSED, _NOBODYS = Conditioning(0), Conditioning(None)


def guess_rows(transformer_options: Mapping[str, Any], x: Tensor) -> tuple[Row, ...]:
    """Rows of a call whose conditionings carry no mark: outside a sampling run the first is the
    positive, as everywhere in the host; inside one, a pack evaluates something of its own."""
    inside = "sample_sigmas" in transformer_options
    order = transformer_options.get("cond_or_uncond", ())
    return tuple(
        (_NOBODYS if index != 0 or inside else _GUESSED, picture, None)
        for index in order
        for picture in range(len(x) // len(order))
    )
