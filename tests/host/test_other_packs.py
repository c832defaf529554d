"""Packs of others on the same attentions, before and after ours; docs/other_packs.md is made of it.

Their checkouts are named by the environment (PACKS). UPDATE_DOCS=1 writes the page; otherwise it
must say what the tests find.
"""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import host_nodes
from pages import keep_page
from sampling import (
    LEFT,
    MIDDLE,
    NEGATIVE,
    POSITIVE,
    RIGHT,
    assert_same,
    cond,
    differ,
    guide,
    noise,
    sample,
)

from microworld.host import run_node

HEAD = """# Packs of others on the same attentions

Written by `tests/host/test_other_packs.py` (`UPDATE_DOCS=1`), which loads checkouts of the packs as
the host loads them (the environment variables `IPADAPTER_PLUS`, `COMFYUI_PPM` and `COMFY_COUPLE`
name the folders) and runs each row in the real host, on a tiny model with SDXL's 70
cross-attentions. In every row:

- the order of the nodes in the graph doesn't matter, and each changes the picture further;
- at the first cross-attention of a run, what they add is the sum of what each adds alone, and MSD
  Apply adds nothing to the negative prompt's rows;
- MSD Apply at weight 0 leaves the picture without it as it is, bit by bit.

| beside MSD Apply | of |
| --- | --- |
"""
TOKEN = 2048  # channels of SDXL's text, by which IPAdapter_plus knows an adapter for it
SIGMAS = torch.tensor([8.0, 2.0, 0.0])
PACKS = {
    "IPADAPTER_PLUS": "cubiq/ComfyUI_IPAdapter_plus",
    "COMFYUI_PPM": "pamparamm/ComfyUI-ppm",
    "COMFY_COUPLE": "Danand/ComfyUI-ComfyCouple",
}
Patch = Callable[[dict[str, Any], Any], Any]  # registry, model -> model
found: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def page() -> Iterator[None]:
    yield
    if len(found) == len(PARTNERS):
        keep_page("other_packs.md", HEAD, [f"| {name} | {of} |" for name, of in found.items()])


@pytest.fixture(scope="module")
def load_pack(registry: dict[str, Any]) -> Callable[[str], str]:
    """Load the pack that an environment variable names, or skip; returns its name and commit."""

    @cache
    def load(variable: str) -> str:
        folder = os.environ.get(variable)
        if not folder:
            pytest.skip(f"{variable} names no checkout of {PACKS[variable]}.")
        commit = Path(folder, ".commit")  # of a checkout without git
        told = (
            commit.read_text()
            if commit.exists()
            else subprocess.run(
                ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
            ).stdout
        )
        assert asyncio.run(host_nodes.load_custom_node(folder, module_parent="custom_nodes"))
        return f"{PACKS[variable]} {told[:7]}"

    return load


@pytest.fixture
def model(unets: dict[str, Any]) -> Any:
    return unets["topo70"]


@pytest.fixture
def ours(pack: Any, adapters: dict[str, Any], subjects: Any) -> Callable[..., Any]:
    def patched(model: Any, weight: float = 0.8) -> Any:
        chosen = subjects(LEFT, RIGHT)
        return pack.MSDApply.execute(model, adapters["topo70"], chosen, weight)[0]

    return patched


def ipadapter(seed: int, mask: torch.Tensor | None) -> Patch:
    """IPAdapterEmbeds with a drawn adapter of SDXL's form, and one embedding for one mask."""

    def patch(registry: dict[str, Any], model: Any) -> Any:
        weights = model.model.diffusion_model.state_dict()
        rooms = sorted(
            (key.removesuffix(".attn2.to_k.weight") for key in weights if "attn2.to_k" in key),
            key=lambda key: ("input_b", "output_", "middle_").index(key[:7]),
        )
        file = {
            "image_proj": {
                "proj.weight": noise(seed, 4 * TOKEN, 32) * 0.2,
                "proj.bias": torch.zeros(4 * TOKEN),
                "norm.weight": torch.ones(TOKEN),
                "norm.bias": torch.zeros(TOKEN),
            },
            "ip_adapter": {
                f"{2 * n + 1}.to_{kind}_ip.weight": noise(
                    seed + n, weights[f"{room}.attn2.to_k.weight"].shape[0], TOKEN
                ) * TOKEN**-0.5
                for n, room in enumerate(rooms)
                for kind in "kv"
            },
        }  # fmt: skip
        embed = noise(seed, 1, 32)
        return run_node(
            *(registry, "IPAdapterEmbeds", model, file, embed, 0.8, "linear", 0.0, 1.0),
            neg_embed=embed * 0,
            attn_mask=mask,
        )[0]

    return patch


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


def two_ipadapters(registry: dict[str, Any], model: Any) -> Any:
    return SECOND(registry, FIRST(registry, model))


HALF = torch.zeros(1, 128, 128).index_fill(2, torch.arange(64), 1.0)
FIRST, SECOND = ipadapter(1, HALF), ipadapter(500, 1 - HALF)
PARTNERS: dict[str, tuple[Patch, str]] = {
    "an IPAdapter": (ipadapter(1, None), "IPADAPTER_PLUS"),
    "two IPAdapters, each with a mask": (two_ipadapters, "IPADAPTER_PLUS"),
    "Attention Couple (PPM)": (attention_couple, "COMFYUI_PPM"),
    "Comfy Couple": (comfy_couple, "COMFY_COUPLE"),
}


def picture(model: Any) -> torch.Tensor:
    guider = guide(model, cond(POSITIVE), cond(NEGATIVE))
    return sample(guider, sigmas=SIGMAS)


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
def test_other_packs(registry: Any, model: Any, ours: Any, load_pack: Any, name: str) -> None:
    theirs, variable = PARTNERS[name]
    of = load_pack(variable)

    def beside(model: Any) -> Any:
        return theirs(registry, model)

    alone, before, after = picture(beside(model)), ours(beside(model)), beside(ours(model))
    assert_same(picture(before), picture(after))
    assert differ(alone, picture(model))
    assert differ(picture(before), alone) and differ(picture(before), picture(ours(model)))
    assert torch.equal(picture(ours(beside(model), 0.0)), alone)

    nothing = first_attention(model)
    added = [first_attention(m) - nothing for m in (beside(model), ours(model), before, after)]
    assert added[0][0].abs().max() > 0 and added[1][0].abs().max() > 0
    for sum_of_both in added[2:]:
        assert_same(sum_of_both, added[0] + added[1])
    assert not added[1][1].any() and torch.equal(added[2][1], added[0][1])
    found[name] = of


def test_subjects_between_two_ipadapters(
    registry: Any, model: Any, ours: Any, load_pack: Any
) -> None:
    """One IPAdapter before ours and one after: the same as both before."""
    load_pack("IPADAPTER_PLUS")
    between = SECOND(registry, ours(FIRST(registry, model)))
    assert_same(picture(between), picture(ours(two_ipadapters(registry, model))))
