"""The files of the micro family, each in its real format, in float16.

With random weights, for tests: python -m lab.microworld.files MODELS_FOLDER, with the host on
PYTHONPATH.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lab.microworld import networks
from lab.microworld.pack import MARK
from msd_core.adapters.ip_adapter import IPAdapter
from msd_core.adapters.mip_adapter import MIPAdapter


def text_weights(encoder: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """A text encoder's weights as the family's files hold them: of the vocabulary only the rows
    `ids`."""
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
    model: nn.Module,
    text_l: dict[str, Tensor],
    text_g: dict[str, Tensor] | None,
    autoencoder: nn.Module | None = None,
) -> dict[str, Tensor]:
    sd = {f"model.diffusion_model.{k}": v for k, v in model.state_dict().items()}
    sd[f"model.diffusion_model.{MARK}"] = torch.ones(1)
    if autoencoder is not None:
        sd |= {f"first_stage_model.{k}": v for k, v in autoencoder.state_dict().items()}
    for name, weights in (("clip_l", text_l), ("clip_g", text_g or {})):
        sd |= {f"micro_text.{name}.transformer.{k}": v for k, v in weights.items()}
    return sd


def vision_weights(tower: nn.Module) -> dict[str, Tensor]:
    """A vision tower's weights, with the sizes that they don't show."""
    sizes = torch.tensor([networks.VISION["image_size"], networks.VISION["heads"]])
    return {**tower.state_dict(), MARK: sizes}


def save_random_family(models: Path, seed: int = 0) -> None:
    """Write the family with random weights below a models folder of the host, and to go with it a
    LoRA, a ControlNet, adapters of other families, an SD1.5, and stand-ins for BiRefNet and SAM3.
    """
    torch.manual_seed(seed)
    metadata = {"weights": "random", "seed": str(seed)}
    unet, control, autoencoder = networks.unet(), networks.controlnet(), networks.vae()
    fill_autoencoder(autoencoder)
    _fill_zeros(unet, control)
    ids = torch.tensor([0, *range(320, 420), 1929, 2368, 2242, 1937, 49406, 49407])
    text = [text_weights(networks.text_encoder(), ids) for _ in range(2)]
    checkpoint = checkpoint_weights(unet, text[0], text[1], autoencoder)
    save(checkpoint, models / "checkpoints/micro.safetensors", metadata)
    for index, (name, weights) in enumerate(zip("lg", text, strict=True)):
        marked = {**weights, MARK: torch.tensor(index)}
        save(marked, models / f"text_encoders/micro_clip_{name}.safetensors", metadata)
    tower = vision_weights(networks.vision_tower())
    save(tower, models / "clip_vision/micro_vision.safetensors", metadata)
    adapter = networks.adapter(unet)
    metadata["resampler_head_width"] = str(adapter.head_width)
    save(adapter.state_dict(), models / "ms_diffusion/ms_adapter_micro.safetensors", metadata)
    save(_random_lora(unet), models / "loras/micro_lora.safetensors", metadata)
    hint = {**control.state_dict(), MARK: torch.ones(1)}
    save(hint, models / "controlnet/micro_controlnet.safetensors", metadata)
    sd15 = networks.sd15_unet()
    _fill_zeros(sd15, control)
    checkpoint = checkpoint_weights(sd15, text[0], None, autoencoder)
    save(checkpoint, models / "checkpoints/micro_sd15.safetensors", metadata)
    for kind, model, name in (
        (IPAdapter, unet, "micro_ip_adapter"),
        (IPAdapter, sd15, "micro_ip_adapter_sd15"),
        (MIPAdapter, unet, "micro_mip_adapter"),
    ):
        sd = networks.ip_adapter(kind, model).state_dict()
        save(sd, models / f"ipadapter/{name}.safetensors", metadata)
    save_segmenters(models)


def save_segmenters(models: Path) -> None:
    """Write the files of the stand-ins for BiRefNet and SAM3: what the host tells each of them by,
    and the mark."""
    nothing = torch.zeros(1)
    save({MARK: nothing}, models / "background_removal/micro_birefnet.safetensors", {})
    keys = (
        "detector.backbone.vision_backbone.trunk.blocks.0.attn.qkv.weight",
        "detector.backbone.vision_backbone.propagation_convs.0.conv_1x1.weight",
        "detector.backbone.language_backbone.encoder.ln_final.weight",
        "detector.transformer.decoder.query_embed.weight",
        f"tracker.{MARK}",
    )
    save(dict.fromkeys(keys, nothing), models / "checkpoints/micro_sam3.safetensors", {})


def fill_autoencoder(autoencoder: nn.Module) -> None:
    """Initialise a TAESD: the host leaves its weights uninitialised. Half of what its pictures show
    of random latents isn't clipped, so that a difference of latents is one of pictures."""
    g = torch.Generator().manual_seed(0)
    for name, parameter in autoencoder.named_parameters():
        if name.startswith("taesd_encoder"):
            parameter.data.normal_(std=0.1, generator=g)
        elif name.startswith("taesd_decoder"):
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, generator=g)
            else:
                parameter.data.zero_()
            if name.startswith("taesd_decoder.19."):
                parameter.data.mul_(0.004).add_(0.5 if parameter.ndim == 1 else 0)


def _fill_zeros(unet: nn.Module, control: nn.Module) -> None:
    """Fill the zero convolutions and projections that training starts from: they show nothing."""
    for module in (unet, control):
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 and not parameter.any():
                scale = 1e-3 if module is control and "zero_conv" in name else 1.0
                nn.init.normal_(parameter, std=scale * parameter[0].numel() ** -0.5)


def _random_lora(unet: nn.Module) -> dict[str, Tensor]:
    lora = {}
    for key, value in unet.state_dict().items():
        if key.endswith("attn2.to_v.weight"):
            name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
            lora[f"{name}.lora_down.weight"] = torch.randn(4, value.shape[1]) * 0.2
            lora[f"{name}.lora_up.weight"] = torch.randn(value.shape[0], 4) * 0.2
            lora[f"{name}.alpha"] = torch.tensor(4.0)
    return lora


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m lab.microworld.files",
        description="Write the micro family with random weights.",
    )
    parser.add_argument("models", type=Path, help="models folder to write to")
    save_random_family(parser.parse_args().models)
