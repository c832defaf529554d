"""MSD Layout's preview."""

from typing import Any

import numpy as np
import pytest
from layouts import CAT, CUP, layout, noise_image


def test_the_preview_shows_each_subject(pack: Any, lay_out: Any) -> None:
    colours = pack.module("nodes.layout.preview").COLOURS
    preview = lay_out(layout(CAT, CUP), noise_image(1), noise_image(2))[3]
    pixels = {tuple(p) for p in (preview[0] * 255).round().byte().reshape(-1, 3).numpy().tolist()}
    for colour in colours[:2]:
        assert tuple(np.frombuffer(bytes.fromhex(colour[1:]), np.uint8).tolist()) in pixels


def test_the_preview_with_old_pillow(lay_out: Any, monkeypatch: Any) -> None:
    """Before 10.1 its font has one size, and Latin letters only."""
    from PIL import ImageFont

    monkeypatch.setattr(ImageFont, "load_default", lambda: ImageFont.load_default_imagefont())
    for phrase in ("cat", "猫 🐱", "a cat\non two lines"):
        preview = lay_out(layout({**CAT, "phrase": phrase}), noise_image(1))[3]
        assert preview.shape == (1, 384, 768, 3) and preview.std() > 0.05


@pytest.mark.parametrize("phrase", ["猫 🐱", "a cat\non two lines", "\t"])
def test_the_preview_of_any_phrase(lay_out: Any, phrase: str) -> None:
    assert lay_out(layout({**CAT, "phrase": phrase}), noise_image(1))[3].std() > 0.05
