"""The picture behind the boxes: the last result, and the preview of a run."""

import uuid
from collections.abc import Iterator

import pytest
from test_lasso import colour_at
from test_regions import GROUND
from ui import SETTING, TWO, Ui, workflow

FREE = (0.5, 0.95)  # a point outside of both boxes


@pytest.fixture
def previews(ui: Ui) -> Iterator[Ui]:
    """The host sends a preview of each step; the page notes what the canvas shows meanwhile."""
    ui.page.evaluate(SETTING, ["Comfy.Execution.PreviewMethod", "latent2rgb"])
    yield ui
    ui.page.evaluate(SETTING, ["Comfy.Execution.PreviewMethod", "default"])


def load_fresh(ui: Ui, steps: int = 2) -> None:
    """Load a layout that the host hasn't run and kept."""
    saved = workflow(subjects=[{**one, "phrase": f"{uuid.uuid4()}"} for one in TWO])
    for node in saved["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][2] = steps
    ui.load(saved)


def test_the_result_is_behind_the_boxes(ui: Ui) -> None:
    """With its opacity and its switch, which are kept with the workflow; an undo keeps it too."""
    assert colour_at(ui, *FREE) == GROUND
    _, outputs = ui.run()
    assert any("images" in output for output in outputs.values())
    ui.until(lambda: colour_at(ui, *FREE) != GROUND)
    half = colour_at(ui, *FREE)
    ui.shot("the result behind the boxes")
    ui.still()
    slider = ui.element("input[type=range]")
    slider.fill("1")
    ui.until(lambda: colour_at(ui, *FREE) != half)
    whole = colour_at(ui, *FREE)
    for value, ground, all_of_it in zip(half, GROUND, whole, strict=True):
        assert abs(value - (ground + all_of_it) / 2) <= 2
    ui.still()
    saved = ui.saved()
    (node,) = (n for n in saved["nodes"] if n["type"] == "MSDLayout")
    assert node["properties"]["msd_backdrop"] == {"on": True, "opacity": 1}
    ui.drag((0.25, 0.5), (0.27, 0.52))
    moved = ui.subjects
    ui.undo()
    ui.until(lambda: ui.subjects == TWO != moved)
    ui.until(lambda: colour_at(ui, *FREE) == whole)
    ui.element("button", has_text="Result").click()
    assert colour_at(ui, *FREE) == GROUND and not slider.count()
    ui.element("button", has_text="Result").click()
    assert colour_at(ui, *FREE) == whole
    # Another workflow has none; the settings come with the saved one.
    ui.load(workflow(subjects=TWO))
    assert colour_at(ui, *FREE) == GROUND
    ui.load(saved)
    assert slider.input_value() == "1"


def test_the_previews_of_a_run_are_shown(previews: Ui) -> None:
    ui = previews
    load_fresh(ui, steps=60)  # long enough that the page paints meanwhile
    watch_previews(ui)
    ui.run()
    ui.until(lambda: ui.page.evaluate("() => previews.sent") > 0)
    ui.until(lambda: colour_at(ui, *FREE) != GROUND)
    assert ui.page.evaluate("() => previews.painted") > 0


def test_the_previews_of_a_run_with_another_seed(previews: Ui) -> None:
    """The layout isn't executed again then: the host has its output from before."""
    ui = previews
    load_fresh(ui, steps=60)
    ui.run()
    ui.node(
        """const sampler = app.canvas.graph.nodes.find((one) => one.type === 'KSampler');
        sampler.widgets[0].value += 1;"""
    )
    watch_previews(ui)
    _, outputs = ui.run()
    assert any("images" in output for output in outputs.values())
    assert ui.page.evaluate("() => previews.painted") > 0


def test_a_saved_picture_goes_before_previews_of_others(ui: Ui) -> None:
    """Those of nodes that show something on their way, as a control map."""
    load_fresh(ui)
    ui.node(
        """const graph = app.canvas.graph;
        const loader = graph.nodes.find((one) => one.type === 'LoadImage');
        const show = LiteGraph.createNode('PreviewImage');
        graph.add(show);
        loader.connect(0, show, 0);"""
    )
    ui.still()
    ui.run()
    ui.frames(30)
    source = ui.node("return node.widgets.at(-1).element.editor.host.backdrop().image.src;")
    assert "type=output" in source


def watch_previews(ui: Ui) -> None:
    """Count the previews that the host sends, and those that are painted."""
    ui.page.evaluate(
        """() => {
            window.previews = { sent: 0, painted: 0 };
            comfyAPI.api.api.addEventListener('b_preview', () => { previews.sent++; });
            const shown = (e) => e.offsetParent;
            const canvas = [...document.querySelectorAll('.msd-stage canvas')].find(shown);
            const pen = canvas.getContext('2d'), { drawImage } = pen;
            pen.drawImage = (image, ...rect) => {
                previews.painted += Number(image.src?.startsWith('blob:') ?? false);
                drawImage.call(pen, image, ...rect);
            };
        }"""
    )


def test_what_the_layout_draws_itself_is_not_the_result(ui: Ui) -> None:
    load_fresh(ui)
    ui.node(
        """const graph = app.canvas.graph;
        const last = graph.nodes.find((n) => n.type === 'SaveImage' || n.type === 'PreviewImage');
        graph.remove(last);
        const collage = node.outputs.findIndex((one) => one.name === 'collage');
        const show = LiteGraph.createNode('PreviewImage');
        graph.add(show);
        node.connect(collage, show, 0);"""
    )
    ui.still()
    ui.capture()
    ui.run()
    ui.frames(30)
    assert colour_at(ui, *FREE) == GROUND


@pytest.mark.parametrize("kept", [7, "off", {"on": "no", "opacity": 1e9}, {"opacity": "<b>"}])
def test_hostile_settings(ui: Ui, kept: object) -> None:
    saved = workflow(subjects=TWO)
    for node in saved["nodes"]:
        if node["type"] == "MSDLayout":
            node["properties"]["msd_backdrop"] = kept
    ui.load(saved)
    assert ui.element("button", has_text="Result").get_attribute("aria-pressed") == "true"
    assert float(ui.element("input[type=range]").input_value()) in (0.5, 1.0)
