"""Partners in the graph: each alone, before ours and after ours.

UPDATE_DOCS=1 writes docs/composition.md from it; otherwise the page must say what the tests find.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.gligen
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.t2i_adapter.adapter import Adapter
from models import build_sdxl
from pages import check_page
from sampling import (
    EVERYWHERE,
    FAMILIES,
    LEFT,
    MIDDLE,
    NEGATIVE,
    POSITIVE,
    RIGHT,
    assert_rows_changed,
    assert_same,
    cond,
    differ,
    guide,
    noise,
    sample,
    with_watch,
)

from lab.host.in_process import run_node
from lab.microworld import MODELS

pytestmark = pytest.mark.parametrize("family", FAMILIES)
HEAD = """# What MSD Apply was combined with

Written by `tests/host/test_composition.py` (`UPDATE_DOCS=1`), which runs every row in the real host
on a tiny SDXL-shaped model with random weights, with an MS-Diffusion adapter, an IP-Adapter (plus)
and a MIP-Adapter. In every row only the positive prompt's rows feel the subjects of MS-Diffusion,
and all rows feel those of the other two; MSD Apply at weight 0 leaves the picture as it is without
the node, bit by bit.

LoRA and ControlNet from files run in `tests/host/test_workflows.py`, a LoRA on CLIP in
`tests/host/test_ground_references.py`. GLIGEN has no files for SDXL; its row shows that a model of
its form, built for this test, works. Other packs are in [other_packs.md](other_packs.md). No row
was run on a released SDXL checkpoint or on a GPU.

"""
SECTIONS = {  # the page's, with their heads
    "patches": """## Nodes that patch the model

The picture is the same whether the node comes before or after MSD Apply. The node and MSD Apply
each change the picture by themselves, and together they change it further, unless the row says
otherwise.

| node | |
| --- | --- |""",
    "samplers": """
## Samplers and guiders

| sampler or guider | calls of the UNet in 2 steps |
| --- | --- |""",
    "sizes": """
## Sizes and batches

| size and batch | pixels |
| --- | --- |""",
    "conditionings": """
## On the positive prompt

| conditioning |
| --- |""",
    "latents": """
## From a picture

| start |
| --- |""",
    "previews": """
## Previews

| method | |
| --- | --- |""",
}
found: dict[str, dict[str, str]] = {name: {} for name in SECTIONS}  # rows, in the tests' order


@dataclass(frozen=True)
class Partner:
    """A node that patches a MODEL."""

    name: str
    patch: Callable[[Any, Any], Any]  # registry, model -> model
    note: str = ""
    acts: bool = True  # on SDXL
    alone: bool = True  # it makes no calls of the model by itself


def skip_without(registry: Any, name: str) -> None:
    if name not in registry:
        pytest.skip(f"This host has no {name} yet.")


def node(name: str, **inputs: Any) -> Callable[[Any, Any], Any]:
    def patch(registry: Any, model: Any) -> Any:
        skip_without(registry, name)
        return run_node(registry, name, model, **inputs)[0]

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


def hypernetwork(registry: Any, model: Any) -> Any:
    """HypernetworkLoader with a file for the context's width."""
    import folder_paths

    folder = Path(folder_paths.get_temp_directory()) / "hypernetworks"
    folder.mkdir(exist_ok=True)
    folder_paths.add_model_folder_path("hypernetworks", str(folder))
    layers = [
        {"linear.0.weight": noise(seed, 64, 64) * 0.1, "linear.0.bias": torch.zeros(64)}
        for seed in (5, 6)
    ]
    torch.save({"activation_func": "linear", 64: layers}, folder / "tiny.pt")
    return node("HypernetworkLoader", hypernetwork_name="tiny.pt", strength=1.0)(registry, model)


