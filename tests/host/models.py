"""Real host models, tiny and of SDXL's shape, filled from the golden data's recipe."""

from typing import Any

import comfy.model_patcher
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from golden import recipe


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
    config.set_inference_dtype(dtype, None)
    cpu = torch.device("cpu")
    model = config.get_model({}, "", device=cpu)
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def build_clip(config: dict[str, Any], embeddings: str | None = None) -> Any:
    """The host's SDXL CLIP, in float32; config: its CLIP-L's. Weights are not set."""
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
            "clip_g_model_config": {**small, "num_hidden_layers": 3},
        },
    )


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
