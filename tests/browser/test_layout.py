"""The layout editor in the real front end, in both of its renderings."""

from typing import Any

from playwright.sync_api import Browser
from test_lasso import CIRCLE, lasso
from ui import BOXES, TWO, Ui, near, of_type, subject, workflow

from lab.host.server import Server


def test_two_boxes_are_drawn_named_and_run(ui: Ui) -> None:
    ui.load(workflow(subjects=[subject(""), subject("")]))
    assert "no phrase, box" in ui.note()
    drawn = []
    for box in BOXES:
        (x0, y0), (x1, y1) = ui.points(box[:2], box[2:])
        left, top, width, height = ui.frame()
        drawn.append(
            [
                (x0 - left) / width,
                (y0 - top) / height,
                (x1 - left) / width,
                (y1 - top) / height,
            ]
        )
        ui.drag(box[:2], box[2:])
    ui.shot("drawn, no phrases yet")
    for index, phrase in enumerate(("star", "heart")):
        ui.phrase(index).fill(phrase)
    prompt, outputs = ui.run()
    subjects = of_type(prompt, "MSDLayout")["layout"]["subjects"]
    assert [s["phrase"] for s in subjects] == ["star", "heart"]
    pixel = 1 / ui.frame()[2]
    for one, expected in zip(subjects, drawn, strict=True):
        assert near(one["box"], expected, pixel), (one["box"], expected)
    assert any("images" in output for output in outputs.values())
    assert ui.value == of_type(prompt, "MSDLayout")["layout"]
    ui.shot("two subjects, run")


def test_move_and_resize(ui: Ui) -> None:
    ui.drag((0.25, 0.5), (0.35, 0.4))
    assert near(ui.subjects[0]["box"], (0.15, 0.15, 0.55, 0.65), 0.01)
    assert ui.subjects[1] == TWO[1]
    ui.drag((0.15, 0.15), (0.02, 0.05))  # the left upper corner
    assert near(ui.subjects[0]["box"], (0.02, 0.05, 0.55, 0.65), 0.01)
    ui.drag((0.02, 0.3), (0.9, 0.3))  # an edge can't pass the other one
    x0, _, x1, _ = ui.subjects[0]["box"]
    assert 0 < x1 - x0 < 0.02


def test_the_cursor_of_overlapping_boxes(ui: Ui) -> None:
    """The smaller box is on top, Shift always draws, Alt goes down through the pile."""
    scene = subject("garden", (0, 0, 1, 1))
    ui.load(workflow(subjects=[scene, subject("cat", (0.3, 0.3, 0.7, 0.7))]))
    ui.drag((0.5, 0.5), (0.6, 0.5))
    assert ui.subjects[0] == scene and near(ui.subjects[1]["box"], (0.4, 0.3, 0.8, 0.7), 0.01)
    ui.page.keyboard.down("Alt")
    ui.click(0.5, 0.5)
    ui.page.keyboard.up("Alt")
    ui.press("Delete", "Delete")  # its box, then the subject
    assert [s["phrase"] for s in ui.subjects] == ["cat"]
    ui.drag((0.45, 0.35), (0.65, 0.6), keys=["Shift"])
    assert near(ui.subjects[1]["box"], (0.45, 0.35, 0.65, 0.6), 0.01)


