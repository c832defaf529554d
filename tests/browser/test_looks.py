"""What the editor looks like: contrast in both themes, colours, and many subjects."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from PIL import Image
from ui import SETTING, Ui, near, subject, workflow

MIN_CONTRAST = 4.5
TEXTS = (
    ".msd-button",
    ".msd-note",
    ".msd-place",
    ".msd-label span",
    "select",
    "input",
    ".msd-chip",
)
MENU_TEXTS = (".msd-item", ".msd-caption", ".msd-pixels span", ".msd-pixels input[type=number]")
# Of elements: what each is called, its colour and opacity, and where it is on the screen.
READ = """elements => elements.map((element) => {
    const read = (e) => getComputedStyle(e);
    let opacity = 1;
    for (let e = element; e; e = e.parentElement) opacity *= Number(read(e).opacity);
    const empty = element instanceof HTMLInputElement && !element.value;
    const style = empty ? getComputedStyle(element, '::placeholder') : read(element);
    if (empty) opacity *= Number(style.opacity);
    const { left, top, right, bottom } = element.getBoundingClientRect();
    return {
        name: element.innerText || element.getAttribute('aria-label'),
        colour: style.color.match(/[\\d.]+/g).slice(0, 3).map(Number),
        opacity,
        place: [left, top, right, bottom],
    };
})"""


@pytest.fixture(params=["dark", "light"])
def theme(ui: Ui, request: pytest.FixtureRequest) -> Iterator[str]:
    ui.page.evaluate(SETTING, ["Comfy.ColorPalette", request.param])
    yield request.param
    ui.page.evaluate(SETTING, ["Comfy.ColorPalette", "dark"])


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance of an sRGB colour in 0..255, by WCAG 2."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in colour)
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(shot: Image.Image, element: dict[str, Any]) -> float:
    """Contrast of an element's text to the most frequent colour of its place on the screen."""
    part = shot.crop([round(edge) for edge in element["place"]])  # type: ignore[arg-type]
    counts = part.getcolors(part.width * part.height) or []
    ground = tuple(map(float, max(counts)[1]))  # type: ignore[arg-type]
    opacity = element["opacity"]
    blended = [
        opacity * c + (1 - opacity) * g for c, g in zip(element["colour"], ground, strict=True)
    ]
    lights = sorted((luminance(tuple(blended)), luminance(ground)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def contrasts(ui: Ui, selectors: Sequence[str]) -> dict[str, float]:
    """Of each visible element of each selector, by its name; every one has some."""
    shot = Image.open(io.BytesIO(ui.page.screenshot())).convert("RGB")
    found = {}
    for selector in selectors:
        elements = ui.element(selector).evaluate_all(READ)
        assert elements, selector
        for number, element in enumerate(elements):
            found[f"{selector} {number} {element['name']}"] = contrast(shot, element)
    return found


def grid(count: int) -> list[dict[str, object]]:
    """Subjects side by side and below one another."""
    edge = next(n for n in range(1, 5) if n * n >= count)
    cells = [(i % edge / edge, i // edge / edge) for i in range(count)]
    return [
        subject(f"thing {i}", (x, y, x + 0.9 / edge, y + 0.9 / edge))
        for i, (x, y) in enumerate(cells, 1)
    ]


def test_texts_can_be_read(ui: Ui, theme: str) -> None:
    """Of every part, in every state: pressed, missing, off, empty."""
    subjects = grid(6)  # all of them in sight
    subjects[1] |= {"off": True}
    subjects[2] |= {"box": None}
    subjects[3] |= {"phrase": ""}
    ui.load(workflow(subjects=subjects, size=[400, 1100]), scale=0.7)
    ui.element("button", has_text="Snap").click()
    ui.page.mouse.move(5, 940)
    ui.frames()
    found = contrasts(ui, TEXTS)
    ui.element(".msd-chip").nth(0).click(button="right")
    ui.page.get_by_role("menu").locator("visible=true").wait_for()
    found |= contrasts(ui, MENU_TEXTS)
    ui.shot(f"menu, {theme}")
    ui.press("Escape")
    lowest = min(found, key=lambda name: found[name])
    print(f"lowest contrast: {found[lowest]:.2f} of {lowest}")
    assert found[lowest] >= MIN_CONTRAST, {k: v for k, v in found.items() if v < MIN_CONTRAST}
    ui.element("button", has_text="Snap").click()
    ui.shot(f"states, {theme}")


def test_sixteen_subjects_differ_and_scroll(ui: Ui) -> None:
    ui.load(workflow(subjects=grid(16), size=[400, 1100]), scale=0.7)
    chips = ui.element(".msd-chip")
    looks = chips.evaluate_all("all => all.map((c) => [c.style.background, c.dataset.hatched])")
    assert len({tuple(look) for look in looks}) == 16
    assert ui.element(".msd-thumb").first.evaluate("e => [e.clientWidth, e.clientHeight]") == [
        40,
        40,
    ]
    rows = ui.element(".msd-rows")
    shown = rows.evaluate("e => e.clientHeight / e.querySelector('.msd-row').offsetHeight")
    assert 6 <= shown < 7
    scale = ui.page.evaluate("() => app.canvas.ds.scale")
    box = rows.bounding_box()
    assert box
    ui.page.mouse.move(box["x"] + 60, box["y"] + 60)
    ui.page.mouse.wheel(0, 120)
    ui.until(lambda: rows.evaluate("e => e.scrollTop") > 0)
    assert ui.page.evaluate("() => app.canvas.ds.scale") == scale
    ui.click(0.1, 0.1)  # its row comes into sight
    ui.until(lambda: rows.evaluate("e => e.scrollTop") == 0)
    ui.click(0.85, 0.85)
    ui.until(lambda: rows.evaluate("e => e.scrollTop + e.clientHeight >= e.scrollHeight - 1"))


@pytest.mark.parametrize("count", [1, 4, 9, 16])
def test_shots_of_many_subjects(ui: Ui, theme: str, count: int) -> None:
    ui.load(workflow(subjects=grid(count), size=[400, 1100]), scale=0.7)
    assert ui.element("li").count() == count
    ui.shot(f"{count} subjects, {theme}")


@pytest.mark.parametrize(("width", "height"), [(1536, 640), (640, 1536)])
def test_shots_of_long_pictures(ui: Ui, width: int, height: int) -> None:
    saved = workflow(subjects=grid(4), size=[400, 1100], width=width, height=height)
    ui.load(saved, scale=0.7)
    _, _, w, h = ui.frame()
    assert abs(w / h - width / height) < 0.05 * width / height
    ui.shot(f"{width} x {height}")


def test_the_editor_fills_the_window(ui: Ui) -> None:
    """Everything works as in the node, undo brings no end to it, and Escape does."""
    enlarge = ui.element("button", has_text="Enlarge")
    ui.still()
    ui.capture()
    before = ui.frame()
    enlarge.click()
    ui.until(lambda: ui.frame()[2] > 2 * before[2])
    ui.shot("enlarged")
    scale = ui.page.evaluate("() => app.canvas.ds.scale")
    ui.drag((0.47, 0.02), (0.53, 0.2))
    ui.page.mouse.wheel(0, 120)
    assert near(ui.subjects[2]["box"], (0.47, 0.02, 0.53, 0.2), 0.005)
    ui.still()  # else both edits are one undo step
    ui.phrase(2).fill("moon")
    ui.press("Tab")
    assert ui.subjects[2]["phrase"] == "moon"
    ui.still()
    for subjects in (3, 2):
        ui.page.evaluate("() => { app.extensionManager.command.execute('Comfy.Undo') }")
        ui.still()
        assert len(ui.subjects) == subjects and ui.frame()[2] > 2 * before[2]
    assert ui.page.evaluate("() => app.canvas.ds.scale") == scale
    enlarge.focus()
    ui.press("Escape")
    ui.until(lambda: near(ui.frame(), before, 1))
    enlarge.click()
    ui.until(lambda: ui.frame()[2] > 2 * before[2])
    enlarge.click()
    ui.until(lambda: near(ui.frame(), before, 1))
    # Another workflow isn't covered, nor is this one when it comes back.
    enlarge.click()
    ui.until(lambda: ui.frame()[2] > 2 * before[2])
    ui.page.evaluate("async () => { await app.loadGraphData({ nodes: [], links: [] }) }")
    ui.frames(60)
    ui.reset()
    ui.until(lambda: near(ui.frame(), before, 1))
