"""Help pages, templates, blueprint and languages, as users see them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from ui import ROOT, SETTING, TWO, Ui, of_type, subject, workflow

from lab.host.server import Server

NODES = sorted(path.name for path in (ROOT / "web" / "docs").iterdir())
TEMPLATES = sorted((ROOT / "example_workflows").glob("*.json"))
# Of a card's heading: the picture above it is loaded when it comes into view.
SHOW_CARD = "heading => heading.scrollIntoView({ block: 'end' })"


@pytest.mark.any_rendering
@pytest.mark.parametrize("node", NODES)
def test_help_page(ui: Ui, node: str) -> None:
    ui.load(workflow("MS-Diffusion, auto layout", subjects=TWO))
    ui.page.evaluate(
        """kind => {
            const graph = app.rootGraph;
            let node = graph.nodes.find((n) => n.type === kind);
            if (!node) {
                graph.add(node = LiteGraph.createNode(kind));
                const [x, y] = app.canvas.ds.offset;
                node.pos = [500 - x, 500 - y];
            }
            app.canvas.selectItems([node]);
        }""",
        node,
    )
    ui.page.get_by_test_id("info-button").locator("visible=true").first.click()
    title = (ROOT / "web" / "docs" / node / "en.md").read_text(encoding="utf-8").splitlines()[0]
    heading = ui.page.get_by_role("heading", name=title.removeprefix("# "), exact=True)
    expect(heading.first).to_be_visible()
    picture = ui.page.locator(f"img[src*='{node}/node.png']").first
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    ui.shot(f"help {node}")
    ui.page.get_by_role("button", name="Toggle properties panel").first.click()


@pytest.mark.any_rendering
def test_templates_are_listed_and_load(ui: Ui) -> None:
    listed = ui.server.get_json("/workflow_templates")["ms_diffusion"]
    assert sorted(listed) == sorted(path.stem for path in TEMPLATES)
    ui.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    ui.page.get_by_text("MS-Diffusion", exact=True).first.click()
    for path in TEMPLATES:
        heading = ui.page.get_by_role("heading", name=path.stem, exact=True)
        heading.evaluate(SHOW_CARD)
        picture = ui.page.get_by_role("img", name=path.stem, exact=True)
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.decode().then(() => image.naturalHeight)") == 320
    ui.shot("templates")
    name = "MS-Diffusion, auto layout"
    ui.page.get_by_role("heading", name=name, exact=True).evaluate(SHOW_CARD)
    ui.page.get_by_role("img", name=name, exact=True).click()
    ui.until(
        lambda: ui.page.evaluate(
            "() => app.rootGraph.nodes.some((n) => n.type === 'MSDAutoLayout')"
        )
    )
    ui.page.keyboard.press("Escape")


def test_the_app_template(ui: Ui) -> None:
    """It opens in app mode: both references, the layout, the prompt and Run, which gives a
    picture."""
    ui.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    ui.page.get_by_text("MS-Diffusion", exact=True).first.click()
    name = "MS-Diffusion, two subjects.app"  # the front end knows apps by this ending
    ui.page.get_by_role("heading", name=name, exact=True).evaluate(SHOW_CARD)
    ui.page.get_by_role("img", name=name, exact=True).click()
    inputs = ui.page.get_by_test_id("app-mode-widget-item")
    expect(inputs).to_have_count(4)
    labels = inputs.get_by_test_id("builder-widget-label")
    prompt = "Prompt, with the phrases for {subjects}"
    expect(labels).to_have_text(["Reference 1, a cat", "Reference 2, a cup", "layout", prompt])
    expect(inputs.nth(3).locator("textarea")).to_have_value(re.compile("{subjects} on a"))
    ui.shot("app template")
    ui.load(workflow(subjects=TWO))  # the graph again
    saved = workflow(name, subjects=TWO)  # with models that are here
    ui.page.evaluate("async saved => { await app.loadGraphData(saved) }", saved)
    for number in (0, 1):
        picture = inputs.nth(number).get_by_role("img")
        expect(picture).to_have_attribute("src", re.compile(f"reference_{number + 1}.png"))
    expect(ui.element("canvas")).to_be_visible()
    _, outputs = ui.run()
    ((made,),) = (output["images"] for output in outputs.values() if "images" in output)
    shown = ui.page.locator(f"img[src*='{made['filename']}']").locator("visible=true")
    expect(shown.first).to_be_visible()
    ui.shot("app template run")


@pytest.mark.any_rendering
def test_templates_are_found_by_the_name_of_the_pack(ui: Ui) -> None:
    """Among all templates: the front end searches their file names, not the pack's name."""
    ui.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = ui.page.get_by_role("dialog")
    dialog.get_by_role("heading", name="MS-Diffusion", exact=True).wait_for(state="detached")
    dialog.get_by_placeholder("Search").first.fill("ms-diffusion")
    for path in TEMPLATES:
        heading = ui.page.get_by_role("heading", name=path.stem, exact=True)
        expect(heading).to_be_visible()
    ui.shot("templates found")
    ui.page.keyboard.press("Escape")
    ui.page.keyboard.press("Escape")