def test_keyboard(ui: Ui) -> None:
    ui.click(0.25, 0.5)
    ui.press("ArrowRight", "ArrowDown")  # 8 pixels of 128
    assert near(ui.subjects[0]["box"], (0.1125, 0.3125, 0.5125, 0.8125), 1e-4)
    ui.press("Shift+ArrowLeft")  # a cell: 32 pixels, a quarter of the picture
    assert near(ui.subjects[0]["box"], (0, 0.3125, 0.4, 0.8125), 1e-4)
    ui.press("Control+ArrowUp")
    assert near(ui.subjects[0]["box"], (0, 0.3125, 0.4, 0.75), 1e-4)
    ui.press("Tab", "ArrowUp")
    assert near(ui.subjects[1]["box"], (0.55, 0.1875, 0.95, 0.6875), 1e-4)
    ui.press("Control+d")
    assert ui.subjects[2]["phrase"] == "heart" and ui.subjects[2]["box"] != ui.subjects[1]["box"]
    ui.press("Delete")
    assert ui.subjects[2] == subject("heart")
    ui.press("Delete")
    assert len(ui.subjects) == 2
    ui.press("1", "Control+c", "Control+v")
    assert ui.subjects[2]["phrase"] == "star"
    ui.press("Enter")
    ui.page.keyboard.type("blue cup")
    assert ui.subjects[2]["phrase"] == "blue cup"
    ui.click(0.99, 0.99)
    ui.press("Escape", "Delete", "Backspace")  # with nothing selected they must do nothing
    assert len(ui.subjects) == 3
    assert ui.node("return Boolean(node)")


def test_undo_and_redo(ui: Ui) -> None:
    """One step per edit, also after typing: the browser's own undo must not act as well."""
    ui.still()
    ui.capture()
    ui.phrase(0).fill("red star")
    ui.press("Tab")
    ui.drag((0.25, 0.5), (0.3, 0.4))
    ui.press("ArrowLeft")
    states = [ui.subjects]
    ui.undo()
    ui.until(lambda: ui.subjects != states[0])
    states.append(ui.subjects)
    ui.click(0.99, 0.01)
    ui.undo()
    ui.until(lambda: ui.subjects[0]["box"] == TWO[0]["box"])
    assert ui.subjects[0]["phrase"] == "red star"
    ui.click(0.99, 0.01)
    ui.undo()
    ui.until(lambda: ui.subjects == TWO)
    for expected in ("red star", states[1], states[0]):
        ui.click(0.99, 0.01)
        ui.redo()
        if isinstance(expected, str):
            ui.until(lambda: ui.subjects[0]["phrase"] == "red star")
        else:
            ui.until(lambda expected=expected: ui.subjects == expected)


def test_the_editor_shows_what_undo_brought_back(ui: Ui) -> None:
    """Undo creates the node again: its new editor must be on the screen and work."""
    ui.still()
    ui.capture()
    ui.drag((0.46, 0.05), (0.54, 0.2))
    assert ui.element("li").count() == 3
    ui.undo()
    ui.until(lambda: ui.subjects == TWO)
    ui.until(lambda: ui.element("li").count() == 2)
    ui.drag((0.25, 0.5), (0.3, 0.6))
    assert ui.subjects[0]["box"] != TWO[0]["box"]


def test_an_undo_in_the_frame_of_the_edit(ui: Ui) -> None:
    """A new row enters the history some frames later; the undo must not get lost."""
    ui.still()
    ui.capture()
    ui.element("canvas").evaluate(
        """(canvas, [from, to]) => {
            const at = (name, [clientX, clientY]) => canvas.dispatchEvent(new PointerEvent(name, {
                pointerId: 7, isPrimary: true, bubbles: true, button: 0, clientX, clientY }));
            canvas.setPointerCapture = () => {};
            canvas.focus();
            at('pointerdown', from);
            at('pointermove', to);
            at('pointerup', to);
            canvas.dispatchEvent(
                new KeyboardEvent('keydown', { key: 'z', ctrlKey: true, bubbles: true }));
        }""",
        ui.points((0.46, 0.05), (0.54, 0.2)),
    )
    ui.until(lambda: ui.subjects == TWO and ui.element("li").count() == 2)


