"""The page of placed references, docs/quality_placed.md: held-out scenes by the micro Flux, which
never saw a layout, through the nodes that place its references."""

from lab.evaluation import cases
from lab.evaluation.cases import AS_DRAWN, OF_FLUX
from lab.evaluation.judged import COLUMNS
from lab.evaluation.statistics import Scores, difference
from lab.evaluation.tables import scores_table, shown, table_row
from lab.host.workflows import CFG, STEPS
from lab.microworld.scenes import SIZE, SMALL_SIZE

MAIN = "not placed"  # the case without which there's no page
ROUND_TRIP = f"{cases.ROUND_TRIP}{OF_FLUX}"
GAPS = {
    "miss": "missed",
    "confused": "confused, by the judge",
    "texture": "texture",
    "colour": "colour",
}
PAGE = """# What placing references does in the micro world

Written by `nox -s quality`. The micro Flux is the host's own Flux class with 2.3 M
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

![Contact sheet of ten scenes; its rows are named below](quality_placed.png)

Rows: the two references, then, with the asked boxes: {rows}.

## All figures

{table}

The columns are explained in [quality.md](quality.md). Without placing the model chooses the places,
so "confused" is chance there, one half.

{note}
"""


def write(scores: dict[str, Scores], note: str) -> str:
    """The page as Markdown, from scores by case and a note on where they are from."""
    return PAGE.format(
        size=SMALL_SIZE,
        steps=STEPS,
        cfg=CFG,
        large=SIZE,
        round_trip=ROUND_TRIP,
        gaps=gaps_table(scores),
        rows="; ".join(scores),
        table=scores_table(scores, COLUMNS),
        note=note,
    )


def gaps_table(scores: dict[str, Scores]) -> str:
    """Markdown: each way to place, less no placing."""
    lines = [table_row("", *GAPS.values()), table_row(*["---"] * (len(GAPS) + 1))]
    drawn = (MAIN, f"{AS_DRAWN}{OF_FLUX}", ROUND_TRIP)
    for name in [name for name in scores if name not in drawn]:
        rows = [(scores[name][column], scores[MAIN][column]) for column in GAPS]
        gaps = [shown(difference(*pair), unit=" %") for pair in rows]
        lines.append(table_row(name, *gaps))
    return "\n".join(lines)
