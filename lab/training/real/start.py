"""What the training of an adapter starts from, besides an adapter's file: new weights."""

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from lab.training.real.frozen import Frozen
from lab.training.real.headers import Shapes, unet_shapes
from msd_core.adapters.ip_adapter import IPAdapter, LinearImageProj, PlusImageProj
from msd_core.adapters.mip_adapter import MIPAdapter, MIPProjection
from msd_core.adapters.ms_diffusion import MSAdapter
from msd_core.adapters.perceiver import PerceiverSizes
from msd_core.adapters.projections import Projection
from msd_core.adapters.released import ReleasedAdapter
from msd_core.adapters.resampler import GroundingResampler, ResamplerSizes
from msd_core.models.unet import cross_attentions

# Sizes of the released files: of a perceiver, whose width is 1280 for SDXL and else that of the
# text; image tokens without one; dummy tokens, which never influence inference.
SDXL_TEXT, SDXL_WIDTH, DEPTH, HEAD_WIDTH, TOKENS, FEED_FORWARD = 2048, 1280, 4, 64, 16, 4
LINEAR_TOKENS = DUMMY_TOKENS = 4


def new_adapter(kind: str, checkpoint: Shapes, clip_vision: Shapes) -> ReleasedAdapter:
    """An adapter of the sizes of a kind's released files, for these models.

    Args:
        kind: one of `settings.NEW`.
        checkpoint, clip_vision: key -> shape of their files.
    Raises:
        ValueError: they aren't of SDXL or SD1.5, or of CLIP.
    """
    attentions = cross_attentions(unet_shapes(checkpoint))
    if not attentions:
        raise ValueError("--checkpoint: expected the file of an SDXL or SD1.5 model.")
    text = attentions[0].context
    family = {"ms": MSAdapter, "ip": IPAdapter, "mip": MIPAdapter}[kind.partition("-")[0]]
    projection = getattr(family, "projection", Projection)
    projections = {
        str(each.key_index): projection(text, each.width, nn, None) for each in attentions
    }
    if kind in ("ip-adapter", "mip-adapter"):
        pooled = _size("--clip-vision", clip_vision, "visual_projection.weight")
        return family(LinearImageProj(pooled, LINEAR_TOKENS, text), projections)
    width = SDXL_WIDTH if text == SDXL_TEXT else text
    sizes = PerceiverSizes(
        dim=width,
        depth=DEPTH,
        dim_head=HEAD_WIDTH,
        heads=width // HEAD_WIDTH,
        num_queries=TOKENS,
        embedding_dim=_size(
            "--clip-vision", clip_vision, "vision_model.embeddings.class_embedding"
        ),
        output_dim=text,
        ff_mult=FEED_FORWARD,
    )
    if family is not MSAdapter:
        return family(PlusImageProj(sizes), projections)
    phrase = _size("--checkpoint", checkpoint, "text_model.final_layer_norm.weight")
    resampler = GroundingResampler(ResamplerSizes(**asdict(sizes), phrase_embeddings_dim=phrase))
    return MSAdapter(resampler, projections, torch.zeros(1, DUMMY_TOKENS, text))


def _size(option: str, shapes: Shapes, ending: str) -> int:
    """The first size of the weight whose key ends so."""
    found = [shape for key, shape in shapes.items() if key.endswith(ending)]
    if not found:
        raise ValueError(f"{option}: its file has no {ending}, as CLIP has it in ComfyUI.")
    return found[0][0]


def initialize(adapter: ReleasedAdapter, frozen: Frozen) -> None:
    """Give an adapter new weights, as the research code does: key and value projections are the
    model's own for the text, everything else is random."""
    module: Any
    for module in adapter.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
            continue
        for parameter in module.parameters(recurse=False):  # learned latents
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    attentions: dict[int, Any] = {
        id(module.to_k): module for module in frozen.unet.modules() if hasattr(module, "to_k")
    }
    with torch.no_grad():
        for projection, text_key in zip(adapter.projections, frozen.text_keys, strict=True):
            own = attentions[id(text_key)]
            projection.to_k_ip.weight.copy_(own.to_k.weight)
            projection.to_v_ip.weight.copy_(own.to_v.weight)
            if isinstance(projection, MIPProjection):  # even over all queries
                projection.text_to_weight.weight.zero_()
