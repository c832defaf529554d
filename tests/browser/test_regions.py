"""Masks on the region sockets, as the canvas shows them."""

import json
import re
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image
from test_lasso import colour_at
from test_menu import choose, right_click
from test_sources import prompt_of, script
from ui import TWO, Ui, near, of_type, workflow

GROUND = [27, 29, 34, 255]
# A Load Image of a file, its mask on a way to region_1
LINK = """const load = add('LoadImage');
    load.widgets[0].value = 'painted.png';
    const way = given[0] ? add(given[0]) : null;
    load.connect(1, way ?? node, way ? 0 : slot('regions.region_1'));
    way?.connect(0, node, slot('regions.region_1'));
    await frames(5);"""
INSIDE, OUTSIDE = (0.3, 0.15), (0.9, 0.9)


def save_painted(ui: Ui) -> None:
    """A picture of which the mask editor has painted the upper left quarter: it is transparent."""
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[:16, :32] = 0
    colours = np.full((64, 64, 3), 90, np.uint8)
    Image.fromarray(np.dstack([colours, alpha])).save(ui.server.base / "input" / "painted.png")


def shows(ui: Ui, inside: Sequence[float], outside: Sequence[float]) -> None:
    ui.until(lambda: colour_at(ui, *inside) != GROUND)
    assert colour_at(ui, *outside) == GROUND


def test_a_painted_mask_is_shown_at_once_and_gives_a_box(ui: Ui) -> None:
    save_painted(ui)
    assert colour_at(ui, *INSIDE) == GROUND
    script(ui, LINK, None)
    ui.still()
    ui.capture()
    shows(ui, INSIDE, OUTSIDE)
    red, green, blue, _ = colour_at(ui, *INSIDE)
    assert red > green > blue  # orange, its subject's
    assert ui.element(".msd-place").nth(0).inner_text() == "mask"
    ui.shot("a region")
    right_click(ui, 0.25, 0.5)
    choose(ui, "Box from mask")
    assert near(ui.subjects[0]["box"], (0, 0, 0.5, 0.25), 1e-4)
    ui.still()
    ui.click(0.99, 0.01)
    ui.undo()
    ui.until(lambda: ui.subjects == TWO)
    shows(ui, INSIDE, OUTSIDE)


def test_an_inverted_mask_is_shown_at_once(ui: Ui) -> None:
    save_painted(ui)
    script(ui, LINK, "InvertMask")
    ui.capture()
    shows(ui, OUTSIDE, INSIDE)


def test_a_mask_that_is_processed_is_shown_after_a_run(ui: Ui) -> None:
    save_painted(ui)
    script(ui, LINK, "GrowMask")
    ui.still()
    ui.capture()
    assert colour_at(ui, *INSIDE) == GROUND
    right_click(ui, 0.25, 0.5)
    assert not ui.page.get_by_role("menuitem", name="Box from mask").locator("visible=true").count()
    ui.press("Escape")
    ui.element("button", has_text="Result").click()  # it would lie on the ground
    _, outputs = ui.run()
    ((name, none),) = (o["msd_regions"] for o in outputs.values() if "msd_regions" in o)
    assert name and not none
    shows(ui, INSIDE, OUTSIDE)
    ui.shot("a region, run")


@pytest.mark.parametrize("output", ["bboxes", "elements"])
def test_boxes_of_create_bounding_boxes_are_shown_before_a_run(ui: Ui, output: str) -> None:
    """As the run then has them, also when they change."""
    script(
        ui,
        """const drawn = add('CreateBoundingBoxes');
        const widget = (name) => drawn.widgets.find((one) => one.name === name);
        widget('width').value = widget('height').value = given[0] === 'bboxes' ? 128 : 256;
        const box = (x, y, width, height) => ({ x, y, width, height,
            metadata: { type: 'obj', text: '', desc: '', palette: [] } });
        widget('editor_state').value = [box(0, 0, 64, 32), box(64, 32, 64, 64)];
        window.drawn = { widget, box };
        const from = drawn.outputs.findIndex((one) => one.name === given[0]);
        drawn.connect(from, node, slot('boxes'));
        await frames(3);""",
        output,
    )
    ui.still()
    ui.capture()
    ui.until(lambda: "edit them on Create Bounding Boxes" in ui.note())
    scale = 1 if output == "bboxes" else 0.5
    ui.until(lambda: colour_at(ui, 0.4 * scale, 0.2 * scale) != GROUND)
    assert colour_at(ui, 0.9, 0.9) == GROUND and ui.subjects == TWO
    ui.page.evaluate(
        """() => {
            drawn.widget('editor_state').value = [0, 1].map(() => drawn.box(64, 64, 64, 64));
        }"""
    )
    ui.page.mouse.click(980, 850)  # as the end of a drag on that node
    ui.until(lambda: colour_at(ui, 0.2 * scale, 0.2 * scale) == GROUND)
    assert colour_at(ui, 0.9 * scale, 0.7 * scale) != GROUND
    ui.shot(f"boxes linked live, {output}")
    _, outputs = ui.run()
    reported = next(json.loads(o["msd_layout"][0]) for o in outputs.values() if "msd_layout" in o)
    assert near(reported["boxes"][0], [0.5 * scale, 0.5 * scale, scale, scale], 1e-6)


