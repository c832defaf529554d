"""Other packs and the research code, from git checkouts that the environment names."""

import asyncio
import importlib
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from sampling import noise

from lab.host.in_process import run_node

REPOSITORIES = {
    "IPADAPTER_PLUS": "cubiq/ComfyUI_IPAdapter_plus",
    "COMFYUI_PPM": "pamparamm/ComfyUI-ppm",
    "COMFY_COUPLE": "Danand/ComfyUI-ComfyCouple",
    "TOOLING_NODES": "Acly/comfyui-tooling-nodes",
    "TILED_DIFFUSION": "shiimizu/ComfyUI-TiledDiffusion",
    "ANIMATEDIFF": "Kosinkadink/ComfyUI-AnimateDiff-Evolved",
    "MS_DIFFUSION": "MS-Diffusion/MS-Diffusion",
}
TOKEN = 2048  # channels of SDXL's text, by which IPAdapter_plus recognises an adapter for it


def find_checkout(variable: str) -> tuple[Path, str] | None:
    """The folder that an environment variable names, and its repository and commit."""
    if not (folder := os.environ.get(variable)):
        return None
    command = ("git", "rev-parse", "--short=7", "HEAD")
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return Path(folder), f"{REPOSITORIES[variable]} {done.stdout.strip()}"


def load_pack(folder: Path) -> None:
    """Load a pack as the host does."""
    host_nodes: Any = importlib.import_module("nodes")
    assert asyncio.run(host_nodes.load_custom_node(str(folder), module_parent="custom_nodes"))


def ipadapter_file(model: Any, seed: int) -> dict[str, Any]:
    """A random linear IP-Adapter of SDXL's form for a model, as its file nests it."""
    weights = model.model.diffusion_model.state_dict()
    blocks = sorted(
        (key.removesuffix(".attn2.to_k.weight") for key in weights if "attn2.to_k" in key),
        key=lambda key: ("input_b", "output_", "middle_").index(key[:7]),
    )
    layers = {
        f"{2 * n + 1}.to_{kind}_ip.weight": noise(
            seed + n, weights[f"{block}.attn2.to_k.weight"].shape[0], TOKEN
        ) * TOKEN**-0.5
        for n, block in enumerate(blocks)
        for kind in "kv"
    }  # fmt: skip
    projection = {
        "proj.weight": noise(seed, 4 * TOKEN, 32) * 0.2,
        "proj.bias": torch.zeros(4 * TOKEN),
        "norm.weight": torch.ones(TOKEN),
        "norm.bias": torch.zeros(TOKEN),
    }
    return {"image_proj": projection, "ip_adapter": layers}


def apply_ipadapter(
    registry: dict[str, Any], model: Any, seed: int, mask: torch.Tensor | None = None
) -> Any:
    """IPAdapterEmbeds with a random adapter, and one embedding under one mask."""
    file, embed = ipadapter_file(model, seed), noise(seed, 1, 32)
    return run_node(
        *(registry, "IPAdapterEmbeds", model, file, embed, 0.8, "linear", 0.0, 1.0),
        neg_embed=embed * 0,
        attn_mask=mask,
    )[0]
