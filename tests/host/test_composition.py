"""Partners in the graph: each alone, before ours and after ours; docs/composition.md is made of it.

UPDATE_DOCS=1 writes the page; otherwise it must say what the tests find.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import pytest
import torch
from conftest import ROOT
from sampling import (
    LEFT,
    POSITIVE,
    RIGHT,
    assert_only_positive_rows_changed,
    assert_same,
    cond,
    guide,
    noise,
    sample,
    with_watch,
)

PAGE = ROOT / "docs" / "composition.md"
HEAD = """# What it was combined with

Written by `tests/host/test_composition.py` (`UPDATE_DOCS=1`), which runs every row in the real host
on a tiny SDXL-shaped model. In every row only the positive prompt's rows feel the subjects, and MSD
Apply at weight 0 leaves the picture without it as it is, bit by bit. Where a node patches the
model, it and MSD Apply each change the picture by themselves, both change it further together, and
their order doesn't matter.

| partner | in the graph | |
| --- | --- | --- |
"""
found: dict[str, str] = {}  # rows of the page, in the tests' order


@dataclass(frozen=True)
class Partner:
    """A node that patches a MODEL."""

    name: str
    patch: Callable[[Any, Any], Any]  # registry, model -> model
    note: str = ""
    acts: bool = True  # on SDXL


def node(name: str, **inputs: Any) -> Callable[[Any, Any], Any]:
    def patch(registry: Any, model: Any) -> Any:
        kind = registry[name]
        if hasattr(kind, "define_schema"):
            return kind.execute(model, **inputs)[0]
        return getattr(kind(), kind.FUNCTION)(model, **inputs)[0]

    return patch


def lora(registry: Any, model: Any) -> Any:
    """As LoraLoader patches: low rank, on the text's values of every cross-attention."""
    from comfy.weight_adapter import LoRAAdapter

    patched, patches = model.clone(), {}
    for key, weight in model.model.state_dict().items():
        if key.endswith("attn2.to_v.weight"):
            up, down = noise(1, weight.shape[0], 4) * 0.2, noise(2, 4, weight.shape[1]) * 0.2
            patches[key] = LoRAAdapter(set(), (up, down, 4.0, None, None, None))
    assert len(patched.add_patches(patches, 1.0)) == len(patches) > 0
    return patched


def merged(registry: Any, model: Any) -> Any:
    """ModelMergeSimple with a model whose weights are a little different."""
    other = model.clone()
    keys = [k for k in model.model.state_dict() if k.endswith("attn2.to_q.weight")]
    other.add_patches({k: (noise(3, *model.model.state_dict()[k].shape) * 0.05,) for k in keys})
    return registry["ModelMergeSimple"]().merge(model, other, 0.5)[0]


