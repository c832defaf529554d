"""The samples of a benchmark, and job lines."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Line = dict[str, Any]  # as lab.jobs reads it


@dataclass(frozen=True)
class Sample:
    """A prompt for a combination of photos, of which one picture is made."""

    kind: str  # type of the combination, such as living_object, or the name of the one subject
    photos: tuple[Path, ...]
    phrases: tuple[str, ...]
    boxes: tuple[list[float], ...]  # x0, y0, x1, y1 in 0..1
    prompt: str

    @property
    def combination(self) -> str:
        names = "+".join(photo.stem for photo in self.photos)
        return f"{self.kind}/{names}"


def sample_lines(samples: list[Sample], folder: Path) -> list[Line]:
    """A job line for each, in a file of this folder."""
    lines = []
    for number, sample in enumerate(samples, 1):
        rows = zip(sample.phrases, sample.boxes, sample.photos, strict=True)
        subjects = [
            {
                "phrase": phrase,
                "box": box,
                "reference": Path(os.path.relpath(photo.resolve(), folder.resolve())).as_posix(),
            }
            for phrase, box, photo in rows
        ]
        line = {"name": sample.combination, "prompt": sample.prompt, "seed": number}
        lines.append({**line, "subjects": subjects})
    return lines


def save_lines(lines: Iterable[Line], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
