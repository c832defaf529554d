"""The processes that train together: one alone, or those of torch.distributed.run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


def join() -> None:
    """Join the others, if torch.distributed.run started this process."""
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def agree(decision: bool) -> bool:
    """The first process' decision."""
    if count() == 1:
        return decision
    value = torch.tensor(int(decision))
    dist.broadcast(value, 0)
    return bool(value)


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process run the block before all others."""
    if rank() > 0:
        dist.barrier()
    yield
    if count() > 1 and rank() == 0:
        dist.barrier()
