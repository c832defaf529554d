"""Pictures that are dropped, pasted and picked: real drags, a real clipboard and file chooser."""

import base64
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator
from test_sources import prompt_of
from ui import BOXES, TWO, Ui, near, of_type, subject, workflow

LOADERS = """return app.canvas.graph.nodes.filter((n) => n.type === 'LoadImage')
    .map((n) => n.widgets[0].value)"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with wide.png, tall.png, and three files that are no pictures."""
    Image.new("RGB", (60, 30), "#2060c0").save(tmp_path / "wide.png")
    Image.new("RGB", (20, 40), "#c06020").save(tmp_path / "tall.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n no picture either")
    script = "<svg xmlns='http://www.w3.org/2000/svg'><script>window.pwned = 1</script></svg>"
    (tmp_path / "script.svg").write_text(script)
    return tmp_path


@pytest.fixture
def empty(ui: Ui) -> Iterator[Ui]:
    """The layout without subjects and references."""
    saved = workflow(subjects=[])
    saved["nodes"] = [node for node in saved["nodes"] if node["type"] != "LoadImage"]
    ids = {node["id"] for node in saved["nodes"]}
    saved["links"] = [link for link in saved["links"] if link[1] in ids]
    kept = {link[0] for link in saved["links"]}
    for node in saved["nodes"]:
        for socket in node["inputs"]:
            socket["link"] = socket["link"] if socket.get("link") in kept else None
        # The third is of the file, and gets its names only when the host adds it.
        node["inputs"] = [socket for socket in node["inputs"] if not socket["name"].endswith("_3")]
    ui.load(saved)
    ui.still()
    ui.capture()
    yield ui


