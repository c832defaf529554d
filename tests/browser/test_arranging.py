"""Subjects that are duplicated, pasted and sorted, with all that is connected to them."""

from typing import Any

from ui import TWO, Ui, of_type, subject, workflow

THREE = [subject(name, (0.3 * i, 0.1, 0.3 * i + 0.25, 0.5)) for i, name in enumerate("abc")]
# The Load Image nodes of references 1 to 3 by number, with the sockets that each is linked to.
CONNECT = """const { graph } = app.canvas;
    const slot = (name) => node.inputs.findIndex((input) => input.name === name);
    const link = (n, name) => {
        const loader = graph.nodes.find((one) => one.title.startsWith(`Reference ${n}`));
        loader.connect(name.startsWith('references') ? 0 : 1, node, slot(name));
    };
    for (const [n, name] of given[0]) {
        link(n, name);
        for (let i = 0; i < 4; i++) await new Promise(requestAnimationFrame);
    }"""


def wires(ui: Ui) -> dict[str, str]:
    """What the prompt has for the growing sockets: the files of their Load Images."""
    prompt: dict[str, Any] = ui.page.evaluate("async () => (await app.graphToPrompt()).output")
    inputs = of_type(prompt, "MSDLayout")
    return {
        name.partition(".")[2]: prompt[value[0]]["inputs"]["image"]
        for name, value in inputs.items()
        if "." in name
    }


def picture(number: int) -> str:
    return f"reference_{number}.png"


def load_three(ui: Ui) -> None:
    """Three subjects with their references, and a mask and a region of the first one."""
    ui.load(workflow("MS-Diffusion, with background", subjects=THREE, size=[400, 1000]))
    ui.node(CONNECT, [(1, "reference_masks.reference_mask_1"), (1, "regions.region_1")])
    ui.still()
    ui.capture()


def test_a_duplicate_has_the_pictures_wire_and_runs(ui: Ui) -> None:
    ui.still()
    ui.capture()
    ui.element(".msd-chip").nth(0).click()
    ui.press("Control+d")
    ui.until(lambda: wires(ui).get("reference_3") == picture(1))
    ui.still()
    assert [one["phrase"] for one in ui.subjects] == ["star", "heart", "star"]
    ui.until(lambda: picture(1) in (ui.element(".msd-thumb").nth(2).get_attribute("src") or ""))
    ui.shot("a duplicate")
    prompt, outputs = ui.run()
    assert len(of_type(prompt, "MSDLayout")["layout"]["subjects"]) == 3
    assert any("images" in output for output in outputs.values())
    ui.click(0.99, 0.01)
    ui.undo()
    ui.until(lambda: ui.subjects == TWO)
    ui.until(lambda: wires(ui) == {"reference_1": picture(1), "reference_2": picture(2)})


def test_a_pasted_subject_has_its_wires(ui: Ui) -> None:
    """Before a subject that waits for its reference; the mask goes where no earlier one is."""
    waiting = subject("w", (0.1, 0.6, 0.3, 0.9))
    ui.load(workflow("MS-Diffusion, with background", subjects=[*THREE, waiting], size=[400, 1000]))
    ui.node(CONNECT, [(1, "reference_masks.reference_mask_1")])
    ui.still()
    ui.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ui.element(".msd-chip").nth(0).click()
    ui.press("Control+c", "Control+v")
    ui.until(lambda: [one["phrase"] for one in ui.subjects] == ["a", "b", "c", "a", "w"])
    ui.still()
    references = {f"reference_{i}": picture((1, 2, 3, 1)[i - 1]) for i in range(1, 5)}
    masks = {"reference_mask_1": picture(1), "reference_mask_4": picture(1)}
    assert wires(ui) == {**references, **masks}
    saved = ui.saved()
    ui.load(saved)
    ui.still()
    assert wires(ui) == {**references, **masks}
    # Where its reference isn't, a subject is pasted alone.
    ui.load(workflow(subjects=[]))
    ui.click(0.5, 0.5)
    ui.press("Control+v")
    ui.until(lambda: "a" in [one["phrase"] for one in ui.subjects])


def drag_row(ui: Ui, start: int, end: int, shot: str = "") -> None:
    """Drag a row by its number over another one."""
    boxes = [ui.element(".msd-chip").nth(index).bounding_box() for index in (start, end)]
    (x, y), (_, to) = [(b["x"] + 8, b["y"] + b["height"] / 2) for b in boxes if b]
    ui.page.mouse.move(x, y)
    ui.page.mouse.down()
    ui.page.mouse.move(x, to + (6 if end > start else -6), steps=4)
    if shot:
        ui.shot(shot)
    ui.page.mouse.up()


def test_a_dragged_row_takes_its_wires_along(ui: Ui) -> None:
    load_three(ui)
    before, at = wires(ui), ui.node("return [...node.pos]")
    ui.show(0.8)  # all rows in sight
    drag_row(ui, 0, 2, "a row is dragged")
    ui.until(lambda: [one["phrase"] for one in ui.subjects] == ["b", "c", "a"])
    ui.still()
    moved = {
        **{f"reference_{i}": picture((2, 3, 1)[i - 1]) for i in (1, 2, 3)},
        "reference_mask_3": picture(1),
        "region_3": picture(1),
    }
    assert wires(ui) == moved
    assert ui.node("return [...node.pos]") == at
    shown = "({ name, label, localized_name }) => [name, label ?? localized_name ?? name]"
    names = ui.node(f"return node.inputs.map({shown})")
    assert all(words == name.rpartition(".")[2] for name, words in names), names
    assert ui.element(".msd-row[aria-current=true] .msd-phrase").input_value() == "a"
    ui.until(lambda: picture(1) in (ui.element(".msd-thumb").nth(2).get_attribute("src") or ""))
    saved = ui.saved()
    ui.click(0.99, 0.01)
    ui.undo()
    ui.until(lambda: ui.subjects == THREE)
    ui.until(lambda: wires(ui) == before)
    ui.load(saved, 0.8)
    ui.still()
    assert wires(ui) == moved
    assert [one["phrase"] for one in ui.subjects] == ["b", "c", "a"]
    ui.element(".msd-chip").nth(2).click()
    ui.press("Alt+ArrowUp", "Alt+ArrowUp", "Alt+ArrowUp")
    ui.until(lambda: [one["phrase"] for one in ui.subjects] == ["a", "b", "c"])
    ui.still()
    assert wires(ui) == before
