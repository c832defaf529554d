"""The command `report`: the pages of the scores that are there."""

from collections.abc import Iterable
from pathlib import Path

from lab.evaluation import placed_page, quality_page
from lab.evaluation.cases import OF_FLUX
from lab.evaluation.judged import COLUMNS as JUDGED
from lab.evaluation.paper_page import BENCHES, paper_page
from lab.evaluation.score_files import COLUMNS, Row, Scored, read_scores
from lab.evaluation.sheet import save_sheet
from lab.evaluation.statistics import Scores
from lab.evaluation.tables import footnote
from lab.jobs.folder import Folder

MICRO_WORLD = "microworld"
Cases = dict[str, list[Row]]  # of the micro world, by name, in the scenes' order
Found = dict[str, dict[str, Scored]]  # by bench and set


def report(scores: Path, pictures: Path | None, out: Path) -> None:
    """Write the pages.

    Args:
        scores: folder with the folders of scores of benches, or some of them.
        pictures: those of the micro world, for its contact sheets.
        out: folder of the pages.
    Raises:
        ValueError: they aren't such folders, or lack what a page must have.
    """
    found = find_scores(scores)
    out.mkdir(parents=True, exist_ok=True)
    pages = {}
    if any(found[bench] for bench in BENCHES):
        pages["published.md"] = paper_page(found)
    if "judged" in found[MICRO_WORLD]:
        folder = scores / MICRO_WORLD
        pages |= _micro_world(folder, found[MICRO_WORLD]["judged"], pictures, out)
    for name, page in pages.items():
        (out / name).write_text(page, encoding="utf-8")
        print(f"Wrote {out / name}.")


def find_scores(scores: Path) -> Found:
    """The scores of a folder.

    Raises ValueError: there are none, or they aren't folders of scores.
    """
    found = {
        bench: {
            name: _read_set(folder, name)
            for name in COLUMNS
            if (folder := scores / bench / name).exists()
        }
        for bench in (*BENCHES, MICRO_WORLD)
    }
    if not any(found.values()):
        folders = " or ".join(str(scores / bench) for bench in found)
        raise ValueError(f"There are no scores in {folders}.")
    return found


def _read_set(folder: Path, name: str) -> Scored:
    made_by, rows = read_scores(folder)
    if made_by.get("set") != name:
        raise ValueError(f"{folder} has the scores of another set: {made_by.get('set')}.")
    return made_by, rows


def _micro_world(path: Path, judged: Scored, pictures: Path | None, out: Path) -> dict[str, str]:
    """The page of the adapters' cases and that of placed references, or one of them, by name; their
    contact sheets are written."""
    if pictures is None:
        raise ValueError("--pictures: the micro world's contact sheets need its pictures.")
    folder = Folder(pictures)
    folder.versions()
    if failed := [row for row in judged[1].values() if row["error"]]:
        raise ValueError(
            f"{len(failed)} lines of {path} have no scores, line {failed[0]['number']} "
            f"({failed[0]['name']}) among them: {failed[0]['error']}"
        )
    of_adapters: Cases = {}
    of_flux: Cases = {}
    for row in judged[1].values():
        case, _, scene = row["name"].rpartition("/")
        cases = of_flux if scene.startswith(OF_FLUX) else of_adapters
        cases.setdefault(case, []).append(row)
    note, pages = footnote("judged", *judged), {}
    if quality_page.MAIN in of_adapters:
        scores = _scores(of_adapters)
        pages["quality.md"] = quality_page.write(scores, note)
        for name, shown in quality_page.sheets(scores).items():
            save_sheet(_pictures(of_adapters, shown, folder), "two", out / name)
    if placed_page.MAIN in of_flux:
        pages["quality_placed.md"] = placed_page.write(_scores(of_flux), note)
        shown = _pictures(of_flux, of_flux, folder)
        save_sheet(shown, OF_FLUX, out / "quality_placed.png")
    if not pages:
        raise ValueError(
            f"{path} has neither the case {quality_page.MAIN!r} nor {placed_page.MAIN!r}, and each "
            "page needs one."
        )
    return pages


def _scores(cases: Cases) -> dict[str, Scores]:
    return {
        name: {column: [row[column] for row in rows] for column in JUDGED}
        for name, rows in cases.items()
    }


def _pictures(cases: Cases, names: Iterable[str], folder: Folder) -> dict[str, list[Path]]:
    return {name: [folder.picture(row["picture"]) for row in cases[name]] for name in names}
