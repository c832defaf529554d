"""The host's own Remove Background and SAM3 before MSD Layout, as the example workflows wire them.

The loaders and nodes are the host's, what they load stands in for BiRefNet and SAM3: it finds the
sprites by their colours (lab/microworld/pack/segmentation.py).
"""

import json
from typing import Any

import pytest
from conftest import ROOT
from prompts import find, load

from lab.host.server import Server
from lab.host.workflows import show_layout


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