def test_snapping_and_cells(ui: Ui) -> None:
    """Boxes on cells' edges cover just those cells, by the rule of the server."""
    from msd_core.coverage import box_coverage

    width, height = 832, 1216  # 26 x 38 cells: edges that no float is exactly
    ui.load(workflow(subjects=[], width=width, height=height))
    ui.element("button", has_text="Snap").click()
    ui.element("button", has_text="Cells").click()
    ui.drag((0.101, 0.203), (0.607, 0.405))
    ui.drag((0.703, 0.604), (0.958, 0.888))
    ui.shot("snapped, with the cells shown")
    covered = ui.node(
        """const { coveredCells, gridOf } = await import(given[0]);
        const { subjects } = node.widgets.at(-1).value;
        return subjects.map(({ box }) => coveredCells(box, gridOf([832, 1216])));""",
        "/extensions/ms_diffusion/js/layout/grid.mjs",
    )
    import torch

    for one, (x0, y0, x1, y1) in zip(ui.subjects, covered, strict=True):
        for edge, cells in zip(one["box"], (26, 38, 26, 38), strict=True):
            assert abs(edge * cells - round(edge * cells)) < 1e-3
        cells = box_coverage(torch.tensor([one["box"]]), 38, 26)[0].view(38, 26)
        assert cells[y0:y1, x0:x1].all() and cells.sum() == (y1 - y0) * (x1 - x0)
        assert near(one["box"], (x0 / 26, y0 / 38, x1 / 26, y1 / 38), 1e-4)


def test_presets_keep_phrases(ui: Ui) -> None:
    presets = ui.element("select")
    group = presets.locator("optgroup").first
    names = group.locator("option").evaluate_all("all => all.map((o) => o.value)")
    assert len(names) >= 9
    for name in names:
        presets.select_option(name)
        assert [s["phrase"] for s in ui.subjects[:2]] == ["star", "heart"]
        if name == "clearBoxes":
            assert not any(s["box"] for s in ui.subjects)
            continue
        assert all(s["box"] for s in ui.subjects[: 1 if name.startswith("one") else 2])
    presets.select_option("threeInARow")
    assert [s["box"][0] for s in ui.subjects[:3]] == [0, 0.35, 0.65]
    assert "Subject 3 has no reference: a run leaves it out" in ui.note()
    ui.shot("preset three in a row")
    prompt, outputs = ui.run()
    assert len(of_type(prompt, "MSDLayout")["layout"]["subjects"]) > 2
    assert any("images" in output for output in outputs.values())


def test_a_subject_is_switched_off_and_on(ui: Ui) -> None:
    """The run goes on with the other, and both keep their references."""
    ui.still()
    ui.capture()
    switch = ui.page.get_by_role("switch", name="Subject 1 in the run").locator("visible=true")
    switch.click()
    assert ui.subjects == [{**TWO[0], "off": True}, TWO[1]]
    assert switch.get_attribute("aria-checked") == "false"
    prompt, outputs = ui.run()
    assert of_type(prompt, "MSDLayout")["layout"]["subjects"][0]["off"] is True
    ((_, second),) = (o["msd_references"] for o in outputs.values() if "msd_references" in o)
    assert second and any("images" in output for output in outputs.values())
    ui.shot("a subject that is off")
    saved = ui.saved()
    ui.load(saved)
    assert ui.subjects[0]["off"] is True
    switch.click()
    assert ui.subjects == TWO
    for number in (1, 2):
        ui.page.get_by_role("switch", name=f"Subject {number} in").locator("visible=true").click()
    assert ui.note() == "Every subject is off. Switch one on."


def test_all_boxes_are_cleared_and_come_back(ui: Ui) -> None:
    ui.still()
    ui.capture()
    ui.element("select").select_option("clearBoxes")
    assert ui.subjects == [subject("star"), subject("heart")]
    ui.click(0.99, 0.99)
    ui.undo()
    ui.until(lambda: ui.subjects == TWO)


