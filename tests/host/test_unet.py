"""The table from projections to blocks, for SD1.5, SDXL and SDXL's pruned relatives in the host."""

from typing import Any

import comfy.ops
import comfy.utils
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from golden import Golden

from msd_core.models.unet import check_fit, cross_attentions

SHARED = {
    "use_checkpoint": False, "image_size": 32, "out_channels": 4, "use_spatial_transformer": True,
    "legacy": False, "num_classes": "sequential", "adm_in_channels": 2816, "in_channels": 4,
    "model_channels": 320, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
    "use_linear_in_transformer": True, "context_dim": 2048, "num_head_channels": 64,
    "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
# The shapes by which the host recognises them (comfy/model_detection.py).
UNETS = {
    "SD1.5": {"transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
              "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
              "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "context_dim": 768,
              "use_linear_in_transformer": False, "num_classes": None, "adm_in_channels": None,
              "num_heads": 8, "num_head_channels": -1},
    "SDXL": {"transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
             "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]},
    "SSD-1B": {"transformer_depth": [0, 0, 2, 2, 4, 4], "transformer_depth_middle": -1,
               "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4]},
    "Segmind Vega": {"transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": -1,
                     "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2]},
    "KOALA-700M": {"num_res_blocks": [1, 1, 1], "transformer_depth": [0, 2, 5],
                   "transformer_depth_middle": -2,
                   "transformer_depth_output": [0, 0, 2, 2, 5, 5]},
    "KOALA-1B": {"num_res_blocks": [1, 1, 1], "transformer_depth": [0, 2, 6],
                 "transformer_depth_middle": 6, "transformer_depth_output": [0, 0, 2, 2, 6, 6]},
}  # fmt: skip


def table(name: str) -> list[Any]:
    config = {**SHARED, **UNETS[name]}
    config["transformer_depth"] = list(config["transformer_depth"])
    config["transformer_depth_output"] = list(config["transformer_depth_output"])
    unet = UNetModel(
        **config, dtype=torch.float16, device="meta", operations=comfy.ops.disable_weight_init
    )
    return cross_attentions({key: value.shape for key, value in unet.state_dict().items()})


@pytest.mark.parametrize("name", UNETS)
def test_order_is_that_of_diffusers(name: str) -> None:
    """Against the host's own table of diffusers' names, in diffusers' order of modules."""
    order = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}
    theirs = {}
    for key, ours in comfy.utils.unet_to_diffusers({**SHARED, **UNETS[name]}).items():
        if key.endswith("attn2.to_k.weight"):
            numbers = tuple(int(part) for part in key.split(".") if part.isdigit())
            theirs[(order[key.split(".")[0]], *numbers)] = ours
    expected = []
    for _, ours in sorted(theirs.items()):
        part, first, *rest = ours.split(".")
        block = part.split("_")[0]
        depth = int(rest[rest.index("transformer_blocks") + 1])
        expected.append((block, 0 if block == "middle" else int(first), depth))
    found = table(name)
    depths = UNETS[name]
    assert len(found) == sum(
        depths["transformer_depth"] + depths["transformer_depth_output"]
    ) + max(depths["transformer_depth_middle"], 0)
    assert [row.block for row in found] == expected
    assert [row.key_index for row in found] == list(range(1, 2 * len(found), 2))


def test_release() -> None:
    released = Golden("e_sdxl_manifest").manifest["cross_attention_table"]
    found = table("SDXL")
    assert [(r.key_index, list(r.block), r.width) for r in found] == [
        (r["key_index"], r["comfy_block"], r["hidden"]) for r in released
    ]
    check_fit(found, [(r["hidden"], 2048) for r in released])


def test_sd15() -> None:
    """16 layers, numbered as SDXL's: down, up, middle."""
    found = table("SD1.5")
    inputs = [("input", number, 0) for number in (1, 2, 4, 5, 7, 8)]
    outputs = [("output", number, 0) for number in range(3, 12)]
    assert [row.block for row in found] == [*inputs, *outputs, ("middle", 0, 0)]
    assert {row.context for row in found} == {768}
    widths = [320, 320, 640, 640, *[1280] * 5, 640, 640, 640, 320, 320, 320, 1280]
    assert [row.width for row in found] == widths


def test_an_adapter_of_another_shape_is_refused() -> None:
    fitting = [(row.width, row.context) for row in table("SDXL")]
    with pytest.raises(ValueError, match="for 70 cross-attentions, the model has 34"):
        check_fit(table("SSD-1B"), fitting)
    with pytest.raises(ValueError, match=r"projection 9 maps 2048 to 640 channels.*2048 to 1280"):
        check_fit(table("SDXL"), [*fitting[:4], (640, 2048), *fitting[5:]])
    with pytest.raises(ValueError) as caught:
        check_fit(table("SD1.5"), fitting)
    assert str(caught.value) == (
        "the adapter is for SDXL (a text 2048 wide), the model is SD1.5 (768). Load a checkpoint "
        "of SDXL, or an adapter for SD1.5"
    )
