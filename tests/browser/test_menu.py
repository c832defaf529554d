"""The menu of the right mouse button, and layouts as text on the clipboard."""

import json

from ui import BOXES, TWO, Ui, near, of_type, subject, workflow

CAT = subject("cat", (0.1, 0.2, 0.5, 0.6))


def choose(ui: Ui, item: str) -> None:
    ui.page.get_by_role("menuitem", name=item).locator("visible=true").click()


def right_click(ui: Ui, x: float, y: float) -> None:
    ui.click(x, y, button="right")
    ui.page.get_by_role("menu").locator("visible=true").wait_for()


def allow_clipboard(ui: Ui) -> None:
    ui.context.grant_permissions(["clipboard-read", "clipboard-write"])


def clipboard(ui: Ui) -> str:
    return ui.page.evaluate("() => navigator.clipboard.readText()")


def put(ui: Ui, text: str) -> None:
    ui.page.evaluate("text => navigator.clipboard.writeText(text)", text)


def test_boxes_are_swapped_and_aligned(ui: Ui) -> None:
    """Each is one undo step; the host's own menu doesn't come."""
    ui.still()
    ui.capture()
    right_click(ui, 0.25, 0.5)
    ui.shot("menu of a box")
    assert not ui.page.locator(".litecontextmenu").count()
    choose(ui, "Swap boxes with 2: heart")
    assert [one["box"] for one in ui.subjects] == [list(BOXES[1]), list(BOXES[0])]
    ui.element(".msd-chip").nth(0).click(button="right")
    choose(ui, "Bottom")
    assert near(ui.subjects[0]["box"], (0.55, 0.5, 0.95, 1), 1e-4)
    ui.still()
    ui.click(0.99, 0.01)
    ui.undo()
    ui.until(lambda: ui.subjects[0]["box"] == list(BOXES[1]))
    right_click(ui, 0.99, 0.01)
    assert not ui.page.get_by_role("menuitem", name="Swap").locator("visible=true").count()
    ui.press("Escape")
    ui.until(lambda: not ui.page.get_by_role("menu").locator("visible=true").count())


def test_a_box_is_set_in_pixels(ui: Ui) -> None:
    ui.still()
    ui.capture()
    right_click(ui, 0.25, 0.5)
    fields = ui.page.locator(".msd-pixels input[type=number]").locator("visible=true")
    values = "all => all.map((one) => Number(one.value))"
    assert fields.evaluate_all(values) == [6, 32, 51, 64]
    left, width = fields.nth(0), fields.nth(2)
    left.fill("16")
    left.press("Enter")
    ui.until(lambda: near(ui.subjects[0]["box"], (16 / 128, 0.25, 67 / 128, 0.75), 1e-4))
    ui.shot("a box in pixels")
    ui.page.get_by_label("Keep the aspect").locator("visible=true").check()
    width.fill("102")
    width.press("Tab")
    ui.until(lambda: fields.evaluate_all(values) == [16, 0, 102, 128])
    assert near(ui.subjects[0]["box"], (16 / 128, 0, 118 / 128, 1), 1e-4)
    left.fill("")  # no number: it stays
    left.press("Tab")
    ui.until(lambda: fields.evaluate_all(values) == [16, 0, 102, 128])
    left.fill("99")
    left.press("Escape")  # what was typed isn't meant
    ui.until(lambda: not ui.page.get_by_role("menu").locator("visible=true").count())
    kept = ui.subjects[0]["box"]
    assert near(kept, (16 / 128, 0, 118 / 128, 1), 1e-4)
    ui.drag((118 / 128, 1), (0.5, 0.9))  # its lower right corner
    (x0, y0, x1, y1), [ratio] = ui.subjects[0]["box"], [102 / 128]
    assert near((x0, y0), kept[:2], 1e-4) and y1 < 0.97
    assert abs((x1 - x0) / (y1 - y0) - ratio) < 1e-3
    ui.click(0.3, 0.3, button="right")
    ui.page.get_by_label("Keep the aspect").locator("visible=true").uncheck()
    left.press("Escape")
    ui.until(lambda: not ui.page.get_by_role("menu").locator("visible=true").count())
    assert len(ui.subjects) == 2


