"""The UNets, adapters and features of the golden data of IP-Adapter and MIP-Adapter."""

from pathlib import Path
from typing import Any

import folder_paths
import torch
from golden import Golden, recipe
from models import build_sd15, build_sdxl, fill_from_recipe
from safetensors.torch import save_file
from sampling import noise

from msd_core.models.unet import cross_attentions

D, F = (Golden(name, folder="golden_mip") for name in ("d_unet", "f_encoders"))
WIDTH, PATCHES = D.manifest["encoder_width"], D.manifest["encoder_tokens"]


def build_unets() -> dict[str, Any]:
    """The UNets of set d, as MODELs: of SDXL's shape, with all its 70 layers, and of SD1.5's."""
    built = {"sdxl": build_sdxl((1, 2)), "sdxl70": build_sdxl((2, 10)), "sd15": build_sd15()}
    for name, model in built.items():
        fill_from_recipe(model, D.seed, D.manifest["unet_param_prefix"][name])
    return built


def weights_of(name: str, model: Any, merges: bool = False) -> dict[str, torch.Tensor]:
    """An adapter of set d; without its text_to_weight, unless it merges, it is an IP-Adapter."""
    facts = D.manifest["adapters"][name]
    shapes = facts["keys"]
    if isinstance(shapes, str):  # they follow from the rule
        shapes = {k: v for k, v in D.manifest["adapters"]["sdxl_linear"]["keys"].items()
                  if k.startswith("image_proj.")}  # fmt: skip
        unet = model.model.diffusion_model.state_dict()
        for each in cross_attentions({key: value.shape for key, value in unet.items()}):
            key = f"ip_adapter.{each.key_index}"
            for kind in ("to_k_ip", "to_v_ip"):
                shapes[f"{key}.{kind}.weight"] = [each.width, each.context]
            shapes[f"{key}.text_to_weight.weight"] = [1, each.width]
    gains = {True: D.manifest["text_to_weight_gain"], False: 1.0}
    return {
        key: torch.from_numpy(
            recipe.param(D.seed, facts["param_prefix"] + key, shape, gains["text_to" in key])
        )
        for key, shape in shapes.items()
        if merges or "text_to_weight" not in key
    }


def load_adapters(
    pack: Any, unets: dict[str, Any], folder: Path, merges: bool = False
) -> dict[str, Any]:
    """Each adapter of set d through the loader node, from a file in models/ipadapter; those of
    SDXL as nested pickles, those of SD1.5 as flat safetensors; for the given UNets."""
    folder_paths.add_model_folder_path("ipadapter", str(folder))
    loaded = {}
    for name, facts in D.manifest["adapters"].items():
        if facts["unet"] not in unets:
            continue
        sd, file = weights_of(name, unets[facts["unet"]], merges), f"{folder.name}_{name}"
        if facts["unet"] == "sd15":
            save_file(sd, folder / f"{file}.safetensors")
            loaded[name] = pack.MSDLoadAdapter.execute(f"{file}.safetensors")[0]
            continue
        nested: dict[str, Any] = {"image_proj": {}, "ip_adapter": {}}
        for key, value in sd.items():
            part, _, rest = key.partition(".")
            nested[part][rest] = value
        torch.save(nested, folder / f"{file}.bin")
        loaded[name] = pack.MSDLoadAdapter.execute(f"{file}.bin")[0]
    return loaded


def features_of(pack: Any, given: torch.Tensor, blank: torch.Tensor | None) -> Any:
    """[n, E] or [n, P, E] as MSD Encode References gives it, and anything as the other output."""
    features, zeros = pack.module("nodes.subjects").Features, torch.zeros(WIDTH)
    if given.ndim == 2:
        return features(
            noise(1, len(given), PATCHES, WIDTH), given, noise(2, PATCHES, WIDTH), zeros
        )
    return features(given, noise(3, len(given), WIDTH), blank, zeros)