def cloned_for_a_gpu(registry: Any, model: Any) -> Any:
    """The copy that MultiGPU CFG Split makes of a model for each further GPU."""
    if not hasattr(model, "deepclone_multigpu"):
        pytest.skip("This host has no MultiGPU CFG Split yet.")

    def load() -> Any:
        fresh = build_sdxl()
        fresh.model.load_state_dict(model.model.state_dict())
        return fresh

    model = model.clone()
    model.cached_patcher_init = (load, ())
    return model.deepclone_multigpu(torch.device("cpu"))


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
CONTEXT_WINDOWS = {
    "context_length": 8,
    "context_overlap": 4,
    "context_schedule": "standard_static",
    "context_stride": 1,
    "closed_loop": False,
    "fuse_method": "flat",
    "dim": 3,
    "freenoise": False,
}
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
    Partner(
        "PerpNeg",
        node("PerpNeg", empty_conditioning=cond(MIDDLE), neg_scale=1.0),
        "it evaluates the empty prompt by itself, without the subjects; PerpNegGuider with them",
        alone=False,
    ),
    Partner(
        "ModelSamplingDiscrete",
        node("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True),
        "start and end percent belong to the schedule that runs",
    ),
    Partner(
        "ModelSamplingContinuousEDM",
        node("ModelSamplingContinuousEDM", sampling="edm", sigma_max=120.0, sigma_min=0.002),
        "as above",
    ),
    Partner(
        "ModelSamplingContinuousV",
        node("ModelSamplingContinuousV", sampling="v_prediction", sigma_max=500.0, sigma_min=0.03),
        "as above",
    ),
    Partner(
        "ContextWindowsManual",
        node("ContextWindowsManual", **CONTEXT_WINDOWS),
        "windows over the width: each sees its part of the layout",
    ),
    Partner("HypernetworkLoader", hypernetwork),
    Partner(
        "MultiGPU_WorkUnits",
        node("MultiGPU_WorkUnits", max_gpus=2),
        "one device: it changes nothing",
        False,
    ),
    Partner("a MultiGPU clone", cloned_for_a_gpu, "on the CPU: it changes nothing", acts=False),
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
    lines = [
        line
        for section, rows in found.items()
        if rows
        for line in (*SECTIONS[section].splitlines(), *(f"| {row} |" for row in rows.values()))
    ]
    check_page("composition.md", HEAD, lines)


@pytest.fixture
def acts(plain: Any, apply: Any, subjects: Any, family: str) -> Callable[..., Any]:
    """Check that MSD Apply acts on the rows that are its family's, and at weight 0 on nothing.
    `picture`: model -> latent; alone: nobody else calls the model inside the run. Returns the
    picture without it, with it, and how often the UNet was called."""

    def check(
        picture: Callable[[Any], torch.Tensor],
        positives: tuple[int, ...] = (POSITIVE,),
        model: Any = plain,
        alone: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        nothing = picture(model)
        assert torch.equal(picture(apply(model, subjects(LEFT, RIGHT), 0.0)), nothing)
        watched, calls = with_watch(apply(model, subjects(LEFT, RIGHT), 0.8), *positives)
        out = picture(watched)
        assert differ(out, nothing)
        assert_rows_changed(calls, family, alone)
        return nothing, out, len(calls)

    return check


@pytest.mark.parametrize("partner", PARTNERS, ids=lambda partner: partner.name)
def test_model_patches(
    registry: Any, plain: Any, apply: Any, subjects: Any, acts: Any, partner: Partner
) -> None:
    def picture(model: Any) -> torch.Tensor:
        torch.manual_seed(0)  # some partners draw from the global generator
        return sample(guide(model), sigmas=SIGMAS)

    def beside(model: Any) -> Any:
        return partner.patch(registry, model)

    def ours(model: Any) -> Any:
        return apply(model, subjects(LEFT, RIGHT), 0.8)

    alone, *_ = acts(picture, model=beside(plain), alone=partner.alone)
    nothing, without = picture(plain), picture(ours(plain))
    before, after = picture(ours(beside(plain))), picture(beside(ours(plain)))
    assert differ(alone, nothing) == differ(before, without) == partner.acts
    assert differ(without, nothing) and differ(before, alone)
    assert_same(before, after)
    found["patches"][partner.name] = f"{partner.name} | {partner.note}"


def test_a_second_apply(plain: Any, adapter: Any, pack: Any, subjects: Any) -> None:
    """With an adapter of other weights, another subject, and in the first steps only."""
    other = adapter.clone()
    other.model = copy.deepcopy(adapter.model)
    for projection in other.model.projections:
        projection.to_v_ip.weight.data *= 3

    def first(model: Any) -> Any:
        return pack.MSDApply.execute(model, adapter, subjects(LEFT, RIGHT), 0.8)[0]

    def second(model: Any) -> Any:
        return pack.MSDApply.execute(model, other, subjects(EVERYWHERE), 0.5, 0.0, 0.4)[0]

    def picture(model: Any) -> torch.Tensor:
        return sample(guide(model), sigmas=SIGMAS)

    both = picture(second(first(plain)))
    assert_same(both, picture(first(second(plain))))
    for one in (first, second):
        assert differ(picture(one(plain)), picture(plain)) and differ(both, picture(one(plain)))
    found["patches"]["MSD Apply"] = "MSD Apply | another adapter, other subjects, other steps"


def test_a_compiled_model_runs_uncompiled(
    registry: Any, plain: Any, apply: Any, subjects: Any, caplog: Any
) -> None:
    compiled = node("TorchCompileModel", backend="inductor")
    ours = sample(guide(apply(plain, subjects(LEFT, RIGHT), 0.8)))
    # On this CPU the host's attention isn't PyTorch's.
    for model in (
        apply(compiled(registry, plain), subjects(LEFT, RIGHT), 0.8),
        compiled(registry, apply(plain, subjects(LEFT, RIGHT), 0.8)),
    ):
        caplog.clear()
        assert torch.equal(sample(guide(model)), ours)
        assert caplog.text.count("the model runs uncompiled") == 1
    found["patches"]["TorchCompileModel"] = (
        "TorchCompileModel | uncompiled, and MSD Apply says so; "
        "with PyTorch's attention and no other patches compiled (test_compile.py)"
    )


def test_a_compiled_model_on_old_torch(
    registry: Any, plain: Any, apply: Any, subjects: Any, monkeypatch: Any
) -> None:
    """Before 2.6 nothing runs a compiled model uncompiled; all else runs there."""
    ours = sample(guide(apply(plain, subjects(LEFT, RIGHT), 0.8)))
    monkeypatch.delattr(torch.compiler, "set_stance")
    assert torch.equal(sample(guide(apply(plain, subjects(LEFT, RIGHT), 0.8))), ours)
    compiled = node("TorchCompileModel", backend="inductor")(registry, plain)
    with pytest.raises(ValueError, match=r"^MSD Apply: .* Bypass TorchCompileModel\.$"):
        sample(guide(apply(compiled, subjects(LEFT, RIGHT), 0.8)))


SAMPLERS = ("euler", "euler_ancestral", "heun", "dpm_2", "dpmpp_sde", "dpmpp_2m", "uni_pc",
            "lcm", "euler_cfg_pp", "res_multistep")  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(acts: Any, sampler: str) -> None:
    def picture(model: Any) -> torch.Tensor:
        torch.manual_seed(0)
        cfg = 1.0 if sampler == "lcm" else 7.5
        return sample(guide(model, cfg=cfg), sampler=sampler, sigmas=SIGMAS)

    *_, calls = acts(picture)
    found["samplers"][sampler] = f"{sampler} | {calls}"


GUIDERS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "BasicGuider": lambda model: (model, cond(POSITIVE)),
    "CFGGuider": lambda model: (model, cond(POSITIVE), cond(NEGATIVE), 5.0),
    "DualCFGGuider": lambda model: (
        *(model, cond(POSITIVE), cond(MIDDLE), cond(NEGATIVE)),
        *(5.0, 3.0, "regular"),
    ),
    "DualModelGuider": lambda model: (
        *(model, cond(POSITIVE), 5.0),
        *(model.clone(), cond(NEGATIVE)),
    ),
    "PerpNegGuider": lambda model: (model, cond(POSITIVE), cond(NEGATIVE), cond(MIDDLE), 5.0, 1.0),
}


@pytest.mark.parametrize("name", GUIDERS)
def test_guiders(registry: Any, acts: Any, name: str) -> None:
    skip_without(registry, name)

    def picture(model: Any) -> torch.Tensor:
        (guider,) = run_node(registry, name, *GUIDERS[name](model))
        (drawn,) = run_node(registry, "RandomNoise", 1)
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        sampler = comfy.samplers.sampler_object("euler")
        node = "SamplerCustomAdvanced"
        return run_node(registry, node, drawn, guider, sampler, SIGMAS, latent)[0]["samples"]

    *_, calls = acts(picture, alone=name != "DualModelGuider")
    found["samplers"][name] = f"SamplerCustomAdvanced with {name} | {calls}"


SHAPES = {  # rows and columns of cells, pictures
    "square, 1 picture": (16, 16, 1),
    "3:2, 2 pictures": (16, 24, 2),
    "9:16, 3 pictures": (32, 18, 3),
    "odd multiples of 8 pixels, 4 pictures": (13, 21, 4),
}


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_and_batches(acts: Any, name: str) -> None:
    height, width, batch = SHAPES[name]

    def picture(model: Any) -> torch.Tensor:
        return sample(guide(model), height, width, batch, sigmas=SIGMAS)

    acts(picture)
    found["sizes"][name] = f"{name} | {8 * height} x {8 * width}"


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
    group.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.4))
    hooks.set_keyframes_on_hooks(group)
    return comfy.hooks.set_hooks_for_conditioning(positive, hooks)


