"""Job lines: each mistake has its sentence, and the id is the hash of what decides the picture."""

import json
import shutil
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from job_lines import line, save_lines
from PIL import Image

from lab import ROOT
from lab.jobs.hashes import Hashes
from lab.jobs.lines import MAX_SUBJECTS, WORKFLOW, Job, read_jobs, read_workflow
from lab.microworld import MODELS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_lines(tmp_path, [])
    (tmp_path / "bomb.png").write_bytes(b"P4 30000 30000 ")
    return tmp_path


def read(folder: Path, *lines: Any, models: Path = MODELS) -> list[Job]:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in lines]
    (folder / "jobs.jsonl").write_text("\n".join(texts))
    workflow = read_workflow(folder / "workflow.json")
    return read_jobs(folder / "jobs.jsonl", workflow, models, Hashes(None))


def with_subject(**changed: Any) -> dict[str, Any]:
    given = line(1)
    given["subjects"][1] |= changed
    return given


def without(name: str) -> dict[str, Any]:
    given = line(1)
    del given["subjects"][1][name]
    return given


MISTAKES = {
    "{": "it isn't JSON: ",
    "[]": 'expected an object like {"prompt": "..."}.',
    json.dumps({"promt": "a star"}): "unknown field 'promt'; there are prompt, negative, width, ",
    json.dumps({"prompt": 3}): "prompt must be text, got 3.",
    json.dumps({"name": 3}): "name must be text, got 3.",
    json.dumps({"width": 1000.5}): "width must be a multiple of 8 from 16 to 16384, got 1000.5.",
    json.dumps({"seed": -1}): "seed must be a whole number from 0 to 2^64 - 1, got -1.",
    json.dumps({"steps": True}): "steps must be a whole number from 1 to 10000, got True.",
    f'{{"cfg": 1{"0" * 400}}}': "cfg must be a number from 0 to 100, got 1000",
    "[" * 100_000: "it isn't JSON: maximum recursion depth exceeded",
    '{"cfg": NaN}': "cfg must be a number from 0 to 100, got nan.",
    json.dumps({"weight": 11}): "weight must be a number from 0 to 10, got 11.",
    json.dumps({"inputs": []}): 'inputs must be an object like {"KSampler": {"steps": 20}}.',
    json.dumps({"inputs": {"Sampler": {}}}): (
        "inputs is for the node titled 'Sampler'; the workflow has 0 of them. Its titles: "
    ),
    json.dumps({"inputs": {"KSampler": {"sampler": "ddim"}}}): (
        "'KSampler' has no input 'sampler'; it has cfg, denoise, "
    ),
    json.dumps({"inputs": {"VAE Decode": {"samples": ["99", 0]}}}): (
        "the workflow has a link to node '99', which isn't there."
    ),
    json.dumps({"inputs": {"Load Checkpoint": {"ckpt_name": "other.safetensors"}}}): (
        f"no folder of {MODELS} has other.safetensors, and it isn't beside the lines."
    ),
    json.dumps({"subjects": []}): 'subjects must be a list like [{"phrase": "cat", ...}].',
    json.dumps({"subjects": [with_subject()["subjects"][0]] * 17}): (
        "subjects must be at most 16, got 17."
    ),
    json.dumps({"subjects": [3]}): "subject 1 must be an object, got 3.",
    json.dumps(with_subject(boxes=[])): (
        "subject 2: unknown field 'boxes'; there are phrase, box, weight, reference, mask."
    ),
    json.dumps(without("box")): "subject 2 has no box.",
    json.dumps(without("reference")): "subject 2 has no reference.",
    json.dumps(with_subject(phrase=3)): "subject 2: phrase must be text, got 3.",
    json.dumps(with_subject(weight="1")): (
        "subject 2: weight must be a number from 0 to 10, got '1'."
    ),
    json.dumps(with_subject(box=[0.5, 0, 1.2, 1])): (
        "subject 2: box must be x0, y0, x1, y1 within 0..1, got [0.5, 0, 1.2, 1]."
    ),
    json.dumps(
        with_subject(box=[0, 0, 1, 10**400])
    ): "subject 2: box must be x0, y0, x1, y1 within",
    json.dumps(with_subject(box=[0.5, 0, 0.5, 1])): "subject 2: box [0.5, 0, 0.5, 1] has no area.",
    json.dumps(with_subject(reference="lost.png")): "lost.png doesn't exist.",
    json.dumps(with_subject(reference="workflow.json")): "workflow.json isn't a picture.",
    json.dumps(with_subject(reference="bomb.png")): "bomb.png is too large: Image size (900000000",
    json.dumps(with_subject(reference="a" * 300)): "File name too long",
    json.dumps(with_subject(mask="lost.png")): "lost.png doesn't exist.",
    json.dumps(line(0)): "it is the picture of line 1. Give it another seed.",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_told_with_its_line(folder: Path, text: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read(folder, line(0), "", text)
    said = str(caught.value)
    assert said.startswith("jobs.jsonl, line 3: ") and MISTAKES[text] in said


def test_a_file_without_lines(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"jobs.jsonl has no lines."):
        read(folder, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "isn't JSON"),
        ('{"nodes": [], "links": []}', "isn't a workflow in API form. Export it by Export"),
        ('{"1": {"class_type": "SaveImage", "inputs": null}}', "isn't a workflow in API form."),
        ('{"1": {"class_type": "SaveImage", "inputs": [1]}}', "isn't a workflow in API form."),
        (
            '{"1": {"class_type": "S", "inputs": {}, "_meta": null}}',
            "isn't a workflow in API form.",
        ),
        ('{"1": {"class_type": "KSampler", "inputs": {}}}', "must have one Save Image node; it"),
        ('{"1": {"class_type": "SaveImage", "inputs": {}}}', "Save Image has no images."),
    ],
)
def test_a_workflow_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "workflow.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_workflow(tmp_path / "workflow.json")


