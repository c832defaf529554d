"""torch.compile of a model with subjects: no graph break and no recompilation of ours."""

from typing import Any

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from golden_mip import build_unets, load_adapters
from sampling import EVERYWHERE, LEFT, RIGHT, assert_same, guide, noise, patch_of, sample
from torch._dynamo.utils import counters

PATCHED = ("unet_patch", "compiled")  # they import the host's attention


@pytest.fixture(autouse=True)
def fresh(pack: Any, monkeypatch: Any) -> None:
    """With torch's attention, as on GPUs: the host's own for CPUs asks for free memory in each."""
    from comfy.ldm.modules import attention

    for module in (attention, *(pack.module(f"nodes.sampling.{n}") for n in PATCHED)):
        monkeypatch.setattr(module, "optimized_attention", attention.attention_pytorch)
    torch._dynamo.reset()
    counters.clear()


def compiled(model: Any, guards: bool) -> Any:
    """As TorchCompileModel does it, which drops guards on transformer options, but without the
    minutes that inductor takes for machine code."""
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    patched = model.clone()
    given = {} if guards else {"options": {"guard_filter_fn": skip_torch_compile_dict}}
    set_torch_compile_wrapper(patched, backend="aot_eager", **given)
    return patched


def graphs() -> int:
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


def test_all_guards(plain: Any, apply: Any, subjects: Any) -> None:
    """As packs that keep the guards compile: one graph, whatever the weights, boxes and steps."""
    for model in (
        apply(plain, subjects(LEFT, RIGHT), 0.8),
        apply(plain, subjects(LEFT, EVERYWHERE), 0.3, start_percent=0.4),
    ):
        assert_same(sample(guide(compiled(model, guards=True))), sample(guide(model)))
        assert graphs() == 1


@pytest.mark.parametrize("merges", [False, True])
def test_branches_on_all_rows(pack: Any, tmp_path: Any, merges: bool) -> None:
    """References in boxes, or where their names are: one graph too."""
    unet = build_unets()["sdxl"]
    adapter = load_adapters(pack, {"sdxl": unet}, tmp_path, merges)["sdxl_linear"]
    kinds = pack.module("nodes.subjects")
    two = tuple(
        kinds.Subject(
            "", box, 1.0, torch.zeros(1, 8, 8, 3), image_tokens=noise(seed, 1, 4, 64),
            blank_image_tokens=noise(3, 4, 64), name_tokens=noise(seed, 2, 64),
        )
        for seed, box in enumerate((LEFT, RIGHT), 1)
    )  # fmt: skip
    model = pack.MSDApply.execute(unet, adapter, kinds.Subjects(two), 0.8)[0]
    assert_same(sample(guide(compiled(model, guards=False))), sample(guide(model)))
    assert graphs() == 1


def test_torch_compile_model(plain: Any, apply: Any, subjects: Any) -> None:
    """One graph for the plain model and one with subjects, whatever they are, in any order."""
    bare = sample(guide(plain))
    for model in (
        apply(plain, subjects(LEFT, RIGHT), 0.8),
        apply(plain, subjects(LEFT, RIGHT, LEFT), 0.8, start_percent=0.4),
        apply(plain, subjects(EVERYWHERE), 0.3),
        apply(plain, subjects(LEFT, RIGHT, auto=(0.5, 2), prompt_tokens=((1,), (2,)))),
        apply(apply(plain, subjects(LEFT), 0.5), subjects(RIGHT), 0.5),
    ):
        assert_same(sample(guide(compiled(plain, guards=False))), bare)
        assert_same(sample(guide(compiled(model, guards=False))), sample(guide(model)))
        assert graphs() == 2


def test_code_that_mixes_up_blocks_is_an_error(
    pack: Any, plain: Any, apply: Any, subjects: Any
) -> None:
    """As after a graph break: one block's code runs for another."""
    call, module = pack.module("nodes.sampling.call"), pack.module("nodes.sampling.compiled")
    branch = patch_of(apply(plain, subjects(LEFT))).branch
    q = noise(1, 1, 16, 128)
    rows = pack.module("nodes.sampling.conditionings").guess_rows({"cond_or_uncond": [0]}, q)
    before = call.calls.set((call.Call(branch, call.Run([]), 1, rows, (0,)),))
    try:
        module._operation(q.clone(), q, q, "middle", 0, 0, 8, 4, 4, 1)
        with pytest.raises(ValueError, match="twice in one call"):
            module._operation(q.clone(), q, q, "middle", 0, 0, 8, 4, 4, 1)
    finally:
        call.calls.reset(before)


def test_torch_without_custom_operations(pack: Any, monkeypatch: Any) -> None:
    """PyTorch before 2.4: the module loads, and nothing of it is compiled."""
    import importlib.util
    import sys

    module = pack.module("nodes.sampling.compiled")
    monkeypatch.delattr(torch.library, "custom_op")
    name = f"{module.__package__}.compiled_of_old_torch"
    spec = importlib.util.spec_from_file_location(name, module.__file__)
    old = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, old)
    spec.loader.exec_module(old)
    assert old._operation is old._add
    options = {"wrappers": {"apply_model": {module.COMPILE_KEY: []}}}
    monkeypatch.setattr(old, "optimized_attention", old.attention_pytorch)
    assert old.keeps_earlier_runs(options, None, False)
    assert not module.keeps_earlier_runs(options, None, False)
