"""Job lines: a file with an object of JSON a line, each a picture to make.

    {"prompt": "a cat and a cup on a table", "seed": 7, "width": 1024, "height": 1024,
     "subjects": [{"phrase": "cat", "box": [0, 0.25, 0.4, 0.75], "reference": "cat.png"},
                  {"phrase": "cup", "box": [0.6, 0.25, 1, 0.75], "reference": "cup.png",
                   "mask": "cup_mask.png", "weight": 1.2}]}

(on one line). What a line leaves out is as in the workflow, which is one of ComfyUI in API form.
"inputs" gives any other input by its node's title: {"KSampler": {"sampler_name": "ddim"}}. Names of
pictures, and of other files that nodes read, are relative to the file's folder.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.jobs.files import Prompt, hash_inputs, hash_models, open_picture
from lab.jobs.hashes import Hashes

VERSION = 1  # of ids: another one where the same line would get another picture
MAX_SUBJECTS = 16  # that MSD Layout takes
WORKFLOW = Path(__file__).with_name("workflow.json")


@dataclass(frozen=True)
class Job:
    """A picture to make.

    Attributes:
        id: hash of all that decides the picture, the bytes of files and models included.
        name: the line's own, which decides nothing.
        prompt: in API form. Its nodes name `files`.
        picture: id of the node that shows the picture.
        files: references, masks and what else nodes read, by the name that the prompt has for
            them, a hash.
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
    return whole_or_float and 0 <= value <= high  # so neither NaN nor beyond all floats


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
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} isn't JSON: {error}.") from None
    if not isinstance(workflow, dict) or not all(map(_is_node, workflow.values())):
        raise ValueError(f"{path} isn't a workflow in API form. Export it by Export (API).")
    saved = [node for node in workflow.values() if node["class_type"] == "SaveImage"]
    if len(saved) != 1:
        raise ValueError(f"{path} must have one Save Image node; it has {len(saved)}.")
    if "images" not in saved[0]["inputs"]:
        raise ValueError(f"{path}: Save Image has no images.")
    return workflow


def _is_node(node: Any) -> bool:
    """Whether it has the form that a node has in API form."""
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
        and isinstance(node.get("_meta", {}), dict)
    )


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The lines of a file with their numbers, each of the right form. Files aren't looked at.

    Raises ValueError: says which line and what is wrong with it.
    """
    lines = []
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} isn't text: {error}.") from None
    for number, text in enumerate(texts, 1):
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
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path.name}, line {number}: {error}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.name}, line {number}: {error}") from None


def _parse_line(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
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
        if len(line["subjects"]) > MAX_SUBJECTS:
            raise ValueError(
                f"subjects must be at most {MAX_SUBJECTS}, got {len(line['subjects'])}."
            )
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
    files = hash_inputs(prompt, folder, models, hashes)
    found = dict(hash_models(prompt, files, models, hashes))
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
        elif "A" in open_picture(folder / subject["reference"]).getbands():
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