@pytest.mark.any_rendering
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_is_what_the_converter_gives(ui: Ui, path: Path) -> None:
    """The prompt that the page would post, and the one of the tests without a browser."""
    if "IPAdapter" in path.stem:  # nodes of a pack that isn't here: it must still load
        ui.page.evaluate(
            "async saved => { await app.loadGraphData(saved) }", json.loads(path.read_text())
        )
        assert ui.subjects
        ui.page.keyboard.press("Escape")
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    ui.load(saved)
    ((_, height),) = (node["size"] for node in saved["nodes"] if node["type"] == "MSDLayout")
    needed = ui.node("return node.computeSize()[1]")
    print(f"{path.stem}: {height} of {needed} pixels")
    assert height >= needed
    posted = ui.page.evaluate("async () => (await app.graphToPrompt()).output")
    converted = ui.server.workflow(path)
    assert {k: (n["class_type"], n["inputs"]) for k, n in posted.items()} == {
        k: (n["class_type"], n["inputs"]) for k, n in converted.items()
    }


def add_by_search(ui: Ui, name: str) -> None:
    """Find a node or blueprint in the search box, and put it on an empty part of the canvas."""
    ui.page.mouse.move(1000, 820)
    ui.page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    typing = "() => document.activeElement.tagName === 'INPUT'"
    ui.until(lambda: ui.page.evaluate(typing))
    ui.page.keyboard.type(name)
    result = ui.page.get_by_test_id("result-item").first
    expect(result).to_contain_text(name)
    result.click()
    follows = "() => app.canvas.state.ghostNodeId != null"  # the mouse, until a click puts it down
    ui.until(lambda: ui.page.evaluate(follows))
    covered = "() => document.elementFromPoint(1000, 820).closest('[role=dialog], .p-dialog-mask')"
    ui.until(lambda: not ui.page.evaluate(f"() => Boolean(({covered})())"))
    ui.page.mouse.click(1000, 820)
    ui.until(lambda: not ui.page.evaluate(follows))


