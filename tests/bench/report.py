"""From the measured steps to tables and pages."""

import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "benchmarks"
OURS, THEIRS, CODE = "MSD Apply", "IPAdapter_plus, masked", "research code"
PLAIN, PLAIN_CODE = "plain", "plain, in diffusers"
ADDED, TIMES = "added, share of plain", "times MSD Apply's"
Found = dict[str, dict[str, list[float]]]  # variant -> what is measured -> a value a step
# Parts of what MSD Apply adds, by the function that does it.
PARTS = {
    "the attention itself": "subject_attention",
    "coverage and masks": "_grid_coverage",
    "keys and values": "_keys_values",
    "auto layout's maps": "_follow",
}


def report(found: Found) -> dict[str, dict[str, float]]:
    """Ratios by variant; medians over the steps after the first."""

    def later(name: str, part: str) -> float:
        return statistics.median(found[name][part][1:])

    rows: dict[str, dict[str, float]] = {}
    for name, parts in found.items():
        if name in (PLAIN, PLAIN_CODE):
            continue
        bare = PLAIN_CODE if name.startswith(CODE) else PLAIN
        whole = later(bare, "step")
        row = rows[name] = {
            "step over plain": later(name, "step") / whole,
            ADDED: later(name, "added") / whole,
            "added by the first step, share of plain": parts["added"][0] / whole,
            TIMES: later(name, "added") / later(f"{OURS}: {name.split(': ')[1]}", "added"),
        }
        if "MiB" in parts:
            first = parts["step"][0] - later(name, "step")
            row["first step over a later one, ms"] = 1000 * first
            # Also of the first step, which moves the keys and values there.
            row["memory over plain, MiB"] = max(parts["MiB"]) - later(bare, "MiB")
            row["waits in the first step over plain"] = parts["waits"][0] - found[bare]["waits"][0]
            row["waits in a step over plain"] = later(name, "waits") - later(bare, "waits")
    return rows


def profile(found: Found) -> dict[str, dict[str, float]]:
    """Shares of what MSD Apply adds, by part; medians over the steps after the first."""
    rows = {}
    for name, parts in found.items():
        if name.startswith(OURS):
            whole = statistics.median(parts["added"][1:])
            row = {p: statistics.median(parts[p][1:]) / whole if p in parts else 0.0 for p in PARTS}
            rows[name] = {f"{part}, share": share for part, share in row.items()}
            rows[name]["the rest, share"] = 1 - sum(row.values())
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    def shown(column: str, value: float) -> str:
        return f"{100 * value:.2f} %" if "share" in column else f"{value:.3g}"

    columns = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(shown(c, row[c]) for c in columns)} |")
    return "\n".join(lines)


def write(page: Path, name: str, text: str) -> None:
    """Put the text between the page's markers of this name, if it has them."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, mark, rest = page.read_text(encoding="utf-8").partition(begin)
    if mark:
        page.write_text(f"{before}{begin}{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def save(name: str, result: dict[str, Any]) -> None:
    (DOCS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
