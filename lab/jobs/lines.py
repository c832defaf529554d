"""Job lines: a file with an object of JSON a line, each a picture to make.

    {"prompt": "a cat and a cup on a table", "seed": 7, "width": 1024, "height": 1024,
     "subjects": [{"phrase": "cat", "box": [0, 0.25, 0.4, 0.75], "reference": "cat.png"},
                  {"phrase": "cup", "box": [0.6, 0.25, 1, 0.75], "reference": "cup.png",
                   "mask": "cup_mask.png", "weight": 1.2}]}

(on one line). What a line leaves out is as in the workflow, which is one of ComfyUI in API form.
"inputs" gives any other input by its node's title: {"KSampler": {"sampler_name": "ddim"}}. Names of
pictures are relative to the file's folder.
"""

import copy
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lab.jobs.hashes import Hashes

VERSION = 1  # of ids: another one where the same line would get another picture
WORKFLOW = Path(__file__).with_name("workflow.json")
MODEL_FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
EMBEDDING = re.compile(r"embedding:([^\s,:()]+)")
Prompt = dict[str, dict[str, Any]]  # a workflow in API form: nodes by id


@dataclass(frozen=True)
class Job:
    """A picture to make.

    Attributes:
        id: hash of all that decides the picture, the bytes of references and models included.
        name: the line's own, which decides nothing.
        prompt: in API form. Its LoadImage nodes name `files`.
        picture: id of the node that shows the picture.
        files: references and masks by the name that the prompt has for them, a hash.
        models: hashes of the model files by name.
    """

    id: str
    name: str
    number: int  # of the line
    line: dict[str, Any]
    prompt: Prompt
    picture: str
    files: dict[str, Path]
    models: dict[str, str]


@dataclass(frozen=True)
class Field:
    """A field of a line: the inputs that it sets, by title and name, and what it must be."""

    inputs: tuple[tuple[str, str], ...]
    expected: str
    fits: Callable[[Any], bool]


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, high: float) -> bool:
    whole_or_float = isinstance(value, (int, float)) and not isinstance(value, bool)
    return whole_or_float and math.isfinite(value) and 0 <= value <= high


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_edge(value: Any) -> bool:
    return _is_whole(value, 16, 16384) and value % 8 == 0


EDGE = "a multiple of 8 from 16 to 16384"
FIELDS = {
    "prompt": Field((("Positive prompt", "text"),), "text", _is_text),
    "negative": Field((("Negative prompt", "text"),), "text", _is_text),
    "width": Field((("MSD Layout", "width"), ("Empty Latent Image", "width")), EDGE, _is_edge),
    "height": Field((("MSD Layout", "height"), ("Empty Latent Image", "height")), EDGE, _is_edge),
    "seed": Field(
        (("KSampler", "seed"),),
        "a whole number from 0 to 2^64 - 1",
        lambda value: _is_whole(value, 0, 2**64 - 1),
    ),
    "steps": Field(
        (("KSampler", "steps"),),
        "a whole number from 1 to 10000",
        lambda value: _is_whole(value, 1, 10000),
    ),
    "cfg": Field(
        (("KSampler", "cfg"),), "a number from 0 to 100", lambda value: _is_number(value, 100)
    ),
    "weight": Field(
        (("MSD Apply", "weight"),), "a number from 0 to 10", lambda value: _is_number(value, 10)
    ),
}
OTHER_FIELDS = ("name", "subjects", "inputs")
SUBJECT_FIELDS = ("phrase", "box", "weight", "reference", "mask")


def read_workflow(path: Path) -> Prompt:
    """A workflow in API form.

    Raises:
        ValueError: it's none, or has not exactly one node that saves a picture.
    """
    try:
        workflow = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} isn't JSON: {error}.") from None
    nodes = workflow.values() if isinstance(workflow, dict) else [None]
    if not all(isinstance(node, dict) and {"class_type", "inputs"} <= {*node} for node in nodes):
        raise ValueError(f"{path} isn't a workflow in API form. Export it by Export (API).")
    saved = [node for node in workflow.values() if node["class_type"] == "SaveImage"]
    if len(saved) != 1:
        raise ValueError(f"{path} must have one Save Image node; it has {len(saved)}.")
    return workflow


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The lines of a file with their numbers, each of the right form. Files aren't looked at.

    Raises ValueError: says which line and what is wrong with it.
    """
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text.strip():
            with naming_line(path, number):
                lines.append((number, _parse_line(text)))
    if not lines:
        raise ValueError(f"{path} has no lines.")
    return lines


def read_jobs(path: Path, workflow: Prompt, models: Path, hashes: Hashes) -> list[Job]:
    """The jobs of a file, in its order.

    Args:
        workflow: from `read_workflow`.
        models: a folder laid out as ComfyUI's models folder, with all files that the jobs name.
    Raises:
        ValueError: says which line and what is wrong with it; so does FileNotFoundError.
    """
    jobs: list[Job] = []
    numbers: dict[str, int] = {}
    for number, line in read_lines(path):
        with naming_line(path, number):
            job = _make_job(number, line, path.parent, workflow, models, hashes)
            if job.id in numbers:
                raise ValueError(
                    f"it is the picture of line {numbers[job.id]}. Give it another seed."
                )
        numbers[job.id] = number
        jobs.append(job)
    return jobs


@contextmanager
def naming_line(path: Path, number: int) -> Iterator[None]:
    """Let errors begin with file and line."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{path.name}, line {number}: {error}") from None


