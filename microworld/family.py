"""The micro family: a micro SDXL (UNet, two text encoders, TAESD), a CLIP vision tower, an
MS-Diffusion adapter, and a LoRA and a ControlNet to go with them, each in its real file format.

Built from the host's own classes, so that the layout of every file is the host's by construction.
Run with the host on PYTHONPATH: python -m microworld.family MODELS_FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import torch
from comfy.cli_args import args as host_args
from safetensors.torch import save_file
from torch import Tensor, nn

host_args.cpu = not torch.cuda.is_available()  # before the host looks for a GPU

from microworld.host_pack import MARK, UNET_HEAD_WIDTH  # noqa: E402
from msd_core import MSAdapter  # noqa: E402
from msd_core.adapters.projections import Projection  # noqa: E402
from msd_core.adapters.resampler import GroundingResampler, ResamplerSizes  # noqa: E402
from msd_core.models.unet import cross_attentions  # noqa: E402

TEXT_WIDTH, TEXT_LAYERS = 64, 3  # each of the two text encoders
VISION = {"width": 64, "layers": 4, "image_size": 64, "patch_size": 8, "heads": 4}
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "num_head_channels": UNET_HEAD_WIDTH,
    "num_classes": "sequential",
    "legacy": False,
    "use_spatial_transformer": True,
    "transformer_depth": [0, 1],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": True,
    "context_dim": 2 * TEXT_WIDTH,
    "adm_in_channels": TEXT_WIDTH + 1536,  # pooled text, and six numbers of 256 each
    "dtype": torch.float32,
    "device": "cpu",
}
RESAMPLER = {
    "dim": 128,
    "depth": 2,
    "dim_head": 64,
    "heads": 2,
    "num_queries": 16,
    "embedding_dim": VISION["width"],
    "output_dim": 2 * TEXT_WIDTH,
    "ff_mult": 2,
    "phrase_embeddings_dim": TEXT_WIDTH,
}


class Operations:
    """Plain torch layers for the host's classes, whose own skip initialisation."""

    Linear, Conv2d, GroupNorm, LayerNorm = nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm

    class Embedding(nn.Embedding):
        def forward(self, x: Tensor, out_dtype: Any = None) -> Tensor:
            return super().forward(x)

    @staticmethod
    def conv_nd(dims: int, *args: Any, **kwargs: Any) -> nn.Module:
        return nn.Conv2d(*args, **kwargs)


OPERATIONS: Any = Operations


def unet() -> nn.Module:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    depth = {"transformer_depth": list(UNET["transformer_depth"])}  # the host empties the list
    return UNetModel(
        **{**UNET, **depth}, out_channels=4, transformer_depth_output=[1] * 4, operations=OPERATIONS
    )


def controlnet() -> nn.Module:
    from comfy.cldm.cldm import ControlNet

    depth = {"transformer_depth": list(UNET["transformer_depth"])}
    return ControlNet(**{**UNET, **depth}, hint_channels=3, operations=OPERATIONS)


def text_encoder() -> nn.Module:
    from comfy.clip_model import CLIPTextModel

    config = {
        "hidden_size": TEXT_WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": TEXT_WIDTH // 16,
        "intermediate_size": TEXT_WIDTH * 2,
        "hidden_act": "gelu",
        "max_position_embeddings": 77,
        "eos_token_id": 49407,
    }
    return CLIPTextModel(config, torch.float32, "cpu", OPERATIONS)


def vision_tower() -> nn.Module:
    from comfy.clip_model import CLIPVisionModelProjection

    config = {
        "model_type": "clip_vision_model",
        "hidden_size": VISION["width"],
        "num_channels": 3,
        "patch_size": VISION["patch_size"],
        "image_size": VISION["image_size"],
        "num_attention_heads": VISION["heads"],
        "num_hidden_layers": VISION["layers"],
        "intermediate_size": VISION["width"] * 2,
        "hidden_act": "gelu",
        "projection_dim": VISION["width"],
    }
    tower: Any = CLIPVisionModelProjection(config, torch.float32, "cpu", OPERATIONS)
    # The host leaves it as the memory happens to be.
    nn.init.normal_(tower.vision_model.embeddings.class_embedding, std=0.02)
    return tower


def vae() -> nn.Module:
    from comfy.taesd.taesd import TAESD

    autoencoder = TAESD(latent_channels=4)
    autoencoder.vae_scale.data.fill_(0.13025)
    autoencoder.vae_shift.data.zero_()
    return autoencoder


