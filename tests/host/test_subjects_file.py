"""Subjects saved to a file and loaded from it, on a real server: the same picture bit for bit."""

import copy
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import CAT, CUP, layout, noise_image
from prompts import find, run
from safetensors import safe_open
from safetensors.torch import save_file
from sampling import noise

from lab.host.server import Server

PLACES = ("MSDLayout", "MSDEncodeReferences", "MSDGroundReferences", "MSDAutoLayout")


def save(server: Server, prompt: dict[str, Any], kind: str) -> str:
    """Save what the node of this kind gives; returns the file's name, as MSD Load Subjects lists
    it."""
    saving = copy.deepcopy(prompt)
    given = {"subjects": [find(prompt, kind), 0], "filename_prefix": f"subjects/{kind}"}
    saving["70"] = {"class_type": "MSDSaveSubjects", "inputs": given}
    (saved,) = server.run(saving)["70"]["msd_subjects"]
    assert server.texts["70"] == f"Saved output/{saved['subfolder']}/{saved['filename']}"
    return f"{saved['subfolder']}/{saved['filename']} [output]"


def load_in_place(prompt: dict[str, Any], kind: str, file: str) -> dict[str, Any]:
    """The prompt with loaded subjects in place of what the node of this kind gives."""
    loading, node = copy.deepcopy(prompt), find(prompt, kind)
    loading["71"] = {"class_type": "MSDLoadSubjects", "inputs": {"file": file}}
    for other in loading.values():
        for socket, value in other["inputs"].items():
            if value == [node, 0]:
                other["inputs"][socket] = ["71", 0]
    return loading


@pytest.mark.parametrize("kind", PLACES)
def test_the_same_picture(server: Server, prompt: dict[str, Any], kind: str) -> None:
    """Saved after any node, with a soft region, several references and a reference mask."""
    given = prompt[find(prompt, "MSDLayout")]["inputs"]
    prompt |= {
        "60": {"class_type": "SolidMask", "inputs": {"value": 0.4, "width": 9, "height": 5}},
        "61": {
            "class_type": "ImageBatch",
            "inputs": {"image1": given["references.reference_1"],
                       "image2": given["references.reference_2"]},
        },
        "62": {
            "class_type": "MSDAutoLayout",
            "inputs": {
                "clip": [find(prompt, "CheckpointLoaderSimple"), 1],
                "subjects": [find(prompt, "MSDGroundReferences"), 0],
                "prompt": "best quality, high quality, a cat and a cup on a wooden table",
                "threshold": 0.5, "start_step": 2,
            },
            "_meta": {"title": ""},
        },
    }  # fmt: skip
    given |= {
        "regions.region_1": ["60", 0],
        "references.reference_1": ["61", 0],
        "reference_masks.reference_mask_2": ["60", 0],
    }
    prompt[find(prompt, "MSDApply")]["inputs"]["subjects"] = ["62", 0]
    picture = run(server, prompt)
    loading = load_in_place(prompt, kind, save(server, prompt, kind))
    sampler = loading[find(loading, "KSampler")]["inputs"]
    assert np.array_equal(run(server, loading), picture)
    sampler["seed"] += 1  # nothing came from the host's cache
    assert abs(run(server, loading) - picture).mean() > 1


def test_it_keeps_the_graph_and_no_pickle(server: Server, prompt: dict[str, Any]) -> None:
    """As the host's own nodes do; a loader by its own name in the input folder finds it too."""
    name = save(server, prompt, "MSDGroundReferences").removesuffix(" [output]")
    moved = server.base / "input" / "moved.safetensors"
    moved.write_bytes((server.base / "output" / name).read_bytes())
    with safe_open(moved, framework="pt") as file:
        metadata = file.metadata()
        assert file.get_slice("subjects.0.references").get_dtype() == "U8"
    assert json.loads(metadata["prompt"])["70"]["class_type"] == "MSDSaveSubjects"
    picture = run(server, prompt)
    loading = load_in_place(prompt, "MSDGroundReferences", "moved.safetensors")
    assert np.array_equal(run(server, loading), picture)
    listed = server.get_json("/object_info/MSDLoadSubjects")["MSDLoadSubjects"]["input"]
    files = listed["required"]["file"][1]["options"]
    assert {"moved.safetensors", f"{name} [output]"} <= set(files)


@pytest.fixture
def saved(pack: Any, lay_out: Any, tmp_path: Path) -> tuple[Any, dict[str, torch.Tensor], Any]:
    """Two subjects with all that a wire may carry, and the file of them: tensors, description."""
    kinds = pack.module("nodes.subjects")
    laid_out = lay_out(layout(CAT, CUP), noise_image(1, count=2), noise_image(2))[0]
    subjects = []
    for seed, subject in enumerate(laid_out.subjects):
        features = kinds.Features(
            noise(seed, 1, 5, 8), noise(seed, 1, 6), noise(9, 5, 8), noise(9, 6)
        )
        subjects.append(
            kinds.replace(
                subject, features=features, region=noise(seed, 3, 4).sigmoid() if seed else None,
                image_tokens=noise(seed, 2 - seed, 4, 8), blank_image_tokens=noise(8, 4, 8),
                name_tokens=noise(seed, 3 * seed, 8), token_positions=(3, 4 + seed),
                adapter_digest="abc",
            )
        )  # fmt: skip
    auto = kinds.AutoLayoutSettings(0.5, 3, (noise(7, 77, 4),))
    whole = kinds.replace(laid_out, subjects=tuple(subjects), auto_layout=auto)
    tensors, content = pack.module("nodes.subjects_file").to_file(whole)
    return whole, tensors, json.loads(content)


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    if hasattr(first, "__dataclass_fields__"):
        return all(equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))
    return type(first) is type(second) and first == second


