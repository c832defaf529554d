"""Prompts of the example workflows on a real server with the random micro family."""

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from microworld.demo import adapt, find
from microworld.server import PromptError, Server

SIZE = 64


def run(server: Server, prompt: dict[str, Any]) -> np.ndarray:
    outputs = server.run(prompt)
    node = find(prompt, "SaveImage")
    picture = server.picture(outputs[node]["images"][0])
    return np.asarray(Image.open(io.BytesIO(picture)), dtype=np.float32)


def run_interrupted(server: Server, prompt: dict[str, Any], seconds: float) -> None:
    """Run a prompt that is interrupted after some seconds; an interrupt that comes before the run
    begins is lost, so it is asked for until the run ends."""
    ended = threading.Event()

    def interrupt() -> None:
        wait = seconds
        while not ended.wait(wait):
            server.post("/interrupt")
            wait = 0.2

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(PromptError, match="interrupted"):
            server.run(prompt)
    finally:
        ended.set()
        thread.join()


def load(server: Server, path: Path) -> dict[str, Any]:
    return adapt(server.workflow(path), SIZE, SIZE, steps=3)
