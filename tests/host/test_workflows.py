"""The example workflows on a real server: valid for its object_info, and they run to the end."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from PIL import Image
from prompts import SERVER_FILES, SIZE, TEXT_ENCODERS, find, load, run

from lab.host.server import PromptError, Server

# What needs another pack can't run here; everything else does.
FOREIGN = "MS-Diffusion, IPAdapter style"
ALL = sorted((ROOT / "example_workflows").glob("*.json"))
WORKFLOWS = [path for path in ALL if path.stem != FOREIGN]
LOADERS = (
    *("CheckpointLoaderSimple", "CLIPVisionLoader", "MSDLoadAdapter"),
    *("UNETLoader", "CLIPLoader", "VAELoader", "LoadBackgroundRemovalModel"),
)
# Of the node that puts the subjects on the model, what takes them off.
OFF = {"MSDApply": {"weight": 0.0}, "MSDPlaceReferences": {"start_percent": 1.0}}


def skip_without(server: Server, path: Path) -> None:
    """Skip where the host is older than a node of the workflow."""
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    kinds = {node["type"] for node in nodes} - {"MarkdownNote"}
    if missing := kinds - server.get_json("/object_info").keys():
        pytest.skip(f"This host has no {' and no '.join(sorted(missing))} yet.")


def test_there_are_workflows() -> None:
    assert {path.stem for path in ALL} == {
        "MS-Diffusion, two subjects",
        "MS-Diffusion, two subjects.app",
        "MS-Diffusion, with background",
        "MS-Diffusion, clothing",
        "MS-Diffusion, auto layout",
        "MS-Diffusion, several references",
        "MS-Diffusion, LoRA and ControlNet",
        "MS-Diffusion, remove background",
        "MS-Diffusion, SAM3",
        FOREIGN,
        "MS-Diffusion, IP-Adapter",
        "MS-Diffusion, IP-Adapter SD1.5",
        "MS-Diffusion, MIP-Adapter",
        "MS-Diffusion, Flux.2",
        "MS-Diffusion, Qwen-Image-Edit",
    }


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
class TestEveryWorkflow:
    def test_models_and_versions_are_named(self, path: Path) -> None:
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] == "MarkdownNote":
                continue
            properties = node["properties"]
            assert properties["cnr_id"] and properties["ver"], node["type"]
            if node["type"] in LOADERS:
                (model,) = properties["models"]
                assert node["widgets_values"][0] == model["name"]
                assert model["url"].startswith("https://huggingface.co/") and model["directory"]

    def test_everybody_has_its_inputs(self, path: Path) -> None:
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        loaded = {n["widgets_values"][0] for n in nodes if n["type"] == "LoadImage"}
        assert loaded == {"example.png"}  # ComfyUI comes with it
        assert any("https://huggingface.co/" in n["widgets_values"][0] for n in nodes
                   if n["type"] == "MarkdownNote")  # fmt: skip

    def test_its_references_are_named(self, path: Path) -> None:
        """The title of each says what to choose, and the note too."""
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        (layout,) = (n["widgets_values"][2] for n in nodes if n["type"] == "MSDLayout")
        (note,) = (n["widgets_values"][0] for n in nodes if n["type"] == "MarkdownNote")
        titles = {n["title"] for n in nodes if n["type"] == "LoadImage"}
        for number, subject in enumerate(layout["subjects"], 1):
            assert f"Reference {number}, a {subject['phrase']}" in titles
            assert f"*Reference {number}*" in note

    def test_has_a_picture_and_keeps_its_layout_twice(self, path: Path) -> None:
        assert Image.open(path.with_suffix(".jpg")).format == "JPEG"
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] == "MSDLayout":
                assert node["properties"]["msd_layout"] == node["widgets_values"][2]

    def test_its_latent_has_the_size_of_its_layout(self, path: Path) -> None:
        graph = json.loads(path.read_text(encoding="utf-8"))
        nodes = {node["id"]: node for node in graph["nodes"]}
        sized = {
            (nodes[target]["type"], name): nodes[source]["outputs"][slot]["name"]
            for _, source, slot, target, entry, _ in graph["links"]
            if (name := nodes[target]["inputs"][entry]["name"]) in ("width", "height")
            and nodes[source]["type"] == "MSDLayout"
        }
        assert all(name == output for (_, name), output in sized.items())
        for node in nodes.values():
            if "Latent" in node["type"] and node["type"].startswith("Empty"):
                assert {(node["type"], "width"), (node["type"], "height")} <= set(sized)

    def test_its_links_fit(self, path: Path) -> None:
        graph = json.loads(path.read_text(encoding="utf-8"))
        nodes = {node["id"]: node for node in graph["nodes"]}
        assert len(nodes) == len(graph["nodes"])
        for link, source, slot, target, entry, kind in graph["links"]:
            assert link in nodes[source]["outputs"][slot]["links"]
            assert nodes[source]["outputs"][slot]["type"] == kind
            assert nodes[target]["inputs"][entry]["link"] == link


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestWorkflow:
    def test_is_valid(self, server: Server, path: Path, tmp_path: Path) -> None:
        """By the validator that users have, in both forms."""
        skip_without(server, path)
        info = tmp_path / "object_info.json"
        info.write_bytes(server.get("/object_info"))
        prompt = load(server, path)
        (tmp_path / "api.json").write_text(json.dumps(prompt))
        # Only the files' names differ from what the server has.
        text = path.read_text(encoding="utf-8")
        for theirs, ours in SERVER_FILES.items():
            text = text.replace(f'"{theirs}"', f'"{ours}"')
        (tmp_path / "ui.json").write_text(text, encoding="utf-8")
        for form in ("api.json", "ui.json"):
            done = subprocess.run(
                ["comfy", "--skip-prompt", "--json", "workflow", "validate", "--workflow",
                 str(tmp_path / form), "--input", str(info)],
                capture_output=True, text=True, check=False,
                env={**os.environ, "DO_NOT_TRACK": "1"},
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            assert json.loads(done.stdout)["ok"] is True

    def test_runs_and_the_subjects_show(self, server: Server, path: Path) -> None:
        skip_without(server, path)
        prompt = load(server, path)
        picture = run(server, prompt)
        assert picture.shape == (SIZE, SIZE, 3) and picture.std() > 10
        (node,) = (node for node in prompt.values() if node["class_type"] in OFF)
        node["inputs"] |= OFF[node["class_type"]]
        without = run(server, prompt)
        assert abs(picture - without).mean() > 1


def test_same_graph_same_picture(server: Server, prompt: dict[str, Any]) -> None:
    """Also with auto layout, whose state must not outlive a run, and after another seed."""
    prompt["90"] = {
        "class_type": "MSDAutoLayout",
        "inputs": {
            "clip": [find(prompt, "CheckpointLoaderSimple"), 1],
            "subjects": [find(prompt, "MSDGroundReferences"), 0],
            "prompt": "best quality, high quality, a cat and a cup on a wooden table",
            "threshold": 0.5,
            "start_step": 2,
        },
    }
    sampler = prompt[find(prompt, "KSampler")]["inputs"]
    boxes = run(server, prompt)
    prompt[find(prompt, "MSDApply")]["inputs"]["subjects"] = ["90", 0]
    first = run(server, prompt)
    assert abs(first - boxes).mean() > 0.1
    sampler["seed"] = 7
    other = run(server, prompt)
    assert abs(first - other).mean() > 1
    sampler["seed"] = 42
    sampler["cfg"] = 7.500001  # so that nothing comes from the host's cache
    again = run(server, prompt)
    assert abs(first - again).max() <= 1


def test_separate_text_encoders(server: Server, prompt: dict[str, Any]) -> None:
    """The CLIP of DualCLIPLoader is the same encoder, and gives the same picture."""
    first = run(server, prompt)
    prompt["91"] = dict(TEXT_ENCODERS)
    for node in prompt.values():
        if "clip" in node["inputs"]:
            node["inputs"]["clip"] = ["91", 0]
    assert abs(first - run(server, prompt)).max() <= 1


def test_refusals_lose_nothing(server: Server, prompt: dict[str, Any]) -> None:
    first = run(server, prompt)
    layout = prompt[find(prompt, "MSDLayout")]["inputs"]
    good = layout["layout"]
    layout["layout"] = {"version": 1, "subjects": [{"phrase": "cat", "box": [0.5, 0, 0.5, 1]}]}
    with pytest.raises(PromptError, match=r"subject 1: box 0.50,0.00,0.50,1.00 has no area"):
        server.run(prompt)
    layout["layout"] = {"version": 1, "subjects": good["subjects"] * 2}
    assert abs(first - run(server, prompt)).max() <= 1, "those without a reference are left out"
    layout["layout"] = good
    prompt[find(prompt, "MSDLoadAdapter")]["inputs"]["adapter"] = "../../secret.bin"
    with pytest.raises(PromptError, match="refused the prompt"):
        server.run(prompt)
    prompt[find(prompt, "MSDLoadAdapter")]["inputs"]["adapter"] = SERVER_FILES["ms_adapter.bin"]
    prompt[find(prompt, "KSampler")]["inputs"]["cfg"] = 7.500001
    assert abs(first - run(server, prompt)).max() <= 1


def test_help_and_templates_are_served(server: Server) -> None:
    assert server.get("/extensions/ms_diffusion/docs/MSDApply/en.md").startswith(b"# MSD Apply")
    assert set(server.get_json("/workflow_templates")["ms_diffusion"]) == {
        path.stem for path in ALL
    }
