"""A training set: pictures with a caption, and of each subject its phrase, box and reference.

In WebDataset's layout: a folder of files, or of tar files with such files in them, or one tar file.

    cat.jpg     a picture; .png and .webp too
    cat.json    {"caption": "a cat beside a cup", "subjects": [
                 {"phrase": "cat", "box": [0.1, 0.2, 0.5, 0.9], "reference": "cat.0.png"}, ...]}
    cat.0.png   a reference; what is transparent isn't part of the subject

A box is x0, y0, x1, y1 in 0..1 of the picture.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

from lab.jobs import lines

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
# Of the subjects that importers take: at least this much of the picture in its box, and at most so
# many of a picture, the largest ones.
MIN_AREA, MAX_SUBJECTS = 0.02, 4
FIELDS, SUBJECT_FIELDS = {"caption", "subjects"}, {"phrase", "box", "reference"}


@dataclass(frozen=True)
class Part:
    """Some bytes of a file: the whole, or a member of a tar file."""

    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read() if self.size is None else file.read(self.size)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.read()).hexdigest()

    def open(self, what: str = "a picture") -> Image.Image:
        """As `open_picture`."""
        return open_picture(self.read(), what)


def open_picture(content: bytes, what: str = "its picture") -> Image.Image:
    """The picture that a file has, decoded and upright.

    Args:
        what: it is, for the error.
    Raises:
        ValueError: it isn't a whole picture, or too large a one.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return ImageOps.exif_transpose(picture)  # decodes it
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).partition(" <_io.")[0]  # which names an object of Python's
        raise ValueError(f"{what} can't be read: {reason}") from None


@dataclass(frozen=True)
class SubjectOfSample:
    phrase: str
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in 0..1
    reference: Part


@dataclass(frozen=True)
class Sample:
    """A picture of a set, and what is known of it."""

    name: str
    caption: str
    picture: Part
    subjects: tuple[SubjectOfSample, ...]

    @property
    def digest(self) -> str:
        """Hash of all that is in it."""
        subjects = [(s.phrase, s.box, s.reference.digest) for s in self.subjects]
        whole = json.dumps([self.picture.digest, self.caption, subjects])
        return hashlib.sha256(whole.encode()).hexdigest()


def read_set(path: Path) -> list[Sample]:
    """All samples of a set, by name; their pictures aren't opened.

    Raises:
        FileNotFoundError: there is no such set, or nothing in it.
        ValueError: samples are not sound; names the first of them and what is wrong.
    """
    samples, problems = scan(path)
    if problems:
        more = f" ({len(problems)} in all)" if problems[1:] else ""
        raise ValueError(f"{problems[0]}{more}. python -m lab.training check {path} names all.")
    return samples


def scan(path: Path, look: bool = False) -> tuple[list[Sample], list[str]]:
    """The sound samples of a set, and a sentence for each that isn't.

    Args:
        look: at all pictures too.

    Raises FileNotFoundError: there is no such set, or nothing in it.
    """
    parts = dict(_parts(path))
    samples, problems = [], []
    for name in sorted(name for name in parts if name.endswith(".json")):
        try:
            samples.append(_read_sample(name, parts, look))
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if not samples and not problems:
        raise FileNotFoundError(f"{path} has no samples: no .json file, nor tar files with them.")
    return samples, problems


def count_strays(path: Path, samples: Sequence[Sample]) -> int:
    """How many pictures of a set are neither of these samples nor named as another .json is."""
    parts = dict(_parts(path))
    used = {part for s in samples for part in (s.picture, *(each.reference for each in s.subjects))}
    strays = 0
    for name, part in parts.items():
        folder, slash, file = name.rpartition("/")
        words = file.split(".")  # cat.0.png may be of cat.json
        keys = (".".join(words[:n]) for n in range(1, len(words)))
        is_picture = name.lower().endswith(PICTURES) and part not in used
        strays += is_picture and not any(f"{folder}{slash}{key}.json" in parts for key in keys)
    return strays


def _parts(path: Path) -> Iterator[tuple[str, Part]]:
    """Each file of a set by its name, members of tar files too."""
    if not path.exists():
        raise FileNotFoundError(f"{path} doesn't exist.")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if file.suffix != ".tar":
            yield file.relative_to(path).as_posix(), Part(file)
            continue
        inside = "" if file == path else f"{file.relative_to(path).as_posix()}/"
        try:
            with tarfile.open(file, "r:") as archive:  # not compressed: read where it is needed
                members = [member for member in archive if member.isfile()]
        except tarfile.TarError as error:
            raise ValueError(f"{file} is no plain tar file: {error}.") from error
        for member in members:
            yield inside + member.name, Part(file, member.offset_data, member.size)


