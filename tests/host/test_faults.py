"""Bad files, bad values and broken runs on a real server: each is refused with a sentence, or
runs, and after each a normal run gives the same picture as before.

UPDATE_DOCS=1 writes docs/faults.md from it; otherwise the page must say what the tests find.
"""

import copy
import functools
import itertools
import json
import math
import os
import pickle
import re
import shutil
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from pages import check_page
from PIL import Image
from prompts import find, load, run, run_interrupted
from reference_models import AUTOENCODER, FLUX_FILE
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_subjects_file import load_in_place, save

from lab.host.server import PromptError, Server

WORKFLOWS = ROOT / "example_workflows"
HEAD = """# What goes wrong, and what the user reads

Written by `tests/host/test_faults.py` (`UPDATE_DOCS=1`) from what a real server answered. After
each of these a normal run of the same server gives the same picture as before.

| what was given | what happens |
| --- | --- |
"""
found: dict[str, str] = {}
fresh = itertools.count(1)  # so that nothing comes from the host's cache

Prompt = dict[str, Any]


@pytest.fixture(scope="module")
def normal(server: Server) -> Iterator[np.ndarray]:
    """The picture of a normal run; at the end, the page."""
    yield run(server, load(server, ROOT / "example_workflows" / "MS-Diffusion, two subjects.json"))
    check_page("faults.md", HEAD, [f"| {name} | {words} |" for name, words in found.items()])


@pytest.fixture
def placed(server: Server) -> Prompt:
    """References that are placed in a Flux model."""
    return load(server, ROOT / "example_workflows" / "MS-Diffusion, Flux.2.json")


@pytest.fixture(scope="module")
def normally_placed(server: Server) -> np.ndarray:
    return run(server, load(server, ROOT / "example_workflows" / "MS-Diffusion, Flux.2.json"))


def inputs(prompt: Prompt, kind: str) -> dict[str, Any]:
    return prompt[find(prompt, kind)]["inputs"]


def subjects(prompt: Prompt) -> list[dict[str, Any]]:
    return inputs(prompt, "MSDLayout")["layout"]["subjects"]


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def adapter(make: Callable[[Path, Path], str]) -> Callable[[Prompt, Server], None]:
    """A change of the adapter file; `make` gets the folder and the good file, and names its own."""

    def change(prompt: Prompt, server: Server) -> None:
        folder = server.base / "models" / "ms_diffusion"
        inputs(prompt, "MSDLoadAdapter")["adapter"] = make(folder, folder / GOOD)

    return change


REFERENCE = "references.reference_1"
MASK, REGION = "reference_masks.reference_mask_1", "regions.region_1"
GOOD, EXPLODED = "ms_adapter_micro.safetensors", "exploded"


def written(name: str, content: Callable[[bytes], bytes]) -> Callable[[Prompt, Server], None]:
    def make(folder: Path, good: Path) -> str:
        (folder / name).write_bytes(content(good.read_bytes()))
        return name

    return adapter(make)


def bomb(folder: Path, good: Path) -> str:
    (folder / "bomb.bin").write_bytes(pickle.dumps(Bomb(folder / EXPLODED)))
    return "bomb.bin"


def with_nan(folder: Path, good: Path) -> str:
    sd = load_file(good)
    sd[max(sd)].flatten()[0] = torch.nan
    save_file(sd, folder / "nan.safetensors")
    return "nan.safetensors"


def vision_model(folder: Path, good: Path) -> str:
    found = folder.parent / "clip_vision" / "micro_vision.safetensors"
    shutil.copy(found, folder / "vision.safetensors")
    return "vision.safetensors"


def a_folder(folder: Path, good: Path) -> str:
    (folder / "folder.safetensors").mkdir(exist_ok=True)
    return "folder.safetensors"


def without_permission(folder: Path, good: Path) -> str:
    locked = folder / "locked.safetensors"
    locked.write_bytes(good.read_bytes())
    locked.chmod(0)
    if os.access(locked, os.R_OK):
        pytest.skip("Everything is permitted to the user root.")
    return locked.name


def dangling(folder: Path, good: Path) -> str:
    (folder / "dangling.safetensors").unlink(missing_ok=True)
    (folder / "dangling.safetensors").symlink_to(folder / "gone")
    return "dangling.safetensors"


def phrase(words: str) -> Callable[[Prompt, Server], None]:
    def change(prompt: Prompt, server: Server) -> None:
        subjects(prompt)[0]["phrase"] = words

    return change


def box(*edges: Any) -> Callable[[Prompt, Server], None]:
    def change(prompt: Prompt, server: Server) -> None:
        subjects(prompt)[0]["box"] = list(edges)

    return change


def linked_boxes(given: Any) -> Callable[[Prompt, Server], None]:
    def change(prompt: Prompt, server: Server) -> None:
        inputs(prompt, "MSDLayout")["boxes"] = given

    return change


