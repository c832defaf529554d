"""The nodes before MSDApply: layouts, boxes, references, phrases; each refusal with its words."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import build_clip
from safetensors.torch import save_file

from lab.host.in_process import run_node

CAT = {"phrase": "cat", "box": [0.0, 0.25, 0.4, 0.75], "weight": 0.5}
CUP = {"phrase": "cup", "box": [0.6, 0.25, 1.0, 0.75], "weight": 1.0}


def layout(*subjects: Any) -> dict[str, Any]:
    return {"version": 1, "subjects": list(subjects)}


def noise_image(seed: int, height: int = 20, width: int = 30, count: int = 1) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def lay_out(pack: Any) -> Any:
    """Run MSDLayout: lay_out(layout value, pictures..., **more inputs)."""

    def run(value: Any, *pictures: Any, width: int = 64, height: int = 32, **more: Any) -> Any:
        references = {f"reference_{n}": picture for n, picture in enumerate(pictures, 1)}
        return pack.MSDLayout.execute(references, width, height, layout=value, **more)

    return run


class TestLayout:
    def test_outputs(self, lay_out: Any) -> None:
        subjects, masks, boxes, preview = lay_out(
            layout(CAT, CUP), noise_image(1), noise_image(2, count=3)
        ).args
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

    def test_region_replaces_the_box(self, lay_out: Any) -> None:
        region = torch.zeros(1, 16, 16)
        region[:, 4:8, 8:] = 0.5
        subject = lay_out(layout(CAT), noise_image(1), regions={"region_1": region})[0].subjects[0]
        assert subject.box == (0.5, 0.25, 1.0, 0.5), "grounding takes the box around it"
        assert torch.equal(subject.region, region[0])

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
    def test_boxes_of_every_form(self, lay_out: Any, boxes: Any) -> None:
        subjects = lay_out(layout(CAT, CUP), noise_image(1), noise_image(2), boxes=boxes)[
            0
        ].subjects
        assert [s.box for s in subjects] == [(0.5, 0.25, 1.0, 0.75), (0.0, 0.0, 0.5, 1.0)]
        assert [s.weight for s in subjects] == [0.5, 1.0], "weights stay the layout's"

    def test_one_box_and_phrases_of_elements(self, lay_out: Any) -> None:
        box = {"x": 16, "y": 8, "width": 32, "height": 16, "metadata": {"desc": "dog"}}
        subject = lay_out(None, noise_image(1), boxes=box)[0].subjects[0]
        assert (subject.phrase, subject.box) == ("dog", (0.25, 0.25, 0.75, 0.75))
        elements = [{"bbox": [0, 0, 500, 500], "desc": "bird"}]
        assert lay_out(layout(), noise_image(1), boxes=elements)[0].subjects[0].phrase == "bird"
        assert lay_out(layout(CAT), noise_image(1), boxes=elements)[0].subjects[0].phrase == "cat"

    def test_boxes_are_cut_to_the_picture_and_none_means_none(self, lay_out: Any) -> None:
        for box in ([-0.5, 0.5, 1.5, 2.0], [-1.0, 0.5, 1.001, 1.8]):
            subjects = lay_out(layout({**CAT, "box": box}), noise_image(1))[0].subjects
            assert subjects[0].box == (0.0, 0.5, 1.0, 1.0)
        pixels = {"x": -3, "y": 16, "width": 69, "height": 18}  # as detectors give them
        subjects = lay_out(layout(CAT), noise_image(1), boxes=pixels)[0].subjects
        assert subjects[0].box == (0.0, 0.5, 1.0, 1.0)
        for box in (None, [0, 0, 0, 0]):
            subjects, masks, *_ = lay_out(layout({**CAT, "box": box}), noise_image(1)).args
            assert subjects.subjects[0].box == (0.0, 0.0, 0.0, 0.0) and not masks.any()

    def test_greyscale_and_alpha(self, lay_out: Any) -> None:
        grey = torch.rand(1, 8, 8, 1)
        four = torch.rand(1, 8, 8, 4)
        first, second = lay_out(layout(CAT, CUP), grey, four)[0].subjects
        assert (
            torch.equal(first.references, grey.expand(-1, -1, -1, 3))
            and first.reference_masks is None
        )
        assert torch.equal(second.references, four[..., :3])
        assert torch.equal(second.reference_masks, four[..., 3])
        mask = torch.rand(1, 8, 8)
        masks = {"reference_mask_1": mask}
        connected = lay_out(layout(CAT), four, reference_masks=masks)[0].subjects[0]
        assert torch.equal(connected.reference_masks, mask), "it goes before alpha"
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

    def test_what_is_transparent_is_not_shown(self, lay_out: Any, pack: Any) -> None:
        """Neither in the preview nor in the thumbnail: there cut-outs often hold anything."""
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

    REFUSED = [
        ([], "layout must be an object"),
        ({"version": 1}, "layout must be an object"),
        ({"version": 7, "subjects": []}, "layout has version 7, this pack reads version 1"),
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
    def test_wrong_layouts(self, pack: Any, lay_out: Any, value: Any, message: str) -> None:
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
    def test_wrong_boxes(self, lay_out: Any, boxes: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            lay_out(layout(CAT, CUP), noise_image(1), noise_image(2), boxes=boxes)

    def test_references_and_layout_must_match(self, lay_out: Any) -> None:
        with pytest.raises(ValueError, match="layout: subject 2 has no reference"):
            lay_out(layout(CAT, CUP), noise_image(1))
        with pytest.raises(
            ValueError, match="layout: subject 2 has a reference, but nothing says where"
        ):
            lay_out(layout(CAT), noise_image(1), noise_image(2))

    def test_wrong_order_of_pictures(self, pack: Any) -> None:
        with pytest.raises(ValueError, match="reference_1 is not connected, a later one is"):
            pack.MSDLayout.execute({"reference_2": noise_image(2)}, 64, 64, layout=layout(CAT))

    WRONG_PICTURES = [
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

    @pytest.mark.parametrize("picture, message", WRONG_PICTURES)
    def test_wrong_pictures(self, lay_out: Any, picture: Any, message: str) -> None:
        with pytest.raises(ValueError, match="^reference_2.*" + message):
            lay_out(layout(CAT, CUP), noise_image(1), picture)

    def test_pictures_of_other_precision(self, lay_out: Any) -> None:
        bright = torch.full((1, 8, 8, 3), 1.5)  # HDR
        for picture in (bright, bright.half(), bright.bfloat16(), bright.double()):
            references = lay_out(layout(CAT), picture)[0].subjects[0].references
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
    def test_wrong_masks(self, lay_out: Any, name: str, mask: Any, message: str) -> None:
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
    def test_masks_that_do_not_fit(self, lay_out: Any, mask: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            lay_out(
                layout(CAT), noise_image(1, count=3), reference_masks={"reference_mask_1": mask}
            )

    @pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 8, 8)])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bool, torch.uint8, torch.int64])
    def test_masks_of_other_forms(self, lay_out: Any, shape: Any, dtype: Any) -> None:
        mask = torch.ones(shape, dtype=dtype)
        given = {"reference_masks": {"reference_mask_1": mask}, "regions": {"region_1": mask}}
        subject = lay_out(layout(CAT), noise_image(1), **given)[0].subjects[0]
        assert (subject.reference_masks > 0.999).all() and subject.region.shape == (8, 8)

    def test_the_saved_copy_of_a_layout(self, pack: Any) -> None:
        """What a graph runs by whose front end couldn't load the editor."""
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


