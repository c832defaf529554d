"""Placed references: held-out scenes by the micro Flux, which never saw a layout, through the nodes
that place its references; and docs/quality_placed.md."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.evaluation.cases import PLACED_CASES, PlacedCase, draw_held_out
from lab.evaluation.goals import COLUMNS
from lab.evaluation.metrics import score
from lab.evaluation.report import DOCS, scores_table, shown
from lab.evaluation.sampling import round_trip
from lab.evaluation.sheet import save_sheet, with_boxes
from lab.evaluation.statistics import Scores, difference
from lab.host.in_process import load_host
from lab.host.sampler import FluxSampler, lay_out
from lab.host.workflows import CFG, STEPS
from lab.microworld.judge import load_judge
from lab.microworld.scenes import SHAPES, SIZE, SMALL_SIZE, caption

SHOWN = 12  # scenes on the contact sheet
GAPS = {
    "miss": "missed",
    "confused": "confused, by the judge",
    "texture": "texture",
    "colour": "colour",
}
PAGE = """# What placing references does in the micro world

Written by `python -m lab.evaluation report`. The micro Flux is the host's own Flux class with 2.3 M
parameters. It was trained to draw scenes of {size} x {size} pixels with the sprites of its
references, which it gets as reference latents, as Flux Kontext does. Places were random in
training, and nothing told the model where they are: it has never seen a layout. MSD Reference
Latents gives it the references, MSD Place References the boxes. Two subjects a scene, {steps} Euler
steps, guidance {cfg}, the same scenes and the same noise in every row.

As in [quality.md](quality.md), every sprite is a combination of shape, texture and colour that no
training scene shows, captions name shapes and background only, and percentages are means over
subjects with 95 % bootstrap intervals over scenes. The judge sees the pictures enlarged to
{large} pixels; the row "{round_trip}" is the ceiling.

## Against no placing

Differences in points, scene by scene:

{gaps}

![Contact sheet of {shown} scenes; its rows are named below](quality_placed.png)

Rows: the two references, then, with the asked boxes: {rows}.

## All figures

{table}

The columns are explained in [quality.md](quality.md). Without placing the model chooses the places,
so "confused" is chance there, one half.
"""
ROUND_TRIP = "VAE round trip"


def sample_placed(case: PlacedCase, sampler: FluxSampler, count: int) -> Tensor:
    """Pictures [count, 3, SMALL_SIZE, SMALL_SIZE] of a case."""
    held_out = draw_held_out("small")
    scenes, n, pictures = held_out.scenes, held_out.subjects, []
    for i in range(count):
        subjects = lay_out(
            sampler.nodes,
            held_out.references[i, :n],
            [f"a {SHAPES[int(shape)]}" for shape in scenes.looks.shape[i, :n]],
            scenes.boxes[i, :n],
            (SMALL_SIZE, SMALL_SIZE),
            case.weight,
        )
        text = caption(scenes.looks[i], scenes.boxes[i], int(scenes.background[i]))
        pictures.append(
            sampler.picture(text, subjects, i, case.place, case.own_texts, case.first_stage)
        )
    return torch.stack(pictures)


def score_placed(models: Path, pictures: Tensor) -> Scores:
    """Scores of pictures [n, 3, SMALL_SIZE, SMALL_SIZE] of the first n held-out scenes, enlarged to
    the size that the judge knows."""
    large = F.interpolate(pictures, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)
    return score(load_judge(models), draw_held_out("small"), large)


def report_placed(work: Path, models: Path, docs: Path = DOCS) -> None:
    """Score the sampled pictures of a work folder, and write the page and its contact sheet.

    Raises:
        FileNotFoundError: cases have no pictures.
    """
    torch.set_num_threads(1)
    paths = {case.name: work / f"{case.name}.pt" for case in PLACED_CASES}
    if missing := [name for name, path in paths.items() if not path.exists()]:
        raise FileNotFoundError(
            f"{work} has no pictures of {missing}. "
            "Sample them first: python -m lab.evaluation sample."
        )
    sampled = {
        name: torch.load(path, weights_only=True).float().div(255) for name, path in paths.items()
    }
    held_out = draw_held_out("small")
    drawn = held_out.scenes.picture[: len(sampled["not placed"])]
    back = round_trip(FluxSampler(load_host(), models).vae, drawn)
    pictures = {"as drawn": drawn, ROUND_TRIP: back, **sampled}
    scores = {name: score_placed(models, shown) for name, shown in pictures.items()}
    boxes = held_out.scenes.boxes[:SHOWN]
    rows = [held_out.references[:SHOWN, j] for j in range(held_out.subjects)]
    rows += [with_boxes(shown[:SHOWN], boxes) for shown in pictures.values()]
    save_sheet(rows, docs / "quality_placed.png", SMALL_SIZE)
    page = PAGE.format(
        size=SMALL_SIZE,
        steps=STEPS,
        cfg=CFG,
        large=SIZE,
        round_trip=ROUND_TRIP,
        gaps=gaps_table(scores),
        shown=SHOWN,
        rows=", ".join(pictures),
        table=scores_table(scores, COLUMNS),
    )
    (docs / "quality_placed.md").write_text(page, encoding="utf-8")


def gaps_table(scores: dict[str, Scores]) -> str:
    """Markdown: each way to place, less no placing."""
    lines = [f"| | {' | '.join(GAPS.values())} |", f"| --- |{' --- |' * len(GAPS)}"]
    for case in PLACED_CASES[1:]:
        rows = [(scores[case.name][name], scores["not placed"][name]) for name in GAPS]
        gaps = [shown(difference(*pair), unit=" %") for pair in rows]
        lines.append(f"| {case.name} | {' | '.join(gaps)} |")
    return "\n".join(lines)