def test_a_drag_on_free_ground_draws_the_box_of_the_selected_row(ui: Ui) -> None:
    """No third subject appears, and a row that waits for its box doesn't get it instead."""
    ui.element(".msd-chip").nth(1).click()
    for box in ((0.55, 0.8, 0.95, 0.98), (0.1, 0.02, 0.4, 0.2)):  # once, and once more
        ui.drag(box[:2], box[2:])
        assert len(ui.subjects) == 2 and ui.subjects[0] == TWO[0]
        assert near(ui.subjects[1]["box"], box, 0.01)
    ui.phrase(0).click()  # nothing waits: the row that is typed in
    ui.drag((0.55, 0.8), (0.95, 0.98))
    assert len(ui.subjects) == 2
    assert near(ui.subjects[0]["box"], (0.55, 0.8, 0.95, 0.98), 0.01)
    ui.press("Delete")
    assert ui.subjects[0] == subject("star")
    ui.phrase(1).click()  # the first one waits
    ui.drag((0.55, 0.3), (0.95, 0.7))
    assert near(ui.subjects[0]["box"], (0.55, 0.3, 0.95, 0.7), 0.01)
    ui.press("Delete", "2")
    ui.drag((0.55, 0.3), (0.95, 0.7))  # the first one waits, the second is chosen
    assert ui.subjects[0] == subject("star")
    assert near(ui.subjects[1]["box"], (0.55, 0.3, 0.95, 0.7), 0.01)
    ui.element(".msd-chip").nth(1).click()
    x, y = ui.at(0.1, 0.1)
    ui.page.mouse.move(x, y)
    ui.page.mouse.down()
    ui.page.mouse.move(x + 40, y + 40, steps=3)
    ui.press("Escape")  # its box is as it was
    ui.page.mouse.up()
    assert near(ui.subjects[1]["box"], (0.55, 0.3, 0.95, 0.7), 0.01)


def test_rows(ui: Ui) -> None:
    weight = ui.element(".msd-weight").nth(1)
    weight.fill("0.7")
    weight.press("Enter")
    assert ui.subjects[1]["weight"] == 0.7
    weight.fill("99")
    weight.press("Enter")
    assert ui.subjects[1]["weight"] == 10 and weight.input_value() == "10"
    ui.element(".msd-chip").nth(0).click()
    ui.press("ArrowLeft")
    assert ui.subjects[0]["box"][0] == 0
    ui.page.get_by_role("button", name="Remove subject 1").locator("visible=true").click()
    ui.until(lambda: [s["phrase"] for s in ui.subjects] == ["heart"])
    names = ui.page.get_by_role("textbox", name="Phrase of subject 1").locator("visible=true")
    assert names.input_value() == "heart"
    assert ui.element("canvas").get_attribute("aria-label")


def test_touch(ui: Ui) -> None:
    """A finger draws, and grabs an edge from further away than a mouse."""
    ui.load(workflow(subjects=[subject("star")]))

    def swipe(start: tuple[float, float], end: tuple[float, float]) -> None:
        ui.element("canvas").evaluate(
            """(canvas, points) => {
                canvas.setPointerCapture = () => {};
                ['pointerdown', 'pointermove', 'pointerup'].forEach((name, i) =>
                    canvas.dispatchEvent(new PointerEvent(name, {
                        pointerType: 'touch', pointerId: 7, isPrimary: true, bubbles: true,
                        button: 0, clientX: points[Math.min(i, 1)][0],
                        clientY: points[Math.min(i, 1)][1] })));
            }""",
            ui.points(start, end),
        )

    swipe((0.2, 0.2), (0.6, 0.6))
    assert near(ui.subjects[0]["box"], (0.2, 0.2, 0.6, 0.6), 0.01)
    swipe((0.63, 0.4), (0.83, 0.4))
    assert near(ui.subjects[0]["box"], (0.2, 0.2, 0.8, 0.6), 0.01)
    ui.page.mouse.move(*ui.at(0.5, 0.4))
    ui.page.mouse.down()
    ui.page.mouse.move(*ui.at(0.502, 0.402))  # a click with a trembling hand moves nothing
    ui.page.mouse.up()
    assert near(ui.subjects[0]["box"], (0.2, 0.2, 0.8, 0.6), 0.01)
    assert ui.element("canvas").evaluate("c => getComputedStyle(c).touchAction") == "none"