def test_nothing_of_the_wire_is_lost(pack: Any, saved: Any, tmp_path: Path) -> None:
    whole, tensors, content = saved
    save_file(tensors, tmp_path / "a.safetensors", {"msd_subjects": json.dumps(content)})
    assert equal(pack.module("nodes.subjects_file").from_file(tmp_path / "a.safetensors"), whole)


def drop(key: str) -> Any:
    return lambda tensors, content: tensors.pop(key)


def put(key: str, value: torch.Tensor) -> Any:
    return lambda tensors, content: tensors.update({key: value})


def say(**values: Any) -> Any:
    return lambda tensors, content: content.update(values)


def of_first(**values: Any) -> Any:
    return lambda tensors, content: content["subjects"][0].update(values)


UNSOUND = {
    "tensor missing": (drop("subjects.0.references"), "subject 1: some of its tensors are missing"),
    "half of the features": (drop("subjects.1.pooled"), "subject 2: some of its tensors are"),
    "blank tokens alone": (drop("subjects.0.image_tokens"), "subject 1: some of its tensors are"),
    "blanks of one subject only": (drop("subjects.1.blank_image_tokens"), "2 has other tensors"),
    "names of one subject only": (drop("subjects.1.name_tokens"), "subject 2 has other tensors"),
    "tensor too many": (put("subjects.2.pooled", torch.ones(1, 6)), "'subjects.2.pooled' is no"),
    "rank": (put("subjects.0.pooled", torch.ones(6)), r"subject 1: pooled has shape \(6,\), ex"),
    "no tokens": (put("subjects.0.image_tokens", torch.ones(0, 4, 8)), r"shape \(0, 4, 8\)"),
    "width of another subject": (
        put("subjects.1.image_tokens", torch.ones(1, 4, 9)),
        r"subject 2: image_tokens has shape \(1, 4, 9\), expected \(1, 4, 8\)",
    ),
    "masks of another size": (
        put("subjects.0.reference_masks", torch.ones(1, 20, 30)), r"expected \(2, 20, 30\)"
    ),
    "half precision": (put("subjects.0.pooled", torch.ones(1, 6).half()), "is of torch.float16"),
    "NaN": (put("subjects.1.image_tokens", torch.full((1, 4, 8), torch.nan)), "not numbers"),
    "infinity": (put("subjects.1.pooled", torch.full((1, 6), torch.inf)), "not numbers"),
    "brightness": (put("subjects.1.region", torch.full((3, 4), 255.0)), "outside 0..1"),
    "text": (put("texts.0", torch.ones(4)), r"text 1 has shape \(4,\)"),
    "second text only": (put("texts.2", torch.ones(77, 4)), "'texts.2' is no tensor of version 1"),
    "no subjects": (say(subjects=[]), "there are none"),
    "subjects of text": (say(subjects="two"), "layout must be an object"),
    "size": (say(size=[64]), "size must be a width and a height"),
    "size of text": (say(size=["64", "64"]), "size must be a width and a height"),
    "auto layout": (say(auto_layout={"threshold": 0.5}), "auto_layout must have a threshold"),
    "threshold": (say(auto_layout={"threshold": float("nan"), "start_step": 1}), "in 0..1"),
    "box": (of_first(box=[0.5, 0, 0.5, 1]), "subject 1: box 0.50,0.00,0.50,1.00 has no area"),
    "weight": (of_first(weight="much"), "subject 1: weight must be a number"),
    "phrase": (of_first(phrase=3), "subject 1: phrase must be text"),
    "positions": (of_first(token_positions=[-1]), "subject 1: token_positions must be whole"),
    "no positions": (of_first(token_positions=None), "subject 1: token_positions must be whole"),
    "no digest": (of_first(adapter_digest=None), "subject 1: image tokens and adapter_digest go"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSOUND)
def test_what_is_made_by_hand_is_checked(pack: Any, saved: Any, tmp_path: Path, name: str) -> None:
    _, tensors, content = saved
    change, words = UNSOUND[name]
    change(tensors, content)
    save_file(tensors, tmp_path / "a.safetensors", {"msd_subjects": json.dumps(content)})
    with pytest.raises(ValueError, match=rf"a\.safetensors doesn't hold sound subjects: .*{words}"):
        pack.module("nodes.subjects_file").from_file(tmp_path / "a.safetensors")
