"""MSDReferenceLatents: order, size and background of what an edit model is given."""

from typing import Any

import comfy.sd
import comfy.utils
import pytest
import torch
from torch import Tensor

from lab.microworld import MODELS


@pytest.fixture(scope="module")
def vae() -> Any:
    sd = comfy.utils.load_torch_file(str(MODELS / "checkpoints" / "micro.safetensors"))
    return comfy.sd.VAE(comfy.utils.state_dict_prefix_replace(sd, {"first_stage_model.": ""}, True))


@pytest.fixture
def subjects(pack: Any) -> Any:
    kinds = pack.module("nodes.subjects")

    def make(*references: Tensor, masks: Any = None) -> Any:
        made = [
            kinds.Subject("", (0, 0, 1, 1), 1.0, reference, masks and masks[n])
            for n, reference in enumerate(references)
        ]
        return kinds.Subjects(tuple(made))

    return make


def picture(seed: int, height: int = 64, width: int = 64, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(small, (height, width)).movedim(1, -1)


CONDITIONING = [[torch.zeros(1, 4, 8), {"reference_latents": [torch.ones(1, 4, 2, 2)]}]]


def latents(pack: Any, vae: Any, subjects: Any, given: Any = None, **more: Any) -> list[Tensor]:
    out = pack.MSDReferenceLatents.execute(
        given or [[torch.zeros(1, 4, 8), {}]], vae, subjects, **{"megapixels": 0.01, **more}
    )[0]
    return out[0][1]["reference_latents"]


def test_all_references_in_the_layout_s_order(pack: Any, vae: Any, subjects: Any) -> None:
    several = subjects(picture(1), picture(2, count=2), picture(3))
    found = latents(pack, vae, several)
    assert len(found) == 4
    alone = [latents(pack, vae, subjects(picture(n)))[0] for n in (1, 3)]
    assert torch.equal(found[0], alone[0]) and torch.equal(found[3], alone[1])


def test_they_follow_those_that_are_there(pack: Any, vae: Any, subjects: Any) -> None:
    found = latents(pack, vae, subjects(picture(1)), CONDITIONING)
    assert len(found) == 2 and torch.equal(found[0], torch.ones(1, 4, 2, 2))
    assert len(CONDITIONING[0][1]["reference_latents"]) == 1  # what was given stays


def test_only_a_changed_reference_is_encoded_again(pack: Any, vae: Any, subjects: Any) -> None:
    first = latents(pack, vae, subjects(picture(4), picture(5)))
    second = latents(pack, vae, subjects(picture(4), picture(6)))
    assert first[0] is second[0] and not torch.equal(first[1], second[1])


@pytest.mark.parametrize(
    ("size", "megapixels", "expected"),
    [
        ((720, 480), 1.0, (1248, 832)),
        ((64, 64), 1.0, (1024, 1024)),
        ((300, 301), 0.25, (512, 512)),
        ((2000, 10), 0.01, (1456, 16)),
    ],
)
def test_sizes(pack: Any, size: Any, megapixels: float, expected: Any) -> None:
    fit = pack.module("nodes.reference_latents").fit_reference
    assert fit(torch.rand(1, *size, 3), megapixels).shape == (1, *expected, 3)


@pytest.mark.parametrize(
    ("background", "level"), [("white", 1.0), ("grey", 128 / 255), ("black", 0)]
)
def test_the_background_is_replaced(
    pack: Any, vae: Any, subjects: Any, background: str, level: float
) -> None:
    reference, mask = picture(7), torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    composed = torch.where(mask[..., None] > 0, reference, torch.tensor(level))
    expected = latents(pack, vae, subjects(composed), background="keep")[0]
    masked = subjects(reference, masks=[mask])
    assert torch.equal(latents(pack, vae, masked, background=background)[0], expected)
    whole = latents(pack, vae, subjects(reference), background=background)[0]
    assert torch.equal(whole, latents(pack, vae, masked, background="keep")[0])