def layout_of(*changes: dict[str, Any]) -> Callable[[Prompt, Server], None]:
    """As many subjects with a box as changes of them."""
    subject = {"phrase": "cat", "box": [0, 0, 0.5, 0.5], "weight": 1.0}
    return layout({"version": 1, "subjects": [subject | change for change in changes]})


def layout(value: Any) -> Callable[[Prompt, Server], None]:
    def change(prompt: Prompt, server: Server) -> None:
        inputs(prompt, "MSDLayout")["layout"] = value

    return change


def reference(width: int, height: int) -> Callable[[Prompt, Server], None]:
    """A reference of this size, from a node."""

    def change(prompt: Prompt, server: Server) -> None:
        size = {"width": width, "height": height, "batch_size": 1, "color": 0xC08040}
        prompt["90"] = {"class_type": "EmptyImage", "inputs": size}
        inputs(prompt, "MSDLayout")["references.reference_1"] = ["90", 0]

    return change


def saved(mode: str) -> Callable[[Prompt, Server], None]:
    """A reference from a file of this kind."""

    def change(prompt: Prompt, server: Server) -> None:
        Image.new(mode, (40, 30), 128).save(server.base / "input" / f"{mode}.png")
        inputs(prompt, "LoadImage")["image"] = f"{mode}.png"

    return change


def negative_reference(count: int) -> Callable[[Prompt, Server], None]:
    def change(prompt: Prompt, server: Server) -> None:
        reference(40, 30)(prompt, server)
        prompt["90"]["inputs"]["batch_size"] = count
        given = inputs(prompt, "MSDLayout")
        given["references.reference_1"] = given["references.reference_2"]
        inputs(prompt, "MSDEncodeReferences")["negative_reference"] = ["90", 0]

    return change


def cut_out(transparent: float) -> Callable[[Prompt, Server], None]:
    """A reference with alpha, from a node."""

    def change(prompt: Prompt, server: Server) -> None:
        size = {"width": 40, "height": 30}
        prompt["89"] = {"class_type": "SolidMask", "inputs": {"value": transparent, **size}}
        reference(40, 30)(prompt, server)
        joined = {"image": ["90", 0], "alpha": ["89", 0]}
        prompt["88"] = {"class_type": "JoinImageWithAlpha", "inputs": joined}
        inputs(prompt, "MSDLayout")["references.reference_1"] = ["88", 0]

    return change


def bare(socket: str, *shape: int, dtype: str = "float32") -> Callable[[Prompt, Server], None]:
    """A tensor of ones of this shape on a socket of MSD Layout, as another pack may give it."""

    def change(prompt: Prompt, server: Server) -> None:
        given = {"shape": ",".join(map(str, shape)), "dtype": dtype}
        prompt["93"] = {"class_type": "MicroWorldTensor", "inputs": given}
        inputs(prompt, "MSDLayout")[socket] = ["93", int(socket != REFERENCE)]

    return change


def unet(kind: str) -> Callable[[Prompt, Server], None]:
    """A model of another kind on MSD Apply."""

    def change(prompt: Prompt, server: Server) -> None:
        given = inputs(prompt, "MSDApply")
        prompt["94"] = {
            "class_type": "MicroWorldUNet",
            "inputs": {"model": given["model"], "kind": kind},
        }
        given["model"] = ["94", 0]

    return change


def other_adapter(factor: float) -> Callable[[Prompt, Server], None]:
    """Another file on MSD Apply than on MSD Ground References, its values times `factor`."""

    def change(prompt: Prompt, server: Server) -> None:
        folder = server.base / "models" / "ms_diffusion"
        sd = load_file(folder / GOOD)
        for key in sd:
            if key.endswith("to_v_ip.weight"):
                sd[key] *= factor
        torch.save(sd, folder / f"times_{factor}.bin")
        given = {"adapter": f"times_{factor}.bin"}
        prompt["95"] = {"class_type": "MSDLoadAdapter", "inputs": given}
        inputs(prompt, "MSDApply")["adapter"] = ["95", 0]

    return change


def latent(width: int, height: int) -> Callable[[Prompt, Server], None]:
    """A latent of this size, under a layout of 64 x 64."""

    def change(prompt: Prompt, server: Server) -> None:
        inputs(prompt, "EmptyLatentImage").update(width=width, height=height)

    return change


def without(socket: str) -> Callable[[Prompt, Server], None]:
    """Nothing on a socket of MSD Layout, as the front end sends what is muted."""
    return lambda prompt, server: inputs(prompt, "MSDLayout").pop(socket)


