"""Boxes of sockets and workflow files, and the layout value of MSDLayout."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..subjects import MAX_SUBJECTS, Box

NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)
LAYOUT_VERSION = 2  # the newest; the first one knows neither off nor front
MAX_WEIGHT = 10
# How far a box may reach beyond the picture, in its widths and heights; what is outside is cut off.
# Read as percent or pixels, a box within this would be smaller than any subject.
MAX_OUTSIDE = 1.0
MAX_POINTS = 1000  # of a polygon

Point = tuple[float, float]  # normalised x, y


@dataclass(frozen=True)
class SubjectSpec:
    """Phrase, box and weight of one subject, as a layout or a boxes socket gives them."""

    phrase: str | None
    box: Box
    weight: float = 1.0
    off: bool = False  # left out of the run
    polygon: tuple[Point, ...] = ()  # its shape, with the box around it; none: all of the box
    front: int = 0  # of two, the higher one is in front in the collage


def parse_layout(layout: Any) -> list[SubjectSpec]:
    """The subjects of a layout value: `{"version": 1 or 2, "subjects": [{"phrase": str,
    "box": [x0, y0, x1, y1] in 0..1, "weight": number, "off": bool, "polygon": [[x, y], ...],
    "front": whole number}]}`. Box null, missing or all zeros: no box. Where there is a polygon, the
    box is the one around it.

    Raises:
        ValueError: says which subject and what is wrong with it.
    """
    if layout is None:
        return []
    if not isinstance(layout, Mapping) or not isinstance(layout.get("subjects"), list):
        raise ValueError('layout must be an object like {"version": 1, "subjects": [...]}.')
    version = layout.get("version", 1)
    if version not in range(1, LAYOUT_VERSION + 1):
        raise ValueError(
            f"layout has version {version!r}, this pack reads versions up to {LAYOUT_VERSION}. "
            "Update MS-Diffusion."
        )
    if len(layout["subjects"]) > MAX_SUBJECTS:
        raise ValueError(
            f"layout has {len(layout['subjects'])} subjects; at most {MAX_SUBJECTS} fit."
        )
    specs = []
    for number, subject in enumerate(layout["subjects"], 1):
        where = f"layout, subject {number}"
        if not isinstance(subject, Mapping):
            raise ValueError(f"{where} must be an object with phrase, box and weight.")
        phrase = subject.get("phrase", "")
        if not isinstance(phrase, str):
            raise ValueError(f"{where}: phrase must be text, got {_shown(phrase)}.")
        weight = subject.get("weight", 1.0)
        if not (_is_number(weight) and 0 <= weight <= MAX_WEIGHT):
            raise ValueError(
                f"{where}: weight must be a number from 0 to {MAX_WEIGHT}, got {_shown(weight)}."
            )
        box = subject.get("box")
        box = NO_BOX if box is None else _normalised_box(box, where)
        off = subject.get("off", False)
        if not isinstance(off, bool):
            raise ValueError(f"{where}: off must be true or false, got {_shown(off)}.")
        front = subject.get("front", 0)
        if not isinstance(front, int) or isinstance(front, bool) or not 0 <= front <= MAX_SUBJECTS:
            raise ValueError(
                f"{where}: front must be a whole number from 0 to {MAX_SUBJECTS}, got "
                f"{_shown(front)}."
            )
        polygon = _polygon(subject.get("polygon"), where)
        if polygon:
            box = _box_around(polygon, where)
        specs.append(SubjectSpec(phrase, box, float(weight), off, polygon, front))
    return specs


def parse_boxes(boxes: Any, width: int, height: int) -> list[SubjectSpec]:
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
        return [SubjectSpec(None, _text_box(row, n)) for n, row in enumerate(rows, 1)]
    if isinstance(boxes, Mapping):
        boxes = [boxes]
    if isinstance(boxes, Sequence) and boxes and isinstance(boxes[0], (list, tuple)):
        boxes = boxes[0]
    if not isinstance(boxes, Sequence):
        raise ValueError(f"boxes: expected boxes, got {_shown(boxes)}.")
    specs = []
    for number, entry in enumerate(boxes, 1):
        where = f"boxes, box {number}"
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where}: expected a box, got {_shown(entry)}.")
        metadata = entry.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        phrase = entry.get("desc") or entry.get("label") or metadata.get("desc")
        if "bbox" in entry:  # an element: [ymin, xmin, ymax, xmax] in 0..1000
            y0, x0, y1, x1 = values = _numbers(entry["bbox"], where)
            if min(values) < 0 or max(values) > 1000 or _is_tiny(values):
                raise ValueError(
                    f"{where}: an element's bbox is ymin, xmin, ymax, xmax in 0..1000 of the "
                    f"picture; {_listed(values)} looks like "
                    f"{'0..1' if _is_tiny(values) else 'pixels'}. Connect boxes in pixels as "
                    "bounding boxes with x, y, width and height, boxes in 0..1 as text."
                )
            box = _cut((x0 / 1000, y0 / 1000, x1 / 1000, y1 / 1000), where)
        elif all(name in entry for name in ("x", "y", "width", "height")):
            names = ("x", "y", "width", "height")
            x, y, w, h = values = _numbers([entry[name] for name in names], where)
            box = (x / width, y / height, (x + w) / width, (y + h) / height)
            if _is_far_outside(box) or _is_tiny(values):
                raise ValueError(
                    f"{where}: a bounding box is x, y, width, height in pixels of the {width} x "
                    f"{height} picture; {_listed(values)} "
                    + (
                        "looks like 0..1. Connect boxes in 0..1 as text x0,y0,x1,y1."
                        if _is_tiny(values)
                        else "lies far outside. Find the boxes in a picture of that size, or set "
                        "width and height to that of theirs."
                    )
                )
            box = _cut(box, where)
        else:
            raise ValueError(f"{where}: expected x, y, width and height, got {_shown(entry)}.")
        specs.append(SubjectSpec(str(phrase) if phrase else None, box))
    return specs


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
    return _normalised_box(values, f"boxes, box {number}")


def _normalised_box(given: Any, where: str) -> Box:
    values = _numbers(given, where)
    # Whole numbers other than 0 and 1 are of another unit however small: nobody means a box that
    # ends exactly a picture's width beyond the picture.
    other_unit = all(value.is_integer() for value in values) and not {*values} <= {0.0, 1.0}
    if other_unit or _is_far_outside(values):
        largest = max(map(abs, values))
        if largest <= 100:
            unit, cure = "percent", "Divide it by 100"
        elif largest <= 1000:
            unit, cure = "per mille or pixels", "Divide it by 1000"
        else:
            unit, cure = "pixels", "Divide x by the picture's width and y by its height"
        if largest <= 1000:
            cure += ", or pixels by the picture's width and height"
        raise ValueError(
            f"{where}: box must be x0,y0,x1,y1 in 0..1 of the picture; {_listed(values)} looks "
            f"like {unit}. {cure}."
        )
    return _cut(values, where)


def _polygon(given: Any, where: str) -> tuple[Point, ...]:
    """The points of a shape, () where there is none."""
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"{where}: polygon must be a list of points, got {_shown(given)}.")
    if not 3 <= len(given) <= MAX_POINTS:
        raise ValueError(f"{where}: polygon must have 3 to {MAX_POINTS} points, got {len(given)}.")
    for number, point in enumerate(given, 1):
        if not (
            isinstance(point, (list, tuple)) and len(point) == 2 and all(map(_is_number, point))
        ):
            raise ValueError(
                f"{where}: point {number} of polygon must be two numbers, got {_shown(point)}."
            )
        if not all(0 <= value <= 1 for value in point):
            raise ValueError(
                f"{where}: polygon must be x,y in 0..1 of the picture; point {number} is "
                f"{_listed(point)}."
            )
    return tuple((float(x), float(y)) for x, y in given)


def _box_around(polygon: Sequence[Point], where: str) -> Box:
    xs, ys = zip(*polygon, strict=True)
    box = min(xs), min(ys), max(xs), max(ys)
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"{where}: polygon has no area.")
    return box


def _cut(values: Sequence[float], where: str) -> Box:
    """What of a box lies in the picture."""
    if not any(values):
        return NO_BOX
    x0, y0, x1, y1 = (min(max(value, 0.0), 1.0) for value in values)
    if not (x0 < x1 and y0 < y1):
        shown = ",".join(f"{value:.2f}" for value in values)
        raise ValueError(f"{where}: box {shown} has no area in the picture.")
    return x0, y0, x1, y1


def _is_far_outside(box: Sequence[float]) -> bool:
    return min(box) < -MAX_OUTSIDE or max(box) > 1 + MAX_OUTSIDE


def _is_tiny(values: Sequence[float]) -> bool:
    """Whether a box in pixels or per mille is no larger than one of these, as one in 0..1 is."""
    return any(values) and all(0 <= value <= 1 for value in values)


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


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
