"""Tables of scores, as all pages have them."""

import math
from collections.abc import Mapping, Sequence

from lab.evaluation.score_files import Rows
from lab.evaluation.statistics import Interval, Scores, mean_and_interval

MAX_NAMED = 20  # lines without scores


def shown(values: Interval, scale: float = 100, digits: int = 1, unit: str = "") -> str:
    """A value with its interval; empty where there is none."""
    mean, low, high = (scale * v for v in values)
    if math.isnan(mean):
        return ""
    return f"{mean:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def scores_table(
    cases: dict[str, Scores],
    columns: dict[str, str],
    groups: Mapping[str, Sequence[str]] | None = None,
    counted: str = "scenes",
    scale: float = 100,
    digits: int = 1,
) -> str:
    """Markdown: a line a case, means with their intervals.

    Args:
        columns: their headings by name.
        groups: for each case, what each of its scenes is drawn together with; None for nothing.
        counted: what the rows of scores are.
        scale, digits: as those of `shown`.
    """
    lines = [table_row("", counted, *columns.values()), table_row(*["---"] * (len(columns) + 2))]
    for name, scores in cases.items():
        of_case = groups[name] if groups else None
        intervals = [mean_and_interval(scores[column], of_case) for column in columns]
        cells = [shown(interval, scale, digits) for interval in intervals]
        lines.append(table_row(name, str(len(scores[next(iter(columns))])), *cells))
    return "\n".join(lines)


def table_row(*cells: str) -> str:
    """A line of a Markdown table."""
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def footnote(name: str, made_by: dict[str, str], rows: Rows) -> str:
    """What made a set of scores, and which lines have none."""
    versions = ", ".join(f"{key} {value}" for key, value in made_by.items() if key != "set")
    failed = [row for row in rows.values() if row["error"]]
    text = f"`{name}`: {versions}. Of {len(rows)} lines {len(failed)} have no scores"
    named = [f"line {row['number']} ({row['name']}): {row['error']}" for row in failed]
    if len(named) > MAX_NAMED:
        named = [*named[:MAX_NAMED], f"{len(named) - MAX_NAMED} more are in the files"]
    return f"{text}:\n\n" + "\n".join(f"- {line}" for line in named) if named else f"{text}."
