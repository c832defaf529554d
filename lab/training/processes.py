"""The processes that train together: one alone, or those of torch.distributed.run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist


def join() -> None:
    """Join the others, if torch.distributed.run or accelerate started this process, each on a GPU
    of its own if there are any."""
    if "RANK" in os.environ and not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            backend = "cpu:gloo,cuda:nccl"
        # The others wait while the first one encodes the set.
        dist.init_process_group(backend, timeout=timedelta(days=7))


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


def memory() -> float:
    """GiB that this process holds: the most on its GPU, if it has one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return psutil.Process().memory_info().rss / 2**30


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process run the block before all others."""
    if rank() > 0:
        dist.barrier()
    yield
    if count() > 1 and rank() == 0:
        dist.barrier()
