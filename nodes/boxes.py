"""Boxes as they come through sockets and workflow files, and the layout value of MSDLayout."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .subjects import MOST_SUBJECTS, Box

NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)
LAYOUT_VERSION = 1
HEAVIEST = 10


@dataclass(frozen=True)
class Place:
    """Phrase, box and weight of one subject, as a layout or a boxes socket gives them."""

    phrase: str | None
    box: Box
    weight: float = 1.0


def parse_layout(layout: Any) -> list[Place]:
    """The subjects of a layout value: `{"version": 1, "subjects": [{"phrase": str, "box":
    [x0, y0, x1, y1] in 0..1, "weight": number}]}`. Box null, missing or all zeros: no box.

    Raises:
        ValueError: says which subject and what is wrong with it.
    """
    if layout is None:
        return []
    if not isinstance(layout, Mapping) or not isinstance(layout.get("subjects"), list):
        raise ValueError('layout must be an object like {"version": 1, "subjects": [...]}.')
    version = layout.get("version", LAYOUT_VERSION)
    if version != LAYOUT_VERSION:
        raise ValueError(
            f"layout has version {version!r}, this pack reads version {LAYOUT_VERSION}. "
            "Update MS-Diffusion."
        )
    if len(layout["subjects"]) > MOST_SUBJECTS:
        raise ValueError(
            f"layout has {len(layout['subjects'])} subjects; at most {MOST_SUBJECTS} fit."
        )
    places = []
    for number, subject in enumerate(layout["subjects"], 1):
        where = f"layout, subject {number}"
        if not isinstance(subject, Mapping):
            raise ValueError(f"{where} must be an object with phrase, box and weight.")
        phrase = subject.get("phrase", "")
        if not isinstance(phrase, str):
            raise ValueError(f"{where}: phrase must be text, got {_shown(phrase)}.")
        weight = subject.get("weight", 1.0)
        if not (_is_number(weight) and 0 <= weight <= HEAVIEST):
            raise ValueError(
                f"{where}: weight must be a number from 0 to {HEAVIEST}, got {_shown(weight)}."
            )
        box = subject.get("box")
        places.append(Place(phrase, NO_BOX if box is None else _box(box, where), float(weight)))
    return places


def parse_boxes(boxes: Any, width: int, height: int) -> list[Place]:
    """Boxes of any form that the `boxes` socket takes.

    Args:
        boxes: `elements` of Create Bounding Boxes; a bounding box in pixels, a list of them or a
            list of lists (the first is taken); or text "x0,y0,x1,y1;..." in 0..1.
        width, height: pixels of the picture.
    Raises:
        ValueError: says what is wrong.
    """
    if isinstance(boxes, str):
        rows = [row for row in boxes.replace("\n", ";").split(";") if row.strip()]
        return [Place(None, _text_box(row, n)) for n, row in enumerate(rows, 1)]
    if isinstance(boxes, Mapping):
        boxes = [boxes]
    if isinstance(boxes, Sequence) and boxes and isinstance(boxes[0], (list, tuple)):
        boxes = boxes[0]
    if not isinstance(boxes, Sequence):
        raise ValueError(f"boxes: expected boxes, got {_shown(boxes)}.")
    places = []
    for number, entry in enumerate(boxes, 1):
        where = f"boxes, box {number}"
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where}: expected a box, got {_shown(entry)}.")
        metadata = entry.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        phrase = entry.get("desc") or entry.get("label") or metadata.get("desc")
        if "bbox" in entry:  # an element: [ymin, xmin, ymax, xmax] in 0..1000
            y0, x0, y1, x1 = _numbers(entry["bbox"], where)
            box = (x0 / 1000, y0 / 1000, x1 / 1000, y1 / 1000)
        elif all(name in entry for name in ("x", "y", "width", "height")):
            names = ("x", "y", "width", "height")
            x, y, w, h = _numbers([entry[name] for name in names], where)
            box = (x / width, y / height, (x + w) / width, (y + h) / height)
        else:
            raise ValueError(f"{where}: expected x, y, width and height, got {_shown(entry)}.")
        places.append(Place(str(phrase) if phrase else None, _box(box, where)))
    return places


def pixel_box(box: Box, width: int, height: int) -> dict[str, int]:
    """A box as the host's BOUNDING_BOX, in pixels."""
    x0, y0 = round(box[0] * width), round(box[1] * height)
    return {
        "x": x0,
        "y": y0,
        "width": round(box[2] * width) - x0,
        "height": round(box[3] * height) - y0,
    }


def _text_box(row: str, number: int) -> Box:
    try:
        values = [float(value) for value in row.split(",")]
    except ValueError:
        values = []
    if len(values) != 4:
        raise ValueError(f"boxes, box {number}: expected x0,y0,x1,y1, got {_shown(row)}.")
    return _box(values, f"boxes, box {number}")


def _box(values: Any, where: str) -> Box:
    x0, y0, x1, y1 = _numbers(values, where)
    if not any((x0, y0, x1, y1)):
        return NO_BOX
    # Cut to the picture first: what of the box lies in it is what counts.
    box = tuple(min(max(value, 0.0), 1.0) for value in (x0, y0, x1, y1))
    if not (box[0] < box[2] and box[1] < box[3]):
        shown = ",".join(f"{value:.2f}" for value in (x0, y0, x1, y1))
        raise ValueError(f"{where}: box {shown} has no area in the picture.")
    return box  # type: ignore[return-value]


def _numbers(values: Any, where: str) -> list[float]:
    if not (
        isinstance(values, (list, tuple)) and len(values) == 4 and all(map(_is_number, values))
    ):
        raise ValueError(f"{where}: box must be four numbers, got {_shown(values)}.")
    return [float(value) for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
