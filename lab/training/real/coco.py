"""A training set of COCO's pictures, captions and segmentations.

COCO shows each object once, so that its reference is cut out of the picture itself: an adapter may
learn to paste. Sets with another picture of the same thing are better."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from lab.training.real.training_set import (
    MAX_SUBJECTS,
    MIN_AREA,
    CutOut,
    cut_out,
    new_folder,
    save_sample,
)


def import_coco(source: Path, out: Path, dry_run: bool = False) -> int:
    """Write the pictures of each split that have a caption and a subject; returns how many.

    Args:
        source: folder with annotations/instances_<split>.json, annotations/captions_<split>.json
            and the pictures in <split>/.
        dry_run: count them alone.
    Raises:
        FileNotFoundError: it isn't such a folder.
        FileExistsError: there is something at `out`.
    """
    splits = sorted((source / "annotations").glob("instances_*.json"))
    if not splits:
        raise FileNotFoundError(f"{source} has no annotations/instances_<split>.json.")
    new_folder(out, dry_run)
    count = 0
    for instances in splits:
        split = instances.stem.removeprefix("instances_")
        captions = instances.with_name(f"captions_{split}.json")
        if not captions.exists():
            raise FileNotFoundError(f"{captions} doesn't exist.")
        for image, caption, objects in _pictures(_read(instances), _read(captions)):
            path, name = source / split / image["file_name"], f"{split}_{image['id']}"
            if not dry_run:
                _write(path, name, caption, objects, out)
            count += 1
    return count


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _pictures(
    instances: dict[str, Any], captions: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], str, list[dict[str, Any]]]]:
    """Each picture with its first caption and its objects, of which each has its `phrase`."""
    names = {category["id"]: category["name"] for category in instances["categories"]}
    first: dict[int, str] = {}
    for annotation in captions["annotations"]:
        first.setdefault(annotation["image_id"], annotation["caption"].strip())
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in instances["annotations"]:
        if not annotation.get("iscrowd"):  # a run-length mask of many
            phrase = names[annotation["category_id"]]
            objects[annotation["image_id"]].append({**annotation, "phrase": phrase})
    for image in instances["images"]:
        smallest = MIN_AREA * image["width"] * image["height"]
        found = [o for o in objects[image["id"]] if o["bbox"][2] * o["bbox"][3] >= smallest]
        found.sort(key=lambda each: -each["bbox"][2] * each["bbox"][3])
        if found and first.get(image["id"]):
            yield image, first[image["id"]], found[:MAX_SUBJECTS]


def _write(path: Path, name: str, caption: str, objects: list[dict[str, Any]], out: Path) -> None:
    picture = Image.open(path).convert("RGB")
    subjects = []
    for each in objects:
        left, top, width, height = each["bbox"]
        edges = (left, top, left + width, top + height)
        box = tuple(min(1.0, max(0.0, v / picture.size[n % 2])) for n, v in enumerate(edges))
        mask = Image.new("L", picture.size)
        pen = ImageDraw.Draw(mask)
        for polygon in each["segmentation"]:
            pen.polygon(polygon, fill=255)
        subjects.append(CutOut(each["phrase"], box, cut_out(picture, mask)))
    save_sample(out, name, path.read_bytes(), path.suffix.lower(), caption, subjects)
