"""Prompts of the example workflows on a real server with the random micro family."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from microworld.demo import adapt
from microworld.server import Server

SIZE = 64


def run(server: Server, prompt: dict[str, Any]) -> np.ndarray:
    outputs = server.run(prompt)
    node = find(prompt, "SaveImage")
    picture = server.picture(outputs[node]["images"][0])
    return np.asarray(Image.open(io.BytesIO(picture)), dtype=np.float32)


def find(prompt: dict[str, Any], kind: str) -> str:
    return next(name for name, node in prompt.items() if node["class_type"] == kind)


def load(server: Server, path: Path) -> dict[str, Any]:
    return adapt(server.workflow(path), SIZE, SIZE, steps=3)
