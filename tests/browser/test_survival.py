"""The layout's value through everything that the front end does to nodes, in both renderings."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from ui import ROOT, SETTING, TWO, Ui, of_type, subject, workflow

from lab.host.server import Server

SAVED = sorted((ROOT / "tests" / "data" / "saved_workflows").glob("*.json"))
LONG = "a very long phrase " * 12


def as_prompt(ui: Ui) -> dict[str, Any]:
    return ui.page.evaluate("async () => (await app.graphToPrompt()).output")


def test_save_and_load(ui: Ui) -> None:
    ui.drag((0.25, 0.5), (0.3, 0.6))
    ui.phrase(0).fill(LONG)
    value = ui.value
    saved = ui.saved()
    ui.load(workflow(subjects=[]))
    ui.load(saved)
    assert ui.value == value
    assert of_type(as_prompt(ui), "MSDLayout")["layout"] == value


def test_snap_and_cells_are_kept_with_the_workflow(ui: Ui) -> None:
    """Each layout has its own, and undo goes back over them."""
    ui.still()
    ui.capture()
    pressed = ui.element(".msd-bar [aria-pressed=true]", has_not_text="Result")
    for name in ("Snap", "Cells"):
        ui.element("button", has_text=name).click()
    expect(pressed).to_have_text(["Snap", "Cells"])
    saved = ui.saved()
    ui.frames()
    ui.click(0.99, 0.01)
    ui.undo()
    expect(pressed).to_have_text(["Snap"])
    ui.load(workflow(subjects=TWO))
    expect(pressed).to_have_count(0)
    ui.load(saved)
    expect(pressed).to_have_text(["Snap", "Cells"])


@pytest.mark.any_rendering
def test_a_reload_of_the_page(ui: Ui) -> None:
    ui.page.evaluate(SETTING, ["Comfy.Workflow.Persist", True])
    try:
        ui.drag((0.25, 0.5), (0.3, 0.6))
        ui.phrase(0).fill("a star in a draft")
        ui.press("Tab")
        value = ui.value
        stored = "() => Object.values(localStorage).some((v) => v.includes('a star in a draft'))"
        ui.until(lambda: ui.page.evaluate(stored))
        ui.open()
        ui.until(lambda: ui.page.evaluate("() => app.rootGraph.nodes.length > 5"))
        ui.show()
        assert ui.value == value
    finally:
        ui.page.evaluate(SETTING, ["Comfy.Workflow.Persist", False])


def test_copy_and_paste_of_the_node(ui: Ui) -> None:
    ids = ui.node(
        """app.canvas.selectItems([node]);
        app.canvas.copyToClipboard([node]);
        app.canvas.pasteFromClipboard();
        return app.canvas.graph.nodes.filter((n) => n.type === 'MSDLayout').map((n) => n.id);"""
    )
    assert len(ids) == 2
    read = "return app.canvas.graph.getNodeById(given[0]).widgets.at(-1).value.subjects"
    assert ui.node(read, ids[1]) == TWO
    ui.node(  # the copy's own element edits the copy's own value
        """const copy = app.canvas.graph.getNodeById(given[0]);
        const phrase = copy.widgets.at(-1).element.querySelector('.msd-phrase');
        phrase.value = 'moon';
        phrase.dispatchEvent(new Event('input'));""",
        ids[1],
    )
    assert ui.node(read, ids[1])[0]["phrase"] == "moon"
    assert ui.node(read, ids[0]) == TWO


def test_a_clone(ui: Ui) -> None:
    cloned = ui.node("return JSON.parse(JSON.stringify(node.clone().serialize().widgets_values))")
    assert cloned[2]["subjects"] == TWO


@pytest.mark.parametrize("other", ["nodes2", "classic"])
def test_the_rendering_is_switched_while_open(ui: Ui, other: str) -> None:
    ui.set_mode(other)
    ui.show()
    ui.drag((0.25, 0.5), (0.3, 0.6))
    assert ui.subjects[0]["box"] != TWO[0]["box"]
    value = ui.value
    ui.set_mode(ui.mode)
    ui.show()
    assert ui.value == value
    ui.drag((0.75, 0.5), (0.7, 0.6))
    assert ui.subjects[1]["box"] != TWO[1]["box"]


def test_collapse_and_expand(ui: Ui) -> None:
    ui.node("node.collapse()")
    ui.until(lambda: not ui.element("canvas").count())
    ui.node("node.collapse()")
    ui.drag((0.25, 0.5), (0.3, 0.6))
    assert ui.subjects[0]["box"] != TWO[0]["box"]


# What the screen says of the subjects: phrase, weight and the words for the selected box.
ON_SCREEN = """async () => {
    const frame = () => new Promise(requestAnimationFrame);
    const shown = (selector) =>
        [...document.querySelectorAll(`.msd-layout ${selector}`)].filter((e) => e.offsetParent);
    const texts = [];
    for (let i = 0; i < shown('.msd-row').length; i++) {
        shown('.msd-chip')[i].click();
        await frame();
        const [phrase, weight] = ['.msd-phrase', '.msd-weight'].map((part) => shown(part)[i].value);
        texts.push([phrase, Number(weight), shown('.msd-spoken').map((e) => e.textContent).join()]);
    }
    return texts;
}"""


def test_what_is_shown_is_what_runs(ui: Ui) -> None:
    """After any edits, undos and redos in a row, faster than the host can follow."""
    for seed in range(6):
        chance = random.Random(seed)
        ui.load(workflow(subjects=TWO))
        ui.still()
        ui.capture()
        done = []
        for _ in range(9):
            act = chance.choice(("move", "type", "undo", "undo", "redo", "redo", "collapse"))
            done.append(act)
            if act in ("move", "type"):
                ui.until(lambda: expanded(ui))  # an undo may have collapsed it again
            if act == "move":
                ui.element(".msd-chip").nth(chance.randrange(2)).click()
                ui.press(chance.choice(("ArrowLeft", "ArrowRight", "ArrowUp", "Control+ArrowUp")))
            elif act == "type":
                ui.phrase(chance.randrange(2)).fill(f"{chance.choice(WORDS)} {chance.random()}")
                ui.press("Tab")
            elif act == "collapse":
                ui.node("node.collapse(); await new Promise(requestAnimationFrame);")
                ui.capture()
                ui.node("if (node.flags.collapsed) node.collapse();")
                ui.capture()
            else:
                ui.page.evaluate(
                    "name => { app.extensionManager.command.execute(name) }",
                    "Comfy.Undo" if act == "undo" else "Comfy.Redo",
                )
            if chance.random() < 0.4:
                ui.frames(chance.randrange(1, 12))
        ui.still()
        ui.until(lambda: expanded(ui))
        ui.frame()
        screen = ui.page.evaluate(ON_SCREEN)
        expected = [
            [
                one["phrase"],
                one["weight"],
                "Subject {}, {}: {} by {} pixels at {}, {}".format(
                    i, one["phrase"], *pixels_of(one["box"])
                ),
            ]
            for i, one in enumerate(ui.subjects, 1)
        ]
        assert screen == expected, (seed, done)
        assert of_type(as_prompt(ui), "MSDLayout")["layout"] == ui.value, (seed, done)
        # What is typed now runs.
        ui.phrase(1).fill(f"last {seed}")
        assert of_type(as_prompt(ui), "MSDLayout")["layout"]["subjects"][1]["phrase"] == (
            f"last {seed}"
        ), (seed, done)


def expanded(ui: Ui) -> bool:
    """Expand the layout where it is collapsed; whether its canvas is on the screen."""
    ui.node("if (node?.flags.collapsed) node.collapse();")
    return ui.element("canvas").count() == 1


WORDS = ("moon", "cat", "red cup", "")


def pixels_of(box: list[float]) -> list[int]:
    """Width, height, left and top of a box, in pixels, rounded as JavaScript does."""
    x0, y0, x1, y1 = box
    return [math.floor(128 * edge + 0.5) for edge in (x1 - x0, y1 - y0, x0, y0)]


def test_subgraph(ui: Ui) -> None:
    """Convert, edit inside, run, save, load, unpack; promotion is not offered."""
    ui.node(
        """const graph = app.canvas.graph;
        const { node: outside } = graph.convertToSubgraph(new Set([node]));
        window.outside = outside.id;
        // The host doesn't, and finds a change that ends the redo when undo loads the graph again.
        graph.updateExecutionOrder();"""
    )
    inputs = ui.page.evaluate(
        "() => app.rootGraph.getNodeById(outside).inputs.map((input) => input.name)"
    )
    assert "layout" not in inputs
    ui.page.evaluate("() => app.canvas.openSubgraph(app.rootGraph.getNodeById(outside).subgraph)")
    ui.until(lambda: ui.page.evaluate("() => app.canvas.graph !== app.rootGraph"))
    ui.show()
    # It places the subgraph's sockets when it draws them, and finds a change in that, too.
    ui.still()
    ui.capture()
    assert ui.subjects == TWO
    assert ui.node("return node.widgets.at(-1).options.socketless === true")
    ui.drag((0.25, 0.5), (0.3, 0.6))
    moved = ui.value
    assert moved["subjects"] != TWO
    ui.shot("inside a subgraph")
    ui.click(0.99, 0.01)
    ui.undo()
    ui.until(lambda: ui.subjects == TWO)
    ui.redo()
    ui.until(lambda: ui.value == moved)
    prompt, _outputs = ui.run()
    assert of_type(prompt, "MSDLayout")["layout"] == moved
    # The references are outside.
    thumb = ui.element(".msd-thumb").nth(0)
    ui.until(lambda: "reference_1.png" in (thumb.get_attribute("src") or ""))
    saved = ui.saved()
    ui.leave_subgraph()
    ui.page.evaluate("async saved => { await app.loadGraphData(saved) }", saved)
    assert of_type(as_prompt(ui), "MSDLayout")["layout"] == moved
    ui.page.evaluate(
        """() => {
            const outside = app.rootGraph.nodes.find((n) => n.isSubgraphNode?.());
            app.rootGraph.unpackSubgraph(outside);
        }"""
    )
    ui.show()
    assert ui.value == moved
    ui.drag((0.75, 0.5), (0.7, 0.6))
    assert ui.value != moved


def test_app_mode(ui: Ui) -> None:
    """The editor as an input of an app works as in the graph, also after undo, and in an app that
    is opened from another one."""
    saved = workflow(subjects=TWO)
    layout = next(node["id"] for node in saved["nodes"] if node["type"] == "MSDLayout")
    image = next(node["id"] for node in saved["nodes"] if node["type"] == "SaveImage")
    saved["extra"]["linearMode"] = True
    saved["extra"]["linearData"] = {"inputs": [[layout, "layout"]], "outputs": [image]}
    ui.page.evaluate("async saved => { await app.loadGraphData(saved) }", saved)
    ui.drag((0.25, 0.5), (0.3, 0.6))
    assert ui.element("canvas").evaluate("e => !e.closest('.graph-canvas-container')")
    ui.shot("app mode")
    assert ui.subjects[0]["box"] != TWO[0]["box"]
    ui.undo()
    ui.until(lambda: ui.subjects == TWO)
    ui.still()
    ui.drag((0.25, 0.5), (0.3, 0.6))  # the editor is still there
    assert ui.element("canvas").evaluate("e => !e.closest('.graph-canvas-container')")
    assert ui.subjects[0]["box"] != TWO[0]["box"]
    ui.page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
    ui.until(lambda: ui.element("canvas").evaluate("e => !!e.closest('.graph-canvas-container')"))
    ui.page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
    ui.until(lambda: ui.element("canvas").evaluate("e => !e.closest('.graph-canvas-container')"))
    # The same app once more, in another tab
    ui.page.evaluate("async saved => { await app.loadGraphData(saved) }", saved)
    ui.still()
    assert ui.subjects == TWO
    ui.drag((0.25, 0.5), (0.3, 0.6))
    assert ui.element("canvas").evaluate("e => !e.closest('.graph-canvas-container')")
    assert ui.subjects[0]["box"] != TWO[0]["box"]
    ui.load(workflow(subjects=TWO))
    ui.until(lambda: ui.element("canvas").evaluate("e => !!e.closest('.graph-canvas-container')"))
    ui.still()
    ui.show()  # the graph is on the screen again, and was fitted into it
    ui.drag((0.25, 0.5), (0.3, 0.6))
    assert ui.subjects[0]["box"] != TWO[0]["box"]


def test_the_side_panel_leaves_the_editor_alone(ui: Ui) -> None:
    read = "return [node.size[0], node.widgets.at(-1).element.clientWidth]"
    before = ui.node(read)
    ui.node("app.canvas.selectItems([node])")
    toggle = ui.page.get_by_role("button", name="Toggle properties panel").first
    panel = ui.page.get_by_test_id("properties-panel")
    toggle.click()
    expect(panel).to_be_visible()
    ui.frames(30)
    assert ui.node(read) == before
    toggle.click()
    expect(panel).to_be_hidden()
    ui.frames(30)
    assert ui.node(read) == before


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_a_workflow_of_an_earlier_version(ui: Ui, path: Path) -> None:
    """It loads as it was saved, and keeps so when it is saved again."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    (node,) = (one for one in saved["nodes"] if one["type"] == "MSDLayout")
    expected = ui.server.workflow(path)
    ui.load(saved)
    assert ui.value == node["widgets_values"][2] and len(ui.value["subjects"]) > 1
    for again in range(2):
        prompt = as_prompt(ui)
        assert prompt.keys() == expected.keys(), again
        for number, given in prompt.items():
            inputs = {k: v for k, v in given["inputs"].items() if k in expected[number]["inputs"]}
            assert (given["class_type"], inputs) == (
                expected[number]["class_type"], expected[number]["inputs"],
            )  # fmt: skip
        ui.load(ui.saved())


