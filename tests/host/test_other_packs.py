"""Other packs on the same attentions, before and after ours.

The environment names their checkouts (other_packs.py). UPDATE_DOCS=1 writes docs/other_packs.md
from it; otherwise the page must say what the tests find.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import comfy.model_patcher
import pytest
import torch
from models import build_sdxl, fill
from other_packs import (
    REPOSITORIES,
    TOKEN,
    apply_ipadapter,
    find_checkout,
    ipadapter_file,
    load_pack,
)
from pages import check_page
from sampling import (
    EVERYWHERE,
    LEFT,
    MIDDLE,
    NEGATIVE,
    POSITIVE,
    RIGHT,
    assert_only_positive_rows_changed,
    assert_same,
    cond,
    differ,
    guide,
    noise,
    sample,
    with_watch,
)
from test_windows import Tiles, with_function

from lab.host.in_process import run_node

HEAD = """# Other packs on the same attentions

Written by `tests/host/test_other_packs.py` (`UPDATE_DOCS=1`), which loads checkouts of the packs as
the host loads them (the environment variables `IPADAPTER_PLUS`, `COMFYUI_PPM`, `COMFY_COUPLE`,
`TOOLING_NODES`, `TILED_DIFFUSION` and `ANIMATEDIFF` name the folders) and runs each row in the real
host, on a tiny model with SDXL's 70 cross-attentions. In every row:

- the order of the nodes in the graph doesn't matter, and each changes the picture further;
- at the first cross-attention of a run, what they add is the sum of what each adds alone, and MSD
  Apply adds nothing to the negative prompt's rows;
- MSD Apply at weight 0 leaves the picture without it as it is, bit by bit.

With Tiled Diffusion each tile sees its part of the layout; there what a tile's first attention adds
has nothing to be summed with. In AnimateDiff-Evolved's context windows, without a motion module,
each picture of a batch is the same as without windows, with boxes and with auto layout.

The same IP-Adapter file, once by MSD Apply and once by IPAdapter_plus, with one reference on the
whole picture: IPAdapter_plus leaves out the middle block, and nothing else differs.

| beside MSD Apply | of |
| --- | --- |
"""
SIGMAS = torch.tensor([8.0, 2.0, 0.0])
HALF = torch.zeros(1, 128, 128).index_fill(2, torch.arange(64), 1.0)
Patch = Callable[[dict[str, Any], Any], Any]  # registry, model -> model
found: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def page() -> Iterator[None]:
    yield
    if len(found) == len(PARTNERS) + 2:
        check_page("other_packs.md", HEAD, [f"| {name} | {of} |" for name, of in found.items()])


@pytest.fixture(scope="module")
def use_pack(registry: dict[str, Any]) -> Callable[[str], str]:
    """Load the pack that an environment variable names, or skip; returns its name and commit."""

    @cache
    def use(variable: str) -> str:
        if (checkout := find_checkout(variable)) is None:
            pytest.skip(f"{variable} names no checkout of {REPOSITORIES[variable]}.")
        folder, commit = checkout
        load_pack(folder)
        return commit

    return use


@pytest.fixture
def model(unets: dict[str, Any]) -> Any:
    return unets["topo70"]


@pytest.fixture
def ours(pack: Any, adapters: dict[str, Any], subjects: Any) -> Callable[..., Any]:
    def patched(model: Any, weight: float = 0.8) -> Any:
        chosen = subjects(LEFT, RIGHT)
        return pack.MSDApply.execute(model, adapters["topo70"], chosen, weight)[0]

    return patched


FIRST = partial(apply_ipadapter, seed=1, mask=HALF)
SECOND = partial(apply_ipadapter, seed=500, mask=1 - HALF)


def two_ipadapters(registry: dict[str, Any], model: Any) -> Any:
    return SECOND(registry, FIRST(registry, model))


def comfy_couple(registry: dict[str, Any], model: Any) -> Any:
    """The same prompts with a pack that replaces the attention."""
    prompts = cond(POSITIVE), cond(MIDDLE), cond(NEGATIVE)
    return run_node(registry, "Comfy Couple", model, *prompts, "horizontal", 0.5, 128, 128)[0]


def attention_couple(registry: dict[str, Any], model: Any) -> Any:
    """Attention couple: the positive prompt on the left half, another one on the right."""
    inputs = {
        "base_cond": cond(POSITIVE),
        "base_mask": HALF,
        "cond_1": cond(MIDDLE),
        "mask_1": 1 - HALF,
    }
    return run_node(registry, "AttentionCouplePPM", model=model, **inputs)[0]


def regions(registry: dict[str, Any], model: Any) -> Any:
    """Krita AI Diffusion's regions: another prompt on the right half."""
    (background,) = run_node(registry, "ETN_BackgroundRegion", cond(POSITIVE))
    (both,) = run_node(registry, "ETN_DefineRegion", 1 - HALF, cond(MIDDLE), background)
    return run_node(registry, "ETN_AttentionMask", model, both)[0]