def test_a_workflow_without_the_node_for_a_field(folder: Path) -> None:
    workflow = json.loads((folder / "workflow.json").read_text())
    workflow["12"]["_meta"]["title"] = "Positive prompt"
    (folder / "workflow.json").write_text(json.dumps(workflow))
    for field, count in (("negative", 0), ("prompt", 2)):
        with pytest.raises(ValueError, match=f"{field} is for the node.* has {count} of them"):
            read(folder, {field: "text"})


def test_fields_set_their_inputs(folder: Path) -> None:
    given = line(3, width=96, height=144, steps=9, cfg=3.5, weight=0.5, name="mine")
    given["inputs"] = {"KSampler": {"sampler_name": "ddim"}}
    (job,) = read(folder, given)
    inputs = {node["class_type"]: node["inputs"] for node in job.prompt.values()}
    assert inputs["KSampler"].items() >= {
        "seed": 3, "steps": 9, "cfg": 3.5, "sampler_name": "ddim"
    }.items()  # fmt: skip
    for name in ("MSDLayout", "EmptyLatentImage"):
        assert (inputs[name]["width"], inputs[name]["height"]) == (96, 144)
    assert inputs["MSDApply"]["weight"] == 0.5
    layout = inputs["MSDLayout"]["layout"]["subjects"]
    assert [subject["phrase"] for subject in layout] == ["star", "heart"]
    texts = [job.prompt[n]["inputs"]["text"] for n in ("11", "12")]
    assert texts == [given["prompt"], given["negative"]]
    assert job.name == "mine" and job.number == 1
    references = [n for n in job.prompt.values() if n["class_type"] == "LoadImage"]
    assert {n["inputs"]["image"] for n in references} == set(job.files)
    assert sorted(path.name for path in job.files.values()) == [
        "reference_1.png",
        "reference_2.png",
    ]
    # What the picture doesn't need is gone: the workflow's own references, the node that fails.
    assert not {"5", "6", "fail"} & {*job.prompt}


def test_masks_are_linked_and_alpha_is_one(folder: Path) -> None:
    Image.new("L", (8, 8), 255).save(folder / "mask.png")
    Image.open(folder / "reference_1.png").convert("RGBA").save(folder / "cut.png")
    given = with_subject(mask="mask.png")
    given["subjects"][0]["reference"] = "cut.png"
    (job,) = read(folder, given)
    (layout,) = (n["inputs"] for n in job.prompt.values() if n["class_type"] == "MSDLayout")
    alpha, mask = (job.prompt[layout[f"reference_masks.reference_mask_{n}"][0]] for n in (1, 2))
    assert alpha == {"class_type": "InvertMask", "inputs": {"mask": ["reference 1", 1]}}
    assert mask["class_type"] == "LoadImageMask" and mask["inputs"]["channel"] == "red"


def test_equal_content_has_an_equal_id_wherever_it_is(folder: Path, tmp_path: Path) -> None:
    given = line(1)
    (first,) = read(folder, given)
    shutil.copytree(folder, tmp_path / "elsewhere" / "folder")
    (again,) = read(tmp_path / "elsewhere" / "folder", {**given, "name": "another name"})
    assert again.id == first.id
    given["subjects"][1]["reference"] = "copy.png"
    shutil.copy(folder / "reference_2.png", folder / "copy.png")
    assert read(folder, given)[0].id == first.id


def test_another_content_has_another_id(folder: Path, tmp_path: Path) -> None:
    ids = [read(folder, line(1))[0].id]
    for changed in (line(2), line(1, steps=7), with_subject(box=[0.5, 0.3, 0.96, 0.74])):
        ids.append(read(folder, changed)[0].id)
    Image.new("RGB", (8, 8)).save(folder / "reference_2.png")
    ids.append(read(folder, line(1))[0].id)
    models = shutil.copytree(MODELS, tmp_path / "models")
    assert read(folder, line(1), models=models)[0].id == ids[-1]
    with (models / "ms_diffusion" / "ms_adapter_micro.safetensors").open("ab") as file:
        file.write(b" ")
    ids.append(read(folder, line(1), models=models)[0].id)
    (models / "embeddings").mkdir()
    ids.append(read(folder, line(1, prompt="embedding:mine star"), models=models)[0].id)
    (models / "embeddings" / "mine.pt").write_bytes(b"1")
    ids.append(read(folder, line(1, prompt="embedding:mine star"), models=models)[0].id)
    assert len(set(ids)) == len(ids)