def drop(ui: Ui, at: Sequence[float], *paths: Path) -> None:
    """Drag files from outside of the browser to a point of the screen, and drop them."""
    session = ui.context.new_cdp_session(ui.page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": at[0], "y": at[1], "data": data}
        session.send("Input.dispatchDragEvent", event)
        ui.frames(2)
    session.detach()


def middle(element: Locator) -> tuple[float, float]:
    box = element.bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def copy_picture(ui: Ui, path: Path) -> None:
    """Put a picture on the clipboard."""
    ui.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ui.page.evaluate(
        """async data => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const blob = new Blob([bytes], { type: 'image/png' });
            await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })]);
        }""",
        base64.b64encode(path.read_bytes()).decode(),
    )


def references(ui: Ui) -> list[str]:
    """The files of the linked references, as the prompt will have them."""
    prompt: dict[str, Any] = ui.page.evaluate("async () => (await app.graphToPrompt()).output")
    inputs = of_type(prompt, "MSDLayout")
    names = [f"references.reference_{number}" for number in range(1, 17)]
    return [prompt[inputs[name][0]]["inputs"]["image"] for name in names if name in inputs]


def aspect(box: Sequence[float]) -> float:
    return (box[2] - box[0]) / (box[3] - box[1])


def test_dropped_pictures_become_subjects_and_run(empty: Ui, files: Path) -> None:
    """Two drops, two phrases, run: from an empty layout to a picture."""
    ui = empty
    ui.shot("no subjects")
    drop(ui, ui.at(0.3, 0.5), files / "wide.png")
    ui.until(lambda: references(ui) == ["wide.png"])
    drop(ui, ui.at(0.8, 0.3), files / "tall.png")
    ui.until(lambda: references(ui) == ["wide.png", "tall.png"])
    ui.still()
    first, second = (one["box"] for one in ui.subjects)
    assert near([(first[0] + first[2]) / 2, (first[1] + first[3]) / 2], [0.3, 0.5], 0.01)
    assert near([(second[0] + second[2]) / 2, (second[1] + second[3]) / 2], [0.8, 0.3], 0.01)
    assert abs(aspect(first) - 2) < 0.01 and abs(aspect(second) - 0.5) < 0.01
    for index, phrase in enumerate(("cup", "cat")):
        ui.phrase(index).fill(phrase)
    thumbs = ui.element(".msd-thumb")
    ui.until(lambda: "tall.png" in (thumbs.nth(1).get_attribute("src") or ""))
    ui.shot("dropped pictures")
    prompt, outputs = ui.run()
    assert len(of_type(prompt, "MSDLayout")["layout"]["subjects"]) == 2
    assert any("images" in output for output in outputs.values())
    overlaps = ui.node(
        """const rects = app.canvas.graph.nodes.map((n) => [n, n.getBounding()]);
        return rects.flatMap(([a, [ax, ay, aw, ah]]) => a.type !== 'LoadImage' ? [] :
            rects.filter(([b, [x, y, w, h]]) => b !== a && b.type !== 'MarkdownNote' &&
                ax < x + w && x < ax + aw && ay < y + h && y < ay + ah).map(([b]) => b.type));"""
    )
    assert overlaps == []


def test_a_drop_is_one_undo_step(empty: Ui, files: Path) -> None:
    ui = empty
    drop(ui, ui.at(0.5, 0.5), files / "wide.png", files / "tall.png")
    ui.until(lambda: references(ui) == ["wide.png", "tall.png"])
    ui.still()
    after = ui.subjects
    ui.click(0.99, 0.01)
    ui.undo()
    ui.until(lambda: ui.subjects == [])
    assert ui.node(LOADERS) == []
    ui.click(0.99, 0.01)
    ui.redo()
    ui.until(lambda: references(ui) == ["wide.png", "tall.png"])
    assert ui.subjects == after


def test_a_drop_on_a_subject_replaces_its_picture(ui: Ui, files: Path) -> None:
    """On its box or on its row; neither box nor phrase changes, and no node comes."""
    ui.still()
    ui.capture()
    drop(ui, ui.at(0.25, 0.5), files / "wide.png")
    ui.until(lambda: references(ui) == ["wide.png", "reference_2.png"])
    drop(ui, middle(ui.element(".msd-row").nth(1)), files / "tall.png")
    ui.until(lambda: references(ui) == ["wide.png", "tall.png"])
    assert ui.subjects == TWO and sorted(ui.node(LOADERS)) == ["tall.png", "wide.png"]
    ui.until(lambda: "tall.png" in (ui.element(".msd-thumb").nth(1).get_attribute("src") or ""))
    ui.still()
    ui.click(0.99, 0.01)
    ui.undo()
    ui.until(lambda: references(ui) == ["wide.png", "reference_2.png"])


def test_a_picture_of_two_subjects_is_replaced_for_one(ui: Ui, files: Path) -> None:
    ui.node(
        """const at = (n) => node.inputs.findIndex((i) => i.name === 'references.reference_' + n);
        node.getInputNode(at(1)).connect(0, node, at(2));"""
    )
    ui.still()
    drop(ui, ui.at(0.75, 0.5), files / "wide.png")
    ui.until(lambda: references(ui) == ["reference_1.png", "wide.png"])
    assert [one["phrase"] for one in ui.subjects] == ["star", "heart"]


def test_the_mask_of_a_picture_goes_with_it(ui: Ui, files: Path) -> None:
    """It isn't used for the picture in its place; one that comes of that picture is."""
    at = """const at = (group, n) =>
            node.inputs.findIndex((one) => one.name === `${group}s.${group}_${n}`);
        const loader = node.getInputNode(at('reference', 1)), { graph } = app.canvas;"""
    for step in (
        "loader.connect(0, node, at('reference', 2));",
        """const invert = LiteGraph.createNode('InvertMask');
        graph.add(invert);
        loader.connect(1, invert, 0);
        invert.connect(0, node, at('reference_mask', 1));""",
        """const invert = graph.nodes.find((one) => one.type === 'InvertMask');
        invert.connect(0, node, at('reference_mask', 2));""",
    ):
        ui.node(at + step)
        ui.still()
    # A node that was loaded isn't to the host what it was when it was made.
    ui.load(ui.saved())
    ui.still()

    def masks() -> list[str]:
        inputs = of_type(prompt_of(ui), "MSDLayout")
        return sorted(name for name in inputs if name.startswith("reference_masks."))

    both = [f"reference_masks.reference_mask_{n}" for n in (1, 2)]
    ui.until(lambda: masks() == both)
    drop(ui, ui.at(0.25, 0.5), files / "wide.png")  # of a Load Image that both have
    ui.until(lambda: references(ui) == ["wide.png", "reference_1.png"])
    ui.until(lambda: masks() == both[1:])
    said = "The mask of subject 1 was that of its earlier picture: it is disconnected."
    ui.until(lambda: ui.note() == said)
    drop(ui, ui.at(0.75, 0.5), files / "tall.png")  # that of this subject alone
    ui.until(lambda: references(ui) == ["wide.png", "tall.png"])
    ui.frames(30)
    assert masks() == both[1:] and not ui.note().startswith("The mask")
    ui.undo()
    ui.undo()
    ui.until(lambda: masks() == both and references(ui) == ["reference_1.png"] * 2)


def test_a_subject_that_waits_gets_its_picture(ui: Ui, files: Path) -> None:
    """One of two that wait, dropped on its box, or on free ground for one without box."""
    waiting = [subject("cup", (0.3, 0.8, 0.4, 0.95)), subject("cat", (0.6, 0.8, 0.7, 0.95))]
    ui.load(workflow(subjects=[*TWO, *waiting, subject("dog")]))
    drop(ui, ui.at(0.65, 0.88), files / "tall.png")
    ui.until(lambda: references(ui)[2:] == ["tall.png"])
    assert ui.subjects == [*TWO, waiting[1], waiting[0], subject("dog")]
    drop(ui, ui.at(0.5, 0.1), files / "wide.png")
    ui.until(lambda: references(ui)[2:] == ["tall.png", "wide.png"])
    assert [one["phrase"] for one in ui.subjects[2:]] == ["cat", "dog", "cup"]
    assert ui.subjects[3]["box"]


def test_pasted_and_picked_pictures(empty: Ui, files: Path) -> None:
    ui = empty
    copy_picture(ui, files / "wide.png")
    ui.click(0.5, 0.5)
    ui.press("Control+v")
    ui.until(lambda: len(references(ui)) == 1)
    assert abs(aspect(ui.subjects[0]["box"]) - 2) < 0.01
    with ui.page.expect_file_chooser() as chosen:
        ui.element("button", has_text="Pictures").click()
    assert chosen.value.is_multiple()
    chosen.value.set_files([files / "tall.png", files / "wide.png"])
    ui.until(lambda: references(ui)[1:] == ["tall.png", "wide.png"])
    with ui.page.expect_file_chooser() as chosen:
        ui.page.get_by_role("button", name="Choose the reference of subject 1").locator(
            "visible=true"
        ).click()
    chosen.value.set_files(files / "tall.png")
    ui.until(lambda: references(ui) == ["tall.png", "tall.png", "wide.png"])
    assert len(ui.subjects) == 3


def test_files_that_are_no_pictures_are_named(ui: Ui, files: Path) -> None:
    drop(ui, ui.at(0.5, 0.1), files / "notes.txt")
    ui.until(lambda: ui.note() == "notes.txt is no picture that can be loaded.")
    drop(ui, ui.at(0.25, 0.5), files / "broken.png")
    ui.until(lambda: ui.note() == "broken.png is no picture that can be loaded.")
    drop(ui, ui.at(0.5, 0.1), files / "script.svg", files / "notes.txt", files / "broken.png")
    ui.until(lambda: ui.note() == "script.svg and 2 more are no pictures that can be loaded.")
    ui.shot("no pictures")
    assert ui.subjects == TWO and references(ui) == ["reference_1.png", "reference_2.png"]
    assert ui.page.evaluate("() => window.pwned") is None
    ui.click(0.99, 0.01)  # the note goes on with what matters
    ui.until(lambda: "no pictures" not in ui.note())


@pytest.mark.any_rendering
def test_files_of_200_megabytes(ui: Ui, files: Path) -> None:
    """A picture that the server wouldn't take isn't sent, and another file isn't taken for one."""
    sent: list[str] = []
    note = lambda request: sent.append(request.url)  # noqa: E731
    ui.page.on("request", note)
    for name, content in (("large.png", (files / "wide.png").read_bytes()), ("zeros.png", b"")):
        (files / name).write_bytes(content)
        os.truncate(files / name, 200 << 20)
    drop(ui, ui.at(0.5, 0.1), files / "large.png")
    words = "large.png couldn't be uploaded: it has 200 MB, and the server takes 100 MB."
    ui.until(lambda: ui.note() == words)
    drop(ui, ui.at(0.5, 0.1), files / "zeros.png")
    ui.until(lambda: ui.note() == "zeros.png is no picture that can be loaded.")
    ui.page.remove_listener("request", note)
    assert not any("upload" in url for url in sent)
    assert ui.subjects == TWO and len(references(ui)) == 2


def test_from_a_template_to_a_picture_in_six_actions(ui: Ui, files: Path) -> None:
    """The template's own page, with the micro family's files in it and few steps."""
    done: list[str] = []

    def act(name: str, do: Callable[[], Any]) -> None:
        done.append(name)
        do()

    name = "MS-Diffusion, two subjects"
    answer = json.dumps(workflow(name))
    listed = "**/workflow_templates/ms_diffusion/*.json"
    ui.page.route(listed, lambda route: route.fulfill(content_type="application/json", body=answer))
    ui.page.evaluate("async () => { await app.loadGraphData({ nodes: [], links: [] }) }")
    # It opens by itself where ComfyUI is new.
    ui.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = ui.page.get_by_role("dialog")
    dialog.get_by_placeholder("Search").first.fill(name)
    card = ui.page.get_by_role("img", name=name, exact=True)
    card.wait_for()
    act("template", card.click)
    ui.until(lambda: ui.page.evaluate("() => app.rootGraph.nodes.length > 5"))
    ui.page.unroute(listed)
    ui.show()
    act("first picture", lambda: drop(ui, ui.at(0.2, 0.5), files / "wide.png"))
    act("second picture", lambda: drop(ui, ui.at(0.8, 0.5), files / "tall.png"))
    act("first phrase", lambda: ui.phrase(0).fill("cat"))
    act("second phrase", lambda: ui.phrase(1).fill("cup"))
    ui.until(lambda: references(ui) == ["wide.png", "tall.png"])
    run: list[Any] = []
    act("run", lambda: run.extend(ui.run()))
    prompt, outputs = run
    assert len(done) <= 6
    assert [one["phrase"] for one in of_type(prompt, "MSDLayout")["layout"]["subjects"]] == [
        "cat",
        "cup",
    ]
    layout = next(name for name, node in prompt.items() if node["class_type"] == "MSDLayout")
    text = of_type(prompt, "StringReplace")  # the phrases are in the prompt without an action
    assert text["find"] in text["string"] and text["replace"] == [layout, 8]
    assert any("images" in output for output in outputs.values())
    ui.shot("two own pictures in six actions")


def test_more_pictures_than_subjects(ui: Ui, tmp_path: Path) -> None:
    """Fifty files at once: as many as fit become subjects, and the note counts the rest."""
    paths = [tmp_path / f"picture {number}.png" for number in range(50)]
    for number, path in enumerate(paths):
        Image.new("RGB", (16, 16), (number * 5, 90, 200)).save(path)
    for part in (paths[:9], paths[9:]):  # the second while the first ones are still taken
        with ui.page.expect_file_chooser() as chosen:
            ui.element("button", has_text="Pictures").click()
        chosen.value.set_files(part)
    ui.until(lambda: len(references(ui)) == 16)
    ui.until(lambda: ui.note() == "There can be 16 subjects; left out: 36.")
    ui.still()
    assert references(ui) == ["reference_1.png", "reference_2.png", *(p.name for p in paths[:14])]
    assert len(ui.subjects) == 16 and [one["box"] for one in ui.subjects[:2]] == list(BOXES)
    assert all(one["box"] for one in ui.subjects)
    ui.shot("16 subjects")
    drop(ui, middle(ui.element(".msd-bars")), paths[20])  # none fits any more
    ui.until(lambda: ui.note() == "There can be 16 subjects; left out: 1.")
    assert len(ui.subjects) == 16
    ui.press("Escape")
    assert "left out" not in ui.note()
    ui.drag((0.02, 0.02), (0.2, 0.2), keys=["Shift"])
    ui.until(lambda: ui.note() == "There can be 16 subjects; left out: 1.")
    assert len(ui.subjects) == 16


@pytest.mark.any_rendering
def test_a_picture_that_the_server_refuses_is_named(ui: Ui, files: Path) -> None:
    ui.page.route("**/upload/image", lambda route: route.fulfill(status=413, body=""))
    try:
        drop(ui, ui.at(0.5, 0.1), files / "wide.png")
        ui.until(lambda: ui.note().startswith("wide.png couldn't be uploaded: "))
        assert ui.subjects == TWO and len(references(ui)) == 2
    finally:
        ui.page.unroute("**/upload/image")