def _read_sample(name: str, parts: dict[str, Part], look: bool) -> Sample:
    """Raises ValueError: what is wrong with it."""
    try:
        content = json.loads(parts[name].read())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it isn't JSON: {error}") from None
    _check_fields(content, FIELDS, "it")
    key = name.removesuffix(".json")
    found = [parts[f"{key}{ending}"] for ending in PICTURES if f"{key}{ending}" in parts]
    if len(found) != 1:
        raise ValueError(
            f"expected one picture {key.rpartition('/')[2]}{'|'.join(PICTURES)}, got {len(found)}"
        )
    if not isinstance(content["caption"], str) or not content["caption"].strip():
        raise ValueError("its caption must be a text that isn't empty")
    if not isinstance(content["subjects"], list):
        raise ValueError("its subjects must be a list")
    if len(content["subjects"]) > lines.MAX_SUBJECTS:
        raise ValueError(
            f"its subjects must be at most {lines.MAX_SUBJECTS}, got {len(content['subjects'])}"
        )
    folder = key.rpartition("/")[0]
    subjects = tuple(
        _read_subject(f"subject {number}", subject, folder, parts)
        for number, subject in enumerate(content["subjects"], 1)
    )
    if look:
        found[0].open("its picture")
        for number, subject in enumerate(subjects, 1):
            reference = subject.reference.open(f"subject {number}: its reference")
            if not reference.convert("RGBA").getchannel("A").getbbox():
                raise ValueError(f"subject {number}: its reference is wholly transparent")
    return Sample(key, content["caption"], found[0], subjects)


def _read_subject(where: str, content: Any, folder: str, parts: dict[str, Part]) -> SubjectOfSample:
    _check_fields(content, SUBJECT_FIELDS, where)
    box = content["box"]
    numbers = isinstance(box, list) and [v for v in box if type(v) in (int, float)]
    if not numbers or len(box) != 4 or len(numbers) != 4:
        raise ValueError(f"{where}: box must be four numbers x0, y0, x1, y1, got {box!r}")
    x0, y0, x1, y1 = numbers
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"{where}: box must be x0 < x1 and y0 < y1 in 0..1, got {box}")
    if not isinstance(content["phrase"], str) or not content["phrase"].strip():
        raise ValueError(f"{where}: phrase must be a text that isn't empty")
    name = f"{folder}/{content['reference']}" if folder else str(content["reference"])
    if name not in parts:
        raise ValueError(f"{where}: there is no reference {content['reference']!r}")
    return SubjectOfSample(content["phrase"], (x0, y0, x1, y1), parts[name])


def _check_fields(content: Any, names: set[str], where: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be an object with {', '.join(sorted(names))}")
    if missing := sorted(names - content.keys()):
        raise ValueError(f"{where} has no {missing[0]!r}")
    if unknown := sorted(content.keys() - names):
        raise ValueError(f"{where} has an unknown field {unknown[0]!r}")


@dataclass(frozen=True)
class CutOut:
    """A subject for `save_sample`."""

    phrase: str
    box: tuple[float, ...]  # in 0..1 of the sample's picture
    reference: Image.Image


def is_sample(folder: Path, name: str) -> bool:
    """Whether `save_sample` has written it to its end."""
    return (folder / f"{name}.json").exists()


def is_in(phrase: str, caption: str) -> bool:
    """Whether a caption has these words."""
    words = r"\s+".join(map(re.escape, phrase.split()))
    return re.search(rf"(?<!\w){words}(?!\w)", caption, re.IGNORECASE) is not None


def cut_out(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """What a mask [H, W] shows of a picture, as an RGBA picture of just its size; it mustn't be
    empty."""
    reference = picture.convert("RGB")
    reference.putalpha(mask)
    return reference.crop(mask.getbbox())


def save_sample(
    folder: Path, name: str, picture: bytes, ending: str, caption: str, subjects: Sequence[CutOut]
) -> None:
    """Write a sample, <name>.json last: where that is, the sample is whole.

    Args:
        picture: content of a file with this ending, one of `PICTURES`.
    """
    content = []
    for number, subject in enumerate(subjects):
        reference = f"{name}.{number}.png"
        subject.reference.save(folder / reference)
        content.append({"phrase": subject.phrase, "box": list(subject.box), "reference": reference})
    (folder / f"{name}{ending}").write_bytes(picture)
    text = json.dumps({"caption": caption, "subjects": content})
    aside = folder / f"{name}.json.part"
    aside.write_text(text)
    aside.replace(folder / f"{name}.json")


def draw_samples(samples: list[Sample], path: Path) -> None:
    """A contact sheet: of each sample the picture with its boxes, then its references."""
    rows = []
    for sample in samples:
        boxes = [subject.box for subject in sample.subjects]
        rows.append([with_boxes(sample, sample.picture.open(), boxes), *references(sample)])
    save_sheet(rows, path)


def with_boxes(
    sample: Sample, picture: Image.Image, boxes: Sequence[Sequence[float]]
) -> Image.Image:
    """A sample's picture with its subjects' boxes and phrases; those of zeros aren't drawn."""
    picture = picture.convert("RGB")
    pen = ImageDraw.Draw(picture)
    width = max(1, min(picture.size) // 100)
    for subject, box in zip(sample.subjects, boxes, strict=True):
        if any(box):
            corners = [v * picture.size[n % 2] for n, v in enumerate(box)]
            pen.rectangle(corners, outline="red", width=width)
            pen.text((corners[0] + 2 * width, corners[1] + width), subject.phrase, "red")
    return picture


def references(sample: Sample) -> list[Image.Image]:
    """A sample's references, on grey."""
    shown = []
    for subject in sample.subjects:
        picture = subject.reference.open().convert("RGBA")
        grey = Image.new("RGBA", picture.size, (128, 128, 128, 255))
        shown.append(Image.alpha_composite(grey, picture).convert("RGB"))
    return shown


def save_sheet(rows: Sequence[Sequence[Image.Image]], path: Path, edge: int = 256) -> None:
    """Write rows of pictures as one picture, each fitted in a square."""
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (edge * columns, edge * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(ImageOps.pad(picture, (edge, edge), color="white"), (edge * x, edge * y))
    sheet.save(path)