def test_a_connected_reference_adds_its_subject(ui: Ui) -> None:
    ui.node(
        """const load = LiteGraph.createNode('LoadImage');
        app.canvas.graph.add(load);
        const slot = node.inputs.findIndex((input) => input.name === 'references.reference_3');
        load.connect(0, node, slot);"""
    )
    ui.until(lambda: len(ui.subjects) == 3)
    assert ui.subjects[2] == subject("")
    assert "Subject 3 has no phrase, box" in ui.note()
    ui.drag((0.46, 0.05), (0.54, 0.2))
    assert ui.subjects[2]["box"] and len(ui.subjects) == 3


def test_subjects_go_with_their_references(ui: Ui) -> None:
    """The host moves later references up when one goes; phrases and boxes must not stay behind."""
    three = [subject(name, (0.25 * i, 0.1, 0.25 * i + 0.25, 0.5)) for i, name in enumerate("abc")]
    ui.load(workflow("MS-Diffusion, with background", subjects=three))
    thumbs = ui.element(".msd-thumb")
    ui.until(lambda: "reference_3.png" in (thumbs.nth(2).get_attribute("src") or ""))
    slot = "node.inputs.findIndex((input) => input.name === 'references.reference_1')"
    ui.node(f"node.disconnectInput({slot})")
    ui.until(lambda: [s["phrase"] for s in ui.subjects] == ["b", "c", "a"])
    assert ui.subjects[0]["box"] == three[1]["box"]
    ui.until(lambda: "reference_2.png" in (thumbs.nth(0).get_attribute("src") or ""))
    assert "Subject 3 has no reference" in ui.note()
    ui.still()  # what follows is an undo step of its own
    ui.page.get_by_role("button", name="Remove subject 1").locator("visible=true").click()
    ui.until(lambda: [s["phrase"] for s in ui.subjects] == ["c", "a"])
    ui.until(lambda: "reference_3.png" in (thumbs.nth(0).get_attribute("src") or ""))
    ui.still()
    assert [s["phrase"] for s in ui.subjects] == ["c", "a"]
    ui.click(0.99, 0.99)
    ui.undo()  # one step: the subject and its link
    ui.until(lambda: [s["phrase"] for s in ui.subjects] == ["b", "c", "a"])
    ui.until(lambda: "reference_2.png" in (thumbs.nth(0).get_attribute("src") or ""))


def undo_steps(ui: Ui) -> int:
    ui.still()
    tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
    return ui.page.evaluate(f"() => {tracker}.undoQueue.length")


def test_one_edit_is_one_undo_step(ui: Ui) -> None:
    """Also where the host moves links, or the node grows, some frames later."""
    ui.load(workflow(subjects=TWO, size=[400, 100]))
    ui.still()
    ui.capture()
    steps = undo_steps(ui)
    ui.drag((0.46, 0.05), (0.54, 0.2))  # a third row: the node grows
    ui.click(0.99, 0.99)
    assert undo_steps(ui) == steps + 1
    ui.page.get_by_role("button", name="Remove subject 1").locator("visible=true").click()
    ui.until(lambda: len(ui.subjects) == 2)
    ui.click(0.99, 0.99)
    assert undo_steps(ui) == steps + 2
    ui.click(0.75, 0.5)
    ui.page.keyboard.down("ArrowLeft")
    for _ in range(10):  # held
        ui.page.keyboard.down("ArrowLeft")
    ui.page.keyboard.up("ArrowLeft")
    assert undo_steps(ui) <= steps + 4  # the host takes the first press for a step of its own


CONNECT_MASKS = """const loaders = app.canvas.graph.nodes.filter((n) => n.type === 'LoadImage');
    for (const group of ['reference_masks.reference_mask', 'regions.region'])
        for (const i of given) {
            const slot = node.inputs.findIndex((input) => input.name === `${group}_${i}`);
            loaders[i - 1].connect(1, node, slot);
            for (let f = 0; f < 3; f++) await new Promise(requestAnimationFrame);
        }
    window.second = loaders[1].id;"""


