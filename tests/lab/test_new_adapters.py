"""New adapters have the sizes of the released files, for the models at hand."""

import pytest
import torch
from golden import Golden
from test_ip_adapter import FILES, LAYERS, shapes_of

from lab.training.real.headers import Shapes
from lab.training.real.settings import NEW
from lab.training.real.start import new_adapter

MS = Golden("e_sdxl_manifest").manifest
# Pooled and hidden width of the image encoders that the files name.
ENCODERS = {"CLIP-ViT-bigG-14": (1280, 1664), "CLIP-ViT-H-14": (1024, 1280)}
MODULES = {"input": "input_blocks.{}.1", "output": "output_blocks.{}.1", "middle": "middle_block.1"}


def checkpoint(unet: str, text: int) -> Shapes:
    shapes = {"conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": [768]}
    for layer in LAYERS[unet]:
        part, number, depth = layer["host_block"]
        block = f"{MODULES[part].format(number)}.transformer_blocks.{depth}"
        shapes[f"model.diffusion_model.{block}.attn2.to_k.weight"] = [layer["width"], text]
    return shapes


def vision(encoder: str) -> Shapes:
    pooled, hidden = ENCODERS[encoder]
    return {
        "visual_projection.weight": [pooled, hidden],
        "vision_model.embeddings.class_embedding": [hidden],
    }


def released(file: str) -> tuple[str, str, str, int, Shapes]:
    """Its kind, UNet, image encoder, width of the text, and its keys with their shapes."""
    if file == "ms_adapter.bin":
        shapes = {key: row["shape"] for key, row in MS["keys"].items()}
        return "ms-diffusion", "sdxl", "CLIP-ViT-bigG-14", 2048, shapes
    facts = FILES[file]
    kind = "mip-adapter" if file.startswith("model_sdxl") else "ip-adapter"
    kind += "-plus" if facts["image_proj"] == "plus" else ""
    encoder = facts["encoder"].split()[0]
    return kind, facts["unet"], encoder, facts["cross_attention_width"], shapes_of(file)


@pytest.mark.parametrize(
    "file", ["ms_adapter.bin", *(f for f, facts in FILES.items() if facts["image_proj"] != "full")]
)
def test_sizes_are_those_of_the_released_file(file: str) -> None:
    kind, unet, encoder, text, shapes = released(file)
    assert kind in NEW
    with torch.device("meta"):
        adapter = new_adapter(kind, checkpoint(unet, text), vision(encoder))
    own = {key: list(value.shape) for key, value in adapter.state_dict().items()}
    assert own == {key: list(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("kind", NEW)
def test_files_of_other_models(kind: str) -> None:
    sdxl, big = checkpoint("sdxl", 2048), vision("CLIP-ViT-bigG-14")
    with pytest.raises(ValueError, match="--checkpoint: expected the file of an SDXL or"):
        new_adapter(kind, {"double_blocks.0.img_attn.qkv.weight": [3, 1]}, big)
    with torch.device("meta"), pytest.raises(ValueError, match="--clip-vision: its file has no "):
        new_adapter(kind, sdxl, {"visual.proj": [1664, 1280]})
