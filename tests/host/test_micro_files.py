"""The committed files of the trained family."""

from dataclasses import asdict

import pytest
import torch
from safetensors import safe_open

import lab.microworld.pack  # noqa: F401
from lab.microworld import MODELS, networks
from lab.microworld.autoencoder import Autoencoder, widen
from msd_core.checkpoint import load_adapter

FILES = sorted(MODELS.rglob("*.safetensors"))


def test_all_files_together_are_small() -> None:
    assert FILES
    assert sum(path.stat().st_size for path in FILES) <= 26e6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_says_how_it_was_trained(path) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        assert not [k for k in file.keys() if file.get_slice(k).get_dtype() == "F32"]  # noqa: SIM118
    stage = "judge" if path.stem == "judge" else "base"
    for key in ("seed", "steps", "samples", "minutes"):
        assert float(metadata[f"{stage}.{key}"]) > 0
    assert metadata["license"] == "GPL-3.0-or-later" and metadata["torch"]


@pytest.mark.parametrize("path", sorted(MODELS.glob("ms_diffusion/*")), ids=lambda path: path.stem)
def test_adapters_have_the_released_form(path) -> None:
    adapter = load_adapter(path)
    assert asdict(adapter.resampler.sizes) == networks.RESAMPLER
    assert len(adapter.layers) == 6


def test_a_narrow_autoencoder_is_the_wide_one_with_zeros() -> None:
    torch.manual_seed(0)
    narrow, taesd = Autoencoder().eval(), networks.vae()
    widen(narrow, taesd)
    pictures = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        latents = narrow.encode(pictures)
        wide = taesd.encode(pictures * 2 - 1) * 0.13025
        decoded = taesd.decode(wide / 0.13025) / 2 + 0.5
        assert (latents - wide).abs().max() < 1e-4
        assert (narrow.decode(latents) - decoded).abs().max() < 1e-4


def test_the_two_adapters_have_different_digests() -> None:
    """They have the same sizes, and were trained separately."""
    first, second = (load_adapter(path) for path in sorted((MODELS / "ms_diffusion").iterdir()))
    shapes = [{k: v.shape for k, v in a.state_dict().items()} for a in (first, second)]
    assert shapes[0] == shapes[1] and first.digest != second.digest