def test_a_box_is_brought_to_the_front(ui: Ui) -> None:
    """It is drawn and taken before smaller ones, in one undo step, and runs and loads so."""
    scene = subject("scene", (0, 0, 1, 1))
    ui.load(workflow(subjects=[scene, CAT]))
    ui.still()
    ui.capture()

    def taken() -> str:
        """The number of the box that the mouse takes in the middle of the smaller one."""
        ui.click(0.99, 0.01)
        ui.press("Escape")
        ui.click(0.3, 0.4)
        return ui.page.locator(".msd-spoken").first.text_content() or ""

    def items(name: str) -> int:
        return ui.page.get_by_role("menuitem", name=name).locator("visible=true").count()

    assert taken().startswith("Subject 2")
    right_click(ui, 0.99, 0.01)
    assert items("Bring to front") == 1 and items("Send back") == 0
    choose(ui, "Bring to front")
    assert ui.subjects == [{**scene, "front": 1}, CAT]
    ui.shot("a box in front of a smaller one")
    assert taken().startswith("Subject 1")
    prompt, _ = ui.run()
    assert of_type(prompt, "MSDLayout")["layout"]["subjects"] == [{**scene, "front": 1}, CAT]
    ui.load(ui.saved())
    ui.still()
    ui.capture()
    right_click(ui, 0.99, 0.01)
    assert items("Bring to front") == 0
    choose(ui, "Send back")
    assert ui.subjects == [scene, CAT] and taken().startswith("Subject 2")
    ui.undo()
    ui.until(lambda: ui.subjects == [{**scene, "front": 1}, CAT])
    right_click(ui, 0.3, 0.4)  # the scene
    choose(ui, "Swap boxes with 2: cat")
    assert [(one["phrase"], one.get("front")) for one in ui.subjects] == [
        ("scene", 1),
        ("cat", None),
    ]


def test_boxes_get_equal_spaces(ui: Ui) -> None:
    boxes = [(0, 0.1, 0.2, 0.3), (0.25, 0.6, 0.45, 0.8), (0.8, 0.7, 1, 0.9)]
    three = [subject(name, box) for name, box in zip("abc", boxes, strict=True)]
    ui.load(workflow("MS-Diffusion, with background", subjects=three))
    right_click(ui, 0.6, 0.2)
    choose(ui, "Equal spaces, across")
    assert near(ui.subjects[1]["box"], (0.4, 0.6, 0.6, 0.8), 1e-4)
    right_click(ui, 0.6, 0.2)
    choose(ui, "Equal spaces, down")
    assert near(ui.subjects[1]["box"], (0.4, 0.4, 0.6, 0.6), 1e-4)
    assert [list(ui.subjects[i]["box"]) for i in (0, 2)] == [list(boxes[i]) for i in (0, 2)]


def test_the_menus_keys(ui: Ui) -> None:
    ui.click(0.25, 0.5)
    ui.press("Shift+F10", *["ArrowUp"] * 4, "Enter")  # from the last: clear, paste, copy, remove
    ui.until(lambda: [one["phrase"] for one in ui.subjects] == ["heart"])


def test_a_layout_is_copied_and_pasted_as_text(ui: Ui) -> None:
    allow_clipboard(ui)
    ui.still()
    right_click(ui, 0.99, 0.01)
    choose(ui, "Copy layout as text")
    ui.until(lambda: json.loads(clipboard(ui)) == ui.value)
    ui.load(workflow(subjects=[subject("a"), subject("b"), CAT]))
    ui.still()
    right_click(ui, 0.99, 0.99)
    choose(ui, "Paste layout from text")
    ui.until(lambda: ui.subjects == [*TWO, CAT])  # those beyond the text's stay
    put(ui, "blue cat: 0,0.25,0.4,0.75\nred cup: 0.6, 0.25, 1, 0.75")
    ui.click(0.99, 0.99)
    ui.press("Control+v")
    ui.until(lambda: ui.subjects[0] == subject("blue cat", (0, 0.25, 0.4, 0.75)))
    assert ui.subjects[1:] == [subject("red cup", (0.6, 0.25, 1, 0.75)), CAT]


def test_text_that_is_no_layout(ui: Ui) -> None:
    """It changes nothing, and the note says what doesn't fit."""
    allow_clipboard(ui)
    cases = {
        "hello": "The clipboard holds no layout",
        "cat: 0,0,1,1\ndog: 0,0,512,512": "Line 2 isn't phrase: x0,y0,x1,y1 in 0..1",
        json.dumps([CAT, {**CAT, "weight": "much"}]): "Subject 2 of the text has values",
        json.dumps({"version": 3, "subjects": [CAT]}): "A newer version",
        json.dumps([CAT] * 17): "more than 16 subjects",
        json.dumps([{"phrase": "<img src=x onerror='window.pwned=1'>", "box": "x"}]): "Subject 1",
    }
    for text, words in cases.items():
        put(ui, text)
        right_click(ui, 0.99, 0.01)
        choose(ui, "Paste layout from text")
        ui.until(lambda words=words: words in ui.note())
        assert ui.subjects == TWO
    assert ui.page.evaluate("() => window.pwned") is None
    ui.context.clear_permissions()


def test_the_menu_of_a_row(ui: Ui) -> None:
    """The text fields keep the browser's own menu."""
    ui.show(0.8)  # all rows in sight
    row = ui.element(".msd-row").nth(1)
    row.locator(".msd-label span").click(button="right")
    ui.shot("menu of a row")
    choose(ui, "Switch off")
    assert ui.subjects == [TWO[0], {**TWO[1], "off": True}]
    row.locator(".msd-label span").click(button="right")
    choose(ui, "Switch on")
    ui.phrase(1).click(button="right")
    assert not ui.page.get_by_role("menu").locator("visible=true").count()
    row.locator(".msd-label span").click(button="right")
    choose(ui, "Remove this subject")
    ui.until(lambda: ui.subjects == [TWO[0]])