def subject_links(ui: Ui) -> list[Any]:
    """The linked sockets of the subjects, each with whether the second Load Image is there."""
    ui.still()
    return ui.node(
        """return node.inputs.map(({ name }, i) => [name, node.getInputLink(i)])
            .filter(([name, link]) => link && /_\\d$/.test(name))
            .map(([name, link]) => [name.split('.')[1], link.origin_id === second]);"""
    )


SECOND_ALONE = [["reference_1", True], ["reference_mask_1", True], ["region_1", True]]


def test_removing_a_subject_keeps_the_others_masks(ui: Ui) -> None:
    ui.node(CONNECT_MASKS, 1, 2)
    ui.until(lambda: ui.element(".msd-place").nth(1).inner_text() == "mask")
    ui.page.get_by_role("button", name="Remove subject 1").locator("visible=true").click()
    ui.until(lambda: [s["phrase"] for s in ui.subjects] == ["heart"])
    assert subject_links(ui) == SECOND_ALONE


def test_removing_a_subject_without_masks_keeps_the_others_masks(ui: Ui) -> None:
    ui.node(CONNECT_MASKS, 1, 2)
    ui.node(
        """for (const group of ['regions.region', 'reference_masks.reference_mask'])
            node.disconnectInput(node.inputs.findIndex((input) => input.name === `${group}_1`));"""
    )
    second = [["reference_mask_2", True], ["region_2", True]]
    # The host moves what is behind a link that goes; it stays with its subject all the same.
    assert subject_links(ui) == [["reference_1", False], ["reference_2", True], *second]
    ui.page.get_by_role("button", name="Remove subject 1").locator("visible=true").click()
    ui.until(lambda: [s["phrase"] for s in ui.subjects] == ["heart"])
    assert subject_links(ui) == SECOND_ALONE
    ui.capture()
    ui.undo()
    ui.until(lambda: len(ui.subjects) == 2)
    assert subject_links(ui) == [["reference_1", False], ["reference_2", True], *second]


def test_removing_a_subject_without_links_keeps_all_links(ui: Ui) -> None:
    ui.node(CONNECT_MASKS, 1, 2)
    before = subject_links(ui)
    ui.drag((0.46, 0.05), (0.54, 0.2))
    remove = ui.page.get_by_role("button", name="Remove subject 3").locator("visible=true")
    remove.dispatch_event("click")  # it's below the window
    ui.until(lambda: ui.subjects == TWO)
    assert subject_links(ui) == before and len(before) == 6


def test_masks_go_with_a_reference_that_moves_up(ui: Ui) -> None:
    ui.node(CONNECT_MASKS, 1, 2)
    at = "node.inputs.findIndex((input) => input.name === 'references.reference_1')"
    ui.node(f"node.disconnectInput({at})")
    ui.until(lambda: [s["phrase"] for s in ui.subjects] == ["heart", "star"])
    first = [["reference_mask_2", False], ["region_1", True], ["region_2", False]]
    assert subject_links(ui) == [["reference_1", True], ["reference_mask_1", True], *first]


def test_the_same_reference_twice(ui: Ui) -> None:
    three = [subject(name, (0.25 * i, 0.1, 0.25 * i + 0.25, 0.5)) for i, name in enumerate("abc")]
    ui.load(workflow("MS-Diffusion, with background", subjects=three))
    at = "(name) => node.inputs.findIndex((input) => input.name === 'references.reference_' + name)"
    ui.node(
        f"""const at = {at};
        const first = app.canvas.graph.nodes.find((n) => n.title.startsWith('Reference 1'));
        first.connect(0, node, at(2));
        for (let f = 0; f < 5; f++) await new Promise(requestAnimationFrame);
        node.disconnectInput(at(1));"""
    )
    ui.until(lambda: [s["phrase"] for s in ui.subjects] == ["b", "c", "a"])


