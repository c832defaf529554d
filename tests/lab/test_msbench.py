"""MS-Bench's samples by its rule, from a folder laid out as the research repository."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from lab.evaluation.msbench import PHOTOS, TABLES, read_samples
from lab.evaluation.samples import sample_lines, save_lines

# How many photos each class has, and how many samples each type: combinations times prompts.
CLASSES = {
    "living": 10,
    "object": 10,
    "scene": 4,
    "upwearing": 5,
    "midwearing": 6,
    "downwearing": 3,
    "wholewearing": 2,
}
TWO = {
    "living_living": 45 * 6,
    "living_object": 100 * 6,
    "object_object": 45 * 6,
    "living_upwearing": 50 * 6,
    "living_midwearing": 60 * 6,
    "living_wholewearing": 20 * 6,
    "midwearing_downwearing": 18 * 6,
    "living_scene": 40,
    "object_scene": 40,
}
THREE = {
    "living_living_living": 120 * 6,
    "object_object_object": 120 * 6,
    "living_object_scene": 400,
    "upwearing_midwearing_downwearing": 90 * 6,
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Tables and photos of our own, in the form and number of theirs."""
    for name, count in CLASSES.items():
        (tmp_path / PHOTOS / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / PHOTOS / name / f"{name}{number}.png")
    places = [f"{{0}} by {{1}}, place {number}" for number in range(6)]
    scenic = ["{0} before {1}"]
    boxes = {kind: [[0.0, 0.0, 0.5, 1.0]] * (kind.count("_") + 1) for kind in (*TWO, *THREE)}
    names = {f"{name}{number}": name for name, count in CLASSES.items() for number in range(count)}
    prompts = ", ".join(
        f"{kind!r}: {'scenic' if 'scene' in kind else 'places'}" for kind in (*TWO, *THREE)
    )
    path = tmp_path / TABLES
    path.parent.mkdir(parents=True)
    path.write_text(
        f"data_class_dict = {names}\ntwo_subject_combinations = {[*TWO]}\n"
        f"three_subject_combinations = {[*THREE]}\nsubject_combination_boxes = {boxes}\n"
        f"places = {places}\nscenic = {scenic}\nsubject_combination_prompts = {{{prompts}}}\n"
    )
    return tmp_path


def test_the_published_numbers(checkout: Path) -> None:
    samples = read_samples(checkout)
    assert Counter(sample.kind for sample in samples) == TWO | THREE
    assert sum(len(sample.photos) == 2 for sample in samples) == 2108
    assert sum(len(sample.photos) == 3 for sample in samples) == 2380
    assert len({sample.combination for sample in samples}) == 1148
    # No photo is with itself, no combination is there in another order, no sample is there twice.
    sets = {(s.kind, frozenset(s.photos), s.prompt) for s in samples}
    assert len(sets) == len(samples) == 4488
    assert all(len({*sample.photos}) == len(sample.photos) for sample in samples)


@pytest.mark.skipif("MS_DIFFUSION" not in os.environ, reason="MS_DIFFUSION names no checkout")
def test_the_real_checkout() -> None:
    samples = read_samples(Path(os.environ["MS_DIFFUSION"]))
    assert len(samples) == 4488
    assert {len(sample.boxes) for sample in samples} == {2, 3}


def test_lines_hold_phrases_boxes_and_photos(checkout: Path, tmp_path: Path) -> None:
    path = tmp_path / "lines" / "msbench.jsonl"
    save_lines(sample_lines(read_samples(checkout), path.parent), path)
    lines = [json.loads(row) for row in path.read_text().splitlines()]
    assert len(lines) == 4488
    first = lines[0]
    assert first["name"] == "living_living/living0+living1" and first["seed"] == 1
    assert first["prompt"] == "living by living, place 0"
    one, two = first["subjects"]
    assert (one["phrase"], one["box"]) == ("living", [0.0, 0.0, 0.5, 1.0])
    assert (path.parent / one["reference"]).samefile(checkout / PHOTOS / "living" / "living0.png")
    assert Path(two["reference"]).name == "living1.png"


def test_another_folder_is_refused(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="isn't a checkout of MS-Diffusion's research"):
        read_samples(tmp_path / "lost")
    (checkout / PHOTOS / "scene" / "scene3.png").unlink()
    with pytest.raises(ValueError, match=r"gives 1028 combinations and 4368 samples; MS-Bench has"):
        read_samples(checkout)
    Image.new("RGB", (8, 8)).save(checkout / PHOTOS / "scene" / "sea.png")
    with pytest.raises(ValueError, match=r"msbench.py has no 'sea'."):
        read_samples(checkout)
    tables = (checkout / TABLES).read_text()
    (checkout / TABLES).write_text(f"{tables}\nthree_subject_combinations = None\n")
    with pytest.raises(ValueError, match=r"msbench.py has other tables than MS-Bench's: "):
        read_samples(checkout)
    (checkout / TABLES).write_text("data_class_dict = names")
    with pytest.raises(ValueError, match=r"msbench.py can't be read: 'names'"):
        read_samples(checkout)
