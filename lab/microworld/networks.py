"""The networks of the micro family: a micro SDXL (UNet, two text encoders, TAESD), a CLIP vision
tower, an MS-Diffusion adapter and a ControlNet.

They are of the host's own classes, so that the layout of their weights is the host's by
construction.
"""

from typing import Any

import torch
from comfy.cli_args import args as host_args
from torch import Tensor, nn

host_args.cpu = not torch.cuda.is_available()  # before the host looks for a GPU

from lab.microworld.pack import FLUX, UNET_HEAD_WIDTH  # noqa: E402
from msd_core import MSAdapter  # noqa: E402
from msd_core.adapters.ip_adapter import IPAdapter, PlusImageProj  # noqa: E402
from msd_core.adapters.perceiver import PerceiverSizes  # noqa: E402
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
FLUX_SIZES = {
    "hidden_size": 128,
    "depth": 2,
    "depth_single_blocks": 4,
    "context_in_dim": 2 * TEXT_WIDTH,
    "vec_in_dim": TEXT_WIDTH,
    "guidance_embed": False,
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


class FluxOperations(Operations):
    """Layers for the host's Flux, which adds to the input of its norms in place."""

    RMSNorm = nn.RMSNorm

    class LayerNorm(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())


def unet() -> nn.Module:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    depth = {"transformer_depth": list(UNET["transformer_depth"])}  # the host empties the list
    return UNetModel(
        **{**UNET, **depth}, out_channels=4, transformer_depth_output=[1] * 4, operations=OPERATIONS
    )


def sd15_unet() -> nn.Module:
    """With SD1.5's 16 cross-attentions, 8 heads in each, and one text encoder."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    own = {
        "model_channels": 32,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "num_heads": 8,
        "num_head_channels": -1,
        "num_classes": None,
        "adm_in_channels": None,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "use_linear_in_transformer": False,
        "context_dim": TEXT_WIDTH,
    }
    return UNetModel(**{**UNET, **own}, out_channels=4, operations=OPERATIONS)


def flux() -> nn.Module:
    from comfy.ldm.flux.model import Flux

    return Flux("flux", dtype=torch.float32, operations=FluxOperations, **FLUX, **FLUX_SIZES)


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
    # The host leaves it uninitialised.
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
    tokens = torch.randn(1, 4, 2 * TEXT_WIDTH)
    resampler = GroundingResampler(ResamplerSizes(**RESAMPLER))
    return MSAdapter(resampler, projections(model, Projection), tokens)


def ip_adapter(kind: type[IPAdapter], model: nn.Module) -> IPAdapter:
    """An IP-Adapter plus, or one of a family with its keys, that fits this UNet."""
    own = projections(model, kind.projection)
    sizes = {key: value for key, value in RESAMPLER.items() if key != "phrase_embeddings_dim"}
    sizes["output_dim"] = next(iter(own.values())).to_k_ip.in_features
    return kind(PlusImageProj(PerceiverSizes(**sizes)), own)


def projections(model: nn.Module, kind: type[Projection]) -> dict[str, Projection]:
    """Of each cross-attention of a UNet, by their numbers in an adapter's file."""
    attentions = cross_attentions({key: value.shape for key, value in model.state_dict().items()})
    return {
        str(attention.key_index): kind(attention.context, attention.width, nn, None)
        for attention in attentions
    }