def test_the_hosts_keys_stay_the_hosts(ui: Ui) -> None:
    ui.click(0.25, 0.5)
    _, outputs = ui.run(lambda: ui.press("Control+Enter"))
    assert any("images" in output for output in outputs.values())
    assert ui.subjects == TWO


def test_values_that_do_not_fit_are_shown_corrected(ui: Ui) -> None:
    wrong = [{"phrase": "a", "box": [0.9, 0.1, 0.5, 0.5], "weight": 1e308}]
    ui.load(workflow(subjects=wrong))
    assert ui.subjects == wrong
    assert "are invalid" in ui.note()
    ui.element("button", has_text="Correct them").click()
    assert ui.subjects == [subject("a", (0.5, 0.1, 0.9, 0.5), 10)]


def test_thumbnails_are_live_and_come_from_the_last_run(ui: Ui) -> None:
    thumbs = ui.element(".msd-thumb")
    ui.until(lambda: "reference_1.png" in (thumbs.nth(0).get_attribute("src") or ""))
    ui.node(
        """const [loader] = app.canvas.graph.nodes.filter((n) => n.title.startsWith('Reference 1'));
        loader.widgets[0].value = 'reference_3.png';
        loader.widgets[0].callback?.('reference_3.png');"""
    )
    ui.capture()
    ui.until(lambda: "reference_3.png" in (thumbs.nth(0).get_attribute("src") or ""))
    # What other nodes change about a reference can only be known after a run.
    ui.node(
        """const graph = app.canvas.graph;
        const invert = LiteGraph.createNode('ImageInvert');
        graph.add(invert);
        const slot = node.inputs.findIndex((input) => input.name === 'references.reference_1');
        node.getInputNode(slot).connect(0, invert, 0);
        invert.connect(0, node, slot);"""
    )
    ui.until(lambda: thumbs.nth(0).get_attribute("data-missing") == "true")
    _, outputs = ui.run()
    (sent,) = (o["msd_references"] for o in outputs.values() if "msd_references" in o)
    ui.until(lambda: sent[0] in (thumbs.nth(0).get_attribute("src") or ""))
    assert thumbs.nth(0).evaluate("image => image.decode().then(() => image.naturalWidth)") == 64


def test_linked_boxes_are_shown_and_not_edited(ui: Ui) -> None:
    ui.node(
        """const graph = app.canvas.graph;
        const text = LiteGraph.createNode('PrimitiveStringMultiline');
        graph.add(text);
        text.widgets[0].value = '0.1,0.1,0.4,0.9; 0.5,0.2,0.9,0.8';
        text.connect(0, node, node.inputs.findIndex((input) => input.name === 'boxes'));"""
    )
    ui.until(lambda: "they appear after a run" in ui.note())
    ui.run()
    ui.until(lambda: "last run" in ui.note())
    ui.shot("linked boxes")
    ui.drag((0.25, 0.5), (0.35, 0.6))
    assert ui.subjects == TWO
    assert ui.element("select").locator("option[value=twoTouching]").is_disabled()
    ui.phrase(0).fill("blue star")  # the phrases stay editable
    assert ui.subjects[0]["phrase"] == "blue star"


def test_the_canvas_follows_width_and_height(ui: Ui) -> None:
    def aspect() -> float:
        _, _, width, height = ui.frame()
        return width / height

    assert abs(aspect() - 1) < 0.01
    # Typed
    ui.node(
        """for (const [widget, value] of [[node.widgets[0], 192], [node.widgets[1], 96]]) {
            widget.value = value;
            widget.callback?.(value);
        }"""
    )
    ui.until(lambda: abs(aspect() - 2) < 0.02)
    ui.still()  # the host grows the node some frames later
    ui.drag((0.5, 0.02), (0.53, 0.98))
    assert near(ui.subjects[2]["box"], (0.5, 0.02, 0.53, 0.98), 0.01)
    # Linked: the canvas follows the linked number
    ui.node(
        """const number = LiteGraph.createNode('PrimitiveInt');
        app.canvas.graph.add(number);
        number.widgets[0].value = 96;
        number.connect(0, node, node.inputs.findIndex((input) => input.name === 'width'));"""
    )
    ui.until(lambda: "96 / 96" in ui.element(".msd-stage").get_attribute("style"))


