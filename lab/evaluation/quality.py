"""The page of the adapter's cases: docs/quality.md and its contact sheet."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.evaluation.cases import CASES, HeldOut, draw_held_out
from lab.evaluation.goals import COLUMNS, Measured, goals
from lab.evaluation.metrics import score
from lab.evaluation.report import DOCS, scores_table, shown
from lab.evaluation.sampling import round_trip
from lab.evaluation.sheet import save_sheet, with_boxes
from lab.evaluation.statistics import Scores
from lab.host.in_process import load_host
from lab.host.sampler import Sampler
from lab.host.workflows import CFG, STEPS
from lab.microworld.judge import load_judge

SHOWN = 10  # scenes on the contact sheet
ROWS = ("VAE round trip, two", "masks", "without masks", "masks switched off", "text only")
PAGE = """# What the micro world measures

Written by `python -m lab.evaluation report`. Two subjects a scene unless said otherwise,
{steps} Euler steps, guidance {cfg}, weight 1, sampled in the real host through the pack's
nodes. The scenes' seeds are never drawn in training, and every sprite is a combination of shape,
texture and colour that no training scene shows. Captions name shapes and background only; the
looks come from the references. Percentages are means over subjects with 95 % bootstrap intervals
over scenes. The judge saw only pictures of the generator; what it gets wrong shows in the rows
"as drawn" and "VAE round trip", and the latter is the ceiling of every figure below it.

{goals}

![Contact sheet of ten scenes; its rows are named below](quality.png)

Rows: the two references, the scene as drawn with its boxes, then: {rows}.
"Without masks" is an adapter of its own, trained as long and from the same start on the same frozen
base, but with every reference seen everywhere, and used in the same way: the fair ablation. "Masks
switched off" is the adapter with masks, used without.

## All figures

{table}

IoU: of the tight box around the found sprite with the asked box. Missed: less than 15 % of the box
is sprite. Outside: sprite pixels outside all boxes. Shape, texture, colour: as the judge names what
it sees in the box. Confused: nearer to another subject's reference than to its own. Anywhere: a
sprite of the named shape and hue wherever it is.
{families}"""
FAMILIES = ("masks", "IP-Adapter, boxes", "MIP-Adapter, names")
OF_FAMILIES = """
## Adapters of other families

Small adapters of IP-Adapter's and MIP-Adapter's families, trained by the same trainer on the same
frozen base, from what they share with its MS-Diffusion adapter ("masks"), for as many samples as
that had in its own stage (9 568), on the first {count} scenes:

{table}

Nobody tells MIP-Adapter where the boxes are, so that all columns but "anywhere" are chance for it:
its subjects have their own looks, in places of its own choice. IP-Adapter keeps subjects apart as
MS-Diffusion does; without phrase and box in its image tokens, edges and shapes are less exact.

![Ten scenes; the rows are named below](quality_families.png)

Rows: the two references, the scene as drawn with its boxes, then: {rows}. These adapters aren't in
the repository: `python -m lab.training import`, `train --stage ip_adapter mip_adapter` and `export`
make them again, and `python -m lab.evaluation sample` takes them where they are.
"""


def report_quality(work: Path, models: Path, docs: Path = DOCS) -> None:
    """Score the sampled pictures of a work folder, and write the page and its contact sheet."""
    torch.set_num_threads(1)
    cases = [case for case in CASES if (work / f"{case.name}.pt").exists()]
    if missing := {"masks"} - {case.name for case in cases}:
        raise FileNotFoundError(
            f"{work} has no pictures of {sorted(missing)}. "
            "Sample them first: python -m lab.evaluation sample."
        )
    judge, vae = load_judge(models), Sampler(load_host(), models).vae
    sets: dict[str, HeldOut] = {}
    scores: dict[str, Scores] = {}
    pictures: dict[str, Tensor] = {}
    for case in cases:
        if case.scenes not in sets:
            held_out = sets[case.scenes] = draw_held_out(case.scenes)
            count = max(c.count for c in cases if c.scenes == case.scenes)
            drawn = held_out.scenes.picture[:count]
            scores[f"as drawn, {case.scenes}"] = score(judge, held_out, drawn)
            back = pictures[f"VAE round trip, {case.scenes}"] = round_trip(vae, drawn)
            scores[f"VAE round trip, {case.scenes}"] = score(judge, held_out, back)
        sampled = torch.load(work / f"{case.name}.pt", weights_only=True)
        pictures[case.name] = sampled.float().div(255)
        scores[case.name] = score(judge, sets[case.scenes], pictures[case.name])
    rows = [name for name in ROWS if name in pictures]
    _save_contact_sheet(sets["two"], {name: pictures[name] for name in rows}, docs / "quality.png")
    measured = goals_table(goals(scores))
    families = ""
    if all(name in pictures for name in FAMILIES):
        families = _report_families(judge, sets["two"], pictures, docs)
    own = {name: scores[name] for name in scores if name not in FAMILIES[1:]}
    page = PAGE.format(
        goals=measured,
        table=scores_table(own, COLUMNS),
        rows=", ".join(rows),
        families=families,
        steps=STEPS,
        cfg=CFG,
    )
    (docs / "quality.md").write_text(page, encoding="utf-8")
    print(measured)


def _report_families(judge: Any, held_out: HeldOut, pictures: dict[str, Tensor], docs: Path) -> str:
    """The part of the page on other families' adapters; writes their contact sheet."""
    count = min(len(pictures[name]) for name in FAMILIES)
    same = {name: pictures[name][:count] for name in FAMILIES}
    _save_contact_sheet(held_out, same, docs / "quality_families.png")
    scores = {name: score(judge, held_out, shown) for name, shown in same.items()}
    table = scores_table(scores, COLUMNS)
    return OF_FAMILIES.format(count=count, table=table, rows="; ".join(FAMILIES))


def goals_table(rows: list[Measured]) -> str:
    """The goals, each beside what was measured, as Markdown."""
    lines = ["| | goal | measured |", "| --- | --- | --- |"]
    return "\n".join(
        lines + [f"| {what} | {goal} | {shown(c, unit=' %')} |" for what, goal, c in rows]
    )


def _save_contact_sheet(held_out: HeldOut, pictures: dict[str, Tensor], path: Path) -> None:
    shown = slice(0, SHOWN)
    boxes = held_out.scenes.boxes[shown]
    rows = [
        held_out.references[shown, 0],
        held_out.references[shown, 1],
        with_boxes(held_out.scenes.picture[shown], boxes),
        *(with_boxes(sampled[shown], boxes) for sampled in pictures.values()),
    ]
    save_sheet(rows, path)