def test_the_blueprint_is_found_and_runs(ui: Ui) -> None:
    """Added by the search box in place of the nodes that it holds, which have the same ids."""
    blueprint = json.loads((ROOT / "subgraphs" / "Subjects in a layout.json").read_text())
    (inner,) = blueprint["definitions"]["subgraphs"]
    saved = workflow(subjects=TWO)
    rename(saved, dict(zip(ids_of(saved, "MSD"), ids_of(inner, "MSD"), strict=True)))
    ui.load(saved)
    add_by_search(ui, "Subjects in a layout")
    added = "app.rootGraph.nodes.find((node) => node.isSubgraphNode?.())"
    given = ["adapter", "width", "height", "weight"]
    assert ui.page.evaluate(f"() => {added}.widgets.map((widget) => widget.name)") == given
    assert ui.page.evaluate(f"() => {added}.inputs.map((input) => input.name)") == [
        *("reference_1", "reference_2", "clip_vision", "clip", "model"),  # of its first release
        *given,
    ]
    values = ["ms_adapter_micro.safetensors", 192, 96, 0.8]
    ui.page.evaluate(
        f"""values => {{
            const graph = app.rootGraph, find = (type) => graph.nodes.find((n) => n.type === type);
            const node = {added};
            const link = (from, slot, to, name) =>
                from.connect(slot, to, to.inputs.findIndex((input) => input.name === name));
            const loaders = graph.nodes.filter((n) => n.type === 'LoadImage');
            link(loaders[0], 0, node, 'reference_1');
            link(loaders[1], 0, node, 'reference_2');
            link(find('CheckpointLoaderSimple'), 0, node, 'model');
            link(find('CheckpointLoaderSimple'), 1, node, 'clip');
            link(find('CLIPVisionLoader'), 0, node, 'clip_vision');
            link(node, 0, find('KSampler'), 'model');
            node.widgets.forEach((widget, i) => {{ widget.value = values[i]; }});
        }}""",
        values,
    )
    # Saved and loaded beside the nodes with the same ids
    saved = ui.saved()
    ui.load(saved)
    assert ui.page.evaluate(f"() => {added}.widgets.map((widget) => widget.value)") == values
    ui.page.evaluate(
        """() => {
            for (const node of app.rootGraph.nodes.filter((n) => n.type.startsWith('MSD')))
                app.rootGraph.remove(node);
        }"""
    )
    prompt, outputs = ui.run()
    layout = of_type(prompt, "MSDLayout")
    assert (layout["width"], layout["height"], len(layout["layout"]["subjects"])) == (192, 96, 2)
    assert of_type(prompt, "MSDApply")["weight"] == 0.8
    assert of_type(prompt, "MSDLoadAdapter")["adapter"] == values[0]
    assert any("images" in output for output in outputs.values())
    # Inside, the layout's editor has the size that is set on the blueprint.
    ui.page.evaluate(f"() => app.canvas.openSubgraph({added}.subgraph)")
    ui.until(lambda: ui.page.evaluate("() => app.canvas.graph !== app.rootGraph"))
    ui.show()
    ui.until(lambda: "192 / 96" in ui.element(".msd-stage").get_attribute("style"))


def ids_of(graph: dict[str, Any], start: str) -> list[int]:
    """Ids of the nodes whose type begins with `start`, sorted by type."""
    nodes = [(node["type"], node["id"]) for node in graph["nodes"]]
    return [number for kind, number in sorted(nodes) if kind.startswith(start)]


def rename(saved: dict[str, Any], ids: dict[int, int]) -> None:
    """Give nodes of a saved graph other ids."""
    for node in saved["nodes"]:
        node["id"] = ids.get(node["id"], node["id"])
    for link in saved["links"]:
        link[1], link[3] = ids.get(link[1], link[1]), ids.get(link[3], link[3])
    saved["last_node_id"] = max(node["id"] for node in saved["nodes"])


def test_chinese(browser: Browser, server: Server, front_end: str) -> None:
    ui = Ui(browser, server, front_end, "classic")
    ui.page.evaluate(SETTING, ["Comfy.Locale", "zh"])
    try:
        ui.open()
        ui.load(workflow(subjects=[subject("star", (0.1, 0.1, 0.5, 0.5)), subject("")]))
        zh = json.loads((ROOT / "locales" / "zh" / "main.json").read_text(encoding="utf-8"))
        words = zh["msDiffusion"]
        assert ui.element("select").locator("option").first.text_content() == words["presets"]
        assert words["boxMissing"] in ui.note()
        assert ui.element("canvas").get_attribute("aria-label") == words["canvas"]
        names = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
        assert ui.node("return node.title") == names["MSDLayout"]["display_name"]
        ui.shot("Chinese")
        assert ui.errors == []
    finally:
        ui.page.evaluate(SETTING, ["Comfy.Locale", "en"])
        ui.close()
