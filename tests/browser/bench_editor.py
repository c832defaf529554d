"""How long the editor's code takes while something is dragged, in a graph of 200 nodes:
nox -s browser -- -n 1 tests/browser/bench_editor.py, with UPDATE_DOCS=1 to write the page.

Not one of the tests: it times, and so depends on the machine."""

import os
from collections.abc import Callable

import pytest
from test_looks import grid
from ui import ROOT, TWO, Ui, workflow

PAGE = ROOT / "docs" / "benchmarks" / "editor.md"
HEAD = """# What a drag in the editor costs

Written by `tests/browser/bench_editor.py`: 300 moves of a mouse, in a graph of 200 nodes.
Milliseconds of the editor's own code for a move, and for a picture that it paints, at most one a
frame: median, 95th percentile.

| front end, rendering | drag | a move | a picture |
| --- | --- | --- | --- |
"""
MOVES = 300
ADD_NODES = """for (let i = 0; i < 200; i++) {
    const latent = LiteGraph.createNode('EmptyLatentImage');
    latent.pos = [-4000 - 250 * (i % 15), 200 * Math.floor(i / 15)];
    app.canvas.graph.add(latent);
}"""
WATCH = """const { stage } = node.widgets.at(-1).element.editor, { canvas, paint } = stage;
    window.spent = { moves: [], pictures: [] };
    let begin = 0;
    canvas.addEventListener('pointermove', () => { begin = performance.now(); }, true);
    canvas.addEventListener(
        'pointermove', () => spent.moves.push(performance.now() - begin));
    stage.paint = () => {
        const start = performance.now();
        paint();
        spent.pictures.push(performance.now() - start);
    };"""


def press(name: str) -> Callable[[Ui], None]:
    return lambda ui: ui.element("button", has_text=name).click()


def show_result(ui: Ui) -> None:
    ui.run()
    ui.until(
        lambda: ui.node("return Boolean(node.widgets.at(-1).element.editor.host.backdrop().image)")
    )


CASES: dict[str, tuple[int, Callable[[Ui], None]]] = {
    "one of 2 boxes": (2, lambda _: None),
    "one of 16 boxes": (16, lambda _: None),
    "one of 16 boxes, with the cells": (16, press("Cells")),
    "one of 2 boxes, over the result": (2, show_result),
    "a shape, freehand": (2, press("Lasso")),
}


@pytest.fixture(scope="module", autouse=True)
def page() -> None:
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(HEAD, encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_a_drag(ui: Ui, name: str) -> None:
    count, prepare = CASES[name]
    ui.load(workflow(subjects=TWO if count == 2 else grid(count), size=[400, 1100]))
    prepare(ui)
    ui.node(ADD_NODES)
    ui.still()
    left, top, width, height = ui.frame()
    ui.page.mouse.move(left + 0.2 * width, top + 0.4 * height)
    ui.node(WATCH)
    ui.page.mouse.down()
    for i in range(MOVES):
        ui.page.mouse.move(
            left + (0.2 + 0.001 * i) * width, top + (0.4 + 0.001 * (i % 90)) * height
        )
    ui.page.mouse.up()
    ui.frames()
    spent = ui.page.evaluate("() => spent")
    cells = []
    for times in (sorted(spent["moves"]), sorted(spent["pictures"])):
        assert len(times) > 50
        cells.append(f"{times[len(times) // 2]:.1f}, {times[int(0.95 * len(times))]:.1f}")
    row = f"| {ui.front_end}, {ui.mode} | {name} | {' | '.join(cells)} |"
    print(row)
    if os.environ.get("UPDATE_DOCS"):
        with PAGE.open("a", encoding="utf-8") as file:
            file.write(f"{row}\n")
