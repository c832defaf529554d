"""Shapes that are drawn freehand."""

import json
import math
from collections.abc import Sequence

from test_menu import allow_clipboard, choose, clipboard, right_click
from ui import TWO, Ui, near, of_type, subject, workflow

CIRCLE = [(0.3 + 0.2 * math.cos(a / 4), 0.5 + 0.2 * math.sin(a / 4)) for a in range(25)]


def lasso(ui: Ui, points: Sequence[Sequence[float]]) -> None:
    """Draw along points of the picture."""
    button = ui.element("button", has_text="Lasso")
    if button.get_attribute("aria-pressed") != "true":
        button.click()
    left, top, width, height = ui.frame()
    for number, (x, y) in enumerate(points):
        ui.page.mouse.move(left + x * width, top + y * height, steps=3)
        if number == 0:
            ui.page.mouse.down()
    ui.page.mouse.up()


def colour_at(ui: Ui, x: float, y: float) -> list[int]:
    """What the canvas shows at a point of the picture."""
    ui.frames()
    return ui.page.evaluate(
        """([x, y]) => {
            const shown = (e) => e.offsetParent;
            const canvas = [...document.querySelectorAll('.msd-stage canvas')].find(shown);
            const rect = canvas.getBoundingClientRect();
            const [px, py] = [(x - rect.x) / rect.width, (y - rect.y) / rect.height];
            const pen = canvas.getContext('2d');
            return [...pen.getImageData(px * canvas.width, py * canvas.height, 1, 1).data];
        }""",
        ui.at(x, y),
    )


def test_a_shape_is_drawn_moved_and_runs(ui: Ui) -> None:
    ui.load(workflow(subjects=[subject("star"), TWO[1]]))
    lasso(ui, CIRCLE)
    drawn = ui.subjects[0]
    assert list(drawn) == ["phrase", "box", "weight", "polygon"]
    assert near(drawn["box"], (0.1, 0.3, 0.5, 0.7), 0.02)
    assert 8 <= len(drawn["polygon"]) <= 60
    assert ui.element(".msd-place").nth(0).inner_text() == "shape"
    ui.shot("a shape")
    # In the shape its colour, in the corner of its box the ground
    assert colour_at(ui, 0.12, 0.5) != colour_at(ui, 0.48, 0.32) == colour_at(ui, 0.3, 0.9)
    ui.element("button", has_text="Lasso").click()
    ui.drag((0.3, 0.5), (0.4, 0.6))
    moved = ui.subjects[0]
    for (x, y), (x0, y0) in zip(moved["polygon"], drawn["polygon"], strict=True):
        assert abs(x - x0 - 0.1) < 0.01 and abs(y - y0 - 0.1) < 0.01
    ui.drag((0.6, 0.8), (0.5, 0.6))  # its corner: half as high
    scaled = ui.subjects[0]
    xs, ys = zip(*scaled["polygon"], strict=True)
    assert scaled["box"] == [min(xs), min(ys), max(xs), max(ys)]
    assert near(scaled["box"], (0.2, 0.4, 0.5, 0.6), 0.02)
    prompt, outputs = ui.run()
    assert of_type(prompt, "MSDLayout")["layout"]["subjects"][0] == scaled
    reported = next(json.loads(o["msd_layout"][0]) for o in outputs.values() if "msd_layout" in o)
    assert near(reported["boxes"][0], scaled["box"], 1e-9)
    ui.shot("a shape, run")


def test_a_shape_is_undone_copied_and_cleared(ui: Ui) -> None:
    allow_clipboard(ui)
    ui.load(workflow(subjects=[subject("star"), TWO[1]]))
    ui.still()
    ui.capture()
    lasso(ui, CIRCLE)
    drawn = ui.subjects
    ui.click(0.99, 0.01)
    ui.undo()
    ui.until(lambda: ui.subjects[0] == subject("star"))
    ui.click(0.99, 0.01)
    ui.redo()
    ui.until(lambda: ui.subjects == drawn)
    right_click(ui, 0.99, 0.01)
    choose(ui, "Copy layout as text")
    ui.until(lambda: json.loads(clipboard(ui)) == ui.value)
    ui.load(workflow(subjects=[subject("a"), subject("b")]))
    ui.click(0.99, 0.99)
    ui.press("Control+v")
    ui.until(lambda: ui.subjects == drawn)
    ui.press("1", "Control+d")
    assert len(ui.subjects[2]["polygon"]) == len(drawn[0]["polygon"])
    assert ui.subjects[2]["polygon"] != drawn[0]["polygon"]
    ui.press("Delete")
    assert ui.subjects[2] == subject("star")
    ui.element("select").first.select_option("twoSideBySide")
    assert "polygon" not in ui.subjects[0]


def test_a_shape_that_is_given_up_or_too_small(ui: Ui) -> None:
    """Nothing changes, nor does a subject come of it; a row that was chosen gets its new shape."""
    lasso(ui, [(0.5, 0.9), (0.504, 0.9), (0.504, 0.903)])
    assert ui.subjects == TWO
    lasso(ui, [(0.1, 0.9), (0.5, 0.9), (0.9, 0.9)])  # without an inside
    assert ui.subjects == TWO
    x, y = ui.at(0.2, 0.2)
    ui.page.mouse.move(x, y)
    ui.page.mouse.down()
    ui.page.mouse.move(x + 60, y, steps=3)
    ui.page.mouse.move(x + 60, y + 60, steps=3)
    ui.press("Escape")
    ui.page.mouse.up()
    assert ui.subjects == TWO
    ui.element(".msd-chip").nth(1).click()
    lasso(ui, CIRCLE)
    assert ui.subjects[0] == TWO[0] and len(ui.subjects) == 2 and "polygon" in ui.subjects[1]
    ui.drag((0.5, 0.9), (0.5, 1.4))
    assert all(
        0 <= v <= 1 for one in ui.subjects for point in one.get("polygon", ()) for v in point
    )


def test_hostile_polygons(ui: Ui) -> None:
    """They are left out and said to be corrected; the value stays until an edit."""
    for polygon in (
        "x",
        [[0, 0]],
        [[0, 0], [1, 1], [9, 9]],
        [[{}, []]] * 5,
        [[0.5, 0.5]] * 100_000,
    ):
        given = {**TWO[0], "polygon": polygon}
        ui.load(workflow(subjects=[given, TWO[1]]))
        assert "shown corrected" in ui.note()
        assert ui.subjects == [given, TWO[1]]
        ui.element("button", has_text="Correct them").click()
        assert ui.subjects == TWO
