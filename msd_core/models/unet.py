"""The text cross-attentions of Stable Diffusion's UNets (SD1.5, SDXL and its pruned relatives), in
the order in which adapter files number them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import nn

# The module order of diffusers, which numbers the released projections, has the middle last.
_RELEASED_ORDER = {"input": 0, "output": 1, "middle": 2}
_CROSS_ATTENTION = re.compile(
    r"(input|output|middle)_blocks?\.(\d+)\.(?:\d+\.)?transformer_blocks\.(\d+)\.attn2\.to_k\.weight$"
)


# What users call them, by the width of the text that they take.
_FAMILIES = {2048: "SDXL", 1024: "SD2", 768: "SD1.5"}
Block = tuple[str, int, int]  # as the host names it: "input", "middle" or "output", number, depth


class CrossAttention(NamedTuple):
    """One text cross-attention of the UNet."""

    key_index: int  # odd number in the checkpoint's key: 1, 3, 5, ...
    block: Block
    width: int
    context: int


def cross_attentions(shapes: Mapping[str, Sequence[int]]) -> list[CrossAttention]:
    """All text cross-attentions of a UNet in the order of the released projections: down blocks,
    up blocks, then the middle block.

    Args:
        shapes: parameter name (of the original layout, `input_blocks.4.1.…`) -> shape.
    """
    found: list[tuple[tuple[int, int, int], Block, Sequence[int]]] = []
    for name, shape in shapes.items():
        if match := _CROSS_ATTENTION.match(name):
            part, number, depth = match[1], int(match[2]), int(match[3])
            found.append(((_RELEASED_ORDER[part], number, depth), _block(match), shape))
    return [
        CrossAttention(2 * i + 1, block, shape[0], shape[1])
        for i, (_, block, shape) in enumerate(sorted(found, key=lambda row: row[0]))
    ]


def text_keys(unet: nn.Module) -> dict[Block, nn.Module]:
    """The text key projection of each cross-attention of a UNet."""
    modules = cast(Iterable[tuple[str, nn.Module]], unet.named_modules())
    named = ((_CROSS_ATTENTION.match(f"{name}.weight"), module) for name, module in modules)
    return {_block(match): module for match, module in named if match}


def _block(match: re.Match[str]) -> Block:
    """The host knows the middle block as ("middle", 0); the number in the parameter's name is that
    of a module inside it."""
    return match[1], 0 if match[1] == "middle" else int(match[2]), int(match[3])


def module_shapes(unet: nn.Module) -> dict[str, tuple[int, int]]:
    """What `cross_attentions` needs of a UNet: read off the layers, whose stored weights may be
    packed."""
    layers = cast(Iterable[tuple[str, Any]], unet.named_modules())
    return {
        f"{name}.weight": (layer.out_features, layer.in_features)
        for name, layer in layers
        if name.endswith("attn2.to_k") and hasattr(layer, "out_features")
    }


def check_fit(attentions: Sequence[CrossAttention], projections: Sequence[tuple[int, int]]) -> None:
    """Check that each projection (width, context) has its cross-attention.

    Raises:
        ValueError: the adapter was made for another UNet.
    """
    theirs, ours = projections[0][1], attentions[0].context
    if theirs != ours:
        needed, given = (_FAMILIES.get(width, "another model") for width in (theirs, ours))
        raise ValueError(
            f"the adapter is for {needed} (a text {theirs} wide), the model is {given} ({ours}). "
            f"Load a checkpoint of {needed}, or an adapter for {given}"
        )
    unet = [(attention.width, attention.context) for attention in attentions]
    if len(unet) != len(projections):
        raise ValueError(
            f"the adapter has projections for {len(projections)} cross-attentions, "
            f"the model has {len(unet)}"
        )
    for attention, (width, context) in zip(attentions, projections, strict=True):
        if (attention.width, attention.context) != (width, context):
            raise ValueError(
                f"the adapter's projection {attention.key_index} maps {context} to {width} "
                f"channels, the model's cross-attention {attention.block} maps "
                f"{attention.context} to {attention.width}"
            )
