"""Made pictures beside the job lines that asked for them."""

import json
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from lab.jobs.folder import Folder
from lab.jobs.hashes import Hashes
from lab.jobs.lines import naming_line, read_lines


@dataclass(frozen=True)
class Subject:
    """What a line says of a subject."""

    phrase: str
    box: tuple[float, ...]  # x0, y0, x1, y1 in 0..1
    reference: Path


@dataclass(frozen=True)
class Made:
    """A line, and the picture that was made of it if it is there."""

    number: int  # of the line
    name: str  # the line's own; what has the same is one combination
    prompt: str  # empty where the line leaves it to the workflow
    subjects: tuple[Subject, ...]
    id: str  # of the picture, empty if there is none
    picture: Path


def read_made(lines: Path, pictures: Path) -> list[Made]:
    """All lines of a file, each with its picture in a folder of `lab.jobs`.

    Raises:
        ValueError: the folder is none of lab.jobs, or says which line can't be scored and why.
        FileNotFoundError: a reference is missing.
    """
    folder, hashes = Folder(pictures), Hashes(None)
    folder.versions()
    manifests = defaultdict(list)
    for path in sorted(pictures.glob("??/*.json")):
        manifest = _read_manifest(path)
        manifests[_content(manifest["line"])].append(manifest)
    found = []
    for number, line in read_lines(lines):
        with naming_line(lines, number):
            subjects = _subjects(line, lines.parent)
            of_line = manifests[_content(line)]
            if len(of_line) > 1:
                ids = " and ".join(manifest["id"] for manifest in of_line)
                raise ValueError(
                    f"{pictures} has several pictures of it, {ids}. Use a folder for each workflow "
                    "and each set of models."
                )
            for manifest in of_line:
                _check_files(subjects, line, lines.parent, manifest, hashes)
            picture = of_line[0]["id"] if of_line else ""
        name = line.get("name") or f"line {number}"
        path = folder.picture(picture)
        found.append(Made(number, name, line.get("prompt", ""), subjects, picture, path))
    return found


def check_subjects(made: Made) -> None:
    """Raises ValueError: a line without prompt, subjects or their phrases can't be scored by
    them."""
    if not made.subjects or not made.prompt:
        raise ValueError(
            "a line needs prompt and subjects to be scored by; those of the micro world need "
            "--sets judged."
        )
    for number, subject in enumerate(made.subjects, 1):
        if not subject.phrase:
            raise ValueError(f"subject {number} has no phrase to look for.")


def open_picture(path: Path) -> Image.Image:
    """RGB, turned as the host's Load Image turns it; alpha is ignored."""
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def _read_manifest(path: Path) -> dict[str, Any]:
    """Raises ValueError: it is none of lab.jobs."""
    with suppress(ValueError):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"id": str, "line": dict, "files": dict}
        if isinstance(manifest, dict) and all(
            isinstance(manifest.get(name), kind) for name, kind in kinds.items()
        ):
            return manifest
    raise ValueError(f"{path} isn't a manifest of lab.jobs.")


def _content(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True)


def _subjects(line: dict[str, Any], folder: Path) -> tuple[Subject, ...]:
    subjects = []
    for given in line.get("subjects", []):
        reference = folder / given["reference"]
        if not reference.is_file():
            raise FileNotFoundError(f"the picture {reference} doesn't exist.")
        subjects.append(Subject(given.get("phrase", ""), tuple(given["box"]), reference))
    return tuple(subjects)


def _check_files(
    subjects: tuple[Subject, ...],
    line: dict[str, Any],
    folder: Path,
    manifest: dict[str, Any],
    hashes: Hashes,
) -> None:
    """Raises ValueError: a reference, or a file that an input names, isn't the one that the picture
    was made with."""
    values = [value for inputs in line.get("inputs", {}).values() for value in inputs.values()]
    read = {Path(path).name for path in manifest["files"].values()}  # by the nodes of the picture
    named = [folder / text for text in values if isinstance(text, str) and Path(text).name in read]
    for path in [*(subject.reference for subject in subjects), *named]:
        if not path.is_file():
            raise FileNotFoundError(f"{path}, of which picture {manifest['id']} is, doesn't exist.")
        content = hashes.of(path)
        if not any(content.startswith(name.partition(".")[0]) for name in manifest["files"]):
            raise ValueError(f"{path} isn't the file that picture {manifest['id']} was made with.")