def several(count: int) -> Callable[[Prompt, Server], None]:
    def change(prompt: Prompt, server: Server) -> None:
        given = inputs(prompt, "MSDLayout")
        image = given["references.reference_1"]
        for n in range(1, 17):
            given.pop(f"references.reference_{n}", None)
            if n <= count:
                given[f"references.reference_{n}"] = image
        given["layout"]["subjects"] = [
            {"phrase": "star", "box": [0.05 * n, 0.1, 0.05 * n + 0.2, 0.9], "weight": 1.0}
            for n in range(count)
        ]

    return change


def solid_mask(socket: str, value: float, size: tuple[int, int] = (8, 8)) -> Any:
    """A mask of one value on a socket of MSD Layout."""

    def change(prompt: Prompt, server: Server) -> None:
        given = {"value": value, "width": size[0], "height": size[1]}
        prompt["91"] = {"class_type": "SolidMask", "inputs": given}
        inputs(prompt, "MSDLayout")[socket] = ["91", 0]

    return change


def inverted_mask(prompt: Prompt, server: Server) -> None:
    """Load Image's mask of a cut-out: white where the reference is transparent."""
    cut = np.zeros((40, 40, 4), dtype=np.uint8)
    cut[8:32, 8:32] = 200, 80, 40, 255
    Image.fromarray(cut).save(server.base / "input" / "cut.png")
    prompt["87"] = {"class_type": "LoadImage", "inputs": {"image": "cut.png"}}
    inputs(prompt, "MSDLayout").update({REFERENCE: ["87", 0], MASK: ["87", 1]})


def failing(error: str) -> Callable[[Prompt, Server], None]:
    """Another pack's attention on the model, after MSD Apply."""

    def change(prompt: Prompt, server: Server) -> None:
        sampler = inputs(prompt, "KSampler")
        given = {"model": sampler["model"], "error": error}
        prompt["92"] = {"class_type": "MicroWorldFail", "inputs": given}
        sampler["model"] = ["92", 0]

    return change


def flux_model(prompt: Prompt, server: Server) -> None:
    given = {"unet_name": FLUX_FILE, "weight_dtype": "default"}
    prompt["86"] = {"class_type": "UNETLoader", "inputs": given}
    inputs(prompt, "MSDApply")["model"] = ["86", 0]


def loaded(
    change: Callable[[Path], Any], kind: str = "MSDGroundReferences"
) -> Callable[[Prompt, Server], None]:
    """MSD Apply's subjects come from a file, saved after the node of this kind and then changed."""

    def load_changed(prompt: Prompt, server: Server) -> None:
        changed = server.base / "input" / "changed.safetensors"
        name = save(server, prompt, kind).removesuffix(" [output]")
        shutil.copy(server.base / "output" / name, changed)
        change(changed)
        prompt |= load_in_place(prompt, "MSDGroundReferences", changed.name)

    return load_changed


