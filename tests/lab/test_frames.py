"""A training set of clips: which two frames, what is cut out, and what can't be told."""

import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from drawn_set import save_bomb
from PIL import Image
from tiny_encoders import save_encoders, save_segmenter
from torch import Tensor

from lab.evaluation.encoders import Detection, Detector
from lab.training.__main__ import main
from lab.training.real.frames import ClipWorker, Segmenter, find_clips, read_frames, show
from lab.training.real.training_set import is_in, read_set

SIZE = (160, 80)
COLOURS = {"red ball": (255, 0, 0), "car": (0, 0, 255), "truck": (0, 0, 250), "tree": (0, 255, 0)}
Boxes = dict[str, list[tuple[int, int, int, int]]]  # in pixels, by phrase


def draw(boxes: Boxes) -> Image.Image:
    """Each box in its phrase's colour, but for its upper left quarter."""
    picture = Image.new("RGB", SIZE, "white")
    for phrase, own in boxes.items():
        for box in own:
            x0, y0, x1, y1 = box
            picture.paste(COLOURS[phrase], box)
            picture.paste("white", (x0, y0, (x0 + x1) // 2, (y0 + y1) // 2))
    return picture


class Drawn:
    """Finds and cuts out what `draw` draws: a detector and a segmenter that are never wrong."""

    def __init__(self, *frames: Boxes, score: float = 0.5) -> None:
        self.frames, self.score = list(frames), score

    def find(self, picture: Image.Image, phrases: Sequence[str]) -> list[Detection]:
        boxes = next(b for b in self.frames if draw(b).tobytes() == picture.tobytes())
        return [
            Detection(tuple(np.divide(box, SIZE * 2).tolist()), self.score, phrase)
            for phrase, own in boxes.items()
            for box in own
            if phrase in phrases
        ]

    def masks(self, picture: Image.Image, boxes: Sequence[Sequence[float]]) -> Tensor:
        masks = torch.zeros(len(boxes), SIZE[1], SIZE[0], dtype=torch.bool)
        seen = torch.from_numpy(np.array(picture)).ne(255).any(-1)
        for mask, box in zip(masks, boxes, strict=True):
            x0, y0, x1, y1 = np.multiply(box, SIZE * 2).round().astype(int)
            mask[y0:y1, x0:x1] = seen[y0:y1, x0:x1]
        return masks


def save_clip(folder: Path, caption: str | None, *frames: Boxes) -> Path:
    folder.mkdir(parents=True)
    for n, boxes in enumerate(frames):
        draw(boxes).save(folder / f"{n:03}.png")
    if caption is not None:
        folder.with_suffix(".txt").write_text(caption)
    return folder


BEFORE: Boxes = {"red ball": [(10, 10, 50, 50)], "car": [(100, 20, 140, 60)]}
AFTER: Boxes = {"red ball": [(80, 20, 120, 60)], "car": [(0, 0, 40, 40)]}


def run(clip: Path, *frames: Boxes, out: Path, min_score: float = 0.1, **more: Any) -> int:
    drawn: Any = Drawn(*frames, **more)
    out.mkdir(exist_ok=True)
    return show([ClipWorker(list(COLOURS), out, min_score, drawn, drawn).make(clip)], 1)


def test_one_frame_is_cut_out_and_the_other_trained(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "walk", "A red  ball and a car", {}, BEFORE, {}, AFTER, {})
    clip_frames = read_frames(clip)
    assert [f.tobytes() for f in clip_frames] == [draw(b).tobytes() for b in (BEFORE, AFTER)]
    assert run(clip, BEFORE, AFTER, out=tmp_path / "set") == 1
    (sample,) = read_set(tmp_path / "set")
    assert (sample.name, sample.caption) == ("walk", "A red  ball and a car")
    subjects = {subject.phrase: subject for subject in sample.subjects}
    assert subjects["red ball"].box == (0.5, 0.25, 0.75, 0.75)
    assert subjects["car"].box == (0.0, 0.0, 0.25, 0.5)
    for phrase, subject in subjects.items():
        reference = subject.reference.open()
        assert reference.size == (40, 40)
        assert reference.getpixel((30, 30)) == (*COLOURS[phrase], 255)
        assert reference.getpixel((5, 5))[3] == 0  # the quarter that isn't of it
    pixel = sample.picture.open().getpixel((100, 50))
    assert abs(np.subtract(pixel, COLOURS["red ball"])).max() < 12


TREE: Boxes = {"tree": [(0, 0, 40, 40)]}
CASES = {
    "no caption": (None, BEFORE, AFTER, "it has no caption in walk.txt"),
    "nothing named": ("a carpet", BEFORE, AFTER, "its caption has none of the phrases"),
    "not in the first": ("a tree", {}, TREE, "there is no 'tree' in its first frame"),
    "not in the second": ("a tree", TREE, {}, "there is no 'tree' in its second frame"),
    "two of them": (
        "a tree", {"tree": [(0, 0, 40, 40), (80, 0, 120, 40)]}, TREE,
        "2 of 'tree' can't be told apart in its first frame",
    ),
    "too small": (
        "a tree", TREE, {"tree": [(0, 0, 15, 15)]}, "'tree' is too small in its second frame"
    ),
    "one thing by two names": (
        "a car, a truck", {"car": [(0, 0, 40, 40)], "truck": [(80, 0, 120, 40)]},
        {"car": [(0, 0, 40, 40)], "truck": [(2, 0, 42, 40)]},
        "'car' and 'truck' have the same place in its second frame",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_cant_be_told_is_listed(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caption, first, second, sentence = CASES[case]
    clip = save_clip(tmp_path / "walk", caption, first, second)
    assert run(clip, first, second, out=tmp_path / "set") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"walk: {sentence}"
    assert list((tmp_path / "set").iterdir()) == []


def test_what_is_found_is_kept_beside_what_isnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = save_clip(tmp_path / "walk", "a car, a tree, a red ball", BEFORE, AFTER)
    assert run(clip, BEFORE, AFTER, out=tmp_path / "set") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"walk: there is no 'tree' in its {n} frame" for n in ("first", "second")]
    (sample,) = read_set(tmp_path / "set")
    assert {subject.phrase for subject in sample.subjects} == {"car", "red ball"}


def test_the_largest_subjects_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And of three names for one thing none."""
    names = ["a", "b", "c", "d", "e", "same", "other", "third"]
    for n, name in enumerate(names):
        monkeypatch.setitem(COLOURS, name, (10 * n, 0, 0))
    boxes: Boxes = {name: [(30 * n, 0, 30 * n + 20 + n, 20)] for n, name in enumerate(names[:5])}
    boxes |= {name: [(n, 40, 40 + n, 80)] for n, name in enumerate(names[5:])}
    clip = save_clip(tmp_path / "walk", " ".join(names), boxes, boxes)
    assert run(clip, boxes, boxes, out=tmp_path / "set") == 1
    (sample,) = read_set(tmp_path / "set")
    assert [subject.phrase for subject in sample.subjects] == ["e", "d", "c", "b"]
    assert capsys.readouterr().out.count("have the same place in its first frame") == 3


def test_the_scores_and_the_masks_must_be_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = save_clip(tmp_path / "walk", "a car", BEFORE, AFTER)
    assert run(clip, BEFORE, AFTER, out=tmp_path / "set", min_score=0.6) == 0
    assert "there is no 'car' in its first frame" in capsys.readouterr().out
    mask = torch.zeros(1, *SIZE[::-1], dtype=torch.bool)
    mask[:, :, :60] = True  # elsewhere
    mask[:, 20:32, 100:112] = True  # and 9 % of its box of 40 x 40
    monkeypatch.setattr(Drawn, "masks", lambda *_: mask)
    assert run(clip, BEFORE, AFTER, out=tmp_path / "set") == 0
    assert "the mask of 'car' takes too little of its box" in capsys.readouterr().out
    mask[:, 20:33, 100:113] = True  # 11 %
    assert run(clip, BEFORE, AFTER, out=tmp_path / "set") == 1


def test_words_of_a_caption() -> None:
    assert is_in("red ball", "The RED\nball, again") and is_in("t-shirt", "a t-shirt.")
    assert not is_in("cat", "a catalogue") and not is_in("cat", "cats")


def save_video(path: Path, frames: Sequence[Image.Image]) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def test_videos(tmp_path: Path) -> None:
    """The same two frames as of a folder, upright."""
    frames = [Image.new("RGB", SIZE, (0, 40 * n, 0)) for n in range(6)]
    frames[1].paste((0, 0, 255), (0, 0, 80, 80))  # its left half
    save_video(tmp_path / "walk.mp4", frames)
    one, other = read_frames(tmp_path / "walk.mp4")
    assert one.size == SIZE and one.getpixel((40, 40))[2] > 200 and one.getpixel((120, 40))[2] < 60
    assert abs(other.getpixel((80, 40))[1] - 160) < 12

    content = (tmp_path / "walk.mp4").read_bytes()
    upright, turned = (
        struct.pack(">9i", *(v << 16 for v in matrix[:8]), 1 << 30)
        for matrix in ((1, 0, 0, 0, 1, 0, 0, 0), (0, 1, 0, -1, 0, 0, 0, 0))
    )
    before, _, after = content.rpartition(upright)
    (tmp_path / "turned.mp4").write_bytes(before + turned + after)
    one, _ = read_frames(tmp_path / "turned.mp4")  # clockwise: what was left is above
    assert one.size == SIZE[::-1]
    assert one.getpixel((40, 40))[2] > 200 and one.getpixel((40, 120))[2] < 60


def test_clips_that_cant_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match="is no folder"):
        find_clips(tmp_path / "clips")
    with pytest.raises(FileNotFoundError, match=r"has no clips: no folders of pictures, nor \.avi"):
        find_clips(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"no video")
    clip = save_clip(tmp_path / "b", "a car", BEFORE)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("a car")
    drawn: Any = Drawn()
    worker = ClipWorker(["car"], tmp_path / "set", 0.1, drawn, drawn)
    assert show(map(worker.make, find_clips(tmp_path)), 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a.mp4: it can't be decoded: Invalid data")
    assert "b: expected two frames or more, got 1" in lines
    (clip / "001.png").write_bytes(b"no picture")
    assert show([worker.make(clip)], 1) == 0
    assert "b: 001.png can't be read: cannot identify image file" in capsys.readouterr().out
    save_bomb(clip / "001.png")
    assert show([worker.make(clip)], 1) == 0
    assert "b: 001.png can't be read: Image size" in capsys.readouterr().out
    (tmp_path / "b.mov").write_bytes(b"")
    with pytest.raises(ValueError, match=r"b and b\.mov would be the same sample"):
        find_clips(tmp_path)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {"detector": save_encoders(folder)["owlv2"], "segmenter": save_segmenter(folder)}


def test_masks_are_those_of_the_boxes(networks: dict[str, Path]) -> None:
    """A mask for each box, as the network gives it for the box in its own square of pixels; read
    from the files of the video model too."""
    config = json.loads((networks["segmenter"] / "config.json").read_text())
    (networks["segmenter"] / "config.json").write_text(
        json.dumps({**config, "model_type": "sam2_video", "architectures": ["Sam2VideoModel"]})
    )
    segmenter = Segmenter(str(networks["segmenter"]), "cpu")
    picture = draw(BEFORE)
    boxes = [(0.1, 0.2, 0.5, 0.9), (0.5, 0.1, 0.9, 0.4)]
    masks = segmenter.masks(picture, boxes)
    assert masks.shape == (2, 80, 160) and masks.dtype == torch.bool
    assert 0.01 < masks.float().mean() < 0.99 and (masks[0] ^ masks[1]).float().mean() > 0.01
    square = segmenter.processor(images=picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        small = segmenter.model(
            square, input_boxes=128 * torch.tensor([boxes]), multimask_output=False
        ).pred_masks
    large = torch.nn.functional.interpolate(small[0], (80, 160), mode="bilinear") > 0
    assert (large[:, 0] ^ masks).float().mean() < 0.002
    with torch.no_grad():
        segmenter.model.mask_decoder.iou_token.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="SAM2 gave values that aren't finite"):
        segmenter.masks(picture, boxes)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["lab.training", "import", *map(str, arguments)])
    main()


def test_the_command(
    tmp_path: Path,
    networks: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With networks of random weights, of which the detector finds one thing or many anywhere."""
    clips, out = tmp_path / "clips", tmp_path / "set"
    for name, first in (("a", BEFORE), ("b", AFTER)):
        save_clip(clips / name, "a car", first, BEFORE)
    detector = Detector(str(networks["detector"]), "cpu")
    scores = [[d.score for d in detector.find(f, ["car"])] for f in read_frames(clips / "b")]
    assert all(len(found) > 1 for found in scores)
    options = [v for name, path in networks.items() for v in (f"--{name}", path)]
    frames = ("frames", clips, "--phrases", "car", "--out", out, *options)
    command(monkeypatch, *frames, "--dry-run")
    assert "2 clips, 2 of them to do. Nothing was written." in capsys.readouterr().out
    assert not out.exists()
    command(monkeypatch, *frames)
    printed = capsys.readouterr().out
    assert f"b: {len(scores[0])} of 'car' can't be told apart in its first frame" in printed
    assert f"Wrote 0 samples to {out}, of 2 clips." in printed

    def problems(lines: str) -> list[str]:
        return sorted(line for line in lines.splitlines() if line.startswith(("a: ", "b: ")))

    command(monkeypatch, *frames, "--workers", 2)
    assert problems(capsys.readouterr().out) == problems(printed)
    parts = []
    for part in ("1/2", "2/2"):
        command(monkeypatch, *frames, "--shard", part)
        parts += problems(capsys.readouterr().out)
    assert sorted(parts) == problems(printed)
    (out / "a.json").write_text("{}")  # as if it were done
    command(monkeypatch, *frames)
    assert ", of 1 clips." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--phrases": " "}, "--phrases: a phrase is empty"),
        ({"--min-score": "0.05"}, "--min-score: expected 0.1 to 1, got 0.05"),
        ({"--detector": "no/model"}, "--detector: no/model is neither a folder with"),
        ({"--segmenter": "no/model"}, "--segmenter: no/model is neither a folder with"),
        ({"--segmenter": "owlv2"}, "--segmenter: .* is a owlv2; expected a sam2"),
        ({"--device": "cuda"}, "--device is cuda, and PyTorch sees none"),
    ],
)
def test_options_that_make_no_sense(
    tmp_path: Path,
    networks: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str | None],
    sentence: str,
) -> None:
    save_clip(tmp_path / "clips" / "a", "a car", BEFORE, AFTER)
    options: dict[str, Any] = {
        "--phrases": "car", "--out": tmp_path / "set", "--detector": networks["detector"],
        "--segmenter": networks["segmenter"], **change,
    }  # fmt: skip
    if change.get("--segmenter") == "owlv2":
        options["--segmenter"] = networks["detector"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = [v for option in options.items() if option[1] is not None for v in option]
    with pytest.raises(SystemExit, match=sentence):
        command(monkeypatch, "frames", tmp_path / "clips", *given)
    if change.get("--segmenter") != "owlv2":  # which only loading it tells
        with pytest.raises(SystemExit, match=sentence):
            command(monkeypatch, "frames", tmp_path / "clips", *given, "--dry-run")
