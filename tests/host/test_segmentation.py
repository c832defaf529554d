"""The host's own Remove Background and SAM3 before MSD Layout, as the example workflows wire them.

The loaders and nodes are the host's, what they load stands in for BiRefNet and SAM3: it finds the
sprites by their colours (lab/microworld/pack/segmentation.py).
"""

import json
from typing import Any

import pytest
from conftest import ROOT
from prompts import SIZE, find, load

from lab.host.server import PromptError, Server
from lab.host.workflows import show_layout
from lab.microworld.sprites import SCENE


def load_or_skip(server: Server, name: str, node: str) -> dict[str, Any]:
    if node not in server.get_json("/object_info"):
        pytest.skip(f"This host has no {node} yet.")
    return load(server, ROOT / "example_workflows" / f"MS-Diffusion, {name}.json")


def lay_out(server: Server, prompt: dict[str, Any]) -> dict[str, Any]:
    """What MSD Layout shows of a prompt; nothing that comes after it runs."""
    shown = {name: node for name, node in prompt.items() if node["class_type"] != "SaveImage"}
    show_layout(shown)
    return json.loads(server.run(shown)[find(prompt, "MSDLayout")]["msd_layout"][0])


def test_the_mask_of_remove_background_is_a_reference_mask(server: Server) -> None:
    """As it is: inverted, MSD Layout asks whether it is."""
    prompt = load_or_skip(server, "remove background", "RemoveBackground")
    info = server.get_json("/object_info/RemoveBackground")["RemoveBackground"]
    assert info["output_tooltips"] == ["Generated foreground mask"]
    assert lay_out(server, prompt)["inverted"] == []
    sockets = prompt[find(prompt, "MSDLayout")]["inputs"]
    for number in (1, 2):
        name = f"reference_masks.reference_mask_{number}"
        turned = {"class_type": "InvertMask", "inputs": {"mask": sockets[name]}}
        prompt[f"9{number}"] = {**turned, "_meta": {"title": "Invert Mask"}}
        sockets[name] = [f"9{number}", 0]
    assert lay_out(server, prompt)["inverted"] == [1, 2]


def test_boxes_and_masks_of_sam3(server: Server) -> None:
    """Boxes in the order of SAM3's text, in pixels of the scene; masks as they are."""
    prompt = load_or_skip(server, "SAM3", "SAM3_Detect")
    shown = lay_out(server, prompt)
    assert shown["linked"] and shown["inverted"] == [] and shown["size"] == [SIZE, SIZE]
    # No shape fills its box.
    assert shown["boxes"] == [pytest.approx(box, abs=0.1) for box in SCENE]
    text = prompt[find(prompt, "CLIPTextEncode", "Boxes")]["inputs"]
    text["text"] = "cup, cat"
    assert lay_out(server, prompt)["boxes"] == shown["boxes"][::-1]
    text["text"] = "cat, dog"
    with pytest.raises(PromptError, match="boxes: got 1 for 2 references"):
        lay_out(server, prompt)
    text["text"] = "cat, cup"
    prompt[find(prompt, "CLIPTextEncode", "Mask of reference 2")]["inputs"]["text"] = "dog"
    with pytest.raises(PromptError, match="reference_mask_2 is all black"):
        lay_out(server, prompt)