def by_node(name: str, *inputs: Any) -> Callable[[Any, Any, Any], Any]:
    return lambda registry, positive, model: run_node(registry, name, positive, *inputs)[0]


def filled(module: Any) -> Any:
    """With random weights: the host leaves them uninitialised."""
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = noise(seed, *parameter.shape) * 0.1
    return module.eval()


def controlled(kind: str, registry: Any, positive: Any, model: Any) -> Any:
    """By a tiny ControlNet, or a T2I adapter, of SDXL's form."""
    if kind == "ControlNet":
        config = {k: v for k, v in model.model.model_config.unet_config.items()
                  if k not in ("out_channels", "disable_unet_model_creation")}  # fmt: skip
        net = comfy.cldm.cldm.ControlNet(hint_channels=3, **config)
        control = comfy.controlnet.ControlNet(filled(net), load_device=torch.device("cpu"))
    else:
        net = Adapter(channels=[32, 64, 128, 128], nums_rb=2, cin=768, ksize=1, sk=True)
        control = comfy.controlnet.load_t2i_adapter(filled(net).state_dict())
    hint = noise(4, 1, 128, 128, 3).sigmoid()
    return run_node(registry, "ControlNetApply", positive, control, hint, 1.0)[0]


def gligen(registry: Any, positive: Any, model: Any) -> Any:
    """A GLIGEN model of the UNet's form, and one text in a box."""
    widths = [
        m.proj_in.in_features
        for m in model.model.diffusion_model.modules()
        if m.__class__.__name__ == "SpatialTransformer"
    ]
    parts = [comfy.gligen.GatedSelfAttentionDense(w, 64, w // 64, 64) for w in widths]
    net = comfy.gligen.Gligen(parts, comfy.gligen.PositionNet(64, 64), 64)
    box = (noise(8, 1, 64), 8, 8, 4, 4)  # text, height, width, y, x
    text, options = positive[0]
    loaded = ModelPatcher(filled(net), torch.device("cpu"), torch.device("cpu"))
    return [[text, {**options, "gligen": ("position", loaded, [box])}]]


MASK = torch.zeros(1, 16, 16).index_fill(2, torch.arange(8), 1.0)
CONDITIONINGS = {
    "ConditioningCombine": by_node("ConditioningCombine", cond(POSITIVE + 100)),
    "ConditioningConcat": by_node("ConditioningConcat", cond(POSITIVE + 100)),
    "ConditioningAverage": by_node("ConditioningAverage", cond(POSITIVE), 0.5),
    "ConditioningSetArea": by_node("ConditioningSetArea", 64, 128, 32, 0, 1.0),
    "ConditioningSetMask": by_node("ConditioningSetMask", MASK, "default", 1.0),
    "ConditioningSetMask, bounds": by_node("ConditioningSetMask", MASK, "mask bounds", 1.0),
    "ConditioningSetTimestepRange": by_node("ConditioningSetTimestepRange", 0.0, 0.4),
    "ControlNetApply": partial(controlled, "ControlNet"),
    "ControlNetApply with a T2I adapter": partial(controlled, "T2I"),
    "GLIGEN": gligen,
    "scheduled LoRA by hooks": hook_lora,
}


SAME_ALONE = {"ConditioningAverage"}  # of a text with itself


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_conditionings(registry: Any, plain: Any, acts: Any, name: str) -> None:
    positive = CONDITIONINGS[name](registry, cond(POSITIVE), plain)

    def picture(model: Any) -> torch.Tensor:
        return sample(guide(model, positive), sigmas=SIGMAS)

    nothing, *_ = acts(picture, (POSITIVE, POSITIVE + 100))
    if name not in SAME_ALONE:
        assert differ(nothing, sample(guide(plain), sigmas=SIGMAS))
    found["conditionings"][name] = name


def load_vae() -> Any:
    """The micro family's."""
    file = MODELS / "checkpoints" / "micro.safetensors"
    sd = comfy.utils.load_torch_file(str(file))
    return comfy.sd.VAE(comfy.utils.state_dict_prefix_replace(sd, {"first_stage_model.": ""}, True))


HALF = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0])  # of the noise