def adapter(model: nn.Module) -> MSAdapter:
    """An adapter that fits this UNet."""
    attentions = cross_attentions({key: value.shape for key, value in model.state_dict().items()})
    projections = {
        str(attention.key_index): Projection(attention.context, attention.width, nn, None)
        for attention in attentions
    }
    tokens = torch.randn(1, 4, 2 * TEXT_WIDTH)
    return MSAdapter(GroundingResampler(ResamplerSizes(**RESAMPLER)), projections, tokens)


def text_weights(encoder: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Weights as the family's files hold them: of the vocabulary only the rows `ids`."""
    sd = dict(encoder.state_dict())
    name = "text_model.embeddings.token_embedding."
    rows = sd.pop(f"{name}weight")
    return {
        **sd,
        f"{name}rows": rows[ids] if len(rows) > len(ids) else rows,
        f"{name}ids": ids.int(),
    }


def save(sd: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write weights in float16, whole numbers as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in sd.items()}
    save_file(halves, path, metadata={"format": "pt", **metadata})


def checkpoint_weights(
    model: nn.Module, text_l: dict[str, Tensor], text_g: dict[str, Tensor], autoencoder: nn.Module
) -> dict[str, Tensor]:
    sd = {f"model.diffusion_model.{k}": v for k, v in model.state_dict().items()}
    sd[f"model.diffusion_model.{MARK}"] = torch.ones(1)
    sd |= {f"first_stage_model.{k}": v for k, v in autoencoder.state_dict().items()}
    for name, weights in (("clip_l", text_l), ("clip_g", text_g)):
        sd |= {f"micro_text.{name}.transformer.{k}": v for k, v in weights.items()}
    return sd


def save_random_family(models: Path, seed: int = 0) -> None:
    """Write the family with random weights below a models folder of the host."""
    torch.manual_seed(seed)
    metadata = {"weights": "random", "seed": str(seed)}
    model, control, autoencoder = unet(), controlnet(), vae()
    for name, parameter in autoencoder.named_parameters():
        if name.startswith("taesd_decoder"):  # as torch begins, its pictures would be black
            nn.init.kaiming_normal_(parameter) if parameter.ndim > 1 else parameter.data.zero_()
            if name.startswith("taesd_decoder.19."):
                parameter.data.mul_(0.06).add_(0.5 if parameter.ndim == 1 else 0)
    for module in (model, control):
        for name, parameter in module.named_parameters():
            # The zero convolutions and projections that training starts from show nothing.
            if parameter.ndim > 1 and not parameter.any():
                scale = 1e-3 if module is control and "zero_conv" in name else 1.0
                nn.init.normal_(parameter, std=scale * parameter[0].numel() ** -0.5)
    ids = torch.tensor([0, *range(320, 420), 1929, 2368, 2242, 1937, 49406, 49407])
    text = [text_weights(text_encoder(), ids) for _ in range(2)]
    save(
        checkpoint_weights(model, text[0], text[1], autoencoder),
        models / "checkpoints/micro.safetensors",
        metadata,
    )
    for index, (name, weights) in enumerate(zip("lg", text, strict=True)):
        marked = {**weights, MARK: torch.tensor(index)}
        save(marked, models / f"text_encoders/micro_clip_{name}.safetensors", metadata)
    tower = {
        **vision_tower().state_dict(),
        MARK: torch.tensor([VISION["image_size"], VISION["heads"]]),
    }
    save(tower, models / "clip_vision/micro_vision.safetensors", metadata)
    ours = adapter(model)
    metadata["resampler_head_width"] = str(ours.head_width)
    save(ours.state_dict(), models / "ms_diffusion/ms_adapter_micro.safetensors", metadata)
    lora = {}
    for key, value in model.state_dict().items():
        if key.endswith("attn2.to_v.weight"):
            name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
            lora[f"{name}.lora_down.weight"] = torch.randn(4, value.shape[1]) * 0.2
            lora[f"{name}.lora_up.weight"] = torch.randn(value.shape[0], 4) * 0.2
            lora[f"{name}.alpha"] = torch.tensor(4.0)
    save(lora, models / "loras/micro_lora.safetensors", metadata)
    hint = {**control.state_dict(), MARK: torch.ones(1)}
    save(hint, models / "controlnet/micro_controlnet.safetensors", metadata)


if __name__ == "__main__":
    save_random_family(Path(sys.argv[1]))
