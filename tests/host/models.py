"""Real host models, tiny and of SDXL's or SD1.5's shape, filled from the golden data's recipe."""

import json
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from golden import recipe
from sampling import noise


def build_sdxl(
    depth: tuple[int, int] = (1, 2),
    channels: int = 32,
    context_dim: int = 64,
    head_dim: int = 16,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A ModelPatcher with SDXL's topology. depth: transformer layers at the second and third level;
    (2, 10) has the 70 cross-attentions of the real one. Weights are not set."""

    class TinySDXL(comfy.supported_models.SDXL):
        unet_config = {
            "model_channels": channels,
            "use_linear_in_transformer": True,
            "transformer_depth": [0, 0, depth[0], depth[0], depth[1], depth[1]],
            "context_dim": context_dim,
            "adm_in_channels": 2816,
            "use_temporal_attention": False,
        }
        unet_extra_config = {"num_heads": -1, "num_head_channels": head_dim}

    config = TinySDXL(
        {
            **TinySDXL.unet_config,
            "use_checkpoint": False,
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "use_spatial_transformer": True,
            "legacy": False,
            "num_classes": "sequential",
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth_middle": depth[1],
            "transformer_depth_output": [0, 0, 0] + [depth[0]] * 3 + [depth[1]] * 3,
            "use_temporal_resblock": False,
        }
    )
    return _patcher(config, dtype)


def build_sd15(
    channels: int = 32, context_dim: int = 48, dtype: torch.dtype = torch.float32
) -> Any:
    """A ModelPatcher with SD1.5's topology and its 8 heads. Weights are not set."""

    class TinySD15(comfy.supported_models.SD15):
        unet_config = {
            "context_dim": context_dim,
            "model_channels": channels,
            "use_linear_in_transformer": False,
            "adm_in_channels": None,
            "use_temporal_attention": False,
        }

    config = TinySD15(
        {
            **TinySD15.unet_config,
            "use_checkpoint": False,
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "use_spatial_transformer": True,
            "legacy": False,
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1] * 9 + [0] * 3,
            "use_temporal_resblock": False,
        }
    )
    return _patcher(config, dtype)


def _patcher(config: Any, dtype: torch.dtype) -> Any:
    config.set_inference_dtype(dtype, None)
    cpu = torch.device("cpu")
    model = config.get_model({}, "", device=cpu)
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def build_vision(folder: Path, **config: Any) -> Any:
    """The host's CLIP vision encoder, in float32. Weights are not set.

    Args:
        folder: where its configuration is written to. config: what differs from a tiny one's.
    """
    whole = {
        "model_type": "clip_vision_model", "hidden_size": 32, "num_channels": 3,
        "patch_size": 8, "image_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3,
        "intermediate_size": 32, "hidden_act": "gelu", "projection_dim": 16, **config,
    }  # fmt: skip
    (folder / "vision.json").write_text(json.dumps(whole))
    vision = comfy.clip_vision.ClipVisionModel(str(folder / "vision.json"))
    vision.model.float()
    return vision


def build_sd15_clip(config: dict[str, Any]) -> Any:
    """The host's SD1.5 CLIP, in float32. Weights are not set."""
    target = comfy.supported_models_base.ClipTarget(
        comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel
    )
    options = {"dtype": torch.float32, "clip_l_model_config": config}
    return comfy.sd.CLIP(target, model_options=options)


def build_clip(
    config: dict[str, Any], embeddings: str | None = None, config_g: dict[str, Any] | None = None
) -> Any:
    """The host's SDXL CLIP, in float32; config: its CLIP-L's, config_g: its CLIP-G's, a tiny one's
    without. Weights are not set."""
    small = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 64}
    target = comfy.supported_models_base.ClipTarget(
        comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel
    )
    return comfy.sd.CLIP(
        target,
        embedding_directory=embeddings,
        model_options={
            "dtype": torch.float32,
            "clip_l_model_config": config,
            "clip_g_model_config": config_g or {**small, "num_hidden_layers": 3},
        },
    )


def fill(module: torch.nn.Module, scale: float) -> None:
    """Set a module's weights, without a recipe."""
    module.requires_grad_(False)
    for number, parameter in enumerate(module.parameters()):
        if parameter.ndim:
            parameter.copy_(noise(number, *parameter.shape) * scale)


def fill_from_recipe(patcher: Any, seed: int, prefix: str) -> None:
    """Set the UNet's weights by their names in diffusers, through the host's own table."""
    unet = patcher.model.diffusion_model
    own = unet.state_dict()
    sd = {}
    for theirs, ours in comfy.utils.unet_to_diffusers(
        patcher.model.model_config.unet_config
    ).items():
        # Two of their names stand for the same weights, in an order that differs by process.
        if ours in own and not theirs.startswith("class_embedding."):
            values = recipe.param(seed, prefix + theirs, tuple(own[ours].shape))
            sd[ours] = torch.from_numpy(values)
    unet.load_state_dict(sd, strict=True)
