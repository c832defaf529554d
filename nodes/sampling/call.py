"""The calls of the model that are under way, each as one MSD Apply sees it.

An attention asks here which they are, by a context variable, rather than being given them: what
torch.compile has compiled once runs for all later calls, and would keep those that it was compiled
with. A context variable, not a global: every thread of a host has its own.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor

from ...msd_core.models.unet import Block
from .conditionings import Row, row_parts
from .image_branch import Branch, Layer
from .run import Run


@dataclass(frozen=True)
class Call:
    """One call of the model."""

    branch: Branch
    run: Run
    batch: int  # pictures of the run, whichever of them this call holds
    rows: tuple[Row, ...]
    order: tuple[int, ...]  # the host's cond_or_uncond; a copy, since some packs write into it
    seen: set[Block] = field(default_factory=set)  # those whose attention has been computed


calls: ContextVar[tuple[Call, ...]] = ContextVar("ms_diffusion_calls", default=())


def add_image_branches(layer: Layer, out: Tensor, q: Tensor, k: Tensor, couple_length: int) -> None:
    """Add the image branches of all calls that are under way to a text attention, in place.

    Args:
        out: [B, N, C], the text attention's output. q: [B, N, C]. k: [B, K, C].
        couple_length: as in `row_parts`.
    Raises:
        ValueError: another node has changed the queries.
    """
    text = out.clone() if any(call.branch.reads_text for call in calls.get()) else None
    for call in calls.get():
        call.seen.add(layer.block)
        if q.shape[1] != layer.height * layer.width:
            raise ValueError(
                f"MSD Apply: another node changed the {layer.height * layer.width} queries of "
                f"block {layer.block} to {q.shape[1]}, so the subjects can't be placed in them."
            )
        branch = call.branch
        for part in row_parts(
            call.rows, call.batch, call.order, q, couple_length, branch.acts_on_all
        ):
            branch.add(call.run, part, layer, out, q, k, text)