def rewritten(tensors: Callable[[Any], Any], **content: Any) -> Callable[[Path], None]:
    """A file of subjects with changed tensors and description."""

    def rewrite(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            described = json.loads(file.metadata()["msd_subjects"]) | content
        sd = load_file(path)
        tensors(sd)
        save_file(sd, path, {"msd_subjects": json.dumps(described)})

    return rewrite


def scaled(name: str, factor: float) -> Callable[[Any], Any]:
    return lambda sd: sd.update({name: sd[name] * factor})


def subjects_outside(prompt: Prompt, server: Server) -> None:
    prompt |= load_in_place(prompt, "MSDGroundReferences", "../../secret.safetensors")


def loaded_beside_another_adapter(prompt: Prompt, server: Server) -> None:
    loaded(lambda path: None)(prompt, server)
    other_adapter(1.5)(prompt, server)


HUGE = json.dumps({"version": 1, "subjects": [{"phrase": "x" * 100, "box": [0, 0, 1, 1]}] * 70_000})
FAULTS: dict[str, Callable[[Prompt, Server], None]] = {
    "adapter file cut in half": written("half.safetensors", lambda data: data[: len(data) // 2]),
    "adapter file of no bytes": written("empty.safetensors", lambda data: b""),
    "adapter .bin that runs code": adapter(bomb),
    "adapter whose header lies about sizes": written(
        "lies.safetensors", lambda data: (10**12).to_bytes(8, "little") + data[8:]
    ),
    "adapter with a NaN": adapter(with_nan),
    "a CLIP vision model in place of the adapter": adapter(vision_model),
    "a folder in place of the adapter": adapter(a_folder),
    "adapter without permission": adapter(without_permission),
    "a link to nowhere in place of the adapter": adapter(dangling),
    "adapter outside the model folders": adapter(lambda folder, good: "../../secret.bin"),
    "adapter file named 适配器 a b.safetensors": written(
        "适配器 a b.safetensors", lambda data: data
    ),
    "no reference": several(0),
    "16 references": several(16),
    "17 references": several(17),
    "reference of 1 x 1 pixel": reference(1, 1),
    "reference of 7680 x 4320 pixels": reference(7680, 4320),
    "RGBA reference": saved("RGBA"),
    "greyscale reference": saved("L"),
    "RGBA reference of a cut-out": cut_out(0.2),
    "RGBA reference, wholly transparent": cut_out(1.0),
    "a batch of no references": bare(REFERENCE, 0, 8, 8, 3),
    "reference of 0 x 8 pixels": bare(REFERENCE, 1, 0, 8, 3),
    "reference of 2 channels": bare(REFERENCE, 1, 8, 8, 2),
    "reference of 5 channels": bare(REFERENCE, 1, 8, 8, 5),
    "reference without its batch dimension": bare(REFERENCE, 8, 8, 3),
    "reference of whole numbers": bare(REFERENCE, 1, 8, 8, 3, dtype="uint8"),
    "a batch of no reference masks": bare(MASK, 0, 8, 8),
    "reference mask without pixels": bare(MASK, 1, 0, 8),
    "reference mask of one dimension": bare(MASK, 8),
    "a picture in place of a reference mask": bare(MASK, 1, 8, 8, 3),
    "a batch of no regions": bare(REGION, 0, 8, 8),
    "region without pixels": bare(REGION, 1, 8, 0),
    "region of one dimension": bare(REGION, 8),
    "inverted reference mask": inverted_mask,
    "latent of another aspect than the layout": latent(96, 64),
    "latent twice the layout's size": latent(128, 128),
    "subjects grounded with another adapter": other_adapter(1.5),
    "the same adapter from another file": other_adapter(1.0),
    "a UNet without layers, as TensorRT's": unet("no layers"),
    "a model without text cross-attentions": unet("no cross-attentions"),
    "a Flux model in MSD Apply": flux_model,
    "subjects loaded from a file": loaded(lambda path: None),
    "subjects loaded from a file beside another adapter": loaded_beside_another_adapter,
    "subjects file of subjects that weren't grounded": loaded(
        lambda path: None, "MSDEncodeReferences"
    ),
    "subjects file cut in half": loaded(
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    ),
    "subjects file of a newer version": loaded(rewritten(lambda sd: None, version=2)),
    "subjects file with a NaN": loaded(rewritten(scaled("subjects.0.image_tokens", math.nan))),
    "subjects file without a tensor": loaded(
        rewritten(lambda sd: sd.pop("subjects.1.image_tokens"))
    ),
    "subjects file whose description is damaged": loaded(rewritten(lambda sd: None, subjects=3)),
    "another safetensors file in place of subjects": loaded(
        lambda path: save_file({"a": torch.ones(1)}, path)
    ),
    "subjects file outside the input folder": subjects_outside,
    "a negative reference with MS-Diffusion": negative_reference(1),
    "a batch of negative references": negative_reference(3),
    "box inverted": box(0.7, 0.2, 0.3, 0.8),
    "box of no area": box(0.5, 0.2, 0.5, 0.8),
    "box partly outside": box(-0.5, 0.2, 0.4, 1.8),
    "box wholly outside": box(1.2, 1.2, 1.5, 1.5),
    "box of the whole picture": box(0, 0, 1, 1),
    "box in pixels": box(0, 0, 512, 1024),
    "box in percent": box(0, 0, 50, 100),
    "box in per mille": box(0, 0, 500, 1000),
    "box of text": box("0", "0", "1", "1"),
    "box of three numbers": box(0, 0, 1),
    "polygon of two points": layout_of({"polygon": [[0, 0], [1, 1]]}, {}),
    "polygon of too many points": layout_of({"polygon": [[0, 0], [1, 0], [0, 1]] * 400}, {}),
    "polygon of 10 MB": layout_of({"polygon": [[0.25, 0.75]] * 700_000}, {}),
    "polygon of text": layout_of({"polygon": "left half"}, {}),
    "polygon of words": layout_of({"polygon": [["a", "b"], [0, 1], [1, 1]]}, {}),
    "polygon with NaN": layout_of({"polygon": [[0, 0], [0, math.nan], [1, 1]]}, {}),
    "polygon of numbers in a row": layout_of({"polygon": [0, 0, 1, 0, 1, 1]}, {}),
    "polygon in pixels": layout_of({"polygon": [[0, 0], [512, 0], [512, 512]]}, {}),
    "polygon on a line": layout_of({"polygon": [[0, 0], [0.5, 0.5], [0.9, 0.9]]}, {}),
    "polygon on a level line": layout_of({"polygon": [[0, 0.5], [0.5, 0.5], [1, 0.5]]}, {}),
    "polygon that crosses itself": layout_of(
        {"polygon": [[0, 0], [0.5, 0.5], [0.5, 0], [0, 0.5]]}, {}
    ),
    "phrase empty": phrase(""),
    "phrase of 500 words": phrase("star " * 500),
    "phrase of two lines": phrase("a star\non snow"),
    "phrase of emoji": phrase("🐶🐱"),
    "phrase with control characters": phrase("st\x00ar\x1b[0m\u202e"),
    "phrase of punctuation": phrase("?!,"),
    "phrase with weight, embedding and BREAK": phrase("(star:1.2) embedding:none BREAK"),
    "all-black reference mask": solid_mask(MASK, 0.0),
    "all-black region": solid_mask(REGION, 0.0),
    "soft region of another size": solid_mask(REGION, 0.4, (9, 5)),
    "linked boxes that are no JSON": linked_boxes("[[0, 0, 1"),
    "linked boxes with NaN": linked_boxes("nan,0,1,1;0,0,1,1"),
    "linked boxes with infinity": linked_boxes("0,0,inf,1;0,0,1,1"),
    "linked boxes in pixels, as text": linked_boxes("0,0,512,1024;512,0,1024,1024"),
    "linked boxes in percent": linked_boxes("0,0,50,100;50,0,100,100"),
    "linked element in pixels": linked_boxes({"bbox": [0, 0, 1024, 512]}),
    "linked bounding box of a far larger picture": linked_boxes(
        {"x": 2000, "y": 0, "width": 900, "height": 3000}
    ),
    "layout of text": layout("left and right"),
    "a subject without reference": layout_of({}, {}, {}),
    "the first reference muted": without(REFERENCE),
    "a subject that is off": layout_of({}, {"off": True}),
    "every subject off": layout_of({"off": True}, {"off": True}),
    "off that is text": layout_of({"off": "no"}, {}),
    "front that is no whole number": layout_of({"front": 0.5}, {}),
    "front of two that don't overlap": layout_of({"front": 2}, {"front": 1}),
    "layout of a newer version": layout({"version": 3, "subjects": []}),
    "layout nested too deep": layout({"version": 1, "subjects": [[[[[[]]]]]]}),
    "layout of 10 MB": layout(json.loads(HUGE)),
    "another pack's attention that fails": failing("of its own"),
    "no memory left inside an attention": failing("of memory"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_it_is_refused_or_runs(
    server: Server, prompt: Prompt, normal: np.ndarray, name: str
) -> None:
    good = copy.deepcopy(prompt)
    FAULTS[name](prompt, server)
    try:
        picture = run(server, prompt)
    except PromptError as error:
        found[name] = words_of(error)
        assert len(found[name]) < 400
    else:
        assert np.isfinite(picture).all() and picture.std() > 1
        found[name] = " ".join(["runs", *(f"and warns: {line}" for line in server.texts.values())])
    assert not (server.base / "models" / "ms_diffusion" / EXPLODED).exists()
    assert_normal(server, good, normal)


def one_more_reference(prompt: Prompt, server: Server) -> None:
    """Another node adds one."""
    prompt["85"] = {"class_type": "VAELoader", "inputs": {"vae_name": AUTOENCODER}}
    reference(64, 64)(prompt, server)
    prompt["84"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["90", 0], "vae": ["85", 0]}}
    guider = inputs(prompt, "BasicGuider")
    given = {"conditioning": guider["conditioning"], "latent": ["84", 0]}
    prompt["83"] = {"class_type": "ReferenceLatent", "inputs": given}
    guider["conditioning"] = ["83", 0]


def one_reference_less(prompt: Prompt, server: Server) -> None:
    """The reference latents are those of another layout."""
    other = copy.deepcopy(prompt[find(prompt, "MSDLayout")])
    del other["inputs"]["references.reference_2"], other["inputs"]["layout"]["subjects"][1]
    prompt["82"] = other
    inputs(prompt, "MSDReferenceLatents")["subjects"] = ["82", 0]


def no_references(prompt: Prompt, server: Server) -> None:
    inputs(prompt, "BasicGuider")["conditioning"] = [find(prompt, "FluxGuidance"), 0]


def sdxl_model(prompt: Prompt, server: Server) -> None:
    given = {"ckpt_name": "micro.safetensors"}
    prompt["81"] = {"class_type": "CheckpointLoaderSimple", "inputs": given}
    inputs(prompt, "MSDPlaceReferences")["model"] = ["81", 0]


def no_clip(prompt: Prompt, server: Server) -> None:
    del inputs(prompt, "MSDPlaceReferences")["clip"]


def given_prompt(text: str) -> Callable[[Prompt, Server], None]:
    def change(prompt: Prompt, server: Server) -> None:
        inputs(prompt, "MSDPlaceReferences")["prompt"] = text

    return change


def of_subject(**values: Any) -> Callable[[Prompt, Server], None]:
    def change(prompt: Prompt, server: Server) -> None:
        subjects(prompt)[0].update(values)

    return change


def phrase_left_out(prompt: Prompt, server: Server) -> None:
    """The prompt keeps the words that the example has for the first phrase."""
    inputs(prompt, "StringReplace")["replace"] = "a cat and a cup"
    of_subject(phrase="dog")(prompt, server)


PLACED_FAULTS: dict[str, Callable[[Prompt, Server], None]] = {
    "more reference latents than subjects": one_more_reference,
    "fewer reference latents than subjects": one_reference_less,
    "no reference latents": no_references,
    "an SDXL model": sdxl_model,
    "a prompt without clip": no_clip,
    "clip without a prompt": given_prompt(""),
    "another prompt than the one that is encoded": given_prompt("a cat and a cup"),
    "a phrase that the prompt doesn't have": phrase_left_out,
    "no phrase": of_subject(phrase=""),
    "no box": of_subject(box=None),
    "weight 0": of_subject(weight=0.0),
    "all-black region": solid_mask(REGION, 0.0),
    "soft region": solid_mask(REGION, 0.4, (9, 5)),
}


@pytest.mark.parametrize("name", PLACED_FAULTS)
def test_placed_references(
    server: Server, placed: Prompt, normally_placed: np.ndarray, normal: np.ndarray, name: str
) -> None:
    good, row = copy.deepcopy(placed), f"MSD Place References: {name}"
    PLACED_FAULTS[name](placed, server)
    before = len(server.log.read_text())
    try:
        made = run(server, placed)
    except PromptError as error:
        found[row] = words_of(error)
        assert len(found[row]) < 400
    else:
        assert np.isfinite(made).all() and made.std() > 1
        said = " ".join(server.texts[find(placed, "MSDPlaceReferences")].split())
        logged = re.findall(r"MSD Place References: (.*)", server.log.read_text()[before:])
        found[row] = " ".join(["runs and says:", said, *(f"Log: {line}" for line in logged)])
    inputs(good, "MSDPlaceReferences")["first_stage"] += 1e-6 * next(fresh)  # as many steps
    assert abs(run(server, good) - normally_placed).max() <= 1


def changed_file(change: Callable[[dict[str, Any]], Any]) -> Callable[[Prompt, Server], None]:
    """The workflow's adapter with other tensors."""

    def write(prompt: Prompt, server: Server) -> None:
        folder, given = server.base / "models" / "ipadapter", inputs(prompt, "MSDLoadAdapter")
        sd = load_file(folder / given["adapter"])
        change(sd)
        save_file(sd, folder / "changed.safetensors")
        given["adapter"] = "changed.safetensors"

    return write


def loaded_files(**files: str) -> Callable[[Prompt, Server], None]:
    """Other files in the loaders that have inputs of these names."""

    def change(prompt: Prompt, server: Server) -> None:
        for node in prompt.values():
            given = node["inputs"]
            given |= {k: v for k, v in files.items() if isinstance(given.get(k), str)}

    return change


def applied_adapter(name: str) -> Callable[[Prompt, Server], None]:
    """Another file on MSD Apply than on MSD Ground References."""

    def change(prompt: Prompt, server: Server) -> None:
        prompt["95"] = {"class_type": "MSDLoadAdapter", "inputs": {"adapter": name}}
        inputs(prompt, "MSDApply")["adapter"] = ["95", 0]

    return change


def auto_layout(prompt: Prompt, server: Server) -> None:
    given = {
        "clip": [find(prompt, "CheckpointLoaderSimple"), 1],
        "subjects": [find(prompt, "MSDGroundReferences"), 0],
        "prompt": inputs(prompt, "CLIPTextEncode")["text"], "threshold": 0.5, "start_step": 2,
    }  # fmt: skip
    prompt["96"] = {"class_type": "MSDAutoLayout", "inputs": given}
    inputs(prompt, "MSDApply")["subjects"] = ["96", 0]


U = "ip_adapter.1.text_to_weight.weight"
SD15 = {"ckpt_name": "micro_sd15.safetensors"}
FAMILY_FAULTS: dict[str, dict[str, Callable[[Prompt, Server], None]]] = {
    "IP-Adapter": {
        "its file with a NaN": changed_file(lambda sd: sd[max(sd)].fill_(torch.nan)),
        "its file without a layer": changed_file(lambda sd: sd.pop("ip_adapter.1.to_k_ip.weight")),
        "an SD1.5 checkpoint with a file for SDXL": loaded_files(**SD15),
        "an SDXL checkpoint with a file for SD1.5": loaded_files(
            adapter="micro_ip_adapter_sd15.safetensors"
        ),
        "subjects grounded with another adapter": applied_adapter("micro_mip_adapter.safetensors"),
        "no phrase": of_subject(phrase=""),
        "no box": of_subject(box=None),
        "weight 0": of_subject(weight=0.0),
        "all-black region": solid_mask(REGION, 0.0),
        "soft region": solid_mask(REGION, 0.4, (9, 5)),
        "a negative reference": negative_reference(1),
        "MSD Auto Layout": auto_layout,
    },
    "MIP-Adapter": {
        "its file with a NaN": changed_file(lambda sd: sd[U].fill_(torch.nan)),
        "its file without a layer's text weight": changed_file(lambda sd: sd.pop(U)),
        "an SD1.5 checkpoint": loaded_files(**SD15),
        "subjects grounded with another adapter": applied_adapter("micro_ip_adapter.safetensors"),
        "no phrase": of_subject(phrase=""),
        "two subjects of one phrase": of_subject(phrase="cup"),
        "phrase of 500 words": of_subject(phrase="star " * 500),
        "phrase of emoji": of_subject(phrase="🐶🐱"),
        "a box": of_subject(box=[0.1, 0.1, 0.5, 0.5]),
        "weight 0": of_subject(weight=0.0),
        "a negative reference": negative_reference(1),
        "MSD Auto Layout": auto_layout,
    },
}


@pytest.fixture(scope="module")
def normal_of_family(server: Server, normal: np.ndarray) -> Callable[[str], np.ndarray]:
    @functools.cache
    def picture(family: str) -> np.ndarray:
        return run(server, load(server, WORKFLOWS / f"MS-Diffusion, {family}.json"))

    return picture


@pytest.mark.parametrize(
    "family, name", [(family, name) for family, own in FAMILY_FAULTS.items() for name in own]
)
def test_other_families(server: Server, normal_of_family: Any, family: str, name: str) -> None:
    expected = normal_of_family(family)
    prompt = load(server, WORKFLOWS / f"MS-Diffusion, {family}.json")
    good, row = copy.deepcopy(prompt), f"{family}: {name}"
    FAMILY_FAULTS[family][name](prompt, server)
    before = len(server.log.read_text())
    try:
        made = run(server, prompt)
    except PromptError as error:
        found[row] = words_of(error)
        assert len(found[row]) < 400
    else:
        assert np.isfinite(made).all() and made.std() > 1
        logged = re.findall(
            r"MSD (?:Apply|Ground \w+|Auto \w+): .*", server.log.read_text()[before:]
        )
        found[row] = " ".join(["runs", *(f"and logs: {line}" for line in dict.fromkeys(logged))])
    assert_normal(server, good, expected)


def words_of(error: PromptError) -> str:
    """What the user reads."""
    details = error.details
    if "node_errors" in details:
        (first, *_), *_ = (node["errors"] for node in details["node_errors"].values())
        words = f"{first['message']}: {first['details']}"
    else:
        words = details["exception_message"].strip()
    words = re.sub(r"\S*/(models|input)/", r"…/\1/", words)
    words = re.sub(r" not in \[.*\]", " not in the list of files", words)
    return re.sub(r"\s+", " ", words).replace("|", "\\|")


def assert_normal(server: Server, prompt: Prompt, normal: np.ndarray) -> None:
    inputs(prompt, "KSampler")["cfg"] += 1e-6 * next(fresh)
    assert abs(run(server, prompt) - normal).max() <= 1


def test_a_file_replaced_between_two_runs(
    server: Server, prompt: Prompt, normal: np.ndarray
) -> None:
    """The new file is read, and the old one again when it is back."""
    folder = server.base / "models" / "ms_diffusion"
    sound, changed = (folder / GOOD).read_bytes(), load_file(folder / GOOD)
    for key in changed:
        if key.endswith("to_v_ip.weight"):
            changed[key] *= 3
    try:
        save_file(changed, folder / GOOD)
        assert abs(run(server, prompt) - normal).max() > 1
    finally:
        (folder / GOOD).write_bytes(sound)
    assert_normal(server, prompt, normal)
    found["adapter file replaced between two runs"] = "the new file is read"


@pytest.mark.parametrize(
    "kind, step",
    [("MSDEncodeReferences", 0), ("MSDGroundReferences", 0), ("KSampler", 0), ("KSampler", 3)],
)
def test_interrupted(
    server: Server, prompt: Prompt, normal: np.ndarray, kind: str, step: int
) -> None:
    """While the references are encoded or grounded (or just after: the host looks between nodes and
    at each node's progress), and while it samples."""
    good = copy.deepcopy(prompt)
    inputs(prompt, "KSampler")["steps"] = 10_000  # endless, but for the interruption
    subjects(prompt)[0]["phrase"] = f"star {next(fresh)}"  # nothing from the cache
    ended = run_interrupted(server, prompt, kind, step)
    kinds = [node["class_type"] for node in good.values()]
    assert ended == kind if kind == "KSampler" else ended in kinds
    assert_normal(server, good, normal)
    found["interrupted while encoding, grounding or sampling"] = "the run ends"


def test_freed_models_are_loaded_again(server: Server, prompt: Prompt, normal: np.ndarray) -> None:
    server.post("/free", {"unload_models": True, "free_memory": True})
    assert_normal(server, prompt, normal)
    found["models freed between two runs"] = "they are loaded again"


def test_weights_that_stay_offloaded(
    plain: Any, adapter: Any, apply: Any, subjects: Any, monkeypatch: Any
) -> None:
    """As --lowvram and --novram load models. The host accepts either of them or --cpu, not both; so
    the test hides from it that the device is a CPU, and it leaves every layer where it is until it
    is used."""
    from comfy import model_management
    from sampling import LEFT, RIGHT, guide, sample

    def ground() -> torch.Tensor:
        model_management.load_model_gpu(adapter)
        needs = adapter.model.needs
        features = torch.ones(1, 5, needs.feature_width)
        phrase = torch.ones(1, needs.phrase_width)
        return adapter.model.image_tokens(features, phrase, torch.tensor([LEFT]), True)

    def offloaded(model: Any) -> int:
        return sum(hasattr(m, "prev_comfy_cast_weights") for m in model.modules())

    model = apply(plain, subjects(LEFT, RIGHT))
    picture, tokens = sample(guide(model)), ground()
    assert not offloaded(plain.model) and not offloaded(adapter.model)
    model_management.unload_all_models()
    monkeypatch.setattr(model_management, "vram_state", model_management.VRAMState.NO_VRAM)
    monkeypatch.setattr(model_management, "is_device_cpu", lambda device: False)
    try:
        assert torch.equal(sample(guide(model)), picture) and torch.equal(ground(), tokens)
        assert offloaded(plain.model) and offloaded(adapter.model)
    finally:
        monkeypatch.undo()
        model_management.unload_all_models()
    assert torch.equal(sample(guide(model)), picture)
    found["weights that stay offloaded, as with --lowvram and --novram"] = "runs"


# How far each may be from the normal picture, as a share of what the subjects change. The host's
# CPU computes fp16 in float32.
WAYS = {
    "--disable-smart-memory --bf16-unet --bf16-text-enc": 0.1,
    "--force-fp32 --fp8_e4m3fn-unet": 0.5,
}


@pytest.mark.parametrize("flags", WAYS)
def test_other_ways_of_running(
    server: Server, prompt: Prompt, normal: np.ndarray, tmp_path: Path, flags: str
) -> None:
    """The same picture but for the precision, and the subjects are in it."""
    for folder in ("models", "input"):
        (tmp_path / folder).symlink_to(server.base / folder)
    with Server(server.host, tmp_path, tuple(flags.split())) as other:
        picture = run(other, prompt)
        inputs(prompt, "MSDApply")["weight"] = 0.0
        without = run(other, prompt)
    error, effect = abs(picture - normal).mean(), abs(picture - without).mean()
    print(f"{flags}: {error / effect:.4f}")
    assert error <= WAYS[flags] * effect and effect > 1
    found[f"ComfyUI with {flags}"] = "runs"


def test_a_folder_name_with_a_space(server: Server, normal: np.ndarray, tmp_path: Path) -> None:
    """The host doesn't find the pack's scripts then; the log says so, once."""
    with Server(server.host, tmp_path, pack="ms diffusion") as other:
        scripts = [name for name in other.get_json("/extensions") if "ms%20diffusion" in name]
        with pytest.raises(urllib.error.HTTPError):
            other.get(scripts[0])
        (line,) = re.findall(r"MS-Diffusion: ComfyUI can't serve.*", other.log.read_text())
    found["pack in a folder named “ms diffusion”"] = f"runs, and the log says: {line}"


@pytest.mark.parametrize("error", [RuntimeError("of another node"), torch.OutOfMemoryError("no")])
@pytest.mark.parametrize("whose", ["another pack's", "ours"])
def test_an_exception_inside_the_attention(
    pack: Any, plain: Any, apply: Any, subjects: Any, monkeypatch: Any, error: Exception, whose: str
) -> None:
    """It is raised as it is, so that the host can handle it, and leaves nothing behind."""
    from sampling import LEFT, RIGHT, guide, patch_of, sample

    model = apply(plain, subjects(LEFT, RIGHT))
    before = sample(guide(model))

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise error

    other = model.clone()
    if whose == "ours":
        monkeypatch.setattr(patch_of(other).branch, "rule", broken)
    else:
        other.set_model_attn2_replace(broken, "middle", 0, 0)
    with pytest.raises(type(error)):
        sample(guide(other))
    monkeypatch.undo()
    assert torch.equal(sample(guide(model)), before)