def test_a_newer_version_is_kept(ui: Ui) -> None:
    newer = {"version": 3, "scenes": [{"shape": "circle"}], "subjects": []}
    saved = workflow()
    next(n for n in saved["nodes"] if n["type"] == "MSDLayout")["widgets_values"][2] = newer
    ui.load(saved)
    assert "newer version" in ui.note()
    ui.drag((0.2, 0.2), (0.5, 0.5))
    assert ui.value == newer
    assert of_type(as_prompt(ui), "MSDLayout")["layout"] == newer
    ui.element("button", has_text="Start over").click()
    assert ui.value == {"version": 1, "subjects": []}


def test_hostile_workflows(ui: Ui) -> None:
    """Text stays text, numbers stay in range, nothing is lost before an edit, nothing hangs."""
    evil = '<img src="http://evil.test/x.png" onerror="window.pwned=1"><script>pwned=1</script>'
    requests: list[str] = []
    note = lambda request: requests.append(request.url)  # noqa: E731
    ui.page.on("request", note)
    cases: list[Any] = [
        {"version": 1, "subjects": [subject(evil, (0.1, 0.1, 0.5, 0.5))]},
        {"version": 1, "subjects": [{"phrase": {"toString": evil}, "box": "x", "weight": evil}]},
        {
            "version": 1,
            "subjects": [{"phrase": "a", "box": [1e308, -1e308, 5, 0], "weight": 1e308}],
        },
        {"version": 1, "subjects": [{"phrase": "a", "box": [None, "1", {}, []], "weight": None}]},
        {"version": 1, "subjects": [{"constructor": {"x": 1}, "phrase": "b", "colour": "red;}"}]},
        {"version": 1, "subjects": [subject("x" * 100_000, (0, 0, 1, 1))]},
        {"version": 1, "subjects": [subject("a", (0.1, 0.1, 0.5, 0.5))] * 10_000},
        {"version": 1, "subjects": [None, 3, []]},
        {"version": evil, "subjects": []},
        {"version": 1, "subjects": {"length": 1e9}},
        {"subjects": [[[[[[]]]]]]},
        "nothing but text",
        evil,
        7,
    ]
    for case in cases:
        saved = workflow()
        layout = next(n for n in saved["nodes"] if n["type"] == "MSDLayout")
        layout["widgets_values"][2] = layout["properties"]["msd_layout"] = case
        ui.load(saved)
        ui.frame()
        assert ui.value == case
        assert ui.page.evaluate("() => [window.pwned, ({}).x]") == [None, None]
        assert not ui.page.locator(".msd-layout script, .msd-layout img[onerror]").count()
        assert ui.element("li").count() <= 16
        for image in ui.page.locator(".msd-layout img[src]").all():
            assert "/view?" in image.get_attribute("src")
    for change in (
        {"LoadImage": {"widgets_values": ["a\n/b.png", "image"]}},
        {"LoadImage": {"widgets_values": ["http://evil.test/x.png", "image"]}},
        {"MSDLayout": {"widgets_values": {"a": 1}}},
        {"MSDLayout": {"widgets_values": [1e12, -5, None]}},
        {"MSDLayout": {"properties": {"msd_layout": evil}, "msdLastRun": 5, "title": evil}},
        {"MSDLayout": {"properties": 7, "size": [1e9, "x"]}},
    ):
        saved = workflow(subjects=TWO)
        for node in saved["nodes"]:
            node.update(change.get(node["type"], {}))
        ui.page.evaluate("async saved => { await app.loadGraphData(saved) }", saved)
        ui.frames()
        assert ui.page.evaluate("() => app.rootGraph.nodes.length") == len(saved["nodes"])
        assert ui.page.evaluate("() => window.pwned") is None
    ui.page.remove_listener("request", note)
    assert not any("evil.test" in url.split("/view?")[0] for url in requests)
    ui.load(workflow(subjects=[subject(evil, (0.1, 0.1, 0.5, 0.5))]))
    assert ui.phrase(0).input_value() == evil
    ui.shot("hostile phrase")


