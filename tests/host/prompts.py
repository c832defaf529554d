"""Prompts of the example workflows on a real server with the random micro family."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.host.server import PromptError, Server
from lab.host.workflows import find, use_micro_files

SIZE = 64


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
    return use_micro_files(server.workflow(path), SIZE, SIZE, steps=3)
