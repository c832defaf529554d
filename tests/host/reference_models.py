"""Real host models that take reference latents, tiny, with random weights: one of each architecture
that the host knows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file
from torch import Tensor

from lab.microworld.files import fill_autoencoder
from lab.microworld.networks import TEXT_WIDTH

FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 24,
    "context_in_dim": 40,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
OMNIGEN = {
    "in_channels": 16,
    "hidden_size": 64,
    "num_layers": 2,
    "num_refiner_layers": 2,
    "num_attention_heads": 4,
    "num_kv_heads": 2,
    "multiple_of": 32,
    "axes_dim_rope": (4, 6, 6),
    "axes_lens": (300, 512, 512),
}


class Architecture(NamedTuple):
    kind: str  # of comfy.supported_models
    config: dict[str, Any]
    channels: int  # of the latent
    width: int  # of the text
    frames: bool  # of the latent
    joint_attentions: int  # of one call


ARCHITECTURES = {
    "flux": Architecture("Flux", FLUX, 16, 40, False, 4),
    "flux2": Architecture(
        "Flux2",
        {
            **FLUX,
            "in_channels": 128,
            "out_channels": 128,
            "vec_in_dim": None,
            "patch_size": 1,
            "axes_dim": [4, 4, 4, 4],
            "txt_ids_dims": [3],
            "global_modulation": True,
            "mlp_silu_act": True,
            "qkv_bias": False,
            "ops_bias": False,
            "default_ref_method": "index",
            "ref_index_scale": 10.0,
            "yak_mlp": False,
        },
        *(128, 40, False, 4),
    ),
    "qwen_image": Architecture(
        "QwenImage",
        {
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "joint_attention_dim": 40,
            "axes_dims_rope": (4, 6, 6),
        },
        *(16, 40, True, 2),
    ),
    "omnigen2": Architecture("Omnigen2", {**OMNIGEN, "text_feat_dim": 40}, 16, 40, False, 2),
    "boogu": Architecture(
        "Boogu",
        {**OMNIGEN, "num_double_stream_layers": 2, "instruction_feat_dim": 40},
        *(16, 40, False, 6),
    ),
    "krea2": Architecture(
        "Krea2",
        {
            "features": 64,
            "tdim": 32,
            "txtdim": 20,
            "heads": 4,
            "kvheads": 2,
            "multiplier": 2,
            "layers": 2,
            "txtlayers": 2,
            "txtheads": 2,
            "txtkvheads": 2,
            "default_ref_method": "index",
        },
        *(16, 40, True, 2),
    ),
    "mage_flow": Architecture(
        "MageFlow",
        {
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "joint_attention_dim": 40,
            "axes_dims_rope": (4, 6, 6),
        },
        *(128, 40, False, 2),
    ),
    "joyimage": Architecture(
        "JoyImage",
        {
            "hidden_size": 256,  # heads are 128 wide, whatever the file says
            "num_attention_heads": 2,
            "text_dim": 40,
            "mlp_width_ratio": 1.0,
            "num_layers": 2,
        },
        *(16, 40, True, 2),
    ),
}


def available() -> list[str]:
    """The architectures that this host has."""
    kinds = comfy.supported_models
    return [name for name, own in ARCHITECTURES.items() if hasattr(kinds, own.kind)]


def build(name: str, seed: int = 0, **sizes: Any) -> Any:
    """A ModelPatcher of an architecture, some of its sizes others than the tiny ones."""
    architecture = ARCHITECTURES[name]
    kind: Callable[..., Any] = getattr(comfy.supported_models, architecture.kind)
    config = kind({"image_model": name, **architecture.config, **sizes})
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    model = config.get_model({}, "", device=cpu)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.diffusion_model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 1
            values = torch.randn(parameter.shape, generator=generator) * fan**-0.5
            parameter.copy_(values if parameter.ndim > 1 else 0.3 * values)
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def latent(name: str, height: int, width: int, seed: int, batch: int = 1) -> Tensor:
    """Random numbers in the form of a model's latent."""
    architecture = ARCHITECTURES[name]
    size = (1, height, width) if architecture.frames else (height, width)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, architecture.channels, *size, generator=generator)


# What the host reads from a file of Flux, or takes for granted.
FLUX_IN_A_FILE = {
    "hidden_size": 128,
    "num_heads": 1,
    "axes_dim": [16, 56, 56],
    "mlp_ratio": 4.0,
    "context_in_dim": 2 * TEXT_WIDTH,
    "vec_in_dim": TEXT_WIDTH,
}
FLUX_FILE, AUTOENCODER = "tiny_flux.safetensors", "taef1"


def save_files(models: Path) -> None:
    """Write a Flux that takes the texts of the micro family, and an autoencoder for its latents,
    below a models folder of the host."""
    flux = build("flux", **FLUX_IN_A_FILE).model.diffusion_model
    autoencoder = TAESD(latent_channels=16)
    fill_autoencoder(autoencoder)
    for path, module in (
        (f"diffusion_models/{FLUX_FILE}", flux),
        (f"vae_approx/{AUTOENCODER}_encoder.safetensors", autoencoder.taesd_encoder),
        (f"vae_approx/{AUTOENCODER}_decoder.safetensors", autoencoder.taesd_decoder),
    ):
        (models / path).parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(module.state_dict()), models / path)