def with_node(folder: Path, kind: str, **inputs: str) -> None:
    """Let the sampler of the folder's workflow depend on this node too."""
    workflow = json.loads((folder / "workflow.json").read_text())
    workflow["14"]["inputs"]["other"] = ["other", 0]
    workflow["other"] = {"class_type": kind, "inputs": inputs}
    (folder / "workflow.json").write_text(json.dumps(workflow))


@pytest.mark.parametrize(
    ("kind", "name"), [("LoadLatent", "start.latent"), ("MSDLoadSubjects", "two.safetensors")]
)
def test_any_file_that_a_node_reads_decides(folder: Path, kind: str, name: str) -> None:
    with_node(folder, kind, file=name)
    with pytest.raises(FileNotFoundError, match=r"start.latent, which doesn't|isn't beside the li"):
        read(folder, line(1))
    (folder / name).write_bytes(b"first")
    (first,) = read(folder, line(1))
    renamed = first.prompt["other"]["inputs"]["file"]
    assert first.files[renamed].name == name and name not in first.models
    (folder / name).write_bytes(b"second")
    assert read(folder, line(1))[0].id != first.id


def test_a_whole_path_stays(folder: Path) -> None:
    path = folder / "words.txt"
    path.write_text("first")
    with_node(folder, "ReadText", path=str(path))
    (first,) = read(folder, line(1))
    assert first.prompt["other"]["inputs"]["path"] == str(path)
    path.write_text("second")
    assert read(folder, line(1))[0].id != first.id


def test_a_long_text_is_no_file(folder: Path) -> None:
    text = "猫" * 120 + ".五"
    (job,) = read(folder, line(1, prompt=text))
    assert job.prompt["11"]["inputs"]["text"] == text


def test_a_file_on_a_comfyui_is_refused(folder: Path) -> None:
    with_node(folder, "MSDLoadSubjects", file="subjects/two.safetensors [output]")
    with pytest.raises(ValueError, match=r"MSDLoadSubjects reads 'subjects/two.safetensors \[out"):
        read(folder, line(1))


def test_a_load_image_without_image(folder: Path) -> None:
    with_node(folder, "LoadImage")
    with pytest.raises(
        ValueError, match=r"line 1: a node LoadImage of the workflow names no image"
    ):
        read(folder, line(1))


def test_the_own_workflow_is_the_example(folder: Path) -> None:
    """Its nodes and inputs are those of *MS-Diffusion, two subjects*, but for Replace Text: lines
    have whole prompts."""
    example = WORKFLOW.parents[2] / "example_workflows" / "MS-Diffusion, two subjects.json"
    nodes = {str(n["id"]): n for n in json.loads(example.read_text())["nodes"]}
    own = read_workflow(WORKFLOW)
    (replace,) = (name for name, node in nodes.items() if node["type"] == "StringReplace")
    replaced = nodes[replace]["outputs"][0]["links"]
    assert own.keys() == nodes.keys() - {"1", replace}  # the first is the note
    for name, node in own.items():
        assert node["class_type"] == nodes[name]["type"]
        sockets = [i for i in nodes[name]["inputs"] if i.get("link") not in (None, *replaced)]
        linked = {i["name"] for i in sockets}
        assert linked == {k for k, v in node["inputs"].items() if isinstance(v, list)}
        widgets = [v for v in nodes[name]["widgets_values"] if v not in ("fixed", "image")]
        inputs = [i["name"] for i in nodes[name]["inputs"] if "widget" in i]
        widgets = [v for i, v in zip_longest(inputs, widgets) if i not in linked]
        values = [v for v in node["inputs"].values() if not isinstance(v, list)]
        assert sorted(map(str, values)) == sorted(map(str, widgets))


def test_hashes_of_large_files_are_kept_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.jobs.hashes.SMALL", 1)
    model, kept = tmp_path / "model.bin", tmp_path / "hashes.json"
    model.write_bytes(b"first")
    hashes = Hashes(kept)
    first = hashes.of(model)
    hashes.save()
    status = model.stat()
    assert Hashes(kept).known == {str(model): [5, status.st_mtime_ns, first]}
    assert Hashes(kept).of(model) == first
    model.write_bytes(b"second")
    assert Hashes(kept).of(model) != first


@pytest.mark.parametrize(
    "text", ["[]", '{"model.bin": [5', '{"model.bin": 5}', '{"model.bin": []}']
)
def test_hashes_of_another_program(tmp_path: Path, text: str) -> None:
    (tmp_path / "hashes.json").write_text(text)
    with pytest.raises(ValueError, match=r"hashes.json isn't a file of hashes; delete it, and"):
        Hashes(tmp_path / "hashes.json")


def test_the_most_subjects_are_those_of_the_node() -> None:
    assert f"\nMAX_SUBJECTS = {MAX_SUBJECTS}\n" in (ROOT / "nodes/subjects.py").read_text()
