"""Scores on disk: a folder of parquet files, a row for each line of the job lines. A line that
couldn't be scored has a sentence instead of scores, and may come again in a later file."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lab.evaluation import detected, judged, paper

VERSION = "1"  # of the scores: another one where the same picture would get another score
NUMBERS, TEXTS, BOXES = (
    pa.list_(pa.float64()),
    pa.list_(pa.string()),
    pa.list_(pa.list_(pa.float64())),
)
COMMON = {
    "number": pa.int64(),  # of the line
    "name": pa.string(),  # of its combination
    "picture": pa.string(),  # id in the folder of pictures
    "error": pa.string(),
}
COLUMNS = {
    "paper": dict.fromkeys(paper.COLUMNS, NUMBERS),
    "detected": {
        **dict.fromkeys(detected.COLUMNS, NUMBERS),
        "shown": pa.list_(pa.int64()),
        "phrases": TEXTS,
        "boxes": BOXES,
        "found_phrases": TEXTS,
        "found_boxes": BOXES,
        "found_scores": NUMBERS,
    },
    "judged": dict.fromkeys(judged.COLUMNS, NUMBERS),
}
Row = dict[str, Any]
Rows = dict[int, Row]  # by number of the line
Scored = tuple[dict[str, str], Rows]  # what made the scores, and these


class ScoreFiles:
    """Such a folder, which need not exist before `add`.

    Args:
        path: of the folder.
        set_name: of COLUMNS.
        made_by: what scores depend on besides their pictures.
    Raises:
        ValueError: it has scores of another version, or isn't such a folder.
    """

    def __init__(self, path: Path, set_name: str, made_by: dict[str, str]) -> None:
        self.path = path
        self.made_by = {"version": VERSION, "set": set_name, **made_by}
        metadata = {"made_by": json.dumps(self.made_by)}
        self.schema = pa.schema({**COMMON, **COLUMNS[set_name]}, metadata)
        self.rows: Rows = {}
        if path.exists():
            before, self.rows = read_scores(path)
            changed = "; ".join(
                f"{name} was {before.get(name)}, is {value}"
                for name, value in self.made_by.items()
                if before.get(name) != value
            )
            if changed:
                raise ValueError(
                    f"{path} has scores of another version: {changed}. Give another folder."
                )

    def add(self, rows: list[Row]) -> None:
        """Write rows into a file of their own, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        place = self.path / f"{len(list(self.path.glob('*.parquet'))):06}.parquet"
        aside = place.with_suffix(".part")
        pq.write_table(pa.Table.from_pylist(rows, self.schema), aside)
        aside.rename(place)
        self.rows |= {row["number"]: row for row in rows}


def read_scores(path: Path) -> Scored:
    """What made the scores of a folder, and its rows by number of the line, the last of each.

    Raises ValueError: it isn't such a folder, or it is of several versions.
    """
    made_by: dict[str, str] = {}
    rows: Rows = {}
    for file in sorted(path.glob("*.parquet")):
        try:
            table = pq.read_table(file)
            of_file = json.loads(table.schema.metadata[b"made_by"])
        except (OSError, ValueError, TypeError, KeyError):
            raise ValueError(f"{file} isn't a file of scores of lab.evaluation.") from None
        if made_by and of_file != made_by:
            raise ValueError(f"{path} has scores of several versions.")
        made_by = of_file
        rows |= {row["number"]: row for row in table.to_pylist()}
    if not rows:
        raise ValueError(f"{path} isn't a folder of scores of lab.evaluation.")
    return made_by, dict(sorted(rows.items()))