def test_a_move_only_paints_in_a_graph_of_200_nodes(ui: Ui) -> None:
    """At most once a frame, and no row is touched before the end."""
    ui.node(
        """for (let i = 0; i < 200; i++) {
            const note = LiteGraph.createNode('EmptyLatentImage');
            note.pos = [-4000 - 250 * (i % 15), 200 * Math.floor(i / 15)];
            app.canvas.graph.add(note);
        }"""
    )
    left, top, width, height = ui.frame()
    ui.page.mouse.move(left + 0.25 * width, top + 0.5 * height)
    ui.page.mouse.down()
    ui.frames()
    ui.page.evaluate(
        """() => {
            const shown = (e) => e.offsetParent;
            const canvas = [...document.querySelectorAll('.msd-stage canvas')].find(shown);
            const rows = [...document.querySelectorAll('.msd-rows')].find(shown);
            const work = window.work = { spent: [], paints: 0, frames: 0, rows: 0 };
            const count = () => { work.frames++; requestAnimationFrame(count); };
            requestAnimationFrame(count);
            const pen = canvas.getContext('2d'), { clearRect } = pen;
            pen.clearRect = (...rect) => { work.paints++; clearRect.apply(pen, rect); };
            new MutationObserver((changes) => { work.rows += changes.length; }).observe(
                rows, { attributes: true, childList: true, subtree: true });
            let begin = 0;
            canvas.addEventListener('pointermove', () => { begin = performance.now(); }, true);
            canvas.addEventListener(
                'pointermove', () => work.spent.push(performance.now() - begin));
        }"""
    )
    for i in range(150):
        ui.page.mouse.move(left + (0.25 + 0.001 * i) * width, top + (0.5 + 0.001 * i) * height)
    ui.frames()
    work = ui.page.evaluate("() => work")
    ui.page.mouse.up()
    spent = sorted(work["spent"])
    print(f"pointermove: median {spent[len(spent) // 2]:.2f} ms, longest {spent[-1]:.2f} ms")
    assert len(spent) > 10
    assert 0 < work["paints"] <= min(work["frames"], len(spent)) + 1
    assert work["rows"] == 0
    assert ui.subjects[0]["box"] != TWO[0]["box"]


