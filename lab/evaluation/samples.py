"""The samples of a benchmark, and their job lines."""

import json
import os
from dataclasses import dataclass
from pathlib import Path


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


def save_lines(samples: list[Sample], path: Path) -> None:
    """Write a job line for each, as `lab.jobs` reads them."""
    folder = path.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number, sample in enumerate(samples, 1):
            rows = zip(sample.phrases, sample.boxes, sample.photos, strict=True)
            line = {
                "name": sample.combination,
                "prompt": sample.prompt,
                "seed": number,
                "subjects": [
                    {
                        "phrase": phrase,
                        "box": box,
                        "reference": Path(os.path.relpath(photo.resolve(), folder)).as_posix(),
                    }
                    for phrase, box, photo in rows
                ],
            }
            file.write(json.dumps(line) + "\n")
