"""The command `report`: the pages of the scores that are there."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from lab.evaluation import placed_page, quality_page
from lab.evaluation.cases import AS_DRAWN, OF_FLUX, ROUND_TRIP, read_line_name
from lab.evaluation.judged import COLUMNS
from lab.evaluation.paper_page import BENCHES, paper_page
from lab.evaluation.score_files import Row, Rows, Scored, read_scores
from lab.evaluation.sheet import draw_sheet
from lab.evaluation.statistics import Scores
from lab.evaluation.tables import footnote
from lab.jobs.folder import Folder

MICRO_WORLD = "microworld"
SETS = {**dict.fromkeys(BENCHES, ("paper", "detected")), MICRO_WORLD: ("judged",)}
Cases = dict[str, list[Row]]  # of the micro world, by name, in the scenes' order
Pages = dict[str, str | Image.Image]  # and contact sheets, by file


def report(scores: Path, pictures: Path | None, out: Path, dry_run: bool = False) -> None:
    """Write the pages, or print which.

    Args:
        scores: folder with the folders of scores of benches, or some of them.
        pictures: those of the micro world, for its contact sheets.
        out: folder of the pages.
    Raises:
        ValueError: they aren't such folders, or lack what a page must have.
    """
    found = find_scores(scores)
    pages: Pages = {}
    if judged := found[MICRO_WORLD].get("judged"):
        pages |= _micro_world(scores / MICRO_WORLD, judged, pictures)
    if any(found[bench] for bench in BENCHES):
        pages["published.md"] = paper_page(found)
    if dry_run:
        print(f"{', '.join(pages)} would go to {out}. Nothing was written.")
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        if isinstance(page, str):
            (out / name).write_text(page, encoding="utf-8")
        else:
            page.save(out / name)
        print(f"Wrote {out / name}.")


def find_scores(scores: Path) -> dict[str, dict[str, Scored]]:
    """The scores of a folder, by bench and set.

    Raises ValueError: there are none, or they aren't folders of scores.
    """
    found = {
        bench: {
            name: _read_set(folder, name)
            for name in sets
            if (folder := scores / bench / name).exists()
        }
        for bench, sets in SETS.items()
    }
    if not any(found.values()):
        expected = ", ".join(f"{bench}/{name}" for bench, sets in SETS.items() for name in sets)
        raise ValueError(f"There are no scores in {scores}; expected any of {expected}.")
    return found


def _read_set(folder: Path, name: str) -> Scored:
    made_by, rows = read_scores(folder)
    if made_by.get("set") != name:
        raise ValueError(f"{folder} has the scores of another set: {made_by.get('set')}.")
    return made_by, rows


def _micro_world(path: Path, judged: Scored, pictures: Path | None) -> Pages:
    """The page of the adapters' cases and that of placed references, or one of them."""
    if pictures is None:
        raise ValueError("--pictures: the micro world's contact sheets need its pictures.")
    folder, (made_by, rows) = Folder(pictures), judged
    if any(made_by.get(name) != version for name, version in folder.versions().items()):
        raise ValueError(f"--pictures: {pictures} isn't the folder that {path} was scored from.")
    of_adapters, of_flux = read_cases(path, rows)
    note, pages = footnote("judged", *judged), {}
    if quality_page.MAIN in of_adapters:
        scores = scores_of(of_adapters)
        pages["quality.md"] = quality_page.write(scores, note)
        for name, shown in quality_page.sheets(scores).items():
            pages[name] = draw_sheet(_pictures(of_adapters, shown, folder), "two")
    elif of_adapters:
        print(f"No page has {'; '.join(of_adapters)}: it would need {quality_page.MAIN!r}.")
    if placed_page.MAIN in of_flux:
        pages["quality_placed.md"] = placed_page.write(scores_of(of_flux), note)
        pages["quality_placed.png"] = draw_sheet(_pictures(of_flux, of_flux, folder), OF_FLUX)
    elif of_flux:
        print(f"No page has {'; '.join(of_flux)}: it would need {placed_page.MAIN!r}.")
    if not pages:
        raise ValueError(
            f"{path} has neither the case {quality_page.MAIN!r} nor {placed_page.MAIN!r}, and each "
            "page needs one."
        )
    return pages


def read_cases(path: Path, rows: Rows) -> tuple[Cases, Cases]:
    """The cases of adapters, and those of the micro Flux.

    Args:
        path: where the scores are.
    Raises:
        ValueError: a line has no scores, or a case or what is drawn of its set lacks scenes: scenes
            are compared one by one, and their ceilings are those of the same scenes.
    """
    if failed := [row for row in rows.values() if row["error"]]:
        raise ValueError(
            f"{len(failed)} lines of {path} have no scores, line {failed[0]['number']} "
            f"({failed[0]['name']}) among them: {failed[0]['error']}"
        )
    cases: Cases = {}
    sets: dict[str, str] = {}  # of each case
    for row in rows.values():
        case, scenes, i = read_line_name(row["name"])
        of_case = cases.setdefault(case, [])
        if (sets.setdefault(case, scenes), len(of_case)) != (scenes, i):
            raise ValueError(
                f"{path}: expected scene {len(of_case)} of {sets[case]!r} as the next of case "
                f"{case!r}, got line {row['number']}, {row['name']!r}. Score lines as the command "
                "microworld writes them."
            )
        of_case.append(row)
    for case, scenes in sets.items():
        for drawn in (f"{AS_DRAWN}{scenes}", f"{ROUND_TRIP}{scenes}"):
            if len(cases.get(drawn, [])) < len(cases[case]):
                raise ValueError(
                    f"{path} has {len(cases[case])} scenes of case {case!r}, and "
                    f"{len(cases.get(drawn, []))} of {drawn!r}, which it is compared with."
                )
    of_flux = {case: cases[case] for case, scenes in sets.items() if scenes == OF_FLUX}
    return {case: cases[case] for case in cases if case not in of_flux}, of_flux


def scores_of(cases: Cases) -> dict[str, Scores]:
    """By case and column."""
    return {
        name: {column: [row[column] for row in rows] for column in COLUMNS}
        for name, rows in cases.items()
    }


def _pictures(cases: Cases, names: Iterable[str], folder: Folder) -> dict[str, list[Path]]:
    return {name: [folder.picture(row["picture"]) for row in cases[name]] for name in names}