def _parse_line(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it isn't JSON: {error}.") from None
    if not isinstance(line, dict):
        raise ValueError('expected an object like {"prompt": "..."}.')
    _check_fields(line, (*FIELDS, *OTHER_FIELDS), "")
    if not _is_text(line.get("name", "")):
        raise ValueError(f"name must be text, got {line['name']!r}.")
    for name, field in FIELDS.items():
        if name in line and not field.fits(line[name]):
            raise ValueError(f"{name} must be {field.expected}, got {line[name]!r}.")
    if "subjects" in line:
        if not isinstance(line["subjects"], list) or not line["subjects"]:
            raise ValueError('subjects must be a list like [{"phrase": "cat", ...}].')
        for number, subject in enumerate(line["subjects"], 1):
            _check_subject(subject, f"subject {number}")
    return line


def _make_job(
    number: int,
    line: dict[str, Any],
    folder: Path,
    workflow: Prompt,
    models: Path,
    hashes: Hashes,
) -> Job:
    prompt = copy.deepcopy(workflow)
    for name, field in FIELDS.items():
        if name in line:
            for title, key in field.inputs:
                _titled(prompt, title, name)["inputs"][key] = line[name]
    if "subjects" in line:
        _set_subjects(prompt, line["subjects"], folder)
    _set_inputs(prompt, line.get("inputs", {}))
    picture = next(n for n, node in prompt.items() if node["class_type"] == "SaveImage")
    # A preview is the same file, which a server removes when it stops.
    images = {"images": prompt[picture]["inputs"]["images"]}
    prompt[picture] = {"class_type": "PreviewImage", "inputs": images}
    prompt = {n: prompt[n] for n in prompt if n in _ancestors(prompt, picture)}
    files = _hash_pictures(prompt, folder, hashes)
    found = dict(_hash_models(prompt, models, hashes))
    plain = {n: [node["class_type"], node["inputs"]] for n, node in prompt.items()}
    decides = json.dumps([VERSION, plain, found], sort_keys=True, separators=(",", ":"))
    identity = hashlib.sha256(decides.encode()).hexdigest()[:16]
    return Job(identity, line.get("name", ""), number, line, prompt, picture, files, found)


def _check_fields(given: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"{where}unknown field {unknown[0]!r}; there are {', '.join(known)}.")


def _titled(prompt: Prompt, title: str, field: str) -> dict[str, Any]:
    """The node of a title."""
    titles = [node.get("_meta", {}).get("title") for node in prompt.values()]
    if titles.count(title) != 1:
        there = ", ".join(sorted({str(t) for t in titles if t}))
        raise ValueError(
            f"{field} is for the node titled {title!r}; the workflow has {titles.count(title)} of "
            f"them. Its titles: {there}."
        )
    return list(prompt.values())[titles.index(title)]


def _set_inputs(prompt: Prompt, given: Any) -> None:
    """Inputs by title and name."""
    if not isinstance(given, dict) or not all(isinstance(v, dict) for v in given.values()):
        raise ValueError('inputs must be an object like {"KSampler": {"steps": 20}}.')
    for title, values in given.items():
        inputs = _titled(prompt, title, "inputs")["inputs"]
        for name, value in values.items():
            if name not in inputs:
                raise ValueError(
                    f"{title!r} has no input {name!r}; it has {', '.join(sorted(inputs))}."
                )
            inputs[name] = value


def _set_subjects(prompt: Prompt, subjects: list[dict[str, Any]], folder: Path) -> None:
    """Let MSD Layout have these subjects, with a Load Image for each reference."""
    layouts = [node for node in prompt.values() if node["class_type"] == "MSDLayout"]
    if len(layouts) != 1:
        raise ValueError(f"subjects need one MSD Layout; the workflow has {len(layouts)}.")
    inputs = layouts[0]["inputs"]
    for name in [n for n in inputs if n.startswith(("references.", "reference_masks."))]:
        del inputs[name]
    for number, subject in enumerate(subjects, 1):
        prompt[f"reference {number}"] = {
            "class_type": "LoadImage",
            "inputs": {"image": subject["reference"]},
        }
        inputs[f"references.reference_{number}"] = [f"reference {number}", 0]
        mask = f"reference_masks.reference_mask_{number}"
        if "mask" in subject:
            source = {"image": subject["mask"], "channel": "red"}
            prompt[f"mask {number}"] = {"class_type": "LoadImageMask", "inputs": source}
            inputs[mask] = [f"mask {number}", 0]
        elif "A" in _open_picture(folder / subject["reference"]).getbands():
            # Load Image's mask is white where the picture is transparent.
            source = {"mask": [f"reference {number}", 1]}
            prompt[f"mask {number}"] = {"class_type": "InvertMask", "inputs": source}
            inputs[mask] = [f"mask {number}", 0]
    specs = [
        {"phrase": s.get("phrase", ""), "box": s["box"], "weight": s.get("weight", 1.0)}
        for s in subjects
    ]
    inputs["layout"] = {"version": 1, "subjects": specs}


def _check_subject(subject: Any, where: str) -> None:
    if not isinstance(subject, dict):
        raise ValueError(f"{where} must be an object, got {subject!r}.")
    _check_fields(subject, SUBJECT_FIELDS, f"{where}: ")
    if missing := [name for name in ("box", "reference") if name not in subject]:
        raise ValueError(f"{where} has no {missing[0]}.")
    for name in ("phrase", "reference", "mask"):
        if name in subject and not _is_text(subject[name]):
            raise ValueError(f"{where}: {name} must be text, got {subject[name]!r}.")
    if not _is_number(subject.get("weight", 1.0), 10):
        raise ValueError(
            f"{where}: weight must be a number from 0 to 10, got {subject['weight']!r}."
        )
    box = subject["box"]
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(v, 1) for v in box)):
        raise ValueError(f"{where}: box must be x0, y0, x1, y1 within 0..1, got {box!r}.")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"{where}: box {box!r} has no area.")


