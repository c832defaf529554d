"""A training set of the one that MIP-Adapter was trained on (arXiv 2409.17920): pictures of SA-1B
with a text, found entities and their masks. Its form is known from the code that reads it:

    images/sa_1.png    a picture
    masks/sa_1.png     of the same size, in one channel: each entity in a value of its own, and what
                       is no entity in the lowest
    jsons/sa_1.json    {"text": "a dog on grass", "final_masks": [
                        {"label": "dog", "logit": 0.6, "box": [10, 20, 300, 400]}, ...]}

A box is x0, y0, x1, y1 in the picture's pixels; an entry of `final_masks` may be without. The
references are cut out of the pictures themselves, as of COCO's.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lab.training.real.training_set import (
    MAX_SUBJECTS,
    MIN_AREA,
    CutOut,
    cut_out,
    is_in,
    is_sample,
    open_picture,
    save_sample,
)

MIN_LOGIT = 0.3  # of an entity, as where MIP-Adapter was trained
MAX_SHARED = 0.8  # of the smaller of two boxes, that the other may have; as there
# What reading a file's content as the form above raises where it isn't so.
PROBLEMS = (
    ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
)  # fmt: skip
Box = tuple[int, int, int, int]


def import_mip(source: Path, out: Path, dry_run: bool = False) -> int:
    """Write the pictures that have a subject, but those that are at `out` already; print what is
    wrong with others. Returns how many.

    Args:
        dry_run: count them alone.
    Raises:
        FileNotFoundError: it isn't such a folder.
    """
    texts = sorted((source / "jsons").glob("*.json"))
    if not texts:
        raise FileNotFoundError(f"{source} has no jsons/*.json.")
    if not dry_run:
        out.mkdir(parents=True, exist_ok=True)
    left = [path for path in texts if not is_sample(out, path.stem)]
    if left != texts:
        print(f"{len(texts) - len(left)} samples are in {out} already.")
    count = 0
    for path in left:
        picture = source / "images" / f"{path.stem}.png"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            subjects = _subjects(content, picture, source / "masks" / picture.name)
        except PROBLEMS as error:
            problem = f"it has no {error}" if isinstance(error, KeyError) else error
            print(f"{path.stem}: {problem}", flush=True)
            continue
        if subjects and not dry_run:
            save_sample(out, path.stem, picture.read_bytes(), ".png", content["text"], subjects)
        count += bool(subjects)
    return count


def _subjects(content: dict[str, Any], picture: Path, mask: Path) -> list[CutOut]:
    """Entities that the text names, the largest ones; of those in one place the surest.

    Raises ValueError, LookupError, TypeError or AttributeError: the content isn't as described.
    """
    shown = open_picture(picture.read_bytes()).convert("RGB")
    values = np.asarray(open_picture(mask.read_bytes(), "its mask"))
    if values.shape != shown.size[::-1]:
        raise ValueError(f"its mask is {values.shape}, its picture {shown.size[::-1]}")
    taken: list[Box] = []
    found: list[tuple[float, CutOut]] = []
    entities = [entity for entity in content["final_masks"] if "box" in entity]
    for entity in sorted(entities, key=lambda entity: -entity["logit"]):
        box = _within(entity["box"], shown.size)
        area = _area(box) / _area((0, 0, *shown.size))
        if entity["logit"] <= MIN_LOGIT or area < MIN_AREA or _is_shared(box, taken):
            continue
        if not is_in(entity["label"], content["text"]):
            continue
        own = _mask(values, box)
        if own is None:
            continue
        taken.append(box)
        reference = cut_out(shown, Image.fromarray(own).convert("L"))
        shares = tuple(v / shown.size[n % 2] for n, v in enumerate(box))
        found.append((area, CutOut(entity["label"], shares, reference)))
    found.sort(key=lambda pair: -pair[0])
    return [subject for _, subject in found[:MAX_SUBJECTS]]


def _within(box: list[float], size: tuple[int, int]) -> Box:
    """Whole pixels of the picture."""
    x0, y0, x1, y1 = (min(max(round(v), 0), size[n % 2]) for n, v in enumerate(box))
    return x0, y0, x1, y1


def _area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def _is_shared(box: Box, taken: list[Box]) -> bool:
    for other in taken:
        (x0, y0), (x1, y1) = map(max, box[:2], other[:2]), map(min, box[2:], other[2:])
        if _area((x0, y0, x1, y1)) > MAX_SHARED * min(_area(box), _area(other)):
            return True
    return False


def _mask(values: NDArray[np.integer], box: Box) -> NDArray[np.bool_] | None:
    """[H, W], of the entity that has most of a box; None if there is none, or if it's larger than
    the box: then the box isn't that entity's."""
    x0, y0, x1, y1 = box
    inside, counts = np.unique(values[y0:y1, x0:x1], return_counts=True)
    counts[inside == values.min()] = 0
    own = values == inside[counts.argmax()]
    return own if counts.any() and own.sum() <= _area(box) else None
