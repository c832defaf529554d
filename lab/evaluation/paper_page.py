"""The page of the paper's benchmarks, docs/published.md: published figures beside our own."""

from collections import Counter
from collections.abc import Iterable

from lab.evaluation.average_precision import average_precision
from lab.evaluation.published import FOUND, WHOLE_PICTURES, Published
from lab.evaluation.score_files import Rows, Scored
from lab.evaluation.tables import footnote, scores_table, shown, table_row

PAPER_COLUMNS = {"clip_i": "CLIP-I", "dino": "DINO", "m_dino": "M-DINO", "clip_t": "CLIP-T"}
FOUND_COLUMNS = {
    "dino": "DINO",
    "m_dino": "M-DINO",
    "iou": "IoU",
    "missed": "missed",
    "confused": "confused",
}
BENCHES = {"msbench": "MS-Bench", "dreambench": "DreamBench"}
OF_SEVERAL = ("m_dino", "confused")  # columns that say nothing of one subject
SUBJECTS = {1: "one subject", 2: "two subjects", 3: "three subjects"}
PAGE = """# Beside the paper's figures

Written by `python -m lab.evaluation report --scores SCORES`. [evaluation.md](evaluation.md) says
how the figures come about, and what is chosen where nothing is published. Our own are means over
lines with 95 % bootstrap intervals over combinations, all lines of which are drawn together.

The paper's own text could be read only in its abstract where this was written. Its rows are those
that the named sources give.
"""
NOT_MEASURED = """
**Not measured.** SDXL, CLIP-ViT-bigG, the released adapter and the networks that score weren't to
be had where this was written. Where they are, and a GPU, it is one command:

    nox -s paper -- {bench} CHECKOUT

It writes the lines, makes what is missing of the pictures, scores them, and writes this page. The
table of our figures comes here."""


def paper_page(found: dict[str, dict[str, Scored]]) -> str:
    """The page as Markdown, from what `find_scores` gives."""
    parts = [PAGE]
    for bench, title in BENCHES.items():
        sets = found.get(bench, {})
        paper_columns, found_columns = PAPER_COLUMNS, FOUND_COLUMNS
        if bench == "dreambench":
            paper_columns, found_columns = (
                {name: words for name, words in columns.items() if name not in OF_SEVERAL}
                for columns in (PAPER_COLUMNS, FOUND_COLUMNS)
            )
        parts.append(f"## {title}\n")
        parts.append(published_table(WHOLE_PICTURES[bench], paper_columns))
        if "paper" in sets:
            parts += [f"\nOur own, set `paper`:\n\n{own_table(sets['paper'][1], paper_columns)}"]
        if FOUND[bench]:
            columns = {"dino": "DINO", "iou": "IoU", "ap": "AP"}
            parts.append(f"\nOf what is found:\n\n{published_table(FOUND[bench], columns)}")
        if "detected" in sets:
            rows = sets["detected"][1]
            parts.append(f"\nOur own, set `detected`:\n\n{own_table(rows, found_columns)}")
            parts += [f"\n{precision_words(rows)}", slots_table(rows)]
        for name, (made_by, rows) in sets.items():
            parts.append(f"\n{footnote(name, made_by, rows)}")
        if not sets:
            parts.append(NOT_MEASURED.format(bench=bench))
        parts.append("")
    return "\n".join(parts)


def published_table(rows: Iterable[Published], columns: dict[str, str]) -> str:
    """Markdown: a line a row, with its source."""
    lines = [table_row("published", *columns.values(), "source")]
    lines.append(table_row(*["---"] * (len(columns) + 2)))
    for row in rows:
        values = [getattr(row, column) for column in columns]
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        lines.append(table_row(row.name, *cells, row.source))
    return "\n".join(lines)


def own_table(rows: Rows, columns: dict[str, str]) -> str:
    """Markdown: means of all lines that have scores, and of those of each number of subjects."""
    scored = [row for row in rows.values() if not row["error"]]
    kinds = {"all": scored}
    for count, words in SUBJECTS.items():
        if of_count := [row for row in scored if len(row["dino"]) == count]:
            kinds[words] = of_count
    if len(kinds) == 2:
        del kinds["all"]
    cases = {
        words: {column: [row[column] for row in of_kind] for column in columns}
        for words, of_kind in kinds.items()
    }
    groups = {words: [row["name"] for row in of_kind] for words, of_kind in kinds.items()}
    return scores_table(cases, columns, groups, "lines", scale=1, digits=3)


def precision_words(rows: Rows) -> str:
    """A sentence."""
    scored = [row for row in rows.values() if not row["error"]]
    whole, half = average_precision(scored, [row["name"] for row in scored])
    return f"AP {shown(whole, 1, 3)}, AP50 {shown(half, 1, 3)}."


def slots_table(rows: Rows) -> str:
    """Markdown: which subject each slot shows, in lines of each number of subjects."""
    parts = []
    for count in (2, 3):
        of_count = [row for row in rows.values() if not row["error"] and len(row["shown"]) == count]
        if not of_count:
            continue
        subjects = [f"subject {number}" for number in range(1, count + 1)]
        lines = [table_row(f"{SUBJECTS[count]}: shows", *subjects, "none, or not judged")]
        lines.append(table_row(*["---"] * (count + 2)))
        for slot in range(count):
            shown = Counter(row["shown"][slot] for row in of_count)
            cells = [f"{shown[n] / len(of_count):.3f}" for n in (*range(1, count + 1), 0)]
            lines.append(table_row(f"slot {slot + 1}", *cells))
        parts.append("\n" + "\n".join(lines))
    return "\n".join(parts)
