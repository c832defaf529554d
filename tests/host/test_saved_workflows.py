"""Workflows that earlier versions saved load, and give the same picture
(tests/data/saved_workflows/README.md)."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import HOST, ROOT
from PIL import Image

from lab.host.server import Server
from lab.host.workflows import describe_sprites, find, use_micro_files
from lab.microworld import MODELS
from lab.microworld.sprites import save_sprites

SAVED = sorted((ROOT / "tests" / "data" / "saved_workflows").glob("*.json"))
SIZE, STEPS = 128, 6


@pytest.fixture(scope="module")
def trained_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ComfyUI with the trained micro family."""
    base = tmp_path_factory.mktemp("trained")
    shutil.copytree(MODELS, base / "models")
    save_sprites(base / "input")
    with Server(HOST, base) as server:
        yield server


def test_there_are_three() -> None:
    assert len(SAVED) >= 3


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_it_gives_the_same_picture(trained_server: Server, path: Path) -> None:
    prompt = use_micro_files(trained_server.workflow(path), SIZE, SIZE, STEPS)
    describe_sprites(prompt)
    outputs = trained_server.run(prompt)
    given = trained_server.picture(outputs, find(prompt, "SaveImage"))
    saved = Image.open(path.with_suffix(".png")).convert("RGB")
    picture, before = np.asarray(given, dtype=int), np.asarray(saved, dtype=int)
    # Another processor's float arithmetic may change a pixel by a level or two.
    assert abs(picture - before).mean() < 0.5 and abs(picture - before).max() <= 8