@pytest.mark.parametrize(
    "name", ["img2img", "VAEEncodeForInpaint", "SetLatentNoiseMask", "DifferentialDiffusion"]
)
def test_latents(registry: Any, acts: Any, name: str) -> None:
    """From a picture at half the noise; in a part of it; and by a soft mask."""
    start = noise(7, 1, 4, 16, 16)
    mask = None if name == "img2img" else MASK * (0.5 if name == "DifferentialDiffusion" else 1)
    if name == "VAEEncodeForInpaint":
        pixels = noise(7, 1, 128, 128, 3).sigmoid()
        mask = MASK.repeat_interleave(8, 1).repeat_interleave(8, 2)
        (latent,) = run_node(registry, name, load_vae(), pixels, mask, 6)
        start, mask = latent["samples"], latent["noise_mask"]

    def picture(model: Any) -> torch.Tensor:
        if name == "DifferentialDiffusion":
            model = node(name)(registry, model)
        return sample(guide(model), sigmas=HALF, latent=start, denoise_mask=mask)

    nothing, out, _ = acts(picture)
    if name == "SetLatentNoiseMask":  # what the mask leaves out is as before
        assert_same(out[..., 8:], nothing[..., 8:])
    found["latents"][name] = name


def test_previews(plain: Any, apply: Any, subjects: Any, monkeypatch: Any) -> None:
    """The picture's preview after each step, and the same picture as without previews."""
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod, args

    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    model = apply(plain, subjects(LEFT, RIGHT))
    previews, show = [], latent_preview.prepare_callback(model, len(SIGMAS) - 1)

    def callback(step: int, x0: Any, x: Any, steps: int) -> None:
        show(step, x0, x, steps)
        previews.append(x0)

    shown, without = (
        sample(guide(model), sigmas=SIGMAS, callback=call) for call in (callback, None)
    )
    assert len(previews) == 2 and torch.equal(shown, without)
    found["previews"]["latent2rgb"] = "latent2rgb | the same picture as without previews"