def attention_override(registry: Any, model: Any) -> Any:
    """What attention backends use."""
    patched = model.clone()

    def override(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return func(*args, **kwargs) * 0.9

    patched.model_options["transformer_options"]["optimized_attention_override"] = override
    return patched


def hooked(registry: Any, model: Any) -> Any:
    """A patch on the query, the key and the value, as many packs use."""
    patched = model.clone()
    patched.set_model_attn2_patch(lambda q, k, v, extra: (q, k * 0.8, v * 0.8))
    patched.set_model_attn2_output_patch(lambda out, extra: out * 1.1)
    return patched


DOWN = {
    "block_number": 3,
    "downscale_factor": 2.0,
    "start_percent": 0.0,
    "end_percent": 0.9,
    "downscale_after_skip": True,
    "downscale_method": "bicubic",
    "upscale_method": "bicubic",
}
SIGMAS = torch.tensor([8.0, 2.0, 0.0])
TILES = {"tile_size": 32, "swap_size": 1, "max_depth": 2, "scale_depth": False}
PARTNERS = (
    Partner("LoRA", lora),
    Partner("ModelMergeSimple", merged),
    Partner("HyperTile", node("HyperTile", **TILES)),
    Partner(
        "TomePatchModel",
        node("TomePatchModel", ratio=0.5),
        "merges at full resolution only, where SDXL has no attention: it changes nothing",
        acts=False,
    ),
    Partner("FreeU", node("FreeU", b1=1.1, b2=1.2, s1=0.9, s2=0.2)),
    Partner("FreeU_V2", node("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2)),
    Partner("SelfAttentionGuidance", node("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0)),
    Partner("PerturbedAttentionGuidance", node("PerturbedAttentionGuidance", scale=3.0)),
    Partner("NAGuidance", node("NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)),
    Partner("RescaleCFG", node("RescaleCFG", multiplier=0.7)),
    Partner("CFGZeroStar", node("CFGZeroStar")),
    Partner("APG", node("APG", eta=1.0, norm_threshold=5.0, momentum=0.5)),
    Partner("TCFG", node("TCFG")),
    Partner("FreSca", node("FreSca", scale_low=1.0, scale_high=1.25, freq_cutoff=4)),
    Partner("Mahiro", node("Mahiro")),
    Partner("PatchModelAddDownscale", node("PatchModelAddDownscale", **DOWN), "deep shrink"),
    Partner(
        "UNetCrossAttentionMultiply", node("UNetCrossAttentionMultiply", q=1, k=1, v=0.8, out=1)
    ),
    Partner("UNetSelfAttentionMultiply", node("UNetSelfAttentionMultiply", q=1, k=1, v=0.8, out=1)),
    Partner("attention patches of other packs", hooked, "attn2 and attn2_output lists"),
    Partner("attention override", attention_override, "as attention backends install it"),
)


@pytest.fixture(scope="module", autouse=True)
def page() -> Iterator[None]:
    yield
    rows = [f"| {name} | {words} |" for name, words in found.items()]
    text = HEAD + "\n".join(rows) + "\n"
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(text, encoding="utf-8")
    said = PAGE.read_text(encoding="utf-8")
    assert [row for row in rows if row not in said] == [], "run with UPDATE_DOCS=1"


def differ(first: torch.Tensor, second: torch.Tensor) -> bool:
    return bool((first - second).abs().max() > 1e-3 * first.abs().max())


@pytest.mark.parametrize("partner", PARTNERS, ids=lambda partner: partner.name)
def test_model_patches(
    registry: Any, plain: Any, apply: Any, subjects: Any, partner: Partner
) -> None:
    def picture(model: Any) -> torch.Tensor:
        torch.manual_seed(0)  # some partners draw from the global generator
        return sample(guide(model), sigmas=SIGMAS)

    def beside(model: Any) -> Any:
        return partner.patch(registry, model)

    def ours(model: Any, weight: float = 0.8) -> Any:
        return apply(model, subjects(LEFT, RIGHT), weight)

    nothing, alone, without = picture(plain), picture(beside(plain)), picture(ours(plain))
    before, after = picture(ours(beside(plain))), picture(beside(ours(plain)))
    assert differ(alone, nothing) == differ(before, without) == partner.acts
    assert differ(without, nothing) and differ(before, alone)
    assert_same(before, after)
    assert torch.equal(picture(ours(beside(plain), weight=0.0)), alone)
    watched, calls = with_watch(ours(beside(plain)), POSITIVE)
    picture(watched)
    assert_only_positive_rows_changed(calls)
    found[partner.name] = f"before and after: the same | {partner.note}"


SAMPLERS = ("euler", "euler_ancestral", "heun", "dpm_2", "dpmpp_sde", "dpmpp_2m", "uni_pc",
            "lcm", "euler_cfg_pp", "res_multistep")  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(plain: Any, apply: Any, subjects: Any, sampler: str) -> None:
    def picture(model: Any) -> torch.Tensor:
        torch.manual_seed(0)
        cfg = 1.0 if sampler == "lcm" else 7.5
        return sample(guide(model, cfg=cfg), sampler=sampler, sigmas=SIGMAS)

    nothing, ours = picture(plain), apply(plain, subjects(LEFT, RIGHT), 0.8)
    assert torch.equal(picture(apply(plain, subjects(LEFT, RIGHT), 0.0)), nothing)
    watched, calls = with_watch(ours, POSITIVE)
    assert differ(picture(watched), nothing)
    assert_only_positive_rows_changed(calls)
    found[f"sampler {sampler}"] = f"{len(calls)} calls in 2 steps |"


def hook_lora(registry: Any, positive: Any, model: Any) -> Any:
    """A LoRA on a conditioning, as hooks schedule it."""
    import comfy.hooks

    sd = {}
    for key, weight in model.model.diffusion_model.state_dict().items():
        if key.endswith("attn2.to_v.weight"):
            name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
            sd[f"{name}.lora_up.weight"] = noise(1, weight.shape[0], 4) * 0.2
            sd[f"{name}.lora_down.weight"] = noise(2, 4, weight.shape[1]) * 0.2
    hooks = comfy.hooks.create_hook_lora(lora=sd, strength_model=1.0, strength_clip=0.0)
    group = comfy.hooks.HookKeyframeGroup()
    group.add(comfy.hooks.HookKeyframe(strength=0.0, start_percent=0.0))
    group.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.5))
    hooks.set_keyframes_on_hooks(group)
    return comfy.hooks.set_hooks_for_conditioning(positive, hooks)


def by_node(name: str, *inputs: Any, **more: Any) -> Callable[[Any, Any, Any], Any]:
    def change(registry: Any, positive: Any, model: Any) -> Any:
        kind = registry[name]
        if hasattr(kind, "define_schema"):
            return kind.execute(positive, *inputs, **more)[0]
        return getattr(kind(), kind.FUNCTION)(positive, *inputs, **more)[0]

    return change


MASK = torch.zeros(1, 16, 16).index_fill(2, torch.arange(8), 1.0)
CONDITIONINGS = {
    "ConditioningCombine": by_node("ConditioningCombine", cond(POSITIVE + 100)),
    "ConditioningConcat": by_node("ConditioningConcat", cond(POSITIVE + 100)),
    "ConditioningAverage": by_node("ConditioningAverage", cond(POSITIVE), 0.5),
    "ConditioningSetArea": by_node("ConditioningSetArea", 64, 128, 32, 0, 1.0),
    "ConditioningSetMask": by_node("ConditioningSetMask", MASK, "default", 1.0),
    "ConditioningSetMask, bounds": by_node("ConditioningSetMask", MASK, "mask bounds", 1.0),
    "ConditioningSetTimestepRange": by_node("ConditioningSetTimestepRange", 0.0, 0.7),
    "scheduled LoRA by hooks": hook_lora,
}


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_conditionings(registry: Any, plain: Any, apply: Any, subjects: Any, name: str) -> None:
    positive = CONDITIONINGS[name](registry, cond(POSITIVE), plain)

    def picture(model: Any) -> torch.Tensor:
        return sample(guide(model, positive), sigmas=SIGMAS)

    nothing, ours = picture(plain), apply(plain, subjects(LEFT, RIGHT), 0.8)
    assert torch.equal(picture(apply(plain, subjects(LEFT, RIGHT), 0.0)), nothing)
    watched, calls = with_watch(ours, POSITIVE, POSITIVE + 100)
    assert differ(picture(watched), nothing)
    assert_only_positive_rows_changed(calls)
    found[name] = "on the positive prompt |"


HALF = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0])  # of the noise


@pytest.mark.parametrize("name", ["img2img", "SetLatentNoiseMask", "DifferentialDiffusion"])
def test_latents(registry: Any, plain: Any, apply: Any, subjects: Any, name: str) -> None:
    """From a picture at half the noise; in a part of it; and by a soft mask."""
    start = noise(7, 1, 4, 16, 16)
    mask = None if name == "img2img" else MASK * (0.5 if name == "DifferentialDiffusion" else 1)

    def picture(model: Any) -> torch.Tensor:
        if name == "DifferentialDiffusion":
            model = node(name)(registry, model)
        return guide(model).sample(
            noise(1, 1, 4, 16, 16), start, comfy.samplers.sampler_object("euler"), HALF,
            denoise_mask=mask, disable_pbar=True, seed=1,
        )  # fmt: skip

    nothing, ours = picture(plain), apply(plain, subjects(LEFT, RIGHT), 0.8)
    assert torch.equal(picture(apply(plain, subjects(LEFT, RIGHT), 0.0)), nothing)
    watched, calls = with_watch(ours, POSITIVE)
    out = picture(watched)
    assert differ(out, nothing)
    assert_only_positive_rows_changed(calls)
    if name == "SetLatentNoiseMask":  # what is kept is kept
        assert_same(out[..., 8:], nothing[..., 8:])
    found[name] = "from a picture |"
