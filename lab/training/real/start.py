"""What the training of an adapter starts from: an adapter's file, or new weights of its sizes."""

from typing import Any

import torch
from torch import nn

from lab.training.real.frozen import Frozen
from msd_core.adapters.mip_adapter import MIPProjection
from msd_core.adapters.released import ReleasedAdapter


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
