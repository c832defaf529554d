"""A training set of COCO's pictures, captions and segmentations.

COCO shows each object once, so that its reference is cut out of the picture itself: an adapter may
learn to paste. Sets with another picture of the same thing are better."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from lab.training.real.training_set import (
    MAX_SUBJECTS,
    MIN_AREA,
    PICTURES,
    CutOut,
    cut_out,
    is_sample,
    open_picture,
    save_sample,
)

# The fields of what is in the files' lists, and their types.
CATEGORY = {"id": "a number", "name": "a text"}
IMAGE = {"id": "a number", "file_name": "a text", "width": "a number", "height": "a number"}
CAPTION = {"image_id": "a number", "caption": "a text"}
OBJECT = {
    "image_id": "a number", "category_id": "a number", "bbox": "four numbers",
    "segmentation": "polygons of three points or more",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture of COCO's with a caption and objects, each of which has its `phrase`."""

    path: Path
    name: str  # of its sample
    size: tuple[int, int]  # width and height
    caption: str
    objects: list[dict[str, Any]]


def import_coco(source: Path, out: Path, dry_run: bool = False) -> int:
    """Write the pictures of each split that have a caption and a subject, but those that are at
    `out` already; print what is wrong with others. Returns how many.

    Args:
        source: folder with annotations/instances_<split>.json, annotations/captions_<split>.json
            and the pictures in <split>/.
        dry_run: count them alone.
    Raises:
        FileNotFoundError: it isn't such a folder.
        ValueError: a file isn't as COCO's are; names it and what is wrong in it.
    """
    splits = sorted((source / "annotations").glob("instances_*.json"))
    if not splits:
        raise FileNotFoundError(f"{source} has no annotations/instances_<split>.json.")
    pictures: list[Picture] = []
    for instances in splits:
        split = instances.stem.removeprefix("instances_")
        captions = instances.with_name(f"captions_{split}.json")
        if not captions.exists():
            raise FileNotFoundError(f"{captions} doesn't exist.")
        pictures += _pictures(instances, captions, source / split)
    if not dry_run:
        out.mkdir(parents=True, exist_ok=True)
    left = [picture for picture in pictures if not is_sample(out, picture.name)]
    if left != pictures:
        print(f"{len(pictures) - len(left)} samples are in {out} already.")
    count = unseen = 0
    for picture in left:
        try:
            content = picture.path.read_bytes()
            subjects, nothing = _subjects(picture, content)
        except (OSError, ValueError) as error:
            print(f"{picture.name}: {error}", flush=True)
            continue
        unseen += nothing
        count += bool(subjects)
        if subjects and not dry_run:
            ending = picture.path.suffix.lower()
            save_sample(out, picture.name, content, ending, picture.caption, subjects)
    if unseen:
        print(f"{unseen} objects were left out: of their boxes or outlines nothing is to be seen.")
    return count


def _pictures(instances: Path, captions: Path, folder: Path) -> Iterator[Picture]:
    """Each picture with its first caption and its objects.

    Raises ValueError: a file isn't as COCO's are.
    """
    content = _read(instances)
    categories = _entries(instances, content, "categories", CATEGORY)
    names = {each["id"]: each["name"] for _, each in categories}
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for where, each in _entries(instances, content, "annotations", {}):
        if each.get("iscrowd"):  # a run-length mask of many
            continue
        _check(where, each, OBJECT)
        if each["category_id"] not in names:
            raise ValueError(f"{where}: there is no category {each['category_id']}.")
        objects[each["image_id"]].append({**each, "phrase": names[each["category_id"]]})
    first: dict[int, str] = {}
    for _, each in _entries(captions, _read(captions), "annotations", CAPTION):
        first.setdefault(each["image_id"], each["caption"].strip())
    for _, image in _entries(instances, content, "images", IMAGE):
        caption, own = first.get(image["id"]), objects[image["id"]]
        if caption and own:
            name = f"{folder.name}_{image['id']}"
            size = image["width"], image["height"]
            yield Picture(folder / image["file_name"], name, size, caption, own)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} isn't JSON: {error}.") from None


def _entries(
    path: Path, content: Any, name: str, fields: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of a file's list, after what names each of them in an error.

    Raises ValueError: there is no such list, or an entry is without these fields.
    """
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected an object with a list of {name}.")
    for number, entry in enumerate(entries):
        where = f"{path}: {name}[{number}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, got {entry!r:.60}.")
        _check(where, entry, fields)
        yield where, entry


def _check(where: str, entry: dict[str, Any], fields: Mapping[str, str]) -> None:
    """Raises ValueError: it lacks a field, or one is of another type."""
    for name, kind in fields.items():
        value = entry.get(name)
        if not FITS[kind](value):
            raise ValueError(f"{where}: expected {name} as {kind}, got {value!r:.60}.")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _are_polygons(value: Any) -> bool:
    return isinstance(value, list) and all(
        _are_numbers(each) and len(each) >= 6 and len(each) % 2 == 0 for each in value
    )


FITS: dict[str, Callable[[Any], bool]] = {
    "a number": _is_number,
    "a text": lambda value: isinstance(value, str),
    "four numbers": lambda value: _are_numbers(value) and len(value) == 4,
    "polygons of three points or more": _are_polygons,
}


def _subjects(picture: Picture, content: bytes) -> tuple[list[CutOut], int]:
    """The largest objects, cut out; and how many were left out because nothing of them is to be
    seen.

    Raises ValueError: it can't be read, or isn't the picture that was annotated.
    """
    if picture.path.suffix.lower() not in PICTURES:
        raise ValueError(f"its picture {picture.path.name} isn't {', '.join(PICTURES)}")
    shown = open_picture(content).convert("RGB")
    if shown.size != picture.size:
        raise ValueError(f"its picture is {shown.size}, as annotated {picture.size}")
    boxes = [_box(each["bbox"], shown.size) for each in picture.objects]
    order = sorted(range(len(boxes)), key=lambda n: -_area(boxes[n]))
    subjects: list[CutOut] = []
    unseen = sum(_area(box) <= 0 for box in boxes)
    for n in order:
        if _area(boxes[n]) < MIN_AREA or len(subjects) == MAX_SUBJECTS:
            break
        mask = Image.new("L", shown.size)
        pen = ImageDraw.Draw(mask)
        for polygon in picture.objects[n]["segmentation"]:
            pen.polygon(polygon, fill=255)
        if not mask.getbbox():
            unseen += 1
            continue
        subjects.append(CutOut(picture.objects[n]["phrase"], boxes[n], cut_out(shown, mask)))
    return subjects, unseen


def _box(bbox: list[float], size: tuple[int, int]) -> tuple[float, ...]:
    """x0, y0, x1, y1 in 0..1, what is outside the picture cut off."""
    left, top, width, height = bbox
    edges = (left, top, left + width, top + height)
    return tuple(min(1.0, max(0.0, v / size[n % 2])) for n, v in enumerate(edges))


def _area(box: tuple[float, ...]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