def _ancestors(prompt: Prompt, node: str) -> set[str]:
    """A node and all that it depends on."""
    found, left = set(), [node]
    while left:
        current = left.pop()
        if current not in prompt:
            raise ValueError(f"the workflow has a link to node {current!r}, which isn't there.")
        if current not in found:
            found.add(current)
            values = prompt[current]["inputs"].values()
            left += [str(v[0]) for v in values if isinstance(v, list) and len(v) == 2]
    return found


def _open_picture(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"the picture {path} doesn't exist.")
    try:
        return Image.open(path)
    except OSError:
        raise ValueError(f"{path} isn't a picture.") from None


def _hash_pictures(prompt: Prompt, folder: Path, hashes: Hashes) -> dict[str, Path]:
    """Name the prompt's pictures by their content; returns them by that name."""
    files = {}
    for node in prompt.values():
        if node["class_type"] in ("LoadImage", "LoadImageMask"):
            path = (folder / str(node["inputs"]["image"])).resolve()
            _open_picture(path).close()
            name = hashes.of(path)[:32] + path.suffix.lower()
            node["inputs"]["image"] = name
            files[name] = path
    return files


def _hash_models(prompt: Prompt, models: Path, hashes: Hashes) -> Iterator[tuple[str, str]]:
    """Name and hash of each model file that a prompt names. The same name in several of the
    models' folders counts as all of them."""
    texts = {v for node in prompt.values() for v in node["inputs"].values() if isinstance(v, str)}
    names = {text for text in texts if text.lower().endswith(MODEL_FILES)}
    folders = sorted(path for path in models.iterdir() if path.is_dir())
    for name in sorted(names):
        found = [folder / name for folder in folders if (folder / name).is_file()]
        if not found:
            raise FileNotFoundError(f"no folder of {models} has {name}.")
        yield name, " ".join(hashes.of(path) for path in found)
    for name in sorted({name for text in texts for name in EMBEDDING.findall(text)}):
        for path in sorted((models / "embeddings").glob(f"{name}*")):
            yield f"embeddings/{path.name}", hashes.of(path)
