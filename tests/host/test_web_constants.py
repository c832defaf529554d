"""Constants that Python and JavaScript share are equal."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

WEB = Path(__file__).parents[2] / "web" / "js"


def exported(file: str, name: str) -> Any:
    """The value of `export const name = value;`, as JSON."""
    source = (WEB / file).read_text(encoding="utf-8")
    found = re.search(rf"^export const {name} = (.+?);", source, re.MULTILINE | re.DOTALL)
    assert found, f"{file} exports no constant {name}"
    return json.loads(re.sub(r",\s*\]", "]", found[1]))


@pytest.mark.parametrize(
    ("module", "python", "file", "javascript"),
    [
        ("nodes.subjects", "MAX_SUBJECTS", "layout/value.mjs", "MAX_SUBJECTS"),
        ("nodes.layout.boxes", "LAYOUT_VERSION", "layout/value.mjs", "VERSION"),
        ("nodes.layout.boxes", "MAX_WEIGHT", "layout/value.mjs", "MAX_WEIGHT"),
        ("nodes.layout.boxes", "MAX_POINTS", "layout/value.mjs", "MAX_POINTS"),
        ("nodes.layout.node", "LAYOUT_PROPERTY", "node/layout_node.mjs", "LAYOUT_PROPERTY"),
        ("nodes.layout.preview", "COLOURS", "layout/colours.mjs", "COLOURS"),
    ],
)
def test_a_constant(pack: Any, module: str, python: str, file: str, javascript: str) -> None:
    expected = json.loads(json.dumps(getattr(pack.module(module), python)))
    assert exported(file, javascript) == expected


@pytest.mark.parametrize("name", ["width", "height"])
def test_the_size_of_the_picture(pack: Any, name: str) -> None:
    (size,) = (one for one in pack.MSDLayout.define_schema().inputs if one.id == name)
    limits = [exported("node/size.mjs", f"{limit}_SIZE") for limit in ("MIN", "MAX", "DEFAULT")]
    assert [size.min, size.max, size.default] == limits


def test_the_node_accepts_the_limits_of_the_editor(pack: Any) -> None:
    """Its smallest box, highest weight and longest phrase."""
    edge = exported("layout/value.mjs", "MIN_EDGE")
    subject = {
        "phrase": "x" * exported("layout/value.mjs", "MAX_LETTERS"),
        "box": [1 - edge, 0, 1, edge],
        "weight": exported("layout/value.mjs", "MAX_WEIGHT"),
    }
    layout = {"version": exported("layout/value.mjs", "VERSION"), "subjects": [subject]}
    assert pack.MSDLayout.validate_inputs(layout) is True


def test_the_names_that_javascript_knows(pack: Any) -> None:
    """The widget's type and the growing sockets."""
    sources = {path.name: path.read_text(encoding="utf-8") for path in WEB.rglob("*.*js")}
    inputs = {one.id: one for one in pack.MSDLayout.define_schema().inputs}
    assert f"{inputs['layout'].get_io_type()}: layoutWidget" in sources["layout.js"]
    for group, name in (
        ("references", "reference"),
        ("reference_masks", "reference_mask"),
        ("regions", "region"),
    ):
        assert f"{group}.{name}_1" in [f"{group}.{one}" for one in inputs[group].template.names]
        assert f"`{group}.{name}_${{index + 1}}`" in sources["sockets.mjs"]
