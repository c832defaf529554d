"""MSD Layout: its outputs, boxes, references and masks; each refusal with its message."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import CAT, CUP, layout, noise_image


def test_outputs(lay_out: Any) -> None:
    subjects, masks, boxes, preview, collage, shown, *size, phrases = lay_out(
        layout(CAT, CUP), noise_image(1), noise_image(2, count=3)
    ).args
    assert size == [64, 32] and phrases == "a cat and a cup"
    first, second = subjects.subjects
    assert (first.phrase, first.box, first.weight) == ("cat", (0.0, 0.25, 0.4, 0.75), 0.5)
    assert torch.equal(second.references, noise_image(2, count=3)), (
        "a batch is references of one subject"
    )
    assert masks.shape == (2, 32, 64)
    assert masks[0, 8:24, :26].all() and masks[0].sum() == 16 * 26
    assert boxes == [
        [
            {"x": 0, "y": 8, "width": 26, "height": 16},
            {"x": 38, "y": 8, "width": 26, "height": 16},
        ]
    ]
    assert preview.shape == (1, 384, 768, 3) and preview.std() > 0.05
    assert collage.shape == (1, 32, 64, 3) and shown.shape == (1, 32, 64)
    assert shown[0, 8:24, 5:21].all() and not shown[0, :8].any()  # a square in a box 26 x 16
    assert (collage[0, :8] == 0.5).all() and collage[0, 8:24, 5:21].std() > 0.05


@pytest.mark.parametrize(
    ("phrases", "words"),
    [
        (["cat"], "a cat"),
        (["", " "], ""),
        (["cat", "", "orange cup"], "a cat and an orange cup"),
        (["umbrella", "unicorn"], "an umbrella and a unicorn"),
        (["cat", "apple", "red backpack"], "a cat, an apple and a red backpack"),
        (["my dog", "the sky", "Two birds"], "my dog, the sky and Two birds"),
        (["red glasses", "dress", "bus"], "red glasses, a dress and a bus"),
        (["Anna", "猫"], "Anna and 猫"),
    ],
)
def test_phrases_in_words(lay_out: Any, phrases: list[str], words: str) -> None:
    subjects = [{**CAT, "phrase": phrase} for phrase in phrases]
    images = [noise_image(number) for number in range(len(phrases))]
    assert lay_out(layout(*subjects), *images).args[8] == words


def test_region_replaces_the_box(lay_out: Any) -> None:
    region = torch.zeros(1, 16, 16)
    region[:, 4:8, 8:] = 0.5
    subject = lay_out(layout(CAT), noise_image(1), regions={"region_1": region})[0].subjects[0]
    assert subject.box == (0.5, 0.25, 1.0, 0.5), "grounding takes the box around it"
    assert torch.equal(subject.region, region[0])


TRIANGLE = [[0.25, 0.25], [0.75, 0.25], [0.5, 0.75]]


def test_a_polygon_is_a_region(lay_out: Any) -> None:
    """As a mask on the socket is, which goes before it; so do linked boxes."""
    shaped = {**CAT, "polygon": TRIANGLE}
    first, second = lay_out(layout(shaped, CUP), noise_image(1), noise_image(2))[0].subjects
    assert first.box == (0.25, 0.25, 0.75, 0.75) and second.region is None
    assert first.region.shape == (32, 64)
    assert first.region.mean().item() == pytest.approx(0.125, abs=1e-3)
    given = {"region_1": first.region[None]}
    by_mask = lay_out(layout(CAT, CUP), noise_image(1), noise_image(2), regions=given)
    by_polygon = lay_out(layout(shaped, CUP), noise_image(1), noise_image(2))
    assert torch.equal(by_mask[1], by_polygon[1])
    region = torch.zeros(1, 16, 16)
    region[:, 4:8, 8:] = 1
    masked = lay_out(layout(shaped), noise_image(1), regions={"region_1": region})[0].subjects[0]
    assert torch.equal(masked.region, region[0]) and masked.box == (0.5, 0.25, 1.0, 0.5)
    linked = lay_out(layout(shaped), noise_image(1), boxes="0,0,.5,1")[0].subjects[0]
    assert linked.region is None and linked.box == (0.0, 0.0, 0.5, 1.0)


def test_a_polygon_needs_no_box(lay_out: Any) -> None:
    for box in (None, [0.9, 0.9, 1.0, 1.0], CAT["box"]):
        shaped = {**CAT, "box": box, "polygon": TRIANGLE}
        assert lay_out(layout(shaped), noise_image(1))[0].subjects[0].box == (
            0.25,
            0.25,
            0.75,
            0.75,
        )


@pytest.mark.parametrize(
    "boxes",
    [
        "0.5,0.25,1,0.75; 0,0,0.5,1",
        "0.5,0.25,1,0.75\n0,0,0.5,1;",
        [{"bbox": [250, 500, 750, 1000], "type": "obj"}, {"bbox": [0, 0, 1000, 500]}],
        [
            {"x": 32, "y": 8, "width": 32, "height": 16},
            {"x": 0, "y": 0, "width": 32, "height": 32},
        ],
        [
            [
                {"x": 32, "y": 8, "width": 32, "height": 16},
                {"x": 0, "y": 0, "width": 32, "height": 32},
            ]
        ],
    ],
)
def test_boxes_of_every_form(lay_out: Any, boxes: Any) -> None:
    subjects = lay_out(layout(CAT, CUP), noise_image(1), noise_image(2), boxes=boxes)[0].subjects
    assert [s.box for s in subjects] == [(0.5, 0.25, 1.0, 0.75), (0.0, 0.0, 0.5, 1.0)]
    assert [s.weight for s in subjects] == [0.5, 1.0], "weights stay the layout's"


def test_one_box_and_phrases_of_elements(lay_out: Any) -> None:
    box = {"x": 16, "y": 8, "width": 32, "height": 16, "metadata": {"desc": "dog"}}
    subject = lay_out(None, noise_image(1), boxes=box)[0].subjects[0]
    assert (subject.phrase, subject.box) == ("dog", (0.25, 0.25, 0.75, 0.75))
    elements = [{"bbox": [0, 0, 500, 500], "desc": "bird"}]
    assert lay_out(layout(), noise_image(1), boxes=elements)[0].subjects[0].phrase == "bird"
    assert lay_out(layout(CAT), noise_image(1), boxes=elements)[0].subjects[0].phrase == "cat"


def test_boxes_are_cut_to_the_picture_and_none_means_none(lay_out: Any) -> None:
    for box in ([-0.5, 0.5, 1.5, 2.0], [-1.0, 0.5, 1.001, 1.8]):
        subjects = lay_out(layout({**CAT, "box": box}), noise_image(1))[0].subjects
        assert subjects[0].box == (0.0, 0.5, 1.0, 1.0)
    pixels = {"x": -3, "y": 16, "width": 69, "height": 18}  # as detectors give them
    subjects = lay_out(layout(CAT), noise_image(1), boxes=pixels)[0].subjects
    assert subjects[0].box == (0.0, 0.5, 1.0, 1.0)
    for box in (None, [0, 0, 0, 0]):
        subjects, masks, *_ = lay_out(layout({**CAT, "box": box}), noise_image(1)).args
        assert subjects.subjects[0].box == (0.0, 0.0, 0.0, 0.0) and not masks.any()


def test_greyscale_and_alpha(lay_out: Any) -> None:
    grey = torch.rand(1, 8, 8, 1)
    four = torch.rand(1, 8, 8, 4)
    first, second = lay_out(layout(CAT, CUP), grey, four)[0].subjects
    assert (
        torch.equal(first.references, grey.expand(-1, -1, -1, 3)) and first.reference_masks is None
    )
    assert torch.equal(second.references, four[..., :3])
    assert torch.equal(second.reference_masks, four[..., 3])
    mask = torch.rand(1, 8, 8)
    masks = {"reference_mask_1": mask}
    connected = lay_out(layout(CAT), four, reference_masks=masks)[0].subjects[0]
    assert torch.equal(connected.reference_masks, mask), "it overrides alpha"
    four[..., 3] = 1 - 1e-4  # as resizing leaves it
    assert lay_out(layout(CAT), four)[0].subjects[0].reference_masks is None
    two = torch.cat((four, torch.rand(1, 8, 8, 4)))
    masks = lay_out(layout(CAT), two)[0].subjects[0].reference_masks
    assert masks.shape == (2, 8, 8) and masks[0].min() > 0.99
    two[1, ..., 3] = 0
    with pytest.raises(ValueError, match="reference_1, picture 2, is wholly transparent"):
        lay_out(layout(CAT), two)
    four[..., 3] = 1e-4
    with pytest.raises(ValueError, match="reference_1 is wholly transparent: nothing of it"):
        lay_out(layout(CAT), four)


def test_what_is_transparent_is_not_shown(lay_out: Any, pack: Any) -> None:
    """Neither in the preview nor in the thumbnail: transparent pixels may hold anything."""
    import folder_paths
    from PIL import Image

    white = torch.ones(1, 40, 40, 4)
    white[:, :, 20:, 3] = 0
    out = lay_out(layout({**CAT, "box": [0, 0, 1, 1]}), white, width=64, height=64)
    preview = out.args[3][0]
    assert preview[400, 200].min() > 0.6 and preview[400, 560].max() < 0.2
    (name,) = out.ui["msd_references"]
    thumbnail = Image.open(Path(folder_paths.get_temp_directory()) / name)
    assert thumbnail.getpixel((5, 20)) == (255, 255, 255, 255)
    assert thumbnail.getpixel((35, 20))[3] == 0


def test_the_editor_gets_a_copy_of_each_region(lay_out: Any) -> None:
    import folder_paths
    from PIL import Image

    region = torch.zeros(1, 600, 300)
    region[:, :300] = 0.5
    given = {"region_2": region}
    out = lay_out(layout(CAT, CUP), noise_image(1), noise_image(2), regions=given)
    none, name = out.ui["msd_regions"]
    copy = Image.open(Path(folder_paths.get_temp_directory()) / name)
    assert none == "" and copy.size == (128, 256) and copy.mode == "L"
    assert (copy.getpixel((64, 60)), copy.getpixel((64, 200))) == (128, 0)


REFUSED = [
    ([], "layout must be an object"),
    ({"version": 1}, "layout must be an object"),
    ({"version": 7, "subjects": []}, "layout has version 7, this pack reads versions up to 2"),
    (layout({**CAT, "off": 1}), "layout, subject 1: off must be true or false, got 1"),
    (layout({**CAT, "front": 17}), "subject 1: front must be a whole number from 0 to 16, got 17"),
    (layout({**CAT, "front": -1}), "subject 1: front must be a whole number from 0 to 16, got -1"),
    (layout({**CAT, "front": True}), "subject 1: front must be a whole number from 0 to 16, got T"),
    (
        layout({**CAT, "front": 1.5}),
        "subject 1: front must be a whole number from 0 to 16, got 1.5",
    ),
    (layout("cat"), "layout, subject 1 must be an object"),
    (layout(CAT, {**CUP, "phrase": 3}), "layout, subject 2: phrase must be text, got 3"),
    (
        layout({**CAT, "weight": "much"}),
        "subject 1: weight must be a number from 0 to 10, got 'much'",
    ),
    (
        layout({**CAT, "weight": float("nan")}),
        "subject 1: weight must be a number from 0 to 10, got nan",
    ),
    (
        layout({**CAT, "weight": True}),
        "subject 1: weight must be a number from 0 to 10, got True",
    ),
    (
        layout({**CAT, "box": [0, 0, 1]}),
        r"subject 1: box must be four numbers, got \[0, 0, 1\]",
    ),
    (layout({**CAT, "box": [0, 0, 1, float("inf")]}), "subject 1: box must be four numbers"),
    (layout({**CAT, "box": ["0", "0", "1", "1"]}), "subject 1: box must be four numbers"),
    (layout({**CAT, "box": [0.6, 0.25, 0.6, 0.75]}), "box 0.60,0.25,0.60,0.75 has no area"),
    (layout({**CAT, "box": [0.7, 0, 0.2, 1]}), "box 0.70,0.00,0.20,1.00 has no area"),
    (layout({**CAT, "box": [1.1, 0, 1.2, 1]}), "has no area in the picture"),
    (
        layout(CAT, {**CUP, "box": [0, 0, 512, 1024]}),
        "layout, subject 2: box must be x0,y0,x1,y1 in 0..1 of the picture; 0,0,512,1024 looks "
        "like pixels. Divide x by the picture's width and y by its height.",
    ),
    (layout({**CAT, "box": [0, 0, 500, 1000]}), "0,0,500,1000 looks like per mille or pixels"),
    (layout({**CAT, "box": [1, 1, 50, 100]}), "1,1,50,100 looks like percent"),
    (layout({**CAT, "box": [12.5, 0, 62.5, 100]}), "12.5,0,62.5,100 looks like percent"),
    (layout({**CAT, "box": [0, 0, 2, 2]}), "0,0,2,2 looks like percent"),
    (layout({**CAT, "box": [0.1, 0.1, 0.5, 2.1]}), "0.1,0.1,0.5,2.1 looks like percent"),
    (layout({**CAT, "box": [-512, 0, 0.5, 1]}), "looks like per mille or pixels"),
    (layout(*[CAT] * 17), "layout has 17 subjects; at most 16"),
]


@pytest.mark.parametrize("value, message", REFUSED)
def test_wrong_layouts(pack: Any, lay_out: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lay_out(value, noise_image(1), noise_image(2))
    with pytest.raises(AssertionError if pack.MSDLayout.validate_inputs(value) is True else
                       ValueError, match=message):  # fmt: skip
        raise ValueError(pack.MSDLayout.validate_inputs(value))


@pytest.mark.parametrize(
    "boxes, message",
    [
        ("0,0,1", "boxes, box 1: expected x0,y0,x1,y1, got '0,0,1'"),
        ("0,0,1,1;a,b,c,d", "boxes, box 2: expected x0,y0,x1,y1, got 'a,b,c,d'"),
        ("0,0,512,1024;0,0,1,1", "boxes, box 1: .* 0,0,512,1024 looks like pixels"),
        ("0,0,0.5,1;512,0,1024,1024", "boxes, box 2: .* 512,0,1024,1024 looks like pixels"),
        (
            "0,0,50,100;50,0,100,100",
            "box 1: .* 0,0,50,100 looks like percent. Divide it by 100",
        ),
        ("0,0,500,1000;0,0,1,1", "looks like per mille or pixels. Divide it by 1000"),
        (
            [{"bbox": [0, 0, 1024, 512]}],
            "boxes, box 1: an element's bbox is ymin, xmin, ymax, xmax in 0..1000 of the "
            "picture; 0,0,1024,512 looks like pixels",
        ),
        ([{"bbox": [-1, 0, 500, 500]}], "-1,0,500,500 looks like pixels"),
        ([{"bbox": [0, 0.5, 1, 1]}], "0,0.5,1,1 looks like 0..1"),
        (
            {"x": 512, "y": 0, "width": 512, "height": 1024},
            "boxes, box 1: a bounding box is x, y, width, height in pixels of the 64 x 32 "
            "picture; 512,0,512,1024 lies far outside",
        ),
        ({"x": 0.5, "y": 0, "width": 0.5, "height": 1}, "0.5,0,0.5,1 looks like 0..1"),
        ("0,0,1,1", "boxes: got 1 for 2 references"),
        ([{"x": 1}] * 2, "boxes, box 1: expected x, y, width and height, got {'x': 1}"),
        (3, "boxes: expected boxes, got 3"),
        ([3, 4], "boxes, box 1: expected a box, got 3"),
    ],
)
def test_wrong_boxes(lay_out: Any, boxes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lay_out(layout(CAT, CUP), noise_image(1), noise_image(2), boxes=boxes)


def test_a_subject_without_reference_is_left_out(
    lay_out: Any, caplog: pytest.LogCaptureFixture
) -> None:
    subjects, masks, *_ = lay_out(layout(CAT, CUP, CAT), noise_image(1)).args
    assert [subject.phrase for subject in subjects.subjects] == ["cat"] and len(masks) == 1
    for number in (2, 3):
        assert (
            f"Subject {number} has no reference and is left out. Connect reference_{number}, or "
            "remove the subject from the layout." in caplog.text
        )


def test_a_subject_that_is_off_is_left_out(lay_out: Any, pack: Any) -> None:
    """The others keep their sockets; its own need nothing connected."""
    off = {**CAT, "off": True}
    images = [noise_image(number) for number in range(3)]
    out = lay_out(layout(CUP, off, CAT), *images)
    first, second = out.args[0].subjects
    assert (first.phrase, second.phrase, out.args[8]) == ("cup", "cat", "a cup and a cat")
    assert torch.equal(second.references, images[2])
    assert out.args[1].shape[0] == len(out.args[2][0]) == 2
    assert out.ui["msd_references"][1] == "" and all(out.ui["msd_references"][::2])
    shown = json.loads(out.ui["msd_layout"][0])["boxes"]
    assert shown == [CUP["box"], CAT["box"], CAT["box"]], "the editor counts every subject"
    linked = lay_out(layout(CUP, off, CAT), *images, boxes="0,0,1,1; 0,0,.5,1; 0,0,.5,.5")[0]
    assert [s.box for s in linked.subjects] == [(0, 0, 1, 1), (0, 0, 0.5, 0.5)]
    references = {"reference_1": images[0], "reference_3": images[2]}
    without = pack.MSDLayout.execute(references, 64, 32, layout=layout(CUP, off, CAT))
    assert [s.phrase for s in without.args[0].subjects] == ["cup", "cat"]
    with pytest.raises(ValueError, match="layout: every subject is off"):
        lay_out(layout(off), images[0])


def test_what_was_brought_to_the_front_covers_the_others_in_the_collage(lay_out: Any) -> None:
    """Only there and in the preview: the subjects that act on the picture stay the same."""
    whole = {**CAT, "box": [0, 0, 1, 1]}
    black, white = torch.zeros(1, 8, 16, 3), torch.ones(1, 8, 16, 3)
    small = lay_out(layout(CUP, whole), white, black).args
    large = lay_out(layout(CUP, {**whole, "front": 1}), white, black).args
    assert small[4].max() == 1 and large[4].max() == 0
    assert not torch.equal(small[3], large[3])
    assert torch.equal(small[1], large[1]) and small[2] == large[2]
    off = {**CAT, "front": 3, "off": True}
    mixed = lay_out(layout(CUP, off, {**whole, "front": 1}), white, white, black)
    assert mixed.args[4].max() == 0


def test_a_reference_without_a_subject(lay_out: Any) -> None:
    with pytest.raises(
        ValueError, match="layout: subject 2 has a reference, but nothing says where"
    ):
        lay_out(layout(CAT), noise_image(1), noise_image(2))


def test_a_missing_reference_leaves_its_subject_out(pack: Any) -> None:
    """Muted, bypassed or unplugged, wherever it is; boxes of the others stay theirs."""
    run = pack.MSDLayout.execute
    second = {"reference_2": noise_image(2)}
    out = run(second, 64, 64, layout=layout(CAT, CUP))
    (only,) = out.args[0].subjects
    assert only.phrase == "cup" and out.ui["msd_references"][0] == ""
    assert json.loads(out.ui["msd_layout"][0])["boxes"] == [CAT["box"], CUP["box"]]
    first = {"reference_1": noise_image(1)}
    for references, box in ((first, (0, 0, 0.5, 1)), (second, (0.5, 0, 1, 1))):
        out = run(references, 64, 64, layout=layout(CAT, CUP), boxes="0,0,.5,1; .5,0,1,1")
        assert [one.box for one in out.args[0].subjects] == [box]
    with pytest.raises(ValueError, match="boxes: got 2 for 1 references"):
        run(first, 64, 64, layout=layout(CAT), boxes="0,0,.5,1; .5,0,1,1")
    for nothing in ({}, None, {"reference_1": None}):
        with pytest.raises(ValueError, match="reference_1: no reference is connected"):
            run(nothing, 64, 64, layout=layout(CAT))


WRONG_REFERENCES = [
    (torch.full((1, 8, 8, 3), float("nan")), "holds pixels that are not numbers"),
    (torch.tensor([1.0, 1.0, 1.0, torch.inf]).expand(1, 8, 8, 4), "pixels that are not number"),
    (torch.zeros(0, 8, 8, 3), " holds no picture: its batch is empty"),
    (torch.zeros(1, 0, 8, 3), r": its picture has no pixels, its shape is \(1, 0, 8, 3\)"),
    (torch.rand(1, 8, 8, 2), r": expected 1 .grey., 3 .RGB. or 4 .RGBA. channels, got 2"),
    (torch.rand(1, 8, 8, 5), "channels, got 5. Convert it to RGB"),
    (torch.rand(1, 8, 8, 0), "channels, got 0|has no pixels"),
    (torch.rand(8, 8, 3), r"expected a picture of shape .*, got \(8, 8, 3\)"),
    (torch.rand(1, 1, 8, 8, 3), r"expected a picture of shape .*, got \(1, 1, 8, 8, 3\)"),
    ([torch.rand(8, 8, 3)], "expected a picture of shape .*, got list"),
    (
        torch.full((1, 8, 8, 3), 200, dtype=torch.uint8),
        r"whole numbers \(torch.uint8\). Divide",
    ),
    (torch.ones(1, 8, 8, 3, dtype=torch.bool), r"whole numbers \(torch.bool\)"),
    (torch.full((1, 8, 8, 3), 200.0), "expected pixels in 0..1, got values up to 200. Divide"),
]


@pytest.mark.parametrize("reference, message", WRONG_REFERENCES)
def test_wrong_references(lay_out: Any, reference: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^reference_2.*" + message):
        lay_out(layout(CAT, CUP), noise_image(1), reference)


def test_references_of_other_precision(lay_out: Any) -> None:
    bright = torch.full((1, 8, 8, 3), 1.5)  # HDR
    for reference in (bright, bright.half(), bright.bfloat16(), bright.double()):
        references = lay_out(layout(CAT), reference)[0].subjects[0].references
        assert references.dtype == torch.float32 and (references == 1).all()


WRONG_MASKS = [
    (torch.full((1, 8, 8), float("inf")), " holds values that are not numbers"),
    (torch.zeros(0, 8, 8), " holds no mask: its batch is empty"),
    (torch.ones(1, 8, 0), r": its mask has no pixels, its shape is \(1, 8, 0\)"),
    (torch.ones(0, 0), r": its mask has no pixels|holds no mask"),
    (torch.ones(8), r": expected a mask of shape .*, got \(8,\)"),
    (torch.tensor(1.0), r": expected a mask of shape .*, got \(\)"),
    (torch.ones(1, 8, 8, 3), "expected a mask of shape .* Convert Image to Mask"),
    (torch.ones(1, 1, 1, 8, 8), "expected a mask of shape"),
    ("white", "expected a mask of shape .*, got str"),
    (
        torch.full((1, 8, 8), 255, dtype=torch.uint8),
        "whole numbers up to 255. Divide it by 255",
    ),
]


@pytest.mark.parametrize("mask, message", WRONG_MASKS)
@pytest.mark.parametrize("name", ["reference_mask", "region"])
def test_wrong_masks(lay_out: Any, name: str, mask: Any, message: str) -> None:
    given = {f"{name}s": {f"{name}_2": mask}}
    with pytest.raises(ValueError, match=f"^{name}_2.*{message}"):
        lay_out(layout(CAT, CUP), noise_image(1), noise_image(2), **given)


@pytest.mark.parametrize(
    "mask, message",
    [
        (torch.ones(2, 8, 8), "reference_mask_1: got 2 masks for a batch of 3"),
        (torch.zeros(1, 64, 64), "reference_mask_1 is all black: nothing of reference_1"),
        (torch.eye(3)[:, :, None] * torch.tensor([1, 0, 1])[:, None, None],
         "reference_mask_1, mask 2, is all black"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit(lay_out: Any, mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lay_out(layout(CAT), noise_image(1, count=3), reference_masks={"reference_mask_1": mask})


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bool, torch.uint8, torch.int64])
def test_masks_of_other_forms(lay_out: Any, shape: Any, dtype: Any) -> None:
    mask = torch.ones(shape, dtype=dtype)
    given = {"reference_masks": {"reference_mask_1": mask}, "regions": {"region_1": mask}}
    subject = lay_out(layout(CAT), noise_image(1), **given)[0].subjects[0]
    assert (subject.reference_masks > 0.999).all() and subject.region.shape == (8, 8)


def test_masks_take_the_references_size(lay_out: Any) -> None:
    masks = {"reference_mask_1": torch.ones(1, 5, 7)}
    subject = lay_out(layout(CAT), noise_image(1, count=2), reference_masks=masks)[0].subjects[0]
    assert subject.reference_masks.shape == (2, 20, 30)


def test_the_saved_copy_of_a_layout(pack: Any) -> None:
    """What a graph runs with if its front end couldn't load the editor."""
    saved_layout = pack.module("nodes.layout.node")._saved_layout
    node = {"id": 7, "type": "MSDLayout", "properties": {"msd_layout": layout(CAT)}}
    inner = {"id": "abc", "nodes": [node]}
    outer = {"id": 3, "type": "abc", "properties": {}}
    graph = {"nodes": [node, outer], "definitions": {"subgraphs": [inner]}}
    assert saved_layout({"workflow": graph}, "7") == layout(CAT)
    assert saved_layout({"workflow": graph}, "3:7") == layout(CAT)
    for wrong, path in (
        (graph, "8"),
        (graph, "7:7"),
        ({}, "7"),
        ({"nodes": [3]}, "7"),
        (3, "7"),
    ):
        assert saved_layout({"workflow": wrong}, path) is None
    assert saved_layout(None, "7") is None
