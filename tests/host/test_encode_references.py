"""MSD Encode References: how references are prepared, and which are encoded again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import CAT, CUP, layout, noise_image
from models import build_vision, fill


@pytest.fixture
def vision(tmp_path: Path) -> Any:
    vision = build_vision(tmp_path)
    fill(vision.model, 0.1)
    return vision


def test_background_and_fit(pack: Any) -> None:
    prepare = pack.module("nodes.encode_references").prepare_reference
    reference = torch.ones(40, 80, 3)
    mask = torch.zeros(40, 80)
    mask[:, :40] = 1
    black = prepare(reference, mask, "stretch", "black", 32)
    assert black.shape == (32, 32, 3) and black[:, :14].min() == 1 and black[:, 18:].max() == 0
    grey = prepare(reference, mask, "stretch", "grey", 32)
    assert torch.allclose(grey[:, 18:], torch.tensor(128 / 255))
    assert prepare(reference * 0, mask, "stretch", "white", 32)[:, 18:].min() == 1
    assert prepare(reference, mask, "stretch", "keep", 32).min() == 1
    padded = prepare(reference, None, "pad", "black", 32)
    assert padded[:6].max() == 0 and padded[10:22].min() == 1
    # the crop keeps the middle half of the width, of which the mask covers the left half
    cropped = prepare(reference, mask, "crop", "black", 32)
    assert cropped[:, :14].min() == 1 and cropped[:, 18:].max() == 0


def test_the_editor_gets_a_copy_of_what_the_encoder_sees(
    pack: Any, lay_out: Any, vision: Any
) -> None:
    import folder_paths
    from PIL import Image

    reference = torch.ones(1, 40, 80, 3)
    mask = torch.zeros(1, 40, 80)
    mask[..., :40] = 1
    given = {"reference_mask_1": mask}
    off = {**CAT, "off": True}
    subjects = lay_out(
        layout(CUP, off, CAT), reference, noise_image(1), noise_image(2), reference_masks=given
    )[0]
    first, _ = pack.MSDEncodeReferences.execute(vision, subjects).ui["msd_encoded"]
    copy = Image.open(Path(folder_paths.get_temp_directory()) / first)
    assert copy.size == (vision.image_size, vision.image_size) and copy.mode == "RGB"
    middle = copy.height // 2
    assert copy.getpixel((1, middle)) == (255, 255, 255)
    assert copy.getpixel((copy.width - 2, middle)) == (0, 0, 0)


def test_only_what_changed_is_encoded_again(
    pack: Any, lay_out: Any, vision: Any, monkeypatch: Any
) -> None:
    encoded, encode_image = [], vision.encode_image

    def count(images: Any, **options: Any) -> Any:
        encoded.append(len(images))
        return encode_image(images, **options)

    monkeypatch.setattr(vision, "encode_image", count)
    run = pack.MSDEncodeReferences.execute
    four = layout(CAT, CUP, CAT, CUP)
    first = run(vision, lay_out(four, *map(noise_image, (1, 2, 3, 4)))[0])[0].subjects
    second = run(vision, lay_out(four, *map(noise_image, (1, 2, 5, 4)))[0])[0].subjects
    assert encoded == [1] * 5
    same = [
        torch.equal(a.features.hidden_states, b.features.hidden_states)
        for a, b in zip(first, second, strict=True)
    ]
    assert same == [True, True, False, True]
    run(vision, lay_out(four, *map(noise_image, (1, 2, 5, 4)))[0], fit="crop")
    assert encoded == [1] * 9


@torch.inference_mode()
def test_the_blank_is_that_of_zero_pixel_values(pack: Any, lay_out: Any, vision: Any) -> None:
    """Encoded once an encoder; neither a black image nor one that the host could be given."""
    asked = []
    handle = vision.model.register_forward_hook(lambda *_: asked.append(1))
    run = pack.MSDEncodeReferences.execute
    for fit in ("stretch", "crop"):
        (subject,) = run(vision, lay_out(layout(CAT), noise_image(1))[0], fit=fit)[0].subjects
    handle.remove()
    assert len(asked) == 3
    blank = subject.features.blank_hidden_states
    expected = vision.model(pixel_values=torch.zeros(1, 3, 32, 32), intermediate_output=-2)[1]
    assert blank.shape == (17, 32) and torch.equal(blank, expected[0])
    for level in (0.0, 0.5):
        image = torch.full((1, 32, 32, 3), level)
        other = vision.encode_image(image)["penultimate_hidden_states"][0]
        assert (other - blank).abs().max() > 1e-3


@torch.inference_mode()
def test_a_negative_reference(pack: Any, lay_out: Any, vision: Any) -> None:
    """It is encoded as a reference is, its alpha too, for all subjects; references stay."""
    run, picture = pack.MSDEncodeReferences.execute, noise_image(5)
    cut_out = torch.cat((picture, torch.zeros(1, 20, 30, 1)), -1)
    cut_out[:, 5:15, 5:15, 3] = 1
    two = lay_out(layout(CAT, CUP), noise_image(1), noise_image(2))[0]
    for negative in (picture, cut_out):
        same = run(vision, lay_out(layout(CAT), negative)[0], fit="pad")[0].subjects[0].features
        plain = run(vision, two, fit="pad")[0].subjects
        for subject, before in zip(
            run(vision, two, fit="pad", negative_reference=negative)[0].subjects, plain,
            strict=True,
        ):  # fmt: skip
            features = subject.features
            assert torch.equal(features.blank_hidden_states, same.hidden_states[0])
            assert torch.equal(features.blank_pooled, same.pooled[0])
            assert features.has_negative_reference and not before.features.has_negative_reference
            assert torch.equal(features.hidden_states, before.features.hidden_states)
            assert torch.equal(features.pooled, before.features.pooled)


@torch.inference_mode()
def test_several_references(pack: Any, lay_out: Any, vision: Any) -> None:
    references = noise_image(3, count=3)
    subjects = lay_out(layout(CAT), references)[0]
    node = pack.MSDEncodeReferences
    apart = node.execute(vision, subjects, several_photos="concatenate")[0].subjects[0].features
    mean = node.execute(vision, subjects, several_photos="average")[0].subjects[0].features
    apart, mean = apart.hidden_states, mean.hidden_states
    assert apart.shape == (3, 17, 32) and mean.shape == (1, 17, 32)
    torch.testing.assert_close(mean[0], apart.mean(0))
    alone = node.execute(vision, lay_out(layout(CAT), references[1:2])[0])[0].subjects[0].features
    torch.testing.assert_close(apart[1:2], alone.hidden_states, atol=1e-5, rtol=0)
