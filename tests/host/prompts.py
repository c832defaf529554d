"""Prompts of the example workflows on a real server with the random micro family."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_models import AUTOENCODER, FLUX_FILE

from lab.host.server import PromptError, Server
from lab.host.workflows import FILES, find, use_micro_files

SIZE = 64
# The workflows' files that the micro family has nothing trained for, and what stands in for each: a
# tiny Flux for every model that takes reference latents.
STAND_INS = {
    "v1-5-pruned-emaonly-fp16.safetensors": "micro_sd15.safetensors",
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": "micro_vision.safetensors",
    "ip-adapter-plus_sdxl_vit-h.safetensors": "micro_ip_adapter.safetensors",
    "ip-adapter-plus_sd15.safetensors": "micro_ip_adapter_sd15.safetensors",
    "model_sdxl_plus.bin": "micro_mip_adapter.safetensors",
    "flux2_dev_fp8mixed.safetensors": FLUX_FILE,
    "flux2-vae.safetensors": AUTOENCODER,
    "mistral_3_small_flux2_fp8.safetensors": "micro_clip_l.safetensors",
    "qwen_image_edit_2511_fp8mixed.safetensors": FLUX_FILE,
    "qwen_image_vae.safetensors": AUTOENCODER,
    "qwen_2.5_vl_7b_fp8_scaled.safetensors": "micro_clip_l.safetensors",
}
SERVER_FILES = FILES | STAND_INS
# The micro family's text encoders only go together.
TEXT_ENCODERS = {
    "class_type": "DualCLIPLoader",
    "inputs": {
        "clip_name1": "micro_clip_l.safetensors",
        "clip_name2": "micro_clip_g.safetensors",
        "type": "sdxl",
    },
}


def run(server: Server, prompt: dict[str, Any]) -> np.ndarray:
    outputs = server.run(prompt)
    return np.asarray(server.picture(outputs, find(prompt, "SaveImage")), dtype=np.float32)


def run_interrupted(server: Server, prompt: dict[str, Any], kind: str, step: int = 0) -> str:
    """Run a prompt that is interrupted when its node of this kind begins, or has done this many
    steps; returns the kind of the node in which the run ended."""
    node = find(prompt, kind)

    def executing(running: str) -> None:
        if running == node and not step:
            server.post("/interrupt")

    def progress(running: str, done: int, _: int) -> None:
        if running == node and 0 < step <= done:
            server.post("/interrupt")

    with pytest.raises(PromptError, match="interrupted") as caught:
        server.run(prompt, on_progress=progress, on_executing=executing)
    return caught.value.details["node_type"]


def load(server: Server, path: Path) -> dict[str, Any]:
    """A workflow as the server can run it, in 64 x 64 pixels and 3 steps."""
    prompt = use_micro_files(server.workflow(path), SIZE, SIZE, steps=3)
    for node in prompt.values():
        inputs = node["inputs"]
        inputs |= {
            k: STAND_INS[v] for k, v in inputs.items() if isinstance(v, str) and v in STAND_INS
        }
        if "megapixels" in inputs:
            inputs["megapixels"] = 0.01
        if node["class_type"] == "CLIPLoader":
            node |= TEXT_ENCODERS
        if node["class_type"] == "EmptyFlux2LatentImage":  # Flux.1 has latents of another size
            node["class_type"] = "EmptySD3LatentImage"
    return prompt