def tiled(registry: dict[str, Any], model: Any, method: str) -> Any:
    """Two tiles side by side, in one batch."""
    options = {"tile_width": 64, "tile_height": 128, "tile_overlap": 0, "tile_batch_size": 2}
    return run_node(registry, "TiledDiffusion", model, method, **options)[0]


PARTNERS: dict[str, tuple[Patch, str]] = {
    "an IPAdapter": (partial(apply_ipadapter, seed=1), "IPADAPTER_PLUS"),
    "two IPAdapters, each with a mask": (two_ipadapters, "IPADAPTER_PLUS"),
    "Attention Couple (PPM)": (attention_couple, "COMFYUI_PPM"),
    "Comfy Couple": (comfy_couple, "COMFY_COUPLE"),
    "regions of Krita AI Diffusion": (regions, "TOOLING_NODES"),
    "Tiled Diffusion, MultiDiffusion": (partial(tiled, method="MultiDiffusion"), "TILED_DIFFUSION"),
    "Tiled Diffusion, Mixture of Diffusers": (
        partial(tiled, method="Mixture of Diffusers"),
        "TILED_DIFFUSION",
    ),
}


def picture(model: Any) -> torch.Tensor:
    return sample(guide(model), sigmas=SIGMAS)


def first_attention(model: Any) -> torch.Tensor:
    """[2, n, width], the first cross-attention's output in the first step, positive rows first: its
    query is the same whatever is on the model's attentions."""
    watched, seen = model.clone(), []

    def watch(out: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        order = torch.tensor(extra_options["cond_or_uncond"]).argsort()
        seen.append(out[order].clone())
        return out

    watched.set_model_attn2_output_patch(watch)
    picture(watched)
    return seen[0]


@pytest.mark.parametrize("name", PARTNERS)
def test_other_packs(registry: Any, model: Any, ours: Any, use_pack: Any, name: str) -> None:
    theirs, variable = PARTNERS[name]
    of = use_pack(variable)

    def beside(model: Any) -> Any:
        return theirs(registry, model)

    alone, before, after = picture(beside(model)), ours(beside(model)), beside(ours(model))
    assert_same(picture(before), picture(after))
    assert differ(alone, picture(model))
    assert differ(picture(before), alone) and differ(picture(before), picture(ours(model)))
    assert torch.equal(picture(ours(beside(model), 0.0)), alone)

    found[name] = of
    if variable == "TILED_DIFFUSION":
        watched, calls = with_watch(before, POSITIVE)
        picture(watched)
        assert_only_positive_rows_changed(calls)
        halves = sample(guide(with_function(ours(model), Tiles(16, 8))), sigmas=SIGMAS)
        assert_same(picture(before), halves)
        return
    nothing = first_attention(model)
    added = [first_attention(m) - nothing for m in (beside(model), ours(model), before, after)]
    assert added[0][0].abs().max() > 0 and added[1][0].abs().max() > 0
    for sum_of_both in added[2:]:
        assert_same(sum_of_both, added[0] + added[1])
    assert not added[1][1].any() and torch.equal(added[2][1], added[0][1])


def test_subjects_between_two_ipadapters(
    registry: Any, model: Any, ours: Any, use_pack: Any
) -> None:
    """One IPAdapter before ours and one after: the same as both before."""
    use_pack("IPADAPTER_PLUS")
    between = SECOND(registry, ours(FIRST(registry, model)))
    assert_same(picture(between), picture(ours(two_ipadapters(registry, model))))


def test_the_same_file_in_ipadapter_plus(
    registry: Any, pack: Any, use_pack: Any, monkeypatch: Any
) -> None:
    """One subject on the whole picture: the middle block is all that IPAdapter_plus leaves out."""
    found["the same IP-Adapter file in both"] = use_pack("IPADAPTER_PLUS")
    model = build_sdxl((2, 10), context_dim=TOKEN)
    fill(model.model.diffusion_model, 0.1)
    kinds, cpu = pack.module("nodes.subjects"), torch.device("cpu")
    file, embed = ipadapter_file(model, 1), noise(1, 1, 32)
    family = pack.module("msd_core.adapters.ip_adapter").IPAdapter.from_state_dict(file)
    adapter = comfy.model_patcher.CoreModelPatcher(family, load_device=cpu, offload_device=cpu)
    features = kinds.Features(
        torch.zeros(1, 5, 8), embed, torch.zeros(5, 8), torch.zeros_like(embed[0])
    )
    subject = kinds.Subject("", EVERYWHERE, 1.0, torch.zeros(1, 8, 8, 3), features=features)
    grounded = pack.MSDGroundReferences.execute(adapter, None, kinds.Subjects((subject,)))[0]
    ours = pack.MSDApply.execute(model, adapter, grounded, 0.8)[0]
    theirs = apply_ipadapter(registry, model, seed=1)

    def picture_of(model: Any) -> torch.Tensor:
        texts = (
            [[noise(seed, 1, 77, TOKEN), {"pooled_output": noise(seed, 1, 1280)}]]
            for seed in (POSITIVE, NEGATIVE)
        )
        return sample(guide(model, *texts), sigmas=SIGMAS)

    expected = picture_of(theirs)
    assert differ(picture_of(ours), expected) and differ(expected, picture_of(model))
    branch = pack.module("nodes.sampling.image_branch").ImageBranch
    right = branch.add
    left_out = lambda self, run, part, layer, *rest: (  # noqa: E731
        right(self, run, part, layer, *rest) if layer.block[0] != "middle" else None
    )
    monkeypatch.setattr(branch, "add", left_out)
    assert_same(picture_of(ours), expected)


@pytest.mark.parametrize("auto", [None, (0.5, 1)])
def test_context_windows_over_pictures(
    registry: Any, pack: Any, plain: Any, apply: Any, subjects: Any, use_pack: Any, auto: Any
) -> None:
    """Each picture follows its own maps, whatever window it is in."""
    of = use_pack("ANIMATEDIFF")
    tokens = ((5, 6), (9,)) if auto else ()
    given = subjects(LEFT, RIGHT, auto=auto, prompt_tokens=tokens)

    def windowed(model: Any) -> Any:
        (windows,) = run_node(registry, "ADE_StandardStaticContextOptions", 2, 0)
        node = "ADE_UseEvolvedSampling"
        return run_node(registry, node, model, "use existing", context_options=windows)[0]

    expected = sample(guide(apply(plain, given)), batch=4)
    for model in (windowed(apply(plain, given)), apply(windowed(plain), given)):
        watched, calls = with_watch(model, POSITIVE)
        assert_same(sample(guide(watched), batch=4), expected)
        assert [len(rows) for rows, _ in calls] == [4] * 6  # two pictures of four, twice a step
        assert_only_positive_rows_changed(calls)
    found["AnimateDiff-Evolved, context windows over pictures"] = of
