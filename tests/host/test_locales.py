"""Locales and help pages are complete, and the English ones say what the nodes say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

LOCALES = ROOT / "locales"
DOCS = ROOT / "web" / "docs"
NODES = sorted(path.name for path in DOCS.iterdir())


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schemas(pack: Any) -> dict[str, Any]:
    return {name: getattr(pack, name).define_schema() for name in NODES}


def test_english_names_are_those_of_the_nodes(schemas: dict[str, Any]) -> None:
    locale = read(LOCALES / "en" / "nodeDefs.json")
    assert set(locale) == set(schemas)
    for name, schema in schemas.items():
        assert locale[name]["display_name"] == schema.display_name
        assert locale[name]["description"] == schema.description
        assert locale[name]["inputs"] == {
            i.id: {"name": i.id, "tooltip": i.tooltip} for i in schema.inputs
        }
        assert [o["name"] for o in locale[name]["outputs"].values()] == [
            o.display_name for o in schema.outputs
        ]


def shape(value: Any) -> Any:
    return {k: shape(v) for k, v in value.items()} if isinstance(value, dict) else None


def test_chinese_is_complete() -> None:
    english, chinese = (read(LOCALES / lang / "nodeDefs.json") for lang in ("en", "zh"))
    assert shape(english) == shape(chinese)
    source = (ROOT / "web/js/layout/texts.mjs").read_text(encoding="utf-8")
    block = source[source.index("ENGLISH = {") : source.index("\n};")]
    keys = set(re.findall(r"^  (\w+):", block, re.MULTILINE))
    words = read(LOCALES / "zh" / "main.json")["msDiffusion"]
    assert set(words) == keys
    for key in keys:
        text = block[re.search(rf"^  {key}:", block, re.MULTILINE).start() :].split(",\n")[0]
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", words[key])), key


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_page_describes_every_input(schemas: dict[str, Any], node: str, language: str) -> None:
    page = (DOCS / node / f"{language}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {schemas[node].display_name}") and f"({node}/node.png)" in page
    assert (DOCS / node / "node.png").is_file()
    for one in schemas[node].inputs:
        assert re.search(rf"^\| {one.id} \| .", page, re.MULTILINE), one.id
