"""Any edits in any order, as a person makes them in an hour: nothing is lost, and all is undone."""

import json
import os
import random
from pathlib import Path
from typing import Any

from ui import LAYOUTS, TWO, Ui, workflow

ACTIONS = {  # with how often they come up
    **dict.fromkeys(("drop", "draw", "redraw", "delete", "duplicate", "reorder", "type", "off"), 3),
    **dict.fromkeys(("undo", "redo"), 3),
    **dict.fromkeys(("collapse", "rendering", "load"), 1),
}


def small() -> dict[str, Any]:
    """The layout and its references alone: an undo loads the whole graph again."""
    saved = workflow(subjects=TWO, size=[400, 1000])
    saved["nodes"] = [n for n in saved["nodes"] if n["type"] in ("MSDLayout", "LoadImage")]
    ids = {node["id"] for node in saved["nodes"]}
    saved["links"] = [link for link in saved["links"] if {link[1], link[3]} <= ids]
    for node in saved["nodes"]:
        for socket in node["outputs"]:
            kept = [link[0] for link in saved["links"]]
            socket["links"] = [link for link in socket["links"] or [] if link in kept]
    return saved


# In each rendering of each front end; SEQUENCES=10 is 40 of them.
COUNT = int(os.environ.get("SEQUENCES", "3"))


def test_any_sequence_of_edits_is_kept_and_undone(ui: Ui) -> None:
    """Screen, value and prompt are the same after each edit; undo leads back to the start."""
    ui.page.add_script_tag(content=f"window.layouts = {LAYOUTS}")
    ui.page.add_script_tag(path=Path(__file__).with_name("sequences.js"))
    ui.load(small(), 0.7)
    for number in (1, 2):
        ui.node(
            """const at = (name) => node.inputs.findIndex((one) => one.name === name);
            const loader = node.getInputNode(at(`references.reference_${given[0]}`));
            loader.connect(1, node, at(`reference_masks.reference_mask_${given[0]}`));""",
            number,
        )
        ui.still()
    start = ui.saved()
    for seed in range(COUNT):
        chance = random.Random(f"{ui.front_end} {ui.mode} {seed}")
        names = chance.choices(list(ACTIONS), list(ACTIONS.values()), k=30)
        actions = [(name, [chance.random() for _ in range(4)]) for name in names]
        ui.load(start, 0.7)
        result = ui.page.evaluate("actions => runSequence(actions)", actions)
        print(f"sequence {seed}: {result['seconds']:.1f} s")
        assert not result["problems"], (seed, json.dumps(result, indent=1))
    ui.set_mode(ui.mode)