def ellipse(height: int, width: int, x: float, y: float, rx: float, ry: float) -> torch.Tensor:
    """A mask [H, W] of an ellipse; x, y, rx, ry in 0..1."""
    rows = (torch.arange(height) + 0.5)[:, None] / height
    columns = (torch.arange(width) + 0.5)[None] / width
    return (((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 <= 1).float()


class TestInvertedMasks:
    """Load Image's mask of a cut-out is white where the subject isn't."""

    SUBJECTS = {
        "centred": ellipse(90, 60, 0.5, 0.5, 0.35, 0.4),
        "small": ellipse(200, 200, 0.5, 0.5, 0.18, 0.18),
        "of few pixels": ellipse(8, 8, 0.5, 0.5, 0.3, 0.3),
        "wide": ellipse(64, 256, 0.5, 0.55, 0.45, 0.3),
        "beside the middle": ellipse(100, 100, 0.4, 0.6, 0.3, 0.3),
        "soft": torch.nn.functional.avg_pool2d(
            ellipse(100, 100, 0.5, 0.5, 0.35, 0.35)[None], 9, 1, 4
        )[0],
        "touching the lower edge": ellipse(100, 80, 0.5, 0.9, 0.4, 0.75),
        "touching two edges": ellipse(80, 80, 0.5, 0.5, 0.6, 0.4),
    }
    RIGHT = {
        **SUBJECTS,
        "full": torch.ones(40, 40),
        "of one pixel": torch.ones(1, 1),
        "touching all edges": ellipse(80, 80, 0.5, 0.5, 0.65, 0.65),
        "with holes": 1 - ellipse(80, 80, 0.3, 0.3, 0.1, 0.1),
        "grey": torch.full((40, 40), 0.7),
        "half": (torch.arange(40)[None] < 20).float().expand(40, 40),
        "in a corner": ellipse(80, 80, 0.1, 0.1, 0.3, 0.3),
    }

    @pytest.mark.parametrize("name", SUBJECTS)
    def test_inverted(self, pack: Any, name: str) -> None:
        assert pack.module("nodes.layout.references").looks_inverted(1 - self.SUBJECTS[name])

    @pytest.mark.parametrize("name", RIGHT)
    def test_the_right_way_round(self, pack: Any, name: str) -> None:
        assert not pack.module("nodes.layout.references").looks_inverted(self.RIGHT[name])

    def test_it_is_told_and_runs(self, pack: Any, monkeypatch: Any, caplog: Any) -> None:
        sent = []
        module = pack.module("nodes.node_text")
        monkeypatch.setattr(
            module.PromptServer.instance, "send_progress_text", lambda *text: sent.append(text)
        )

        class Hidden:
            unique_id, extra_pnginfo, prompt = "7", None, None

        node = type("Node", (pack.MSDLayout,), {"hidden": Hidden()})
        subject = ellipse(40, 40, 0.5, 0.5, 0.3, 0.3)[None]

        def run(picture: Any, **masks: Any) -> Any:
            given = {"reference_1": picture}
            return node.execute(given, 64, 64, reference_masks=masks, layout=layout(CAT))

        run(noise_image(1), reference_mask_1=subject)
        assert sent == []
        assert (
            run(noise_image(1), reference_mask_1=1 - subject)[0].subjects[0].reference_masks
            is not None
        )
        text = "Subject 1: is reference_mask_1 inverted? It keeps the border of reference_1 and"
        assert sent[0][0].startswith(text) and sent[0][1] == "7" and text in caplog.text
        run(noise_image(1), reference_mask_1=subject)
        assert sent[1:] == [("No warnings.", "7")], "an earlier text stays until another one comes"
        run(torch.cat((noise_image(1, 40, 40), 1 - subject[..., None]), -1))
        assert "is the alpha of reference_1 inverted?" in sent[2][0]


class TestReferences:
    def test_background_and_fit(self, pack: Any) -> None:
        prepare = pack.module("nodes.encode_references").prepare_reference
        picture = torch.ones(40, 80, 3)
        mask = torch.zeros(40, 80)
        mask[:, :40] = 1
        black = prepare(picture, mask, "stretch", "black", 32)
        assert black.shape == (32, 32, 3) and black[:, :14].min() == 1 and black[:, 18:].max() == 0
        grey = prepare(picture, mask, "stretch", "grey", 32)
        assert torch.allclose(grey[:, 18:], torch.tensor(128 / 255))
        assert prepare(picture, mask, "stretch", "keep", 32).min() == 1
        padded = prepare(picture, None, "pad", "black", 32)
        assert padded[:6].max() == 0 and padded[10:22].min() == 1
        # the crop keeps the middle half of the width, of which the mask covers the left half
        cropped = prepare(picture, mask, "crop", "black", 32)
        assert cropped[:, :14].min() == 1 and cropped[:, 18:].max() == 0

    def test_masks_take_the_references_size(self, lay_out: Any) -> None:
        masks = {"reference_mask_1": torch.ones(1, 5, 7)}
        subject = lay_out(layout(CAT), noise_image(1, count=2), reference_masks=masks)[0].subjects[
            0
        ]
        assert subject.reference_masks.shape == (2, 20, 30)

    @pytest.fixture
    def vision(self, tmp_path: Path) -> Any:
        import comfy.clip_vision

        config = {
            "model_type": "clip_vision_model", "hidden_size": 32, "num_channels": 3,
            "patch_size": 8, "image_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3,
            "intermediate_size": 32, "hidden_act": "gelu", "projection_dim": 16,
        }  # fmt: skip
        (tmp_path / "vision.json").write_text(json.dumps(config))
        vision = comfy.clip_vision.ClipVisionModel(str(tmp_path / "vision.json"))
        vision.model.float()
        for number, parameter in enumerate(vision.model.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        return vision

    def test_only_what_changed_is_encoded_anew(
        self, pack: Any, lay_out: Any, vision: Any, monkeypatch: Any
    ) -> None:
        encoded, encode_image = [], vision.encode_image

        def count(pictures: Any, **options: Any) -> Any:
            encoded.append(len(pictures))
            return encode_image(pictures, **options)

        monkeypatch.setattr(vision, "encode_image", count)
        run = pack.MSDEncodeReferences.execute
        four = layout(CAT, CUP, CAT, CUP)
        first = run(vision, lay_out(four, *map(noise_image, (1, 2, 3, 4)))[0])[0].subjects
        second = run(vision, lay_out(four, *map(noise_image, (1, 2, 5, 4)))[0])[0].subjects
        assert encoded == [1] * 5
        same = [torch.equal(a.features, b.features) for a, b in zip(first, second, strict=True)]
        assert same == [True, True, False, True]
        run(vision, lay_out(four, *map(noise_image, (1, 2, 5, 4)))[0], fit="crop")
        assert encoded == [1] * 9

    @torch.inference_mode()
    def test_several_references(self, pack: Any, lay_out: Any, vision: Any) -> None:
        references = noise_image(3, count=3)
        subjects = lay_out(layout(CAT), references)[0]
        node = pack.MSDEncodeReferences
        apart = node.execute(vision, subjects, several_photos="concatenate")[0].subjects[0].features
        mean = node.execute(vision, subjects, several_photos="average")[0].subjects[0].features
        assert apart.shape == (3, 17, 32) and mean.shape == (1, 17, 32)
        torch.testing.assert_close(mean[0], apart.mean(0))
        alone = (
            node.execute(vision, lay_out(layout(CAT), references[1:2])[0])[0].subjects[0].features
        )
        torch.testing.assert_close(apart[1:2], alone, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: Any) -> Any:
    """The host's SDXL CLIP with a CLIP-L as wide as golden set d's phrases."""
    config = {"hidden_size": 40, "num_attention_heads": 4, "intermediate_size": 40,
              "num_hidden_layers": 3}  # fmt: skip
    embeddings = tmp_path_factory.mktemp("embeddings")
    two = {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}
    save_file(two, embeddings / "two.safetensors")
    built = build_clip(config, str(embeddings))
    with torch.no_grad():
        for number, parameter in enumerate(built.cond_stage_model.parameters()):
            if parameter.ndim:
                generator = torch.Generator().manual_seed(number)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return built


class TestGrounding:
    @pytest.fixture
    def encoded(self, pack: Any, lay_out: Any) -> Any:
        subjects = lay_out(layout(CAT, CUP), noise_image(1), noise_image(2))[0]
        return replace(
            subjects,
            subjects=tuple(
                replace(s, features=torch.randn(n, 10, 48))
                for n, s in enumerate(subjects.subjects, 1)
            ),
        )

    @torch.inference_mode()
    def test_tokens_are_the_resampler_s(
        self, pack: Any, adapters: Any, clip: Any, encoded: Any
    ) -> None:
        adapter = adapters["tiny"]
        grounded = pack.MSDGroundReferences.execute(adapter, clip, encoded)[0].subjects
        assert [s.image_tokens.shape for s in grounded] == [(1, 16, 64), (2, 16, 64)]
        assert {s.adapter_digest for s in grounded} == {adapter.model.digest} != {None}
        embeds = pack.module("nodes.ground_references").phrase_embeds(clip, ["cup"])
        expected = adapter.model.resampler(
            encoded.subjects[1].features, embeds.expand(2, -1),
            torch.tensor([CUP["box"]] * 2), torch.zeros(2, dtype=torch.bool),
        )  # fmt: skip
        torch.testing.assert_close(grounded[1].image_tokens, expected, atol=1e-5, rtol=0)
        dropped = pack.MSDGroundReferences.execute(adapter, clip, encoded, False)[0].subjects
        assert not torch.allclose(dropped[1].image_tokens, expected, atol=1e-2)

    @torch.inference_mode()
    def test_only_a_new_phrase_is_encoded(
        self, pack: Any, adapters: Any, clip: Any, encoded: Any, monkeypatch: Any
    ) -> None:
        """Where a box moves the text encoder isn't needed, nor another subject's phrase again."""
        seen, tokenize = [], clip.tokenize

        def count(text: str, **options: Any) -> Any:
            seen.append(text)
            return tokenize(text, **options)

        monkeypatch.setattr(clip, "tokenize", count)
        hat, mug = (
            replace(s, phrase=p) for s, p in zip(encoded.subjects, ("a hat", "a mug"), strict=True)
        )
        for subject in (hat, replace(hat, box=(0.0, 0.0, 0.3, 1.0)), replace(hat, phrase="a lamp")):
            changed = replace(encoded, subjects=(subject, mug))
            pack.MSDGroundReferences.execute(adapters["tiny"], clip, changed)
        assert seen == ["a hat", "a mug", "a lamp"]

    @torch.inference_mode()
    def test_a_lora_on_clip(self, pack: Any, clip: Any) -> None:
        """The phrases are encoded with it, and without it as before."""
        from comfy.weight_adapter import LoRAAdapter

        embed, patched = pack.module("nodes.ground_references").phrase_embeds, clip.clone()
        patches = {}
        for key, weight in clip.cond_stage_model.state_dict().items():
            if key.startswith("clip_l.") and key.endswith("v_proj.weight"):
                up, down = torch.randn(len(weight), 2), torch.randn(2, weight.shape[1])
                patches[key] = LoRAAdapter(set(), (up, down, 2.0, None, None, None))
        assert len(patched.add_patches(patches, 1.0)) == len(patches) > 0
        without, with_it = embed(clip, ["cup"]), embed(patched, ["cup"])
        assert not torch.allclose(with_it, without, atol=1e-2)
        assert torch.equal(embed(clip.clone(), ["cup"]), without)

    @torch.inference_mode()
    def test_only_what_changed_is_grounded_anew(
        self, pack: Any, adapters: Any, clip: Any, encoded: Any, monkeypatch: Any
    ) -> None:
        adapter, grounded = adapters["tiny"], []
        handle = adapter.model.resampler.register_forward_hook(lambda *_: grounded.append(1))
        run = pack.MSDGroundReferences.execute
        cat, cup = encoded.subjects
        first = run(adapter, clip, encoded)[0].subjects
        moved = replace(encoded, subjects=(cat, replace(cup, box=(0.1, 0.1, 0.3, 0.9))))
        second = run(adapter, clip, moved)[0].subjects
        named = replace(encoded, subjects=(replace(cat, phrase="dog"), cup))
        run(adapter, clip, named)
        handle.remove()
        assert len(grounded) == 4
        assert torch.equal(first[0].image_tokens, second[0].image_tokens)
        assert not torch.equal(first[1].image_tokens, second[1].image_tokens)

    def test_refusals(
        self, pack: Any, adapters: Any, clip: Any, encoded: Any, lay_out: Any
    ) -> None:
        node, adapter = pack.MSDGroundReferences, adapters["tiny"]
        with pytest.raises(ValueError, match="subject 1 has no image features"):
            node.execute(adapter, clip, lay_out(layout(CAT), noise_image(1))[0])
        wide = replace(encoded.subjects[0], features=torch.zeros(1, 257, 1280))
        message = r"needs image features of another encoder \(48 wide\), got those of CLIP-ViT-H-14"
        with pytest.raises(ValueError, match=message):
            node.execute(adapter, clip, replace(encoded, subjects=(wide,)))
        narrow = build_clip({"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 40,
                             "num_hidden_layers": 3})  # fmt: skip
        with pytest.raises(ValueError, match="text encoder is 64 wide, the adapter needs 40"):
            node.execute(adapter, narrow, encoded)

        class NoClipL:
            cond_stage_model = torch.nn.Module()

        with pytest.raises(ValueError, match="clip: it has no CLIP-L"):
            node.execute(adapter, NoClipL(), encoded)

    def test_wrong_encoder_is_named_for_the_release(self, pack: Any) -> None:
        check = pack.module("nodes.ground_references")._checked_features
        needs = pack.module("msd_core.adapters.family").Needs
        with pytest.raises(ValueError) as caught:
            check(torch.zeros(1, 257, 1280), needs("CLIP-ViT-bigG-14", 1664, 768), 2)
        assert str(caught.value) == (
            "subjects: the adapter needs image features of CLIP-ViT-bigG-14 (1664 wide), got those "
            "of CLIP-ViT-H-14 (1280 wide). Load CLIP-ViT-bigG-14 in Load CLIP Vision."
        )

    @torch.inference_mode()
    def test_phrases_are_bare_and_options_are_put_back(self, pack: Any, clip: Any) -> None:
        embeds = pack.module("nodes.ground_references").phrase_embeds
        before = clip.cond_stage_model.clip_l.return_projected_pooled
        weighted = embeds(clip, ["(dog:1.2)"])
        assert not torch.allclose(weighted, embeds(clip, ["dog"])), "syntax is text to the encoder"
        assert clip.cond_stage_model.clip_l.return_projected_pooled == before

    @torch.inference_mode()
    def test_clip_patched_in_place(self, pack: Any, clip: Any) -> None:
        """What was remembered of it no longer counts; the one it was cloned from stays."""
        embeds = pack.module("nodes.ground_references").phrase_embeds
        changed = clip.clone()
        plain, before = embeds(clip, ["dog"]), embeds(changed, ["dog"])
        torch.testing.assert_close(before, plain)
        key = "clip_l.transformer.text_model.encoder.layers.1.mlp.fc1.weight"
        weight = clip.patcher.model.state_dict()[key]
        assert changed.add_patches({key: ("diff", (torch.ones_like(weight),))}, 1.0)
        assert not torch.allclose(embeds(changed, ["dog"]), plain, atol=1e-3)
        torch.testing.assert_close(embeds(clip.clone(), ["dog"]), plain)


class TestAutoLayout:
    def words(self, clip: Any, prompt: str, positions: tuple[int, ...]) -> list[str]:
        """The tokens at positions of the encoded prompt, all chunks in a row."""
        tokens = [token for chunk in clip.tokenize(prompt)["l"] for token, _ in chunk]
        vocabulary = clip.tokenizer.clip_l.inv_vocab
        return [vocabulary[tokens[position]] for position in positions]

    @pytest.mark.parametrize(
        "prompt, phrase, occurrence, expected",
        [
            ("a dog and a cat", "cat", 0, ["cat</w>"]),
            (
                "a (red backpack:1.3), and a (((dog)))",
                "red backpack",
                0,
                ["red</w>", "backpack</w>"],
            ),
            ("a (red backpack:1.3), and a (((dog)))", "dog", 0, ["dog</w>"]),
            (r"a \(dog\) and a dog", "dog", 0, ["dog</w>"]),
            ("a dog, a dog", "dog", 1, ["dog</w>"]),
            (", ".join(["best quality photo"] * 40) + ", a dog on grass", "dog", 0, ["dog</w>"]),
            ("embedding:missing, a dog", "dog", 0, ["dog</w>"]),
            ("(embedding:two:0.9) a dog", "dog", 0, ["dog</w>"]),
            ("a cat, embedding:two, and a dog", "dog", 0, ["dog</w>"]),
            ("a cat", "dog", 0, []),
            ("a (teddy)bear and a dog", "dog", 0, []),  # the encoder saw other words than the text
        ],
    )
    def test_places(
        self, pack: Any, clip: Any, prompt: str, phrase: str, occurrence: int, expected: list[str]
    ) -> None:
        find = pack.module("nodes.auto_layout").token_positions
        if expected:
            assert self.words(clip, prompt, find(clip, phrase, prompt, occurrence)) == expected
        else:
            with pytest.raises(LookupError, match=r"not in the prompt|weights inside a word"):
                find(clip, phrase, prompt, occurrence)

    def test_occurrences_are_different_places(self, pack: Any, clip: Any) -> None:
        find = pack.module("nodes.auto_layout").token_positions
        first, second = (find(clip, "dog", "a dog and a dog", n) for n in (0, 1))
        assert (first, second) == ((2,), (5,))

    @torch.inference_mode()
    def test_the_prompt_is_known_again(self, pack: Any, clip: Any, registry: Any) -> None:
        """By its encoding, with whatever stands beside it; other texts are not it."""
        node = pack.module("nodes.auto_layout")
        prompt = "a (photo:1.2) of a cat on a red table"
        positions = node.token_positions(clip, "red table", prompt, 0)
        known = node.encode_prompt(clip, prompt)

        def found(conditioning: Any) -> tuple[int, ...]:
            find = pack.module("msd_core.phrases").phrase_positions
            return find(positions, known, conditioning[0][0][0])

        def text(words: str) -> Any:
            return run_node(registry, "CLIPTextEncode", clip, words)[0]

        (sized,) = run_node(
            registry, "CLIPTextEncodeSDXL",
            clip=clip, width=1024, height=1024, crop_w=0, crop_h=0, target_width=1024,
            target_height=1024, text_g="something else", text_l=prompt,
        )  # fmt: skip
        behind, before = (
            run_node(registry, "ConditioningConcat", *pair)[0]
            for pair in ((text("a dog"), text(prompt)), (text(prompt), text("a dog " * 80)))
        )
        assert found(text(prompt)) == found(sized) == found(before) == positions
        assert found(behind) == tuple(position + 77 for position in positions)
        assert found(text(f"{prompt}, and a dog")) == positions  # as far as it is read
        for other in ("a dog", "a photo of a dog on a red table", "a red table", ""):
            assert found(text(other)) == ()

    def test_node(self, pack: Any, clip: Any, lay_out: Any, caplog: Any) -> None:
        subjects = lay_out(layout(CAT, CUP), noise_image(1), noise_image(2))[0]
        out = pack.MSDAutoLayout.execute(clip, subjects, "a cat on a table", 0.4, 3)
        cat, cup = out[0].subjects
        assert cat.token_positions == (2,) and cup.token_positions == ()
        assert out[0].size == subjects.size == (64, 32)
        assert (out[0].auto_layout.threshold, out[0].auto_layout.start_step) == (0.4, 3)
        text = out.ui.as_dict()["text"][0]
        assert "Subject 2: 'cup' is not in the prompt; keeps its box." in text
        assert "'cup' is not in the prompt" in caplog.text


class TestCrop:
    def test_boxes_and_regions_move_into_the_part(self, pack: Any, lay_out: Any) -> None:
        """As MSD Layout would say them of a picture of the part's size."""
        mask = torch.zeros(1, 64, 128)
        mask[:, 16:48, 64:96] = 1
        value = layout(CAT, {**CUP, "box": [0.5, 0.25, 0.75, 0.75]}, CAT)
        images = map(noise_image, (1, 2, 3))
        regions = {"region_3": mask}
        subjects = lay_out(value, *images, width=1024, height=512, regions=regions)[0]
        (cropped,) = pack.MSDCropSubjects.execute(subjects, 512, 128, 512, 128).args
        cat, cup, region = cropped.subjects
        assert cropped.size == (512, 128)
        assert cat.box == (0.0, 0.0, 0.0, 0.0)
        assert cup.box == (0.0, 0.0, 0.5, 1.0)
        for subject in (cup, region):
            shown = subject.coverage(4, 16).view(4, 16).float()
            assert shown[:, :8].all() and not shown[:, 8:].any()
        whole = pack.MSDCropSubjects.execute(subjects, 0, 0, 1024, 512)[0]
        for one, other in zip(whole.subjects, subjects.subjects, strict=True):
            torch.testing.assert_close(one.coverage(8, 16), other.coverage(8, 16))

    def test_a_part_beyond_the_picture_is_refused(self, pack: Any, lay_out: Any) -> None:
        subjects = lay_out(layout(CAT), noise_image(1), width=1024, height=512)[0]
        with pytest.raises(ValueError, match=r"width, height: .* beyond the layout's 1024 x 512"):
            pack.MSDCropSubjects.execute(subjects, 600, 0, 512, 128)


class TestLoader:
    def test_lists_files_of_other_packs_by_name(self, pack: Any, tmp_path: Any) -> None:
        import folder_paths

        module = pack.module("nodes.load_adapter")
        folder_paths.add_model_folder_path("photomaker", str(tmp_path))
        for name in ("ms_adapter.bin", "photomaker-v1.bin"):
            (tmp_path / name).write_bytes(b"")
        folder_paths.filename_list_cache.clear()
        assert "ms_adapter.bin" in module._adapter_files()
        assert "photomaker-v1.bin" not in module._adapter_files()
        assert module._adapter_path("ms_adapter.bin") == str(tmp_path / "ms_adapter.bin")

    @pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
    @pytest.mark.parametrize("paths", [list, tuple])
    def test_folder_of_another_pack(
        self, pack: Any, tmp_path: Path, monkeypatch: Any, kind: Any, paths: Any
    ) -> None:
        """One that has registered the same name before, in its own way."""
        import folder_paths

        theirs = (paths([str(tmp_path)]), kind([".ckpt"]))
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "ms_diffusion", theirs)
        monkeypatch.setattr(folder_paths, "filename_list_cache", {})
        pack.module("nodes.load_adapter")._register_folder()
        for name in ("a.bin", "b.ckpt", "c.txt"):
            (tmp_path / name).write_bytes(b"")
        names = pack.module("nodes.load_adapter")._adapter_files()
        assert {"a.bin", "b.ckpt"} <= set(names) and "c.txt" not in names
        folder_paths.add_model_folder_path("ms_diffusion", str(tmp_path / "more"))
        assert theirs == (paths([str(tmp_path)]), kind([".ckpt"]))

    @pytest.mark.parametrize("name", ["nothing.bin", "../../secret.bin", "/etc/passwd"])
    def test_names_outside_the_folders_are_not_found(self, pack: Any, name: str) -> None:
        with pytest.raises(FileNotFoundError, match="adapter: there is no"):
            pack.MSDLoadAdapter.execute(name)

    def test_a_replaced_file_is_noticed(self, pack: Any, adapters: Any, tmp_path: Any) -> None:
        import folder_paths

        folder_paths.add_model_folder_path("ms_diffusion", str(tmp_path))
        path = tmp_path / "replaced.bin"
        path.write_bytes(b"one")
        before = pack.MSDLoadAdapter.fingerprint_inputs("replaced.bin")
        path.write_bytes(b"other")
        assert pack.MSDLoadAdapter.fingerprint_inputs("replaced.bin") != before

    def test_the_host_owns_the_adapter(self, adapters: Any) -> None:
        import comfy.model_management
        import comfy.model_patcher

        adapter = adapters["tiny"]
        assert isinstance(adapter, comfy.model_patcher.ModelPatcher)
        comfy.model_management.load_model_gpu(adapter)
        assert adapter.model_size() == sum(p.nbytes for p in adapter.model.parameters())


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


@pytest.mark.parametrize("name", ["ms diffusion", "ms%20d", "ms#d", "ms?", "é", "a.b", "a@1.0"])
def test_a_folder_name_that_can_not_be_served(pack: Any, caplog: Any, name: str) -> None:
    pack.module("nodes.folder_name").warn_of_folder_name(name)
    (text,) = caplog.messages
    assert repr(name) in text and "Rename it" in text


@pytest.mark.parametrize("name", ["ms_diffusion", "ComfyUI-MS-Diffusion", "a+b(1)"])
def test_a_folder_name_that_can_be_served(pack: Any, caplog: Any, name: str) -> None:
    pack.module("nodes.folder_name").warn_of_folder_name(name)
    assert not caplog.messages


class TestModels:
    """What MSD Apply says of models that it can't act on."""

    def apply(self, pack: Any, adapter: Any, model: Any, unet: Any, subjects: Any) -> Any:
        other = model.clone()
        other.add_object_patch("diffusion_model", unet)
        return pack.MSDApply.execute(other, adapter, subjects, 0.6)

    def test_a_unet_without_layers(
        self, pack: Any, adapter: Any, plain: Any, subjects: Any
    ) -> None:
        class TrTUnet:
            dtype = torch.float16

        with pytest.raises(ValueError, match=r"^model: its UNet \(TrTUnet\) shows no layers"):
            self.apply(pack, adapter, plain, TrTUnet(), subjects((0, 0, 1, 1)))

    def test_a_model_of_another_family(
        self, pack: Any, adapter: Any, plain: Any, subjects: Any
    ) -> None:
        class Flux(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.double_blocks = torch.nn.Linear(4, 4)

        class Video(torch.nn.Module):  # LTXV names its layers so, elsewhere
            def __init__(self) -> None:
                super().__init__()
                self.transformer_blocks = torch.nn.ModuleDict(
                    {"0": torch.nn.ModuleDict({"attn2": torch.nn.ModuleDict({
                        "to_k": torch.nn.Linear(4, 4)})})}
                )  # fmt: skip

        class Packed(torch.nn.Module):  # layers that don't say their sizes
            def __init__(self) -> None:
                super().__init__()
                self.attn2 = torch.nn.ModuleDict({"to_k": torch.nn.Identity()})

        for unet in (Flux(), Video(), Packed()):
            message = f"^model: expected an SDXL UNet, got {type(unet).__name__} without"
            with pytest.raises(ValueError, match=message):
                self.apply(pack, adapter, plain, unet, subjects((0, 0, 1, 1)))