def test_an_aspect_is_the_layouts_and_the_latents(ui: Ui) -> None:
    """In the pixels that it has, at least 256 x 256; one undo step."""
    ui.still()
    ui.capture()
    ui.element("select").select_option("3:4")
    assert ui.size() == (224, 288)
    ui.until(lambda: "224 / 288" in ui.element(".msd-stage").get_attribute("style"))
    ui.still()
    ui.click(0.99, 0.99)
    ui.undo()
    ui.until(lambda: ui.size() == (128, 128))
    ui.element("select").select_option("3:4")
    prompt, outputs = ui.run()
    (picture,) = (o["images"][0] for o in outputs.values() if "images" in o)
    assert of_type(prompt, "EmptyLatentImage")["width"][1] == 6
    shown = "async url => { const i = new Image(); i.src = url; await i.decode(); "
    shown += "return [i.naturalWidth, i.naturalHeight]; }"
    view = f"/view?filename={picture['filename']}&type={picture['type']}"
    assert ui.page.evaluate(shown, view + f"&subfolder={picture['subfolder']}") == [224, 288]
    ui.node(
        """const number = LiteGraph.createNode('PrimitiveInt');
        app.canvas.graph.add(number);
        number.connect(0, node, node.inputs.findIndex((input) => input.name === 'width'));"""
    )
    ui.until(lambda: ui.element("select").locator("option[value='3:4']").is_disabled())


def test_zoom(ui: Ui) -> None:
    for scale in (0.25, 0.5, 1.7, 4.0):
        ui.load(workflow(subjects=[]), scale)
        _, _, width, height = ui.frame()
        ui.drag((0.4, 0.4), (0.6, 0.7))
        box, pixel = ui.subjects[0]["box"], 1 / min(width, height)
        assert near(box, (0.4, 0.4, 0.6, 0.7), pixel), (scale, box)
        if scale == 0.5:
            ui.shot("zoomed out")


def test_a_screen_of_twice_as_many_pixels(
    browser: Browser, server: Server, front_end: str, mode: str
) -> None:
    """The canvas is as sharp as the screen, and what is drawn on it lies where the mouse is."""
    ui = Ui(browser, server, front_end, mode, pixels=2)
    ui.load(workflow(subjects=[subject("star"), TWO[1]]))
    ui.drag((0.1, 0.2), (0.4, 0.7))
    assert near(ui.subjects[0]["box"], (0.1, 0.2, 0.4, 0.7), 0.01)
    width, inner = ui.node(
        """const canvas = node.widgets.at(-1).element.querySelector('canvas');
        return [canvas.width, canvas.clientWidth];"""
    )
    assert width == 2 * inner
    ui.element("button", has_text="Lasso").click()
    lasso(ui, CIRCLE)
    assert near(ui.subjects[2]["box"], (0.1, 0.3, 0.5, 0.7), 0.02)
    ui.shot("twice as many pixels")
    assert ui.errors == []
    ui.close()


def test_wheel_and_middle_button_move_the_graph(ui: Ui) -> None:
    scale = ui.page.evaluate("() => app.canvas.ds.scale")
    ui.page.mouse.move(*ui.at(0.5, 0.5))
    ui.page.mouse.wheel(0, -200)
    ui.until(lambda: ui.page.evaluate("() => app.canvas.ds.scale") > scale)
    before = ui.page.evaluate("() => [...app.canvas.ds.offset]")
    x, y = ui.at(0.5, 0.5)
    ui.page.mouse.down(button="middle")
    ui.page.mouse.move(x + 60, y + 30, steps=4)
    ui.page.mouse.up(button="middle")
    assert ui.page.evaluate("() => [...app.canvas.ds.offset]") != before
    assert ui.subjects == TWO
