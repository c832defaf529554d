"""The public interface: ids, inputs and outputs stay as they are, and each has its description."""

import inspect
import json
import os
from pathlib import Path
from typing import Any

import comfyui_version
import pytest
from comfy_api.latest import io

ROOT = Path(__file__).parents[2]
SNAPSHOT = ROOT / "tests" / "data" / "node_info.json"
IDS = ("MSDLoadAdapter", "MSDLayout", "MSDEncodeReferences", "MSDGroundReferences",
       "MSDAutoLayout", "MSDApply", "MSDCropSubjects", "MSDReferenceLatents",
       "MSDPlaceReferences", "MSDSaveSubjects", "MSDLoadSubjects")  # fmt: skip


def test_snapshot(registry: Any) -> None:
    """A change here changes users' workflows. To accept one: UPDATE_SNAPSHOT=1, and a line in
    CHANGELOG.md."""
    if comfyui_version.__version__ != "0.30.0":
        pytest.skip("The snapshot is of ComfyUI 0.30.0.")
    infos = {}
    for node_id in IDS:
        info = dict(registry[node_id].GET_NODE_INFO_V1())
        info.pop("python_module")
        infos[node_id] = info
    # The files that this machine happens to have are no part of the interface.
    infos["MSDLoadAdapter"]["input"]["required"]["adapter"][1]["options"] = []
    infos["MSDLoadSubjects"]["input"]["required"]["file"][1]["options"] = []
    text = json.dumps(infos, indent=1, default=str) + "\n"
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(text)
    assert json.loads(text) == json.loads(SNAPSHOT.read_text())


def test_these_are_all_nodes(registry: Any) -> None:
    ours = {
        name
        for name, node in registry.items()
        if getattr(node, "RELATIVE_PYTHON_MODULE", "") == f"custom_nodes.{ROOT.name}"
    }
    assert ours == set(IDS)


@pytest.mark.parametrize("node_id", IDS)
def test_every_input_and_output_has_a_tooltip(registry: Any, node_id: str) -> None:
    schema = registry[node_id].GET_SCHEMA()
    assert schema.category == "MS-Diffusion" and schema.description and schema.display_name
    for entry in (*schema.inputs, *schema.outputs):
        assert entry.tooltip and entry.tooltip.endswith("."), entry.id
        if isinstance(entry, io.Autogrow.Input):
            assert entry.template.input.tooltip


@pytest.mark.parametrize("node_id", IDS)
def test_execute_takes_the_schema_s_inputs_in_their_order(registry: Any, node_id: str) -> None:
    node = registry[node_id]
    schema = node.GET_SCHEMA()
    parameters = list(inspect.signature(node.execute).parameters.values())
    assert {p.name for p in parameters} == {entry.id for entry in schema.inputs}
    required = [entry.id for entry in schema.inputs if not entry.optional]
    assert [p.name for p in parameters if p.name in required] == required
    defaults = {entry.id: getattr(entry, "default", None) for entry in schema.inputs}
    for parameter in parameters:
        if parameter.default not in (inspect.Parameter.empty, None):
            assert parameter.default == defaults[parameter.name], parameter.name


@pytest.mark.parametrize("node_id", IDS)
def test_help_page(registry: Any, node_id: str) -> None:
    page = (ROOT / "web" / "docs" / node_id / "en.md").read_text(encoding="utf-8")
    schema = registry[node_id].GET_SCHEMA()
    assert page.startswith(f"# {schema.display_name}\n")
    for entry in (*schema.inputs, *schema.outputs):
        assert f"| {entry.display_name or entry.id} |" in page, entry.id


def test_layout_is_the_last_widget_and_optional(registry: Any) -> None:
    """Without its script the widget's value would shift those after it."""
    schema = registry["MSDLayout"].GET_SCHEMA()
    assert schema.inputs[-1].id == "layout" and schema.inputs[-1].optional
    assert schema.inputs[-1].socketless


def test_no_second_registration_of_the_web_folder() -> None:
    assert "web" not in (ROOT / "pyproject.toml").read_text().partition("[tool.comfy]")[2][:200]
