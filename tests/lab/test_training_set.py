"""Training sets: what can be read, and what is said of what can't."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_set import pack, save_bomb, save_drawn_set
from PIL import Image

from lab.training.real.coco import import_coco
from lab.training.real.encoders import bucket, fit_picture
from lab.training.real.mip import import_mip
from lab.training.real.run import check_set
from lab.training.real.settings import PAPER, read_settings
from lab.training.real.training_set import read_set, scan


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    save_drawn_set(tmp_path / "set", 3)
    return tmp_path / "set"


def change(folder: Path, **values: Any) -> None:
    """Change the first sample, a subject's values by subject_<name>."""
    path = folder / "square_0.json"
    content = json.loads(path.read_text())
    for name, value in values.items():
        if name.startswith("subject_"):
            content["subjects"][0][name.removeprefix("subject_")] = value
        else:
            content[name] = value
    path.write_text(json.dumps(content))


def test_tar_files_are_as_a_folder(drawn: Path, tmp_path: Path) -> None:
    pack(drawn, tmp_path / "one.tar")
    (tmp_path / "shards").mkdir()
    pack(drawn, tmp_path / "shards" / "0.tar")
    expected = [sample.digest for sample in read_set(drawn)]
    assert len(set(expected)) == 3
    for path in (tmp_path / "one.tar", tmp_path / "shards"):
        assert [sample.digest for sample in read_set(path)] == expected


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"caption": " "}, "its caption must be a text that isn't empty"),
        ({"author": "me"}, "it has an unknown field 'author'"),
        ({"subjects": {}}, "its subjects must be a list"),
        ({"subjects": [{}] * 17}, "its subjects must be at most 16, got 17"),
        ({"subject_box": [0, 0, 1]}, "subject 1: box must be four numbers x0, y0, x1, y1"),
        ({"subject_box": [0, 0, True, 1]}, "subject 1: box must be four numbers x0, y0, x1, y1"),
        ({"subject_box": [0.5, 0, 0.2, 1]}, "subject 1: box must be x0 < x1 and y0 < y1 in 0..1"),
        ({"subject_box": [0, 0, 1.2, 1]}, "subject 1: box must be x0 < x1 and y0 < y1 in 0..1"),
        ({"subject_box": [0, 0, float("nan"), 1]}, "subject 1: box must be x0 < x1"),
        ({"subject_phrase": ""}, "subject 1: phrase must be a text that isn't empty"),
        ({"subject_reference": "no.png"}, "subject 1: there is no reference 'no.png'"),
        ({"subject_mask": "a.png"}, "subject 1 has an unknown field 'mask'"),
    ],
)
def test_a_sample_that_is_not_sound(drawn: Path, values: dict[str, Any], sentence: str) -> None:
    change(drawn, **values)
    samples, problems = scan(drawn)
    assert len(samples) == 2 and problems[0].startswith(f"square_0.json: {sentence}")
    with pytest.raises(ValueError, match=r"square_0\.json: .*lab\.training check"):
        read_set(drawn)


def test_files_that_are_not_what_they_should_be(drawn: Path) -> None:
    (drawn / "square_0.json").write_text("{")
    (drawn / "square_1.png").unlink()
    (drawn / "square_2.png").write_bytes(b"no picture")
    assert [len(part) for part in scan(drawn)] == [1, 2]
    _, problems = scan(drawn, look=True)
    assert "square_0.json: it isn't JSON" in problems[0]
    assert "square_1.json: expected one picture square_1.jpg|" in problems[1]
    assert "square_2.json: its picture can't be read" in problems[2]


def cut_short(path: Path) -> None:
    """A picture that lacks its end, as a JPEG file."""
    content = io.BytesIO()
    Image.open(path).save(content, "jpeg")
    path.write_bytes(content.getvalue()[:-20])


def make_transparent(path: Path) -> None:
    Image.new("RGBA", (8, 8)).save(path)