@pytest.mark.any_rendering
def test_without_our_javascript(
    browser: Browser, server: Server, front_end: str, mode: str
) -> None:
    """The graph loads, no other widget's value shifts, and it runs as it was saved."""
    ui = Ui(browser, server, front_end, mode, javascript=False)
    saved = workflow(subjects=TWO)
    ui.page.evaluate("async saved => { await app.loadGraphData(saved) }", saved)
    layout = of_type(as_prompt(ui), "MSDLayout")
    assert (layout["width"], layout["height"]) == (128, 128)
    _, outputs = ui.run()
    reported = next(json.loads(o["msd_layout"][0]) for o in outputs.values() if "msd_layout" in o)
    assert reported == {
        "boxes": [s["box"] for s in TWO], "linked": False, "size": [128, 128], "inverted": []
    }  # fmt: skip
    assert any("images" in output for output in outputs.values())
    # Saved there and opened where the editor works again, it is whole.
    saved = ui.saved()
    without = ui.deprecations
    ui.close()
    ui = Ui(browser, server, front_end, mode)
    ui.load(saved)
    assert ui.subjects == TWO
    ui.drag((0.25, 0.5), (0.3, 0.6))
    # The host reports deprecations of its own and of other packs without us too.
    assert ui.deprecations <= without
    assert ui.errors == []
    ui.close()
