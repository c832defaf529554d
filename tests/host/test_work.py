"""What MSD Apply adds to a step, counted in operations: matrix products, bytes that are allocated,
and calls that make the host wait for a GPU. Time is measured by tests/bench."""

from collections import Counter
from typing import Any

import pytest
import torch
from sampling import LEFT, RIGHT, guide, patch_of, sample
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("mm", "convolution", "attention")  # addmm, bmm and baddbmm among them
# On a GPU each of these waits: a number, or sizes that depend on values.
WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal")


class Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products, self.waits, self.bytes = 0, 0, 0
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.names[name] += 1
        self.products += any(word in name for word in PRODUCTS)
        self.waits += name in WAITING
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.bytes += 0 if storage.data_ptr() in given else storage.nbytes()
        return out


def steps(model: Any) -> list[Count]:
    """What each of three steps does."""
    counts: list[Count] = []
    watched = model.clone()

    def watch(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        with Count() as count:
            out = executor(*args, **kwargs)
        counts.append(count)
        return out

    watched.add_wrapper_with_key("calc_cond_batch", "count", watch)
    sample(guide(watched))
    return counts


LAYERS = 17  # cross-attentions of the tiny UNet
VIEWS = (
    "_unsafe_view",
    "alias",
    "detach",
    "expand",
    "permute",
    "select",
    "slice",
    "transpose",
    "unsqueeze",
    "view",
)


@pytest.mark.parametrize(("count", "share"), [(1, 1), (2, 1), (4, 1), (1, 0.5), (2, 0.5)])
def test_a_step(plain: Any, apply: Any, subjects: Any, count: int, share: float) -> None:
    """However many subjects: each layer takes the covered queries, attends, adds; nothing more."""
    bare = steps(plain)
    boxes = [(n / count, 0.25, (n + share) / count, 0.75) for n in range(count)]
    first, *later = steps(apply(plain, subjects(*boxes)))
    # What the subjects cover of the two grids is found on the CPU.
    assert first.waits - bare[0].waits == (6 if share == 1 else 8)
    for with_ours, without in zip(later, bare[1:], strict=True):
        added = with_ours.names - without.names
        work = {name: n for name, n in added.items() if name not in VIEWS}
        assert work.pop("cat") == 1  # on the CPU: the rows of the conditionings of a batch
        attention = next(name for name in work if "attention" in name)
        if share == 1:  # whole rows of the picture: taking them is a view
            assert work == {attention: LAYERS, "add_": LAYERS}
        else:
            assert work == {"index_select": LAYERS, attention: LAYERS, "index_add_": LAYERS}
        assert with_ours.products - without.products == LAYERS
        assert with_ours.waits == without.waits
        assert with_ours.bytes - without.bytes < 0.01 * without.bytes


def test_a_step_of_auto_layout(plain: Any, apply: Any, subjects: Any) -> None:
    """It reads the time once a step; each layer's map is two products beside the attention."""
    bare = steps(plain)
    auto = subjects(LEFT, RIGHT, auto=(0.5, 2), prompt_tokens=((1,), (2,)))
    for with_ours, without in zip(steps(apply(plain, auto))[1:], bare[1:], strict=True):
        assert with_ours.products - without.products == 3 * LAYERS
        assert with_ours.waits - without.waits == 1
        added = with_ours.names - without.names
        assert sum(n for name, n in added.items() if name not in VIEWS) == 20 * LAYERS + 2
        assert with_ours.bytes - without.bytes < 0.1 * without.bytes


class Moves(TorchDispatchMode):
    """Whether each copy from one device to another is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, kwargs = func(*args, **(kwargs or {})), kwargs or {}
        given = {a.device for a in args if isinstance(a, torch.Tensor)}
        if "copy" in func.overloadpacket.__name__ and given - {out.device}:
            self.waited.append(not kwargs.get("non_blocking", args[2:] == (True,)))
        return out


@pytest.mark.parametrize("auto", [None, (0.5, 1)])
@pytest.mark.parametrize("boxes", [(LEFT,), (LEFT, RIGHT)])
def test_the_first_call_of_a_layer(
    pack: Any, plain: Any, apply: Any, subjects: Any, auto: Any, boxes: Any
) -> None:
    """Keys, values and coverages go to the device unwaited for. To read a value of this one, which
    has none, is an error."""
    tokens = tuple((n + 1,) for n, _ in enumerate(boxes))
    branch = patch_of(apply(plain, subjects(*boxes, auto=auto, prompt_tokens=tokens))).branch
    rows = pack.module("nodes.sampling.conditionings")
    run = pack.module("nodes.sampling.run").Run([], step=1)
    layer = pack.module("nodes.sampling.image_branch").Layer(("middle", 0, 0), 8, 4, 4)
    part = rows.Part(slice(None), rows._GUESSED)
    q = torch.empty(1, 16, 128, device="meta")
    with Moves() as moves:
        branch.add(run, part, layer, q.clone(), q, q)
    assert len(moves.waited) >= 3 and not any(moves.waited)
