"""Pictures, references and job lines as lab.jobs leaves them, of random content."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lab.jobs.folder import Folder
from lab.jobs.hashes import Hashes

BOXES = ([0.0, 0.2, 0.45, 0.8], [0.5, 0.2, 1.0, 0.9], [0.3, 0.0, 0.7, 0.5])
MADE_BY = {"jobs": "1"}


def draw(seed: int, width: int = 320, height: int = 256) -> Image.Image:
    """Patches of random colours."""
    cells = np.random.default_rng(seed).integers(0, 256, (height // 32, width // 32, 3), np.uint8)
    return Image.fromarray(cells).resize((width, height))


def line(seed: int, phrases: tuple[str, ...] = ("cat", "dog"), **more: Any) -> dict[str, Any]:
    subjects = [
        {"phrase": phrase, "box": box, "reference": f"{phrase}_{number}.png"}
        for number, (phrase, box) in enumerate(zip(phrases, BOXES, strict=False))
    ]
    prompt = f"a {' and a '.join(phrases)} in the snow"
    return {"name": "+".join(phrases), "prompt": prompt, "seed": seed, "subjects": subjects, **more}


def save_lines(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """Write them, and their references; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({subject["reference"] for each in lines for subject in each["subjects"]})
    for number, name in enumerate(names):
        draw(1000 + number, 288, 320).save(folder / name)
    path = folder / "lines.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    return path


def save_pictures(folder: Path, lines: Path, without: tuple[int, ...] = ()) -> Path:
    """Write a picture of each line, the numbers `without` apart; returns their folder."""
    out, hashes = Folder(folder / "pictures"), Hashes(None)
    out.create(MADE_BY)
    for number, text in enumerate(lines.read_text().splitlines(), 1):
        if number in without:
            continue
        given, png = json.loads(text), io.BytesIO()
        draw(number).save(png, "png")
        references = [lines.parent / subject["reference"] for subject in given["subjects"]]
        manifest = {
            "id": f"{number:016}",
            "line": given,
            "files": {f"{hashes.of(path)[:32]}{path.suffix}": str(path) for path in references},
        }
        out.commit("test", manifest["id"], png.getvalue(), manifest)
    return out.path