@pytest.mark.parametrize(
    ("spoil", "file", "sentence"),
    [
        (cut_short, "square_0.png", "its picture can't be read: image file is truncated"),
        (cut_short, "square_0.1.png", "subject 2: its reference can't be read: image file is trun"),
        (save_bomb, "square_0.png", "its picture can't be read: Image size (900000000 pixels)"),
        (make_transparent, "square_0.0.png", "subject 1: its reference is wholly transparent"),
        (
            lambda path: path.write_text("[" * 100_000), "square_0.json",
            "it isn't JSON: maximum recursion depth",
        ),
    ],
)  # fmt: skip
def test_check_looks_at_each_picture(
    drawn: Path, spoil: Any, file: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(drawn / file)
    assert not check_set(drawn, drawn.with_name("sheet.png"))
    assert capsys.readouterr().out.startswith(f"square_0.json: {sentence}")


def test_check_counts_what_is_not_trained_on(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(drawn, subjects=[])  # whose references are of it still, by their names
    assert check_set(drawn, None)
    said = capsys.readouterr().out
    assert "1 samples have no subject" in said and "of no sample" not in said
    (drawn / "square_0.json").unlink()
    strays = len(list(drawn.glob("square_0.*")))
    pack(drawn, tmp_path / "set.tar")
    for path in (drawn, tmp_path / "set.tar"):
        assert check_set(path, None)
        said = capsys.readouterr().out
        assert f"{strays} pictures are of no sample" in said and "no subject" not in said


def test_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no samples"):
        read_set(tmp_path)
    with pytest.raises(FileNotFoundError, match="doesn't exist"):
        read_set(tmp_path / "set")


@pytest.mark.parametrize("size", [(1000, 1000), (720, 1280), (1600, 900), (100, 2000), (3000, 10)])
def test_buckets_have_as_many_pixels(size: tuple[int, int]) -> None:
    height, width = bucket(size, 1024)
    assert height % 64 == width % 64 == 0
    assert abs(height * width / 1024**2 - 1) < 0.15
    aspect = min(4.0, max(0.25, size[1] / size[0]))
    assert abs(width / height / aspect - 1) < 0.15


def test_boxes_stay_with_what_they_show(drawn: Path) -> None:
    """A wide picture loses its sides; a subject of which little is left is none any more."""
    picture = Image.new("RGB", (400, 100), "white")
    picture.paste("red", (150, 20, 200, 80))
    picture.paste("blue", (0, 20, 110, 80))
    picture.save(drawn / "square_0.png")
    sample = read_set(drawn)[0]
    subjects = [{"box": box} for box in ([0.375, 0.2, 0.5, 0.8], [0.0, 0.2, 0.275, 0.8])]
    content = json.loads((drawn / "square_0.json").read_text())
    both = [content["subjects"][0] | subject for subject in subjects]
    change(drawn, subjects=both)
    sample = read_set(drawn)[0]
    pixels, boxes = fit_picture(sample, (128, 256))
    assert boxes[1] == (0.0, 0.0, 0.0, 0.0)
    red = (pixels[..., 0] > 0.5) & (pixels[..., 2] < 0.5)
    rows, columns = (red.any(axis).nonzero()[:, 0] for axis in (1, 0))
    found = [columns[0] / 256, rows[0] / 128, (columns[-1] + 1) / 256, (rows[-1] + 1) / 128]
    assert torch.allclose(torch.tensor(found), torch.tensor(boxes[0]), atol=0.02)


def test_another_set_is_another_run() -> None:
    one, other = (read_settings(PAPER, decided_by={"set": name}) for name in "ab")
    assert one.differences(one.to_dict()) == []
    assert other.differences(one.to_dict()) == ["the set changed"]
    slower = replace(other, lr=1e-5)
    assert slower.differences(one.to_dict()) == ["lr is 1e-05, was 0.0001", "the set changed"]


SQUARE = {"image_id": 1, "category_id": 7, "iscrowd": 0, "bbox": [20, 10, 60, 60],
          "segmentation": [[20, 10, 79, 10, 79, 69]]}  # a half of it  # fmt: skip


def save_coco(source: Path, *annotations: Any, **changes: Any) -> Path:
    """Pictures 1 to 3, of which the third has no caption; None of the changes removes a field, one
    of `instances` or `captions` replaces all."""
    (source / "annotations").mkdir(parents=True, exist_ok=True)
    (source / "val").mkdir(exist_ok=True)
    picture = Image.new("RGB", (200, 100), "white")
    picture.paste("red", (20, 10, 80, 70))
    for n in (1, 2, 3):
        picture.save(source / "val" / f"{n}.png")
    images = [
        {"id": n, "file_name": f"{n}.png", "width": 200, "height": 100} | changes.get("image", {})
        for n in (1, 2, 3)
    ]
    captions = [{"image_id": n, "caption": changes.get("caption", "a square ")} for n in (1, 2)]
    categories = [{"id": 7, "name": "square"}]
    files = {
        "instances": {"categories": categories, "images": images, "annotations": annotations},
        "captions": {"annotations": captions},
    }
    for name, content in files.items():
        path = source / "annotations" / f"{name}_val.json"
        path.write_text(json.dumps(changes.get(name, content)))
    return source


def test_coco(tmp_path: Path) -> None:
    """The largest objects, each cut out along its polygon; crowds and pictures without caption
    aren't taken."""
    small = {**SQUARE, "bbox": [0, 0, 5, 5]}
    crowd = {**SQUARE, "iscrowd": 1, "segmentation": {"counts": [1], "size": [100, 200]}}
    source = save_coco(tmp_path / "coco", small, crowd, SQUARE, {**SQUARE, "image_id": 3})
    assert import_coco(source, tmp_path / "set", dry_run=True) == 1
    assert not (tmp_path / "set").exists()
    assert import_coco(source, tmp_path / "set") == 1
    (sample,) = read_set(tmp_path / "set")
    assert sample.caption == "a square" and sample.name == "val_1"
    (subject,) = sample.subjects
    assert subject.phrase == "square" and subject.box == (0.1, 0.1, 0.4, 0.7)
    cut_out = subject.reference.open()
    assert cut_out.size == (60, 60)
    assert cut_out.getpixel((50, 10)) == (255, 0, 0, 255)
    assert cut_out.getpixel((10, 50))[3] == 0
    (source / "annotations" / "captions_val.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"captions_val\.json doesn't exist"):
        import_coco(source, tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="has no annotations/instances_<split>"):
        import_coco(tmp_path, tmp_path / "other")


@pytest.mark.parametrize(
    ("annotation", "changes", "sentence"),
    [
        ({}, {"instances": {}}, "instances_val.json: expected an object with a list of categories"),
        ({}, {"instances": []}, "instances_val.json: expected an object with a list of categories"),
        ({}, {"captions": {}}, "captions_val.json: expected an object with a list of annotations"),
        ({}, {"caption": 5}, "annotations[0]: expected caption as a text, got 5"),
        ({}, {"image": {"width": None}}, "images[0]: expected width as a number, got None"),
        ({"category_id": 8}, {}, "annotations[0]: there is no category 8"),
        ({"bbox": [1, 2, 3]}, {}, "annotations[0]: expected bbox as four numbers, got [1, 2, 3]"),
        ({"segmentation": [[1, 2]]}, {}, "expected segmentation as polygons of three points"),
    ],
)
def test_coco_files_that_are_not_sound(
    tmp_path: Path, annotation: Any, changes: Any, sentence: str
) -> None:
    source = save_coco(tmp_path / "coco", {**SQUARE, **annotation}, **changes)
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        import_coco(source, tmp_path / "set")
    assert str(error.value).startswith(str(source / "annotations"))
    assert not (tmp_path / "set").exists()


def test_coco_objects_and_pictures_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They're left out, and a dry run says the same."""
    beyond = [[300, 10, 360, 10, 360, 70]]
    annotations = [
        {**SQUARE, "segmentation": []}, {**SQUARE, "segmentation": beyond},
        {**SQUARE, "bbox": [300, 10, 60, 60]}, {**SQUARE, "bbox": [-20, 10, 100, 60]},
        {**SQUARE, "image_id": 2},
    ]  # fmt: skip
    source = save_coco(tmp_path / "coco", *annotations)
    (source / "val" / "2.png").unlink()
    said = []
    for dry_run in (True, False):
        assert import_coco(source, tmp_path / "set", dry_run) == 1
        said.append(capsys.readouterr().out.splitlines())
    assert said[0] == said[1] and said[0][0].startswith("val_2: [Errno 2] No such file")
    assert said[0][1].startswith("3 objects were left out") and len(said[0]) == 2
    ((subject,),) = (sample.subjects for sample in read_set(tmp_path / "set"))
    assert subject.box == (0.0, 0.1, 0.4, 0.7)


@pytest.mark.parametrize("kind", ["coco", "mip"])
def test_an_import_goes_on(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sample is there when its .json is, which comes last."""
    source, out = tmp_path / kind, tmp_path / "set"
    if kind == "coco":
        save_coco(source, SQUARE, {**SQUARE, "image_id": 2})
    for name in ("val_1", "val_2") if kind == "mip" else ():
        values = np.zeros((100, 200), np.uint8)
        values[10:70, 20:80] = 3
        save_mip_picture(source, name, values, "a dog", ("dog", 0.5, [20, 10, 80, 70]))
    write = {"coco": import_coco, "mip": import_mip}[kind]
    assert write(source, out) == 2
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "val_2.json").unlink()
    (out / "val_2.0.png").write_bytes(b"half")
    capsys.readouterr()
    for dry_run in (True, False):
        assert write(source, out, dry_run) == 1
        assert capsys.readouterr().out == f"1 samples are in {out} already.\n"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert write(source, out) == 0


def save_mip_picture(source: Path, name: str, values: Any, text: str, *entities: Any) -> None:
    """The value n of a mask is grey 20 n in the picture."""
    for folder in ("images", "masks", "jsons"):
        (source / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(values * 20).convert("RGB").save(source / "images" / f"{name}.png")
    Image.fromarray(values).save(source / "masks" / f"{name}.png")
    masks = [
        {"label": label, "logit": logit, "value": n, **({"box": box} if box else {})}
        for n, (label, logit, box) in enumerate(entities)
    ]
    content = {"text": text, "original_size": [200, 100], "final_masks": masks}
    (source / "jsons" / f"{name}.json").write_text(json.dumps(content))


def test_mip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Entities of the text, cut out along their masks; of those in one place the surest."""
    source, out = tmp_path / "mip", tmp_path / "set"
    values = np.zeros((100, 200), np.uint8)
    values[10:70, 20:80] = 3
    values[10:40, 20:50] = 0  # a quarter of the box that isn't of it
    values[20:100, 120:200] = 5
    values[20:30, 120:130] = 7  # another one in that box
    values[80:100, 0:60] = 9  # a word that is only a part of another
    dog, cat = [20, 10, 140, 70], [119.6, 20.2, 204.0, 100.0]
    save_mip_picture(
        source, "sa_1", values, "A dog beside a black cat, catnip",
        ("dog", 0.5, dog), ("black cat", 0.9, cat), ("dog", 0.4, [22, 12, 78, 70]),
        ("black cat", 0.3, [100, 0, 118, 100]), ("nip", 0.8, [0, 80, 60, 100]),
        ("dog", 0.8, [90, 0, 110, 100]), ("black", 0.95, [110, 60, 170, 100]),
        ("beside", 0.6, None),
    )  # fmt: skip
    save_mip_picture(source, "sa_2", values, "nothing of these", ("dog", 0.5, dog))
    for name in ("sa_3", "sa_4", "sa_5"):
        save_mip_picture(source, name, values, "a dog", ("dog", 0.5, dog))
    (source / "masks" / "sa_3.png").unlink()
    Image.new("L", (100, 100)).save(source / "masks" / "sa_4.png")
    (source / "jsons" / "sa_5.json").write_text('{"text": "a dog"}')
    save_bomb(source / "images" / "sa_6.png")
    (source / "jsons" / "sa_6.json").write_text('{"text": "a dog"}')
    (source / "jsons" / "sa_7.json").write_text("[" * 100_000)
    assert import_mip(source, out, dry_run=True) == 1 and not out.exists()
    said = capsys.readouterr().out
    assert import_mip(source, out) == 1
    lines = said.splitlines()
    assert capsys.readouterr().out == said
    assert [line.partition(":")[0] for line in lines] == [f"sa_{n}" for n in range(3, 8)]
    assert "Image size" in lines[3] and "recursion" in lines[4]
    assert "No such file" in lines[0] and lines[2] == "sa_5: it has no 'final_masks'"
    assert lines[1] == "sa_4: its mask is (100, 100), its picture (100, 200)"

    (sample,) = read_set(out)
    assert sample.caption == "A dog beside a black cat, catnip"
    assert np.array_equal(np.asarray(sample.picture.open())[..., 0], values * 20)
    found = {subject.phrase: subject for subject in sample.subjects}
    assert [subject.phrase for subject in sample.subjects] == ["dog", "black cat"]
    assert found["dog"].box == (0.1, 0.1, 0.7, 0.7)
    assert found["black cat"].box == (0.6, 0.2, 1.0, 1.0)
    reference = found["dog"].reference.open()
    assert reference.size == (60, 60)
    assert reference.getpixel((40, 40)) == (60, 60, 60, 255)
    assert reference.getpixel((10, 10))[3] == 0
    reference = found["black cat"].reference.open()
    assert reference.size == (80, 80) and reference.getpixel((5, 5))[3] == 0
    with pytest.raises(FileNotFoundError, match=r"has no jsons/\*\.json"):
        import_mip(tmp_path, tmp_path / "other")
