"""The page of the adapters' cases, docs/quality.md."""

from lab.evaluation.cases import AS_DRAWN, ROUND_TRIP
from lab.evaluation.goals import Measured, goals
from lab.evaluation.judged import COLUMNS
from lab.evaluation.statistics import Scores
from lab.evaluation.tables import scores_table, shown, table_row
from lab.host.workflows import CFG, STEPS

MAIN = "masks"  # the case without which there's no page
DRAWN = f"{AS_DRAWN}two"
ROWS = (DRAWN, f"{ROUND_TRIP}two", MAIN, "without masks", "masks switched off", "text only")
PAGE = """# What the micro world measures

Written by `nox -s quality`. Two subjects a scene unless said otherwise,
{steps} Euler steps, guidance {cfg}, weight 1, sampled in the real host through the pack's
nodes. The scenes' seeds are never drawn in training, and every sprite is a combination of shape,
texture and colour that no training scene shows. Captions name shapes and background only; the
looks come from the references. Percentages are means over subjects with 95 % bootstrap intervals
over scenes. The judge saw only pictures of the generator; what it gets wrong shows in the rows
"as drawn" and "VAE round trip", and the latter is the ceiling of every figure below it.

{goals}

![Contact sheet of ten scenes; its rows are named below](quality.png)

Rows: the two references, then, with the asked boxes: {rows}.
"Without masks" is an adapter of its own, trained as long and from the same start on the same frozen
base, but with every reference seen everywhere, and used in the same way: the fair ablation. "Masks
switched off" is the adapter with masks, used without.

## All figures

{table}

IoU: of the tight box around the found sprite with the asked box. Missed: less than 15 % of the box
is sprite. Outside: sprite pixels outside all boxes. Shape, texture, colour: as the judge names what
it sees in the box. Confused: nearer to another subject's reference than to its own. Anywhere: a
sprite of the named shape and hue wherever it is.
{families}
{note}
"""
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

Rows: the two references, then, with the asked boxes: {rows}. These adapters aren't in the
repository: `python -m lab.training import`, `train --stage ip_adapter mip_adapter` and `export`
make them again, and `nox -s quality -- MODELS` takes them from the folder that they are in.
"""


def write(scores: dict[str, Scores], note: str) -> str:
    """The page as Markdown, from scores by case and a note on where they are from."""
    own = {name: of for name, of in scores.items() if name not in FAMILIES[1:]}
    return PAGE.format(
        goals=goals_table(goals(scores)),
        table=scores_table(own, COLUMNS),
        rows="; ".join(sheets(scores)["quality.png"]),
        families=_families(scores),
        steps=STEPS,
        cfg=CFG,
        note=note,
    )


def sheets(scores: dict[str, Scores]) -> dict[str, list[str]]:
    """The cases of each contact sheet, by its file's name."""
    found = {"quality.png": [name for name in ROWS if name in scores]}
    if all(name in scores for name in FAMILIES):
        found["quality_families.png"] = [DRAWN, *FAMILIES]
    return found


def _families(scores: dict[str, Scores]) -> str:
    """The part of the page on other families' adapters, if they were there."""
    rows = sheets(scores).get("quality_families.png")
    if not rows:
        return ""
    count = min(len(scores[name]["iou"]) for name in FAMILIES)
    same = {name: {column: of[:count] for column, of in scores[name].items()} for name in FAMILIES}
    return OF_FAMILIES.format(count=count, table=scores_table(same, COLUMNS), rows="; ".join(rows))


def goals_table(rows: list[Measured]) -> str:
    """The goals, each beside what was measured, as Markdown."""
    lines = [table_row("", "goal", "measured"), table_row("---", "---", "---")]
    return "\n".join(lines + [table_row(what, goal, shown(c, unit=" %")) for what, goal, c in rows])
