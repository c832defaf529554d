"""From a checkpoint's projections to the cross-attentions of an SDXL-shaped UNet."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# The module order of diffusers, which numbers the released projections, has the middle last.
_RELEASED_ORDER = {"input": 0, "output": 1, "middle": 2}
_CROSS_ATTENTION = re.compile(
    r"(input|output|middle)_blocks?\.(\d+)\.(?:\d+\.)?transformer_blocks\.(\d+)\.attn2\.to_k\.weight$"
)


class CrossAttention(NamedTuple):
    """One text cross-attention of the UNet."""

    key_index: int  # odd number in the checkpoint's key: 1, 3, 5, ...
    block: tuple[str, int, int]  # the host's name: ("input" | "output" | "middle", block, depth)
    width: int
    context: int


def cross_attentions(shapes: Mapping[str, Sequence[int]]) -> list[CrossAttention]:
    """All text cross-attentions of a UNet in the order of the released projections: down blocks,
    up blocks, then the middle block.

    Args:
        shapes: parameter name (of the original SDXL layout, `input_blocks.4.1.…`) -> shape.
    """
    found: list[tuple[tuple[int, int, int], tuple[str, int, int], Sequence[int]]] = []
    for name, shape in shapes.items():
        if match := _CROSS_ATTENTION.match(name):
            room, number, depth = match[1], int(match[2]), int(match[3])
            # The host counts the middle block as ("middle", 0); its number in the name is its
            # place inside the block.
            block = (room, 0 if room == "middle" else number, depth)
            found.append(((_RELEASED_ORDER[room], number, depth), block, shape))
    return [
        CrossAttention(2 * i + 1, block, shape[0], shape[1])
        for i, (_, block, shape) in enumerate(sorted(found, key=lambda row: row[0]))
    ]


def check_fit(attentions: Sequence[CrossAttention], projections: Sequence[tuple[int, int]]) -> None:
    """Check that each projection (width, context) has its cross-attention.

    Raises:
        ValueError: the adapter was made for another UNet.
    """
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