def test_a_mask_that_looks_inverted_is_said_and_turned_by_one_click(ui: Ui) -> None:
    """Of a cut-out, whose mask Load Image gives the wrong way round."""
    alpha = np.zeros((64, 64), np.uint8)
    alpha[16:48, 16:48] = 255
    cut_out = np.dstack([np.full((64, 64, 3), 90, np.uint8), alpha])
    Image.fromarray(cut_out).save(ui.server.base / "input" / "cut_out.png")
    script(
        ui,
        """const load = add('LoadImage');
        load.widgets[0].value = 'cut_out.png';
        load.connect(1, node, slot('reference_masks.reference_mask_1'));
        await frames(5);""",
    )
    ui.still()
    ui.capture()
    ui.click(0.99, 0.01)  # the host brings the node to the front, an undo step of its own
    button = ui.element("button", has_text="Invert mask?")
    assert not button.count()
    ui.run()
    ui.until(lambda: button.count() == 1)
    ui.shot("an inverted mask")
    ui.still()
    button.click()
    ui.until(lambda: not button.count())
    ui.still()
    prompt = prompt_of(ui)
    origin, _ = of_type(prompt, "MSDLayout")["reference_masks.reference_mask_1"]
    assert prompt[origin]["class_type"] == "InvertMask"
    ui.undo()
    ui.until(lambda: "InvertMask" not in str(prompt_of(ui)))
    ui.until(lambda: button.count() == 1)
    ui.still()
    button.click()
    ui.until(lambda: "InvertMask" in str(prompt_of(ui)))
    ui.still()
    ui.run()
    ui.frames(20)
    assert not button.count()
    assert "references.reference_2" in of_type(prompt_of(ui), "MSDLayout")


def test_the_reference_as_the_encoder_saw_it(ui: Ui) -> None:
    """In the row's menu, after a run: by the encoder's fit, whatever was off before it."""
    off = {**TWO[0], "off": True}
    ui.load(workflow(subjects=[off, TWO[1]]))
    ui.element(".msd-row").nth(1).locator(".msd-label span").click(button="right")
    picture = ui.page.get_by_role("menu").locator("figure img")
    assert not picture.count()
    ui.press("Escape")
    _, outputs = ui.run()
    ((name,),) = (o["msd_encoded"] for o in outputs.values() if "msd_encoded" in o)
    ui.element(".msd-row").nth(1).locator(".msd-label span").click(button="right")
    ui.until(lambda: picture.evaluate("image => image.naturalWidth") > 0)
    assert name in (picture.get_attribute("src") or "")
    ui.shot("as the encoder saw it")
    ui.press("Escape")
    ui.element(".msd-row").nth(0).locator(".msd-label span").click(button="right")
    assert not picture.count()
    ui.press("Escape")


def test_a_region_is_painted_in_the_hosts_editor(ui: Ui) -> None:
    """A new Load Image has what is behind the boxes; the next time it's the one that there is."""
    ui.still()
    right_click(ui, 0.75, 0.5)
    choose(ui, "Paint a mask")
    dialog = ui.page.locator("#maskEditorCanvasContainer, .mask-editor-dialog").first
    dialog.wait_for()
    ui.shot("painting a mask")
    ui.press("Escape")
    dialog.wait_for(state="hidden")
    ui.until(lambda: ui.note() == "The mask on region_2 is empty: paint it, or disconnect it.")
    prompt = prompt_of(ui)
    assert "regions.region_1" not in of_type(prompt, "MSDLayout")
    origin, slot = of_type(prompt, "MSDLayout")["regions.region_2"]
    assert prompt[origin]["class_type"] == "LoadImage" and slot == 1
    assert prompt[origin]["inputs"]["image"].startswith("msd_region")
    count = ui.page.evaluate("() => app.rootGraph.nodes.length")
    ui.show()
    right_click(ui, 0.75, 0.5)
    choose(ui, "Paint a mask")
    dialog.wait_for()
    ui.frames(30)
    ui.page.mouse.move(560, 460)
    ui.page.mouse.down()
    ui.page.mouse.move(640, 540, steps=8)
    ui.page.mouse.up()
    ui.shot("a painted mask")
    ui.page.locator("button:visible", has_text=re.compile(r"^\s*Save\s*$")).last.click()
    dialog.wait_for(state="hidden")
    assert ui.page.evaluate("() => app.rootGraph.nodes.length") == count
    ui.until(lambda: "region_2" not in ui.note())
    assert prompt_of(ui)[origin]["inputs"]["image"] != prompt[origin]["inputs"]["image"]
    ui.until(lambda: colour_at(ui, 0.5, 0.5) != GROUND)
    ui.shot("a painted region")
    assert colour_at(ui, 0.02, 0.98) == GROUND
