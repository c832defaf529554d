"""The micro world's evaluation by the commands: lines, pictures, scores and pages."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import job_lines
import pytest
from PIL import Image

from lab.evaluation import placed_page, quality_page
from lab.evaluation.__main__ import main
from lab.evaluation.cases import CASES, Case, drawn_cases, line_name, read_line_name
from lab.evaluation.judged import COLUMNS, Judged
from lab.evaluation.made import Made, read_made
from lab.evaluation.microworld import WORKFLOW, case_lines, choose_cases, save_scenes
from lab.evaluation.report import read_cases, report, scores_of
from lab.evaluation.samples import save_lines
from lab.evaluation.score_files import Rows, ScoreFiles, read_scores
from lab.jobs.folder import Folder
from lab.jobs.hashes import Hashes
from lab.jobs.lines import read_jobs, read_workflow
from lab.microworld import JUDGE, MODELS

SCENES = 2


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
    main()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of two cases, with pictures and scores."""
    work = tmp_path_factory.mktemp("work")
    lines, pictures = work / "microworld.jsonl", work / "pictures"
    with pytest.MonkeyPatch.context() as patch:
        only = ("--only", "masks", "not placed", "--count", SCENES)
        run(patch, "microworld", "--out", lines, *only)
        command = [sys.executable, "-m", "lab.jobs", "run", str(lines)]
        command += ["--workflow", str(WORKFLOW), "--models", str(MODELS)]
        job_lines.finish(job_lines.start(command, pictures))
        scores = work / "scores" / "microworld"
        run(patch, "score", lines, "--pictures", pictures, "--out", scores, "--sets", "judged")
    return work


def test_from_lines_to_pages(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_by, rows = read_scores(work / "scores" / "microworld" / "judged")
    assert {"comfyui", "pack", "judge"} <= made_by.keys()
    assert [row["name"] for row in rows.values()] == [
        f"{case}/{scenes} {i}"
        for case, scenes in (
            ("as drawn, two", "two"),
            ("VAE round trip, two", "two"),
            ("masks", "two"),
            ("as drawn, small", "small"),
            ("VAE round trip, small", "small"),
            ("not placed", "small"),
        )
        for i in range(SCENES)
    ]
    for row in rows.values():
        assert row["error"] is None and len(row["iou"]) == 2 and len(row["outside"]) == 1
        if "not placed" not in row["name"]:
            assert row["miss"] == [0.0, 0.0] and row["shape"] == [1.0, 1.0]
    out = work / "pages"
    given = ("report", "--scores", work / "scores", "--pictures", work / "pictures", "--out", out)
    run(monkeypatch, *given, "--dry-run")
    names = "quality.md, quality.png, quality_placed.md, quality_placed.png"
    assert capsys.readouterr().out == f"{names} would go to {out}. Nothing was written.\n"
    assert not out.exists()
    run(monkeypatch, *given)
    assert sorted(path.name for path in out.iterdir()) == [
        *("quality.md", "quality.png", "quality_placed.md", "quality_placed.png")
    ]
    page = (out / "quality.md").read_text()
    assert "| subjects missed | 0 | 0.0 % [0.0, 0.0] |" in page and "| masks | 2 | " in page
    assert "not placed" not in page and "Of 12 lines 0 have no scores." in page
    page = (out / "quality_placed.md").read_text()
    assert "| not placed | 2 | " in page and "| masks |" not in page
    # Two references, and three cases of two scenes.
    assert Image.open(out / "quality.png").size == (SCENES * 128, 5 * 128)


def test_pictures_of_other_files(work: Path, tmp_path: Path) -> None:
    """A scene, which no subject's reference is, was drawn again."""
    shutil.copytree(work, tmp_path / "work")
    lines, pictures = tmp_path / "work" / "microworld.jsonl", tmp_path / "work" / "pictures"
    assert len(read_made(lines, pictures)) == 12
    Image.new("RGB", (128, 128)).save(tmp_path / "work" / "scenes" / "two_001.png")
    with pytest.raises(ValueError, match=r"line 2: .*two_001.png isn't the file that picture"):
        read_made(lines, pictures)


def test_a_page_needs_its_scores_and_pictures(work: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--pictures: the micro world's contact sheets need its"):
        report(work / "scores", None, tmp_path)
    other = Folder(tmp_path / "other")
    other.create({"pack": "another"})
    with pytest.raises(ValueError, match=r"^--pictures: .*other isn't the folder that"):
        report(work / "scores", other.path, tmp_path)
    made_by, rows = read_scores(work / "scores" / "microworld" / "judged")
    made_by = {key: value for key, value in made_by.items() if key not in ("version", "set")}
    drawn = [row for row in rows.values() if row["name"].startswith("as drawn")]
    drawn += [row for row in rows.values() if row["name"].startswith("VAE")]
    ScoreFiles(tmp_path / "microworld" / "judged", "judged", made_by).add(drawn)
    with pytest.raises(ValueError, match="has neither the case 'masks' nor 'not placed'"):
        report(tmp_path, work / "pictures", tmp_path)
    assert not list(tmp_path.glob("*.md"))


def made_up(cases: Sequence[Case]) -> Rows:
    """Each case's scores are its own, and those of its scenes differ a little."""
    rows: Rows = {}
    for k, case in enumerate(cases):
        for i in range(case.count):
            row = {"number": len(rows) + 1, "name": line_name(case, i), "error": None}
            values = {column: [0.5 + 0.01 * k + 0.001 * i] * 2 for column in COLUMNS}
            rows[len(rows) + 1] = {**row, "picture": "1", **values}
    return rows


def test_pages_of_all_cases() -> None:
    cases = [replace(case, count=3) for case in CASES]
    sets = dict.fromkeys(case.scenes for case in cases)
    cases = [drawn for name in sets for drawn in drawn_cases(name, 3)] + cases
    at = {case.name: 0.5 + 0.01 * k + 0.001 for k, case in enumerate(cases)}  # means of cases
    of_adapters, of_flux = read_cases(Path("scores"), made_up(cases))
    assert [*of_adapters, *of_flux] == sorted(at, key=lambda name: name in of_flux)
    page = quality_page.write(scores_of(of_adapters), "A note.")

    def share(case: str, scenes: str) -> float:
        return at[case] / at[f"VAE round trip, {scenes}"]

    wide = 100 * (share("wide 3:2", "wide") - share("masks", "two"))
    for what, value in {
        "IoU, share of the VAE round trip's": 100 * share("masks", "two"),
        "gap to masks, by the judge": 100 * (at["masks switched off"] - at["masks"]),
        "gap to grounding kept": 100 * (at["masks"] - at["no grounding"]),
        "text alone: named shape and hue anywhere": 100 * at["text only"],
        "wide 3:2: IoU, share of round trip, against two on square": wide,
        "weight 0.3: shape": 100 * at["weight 0.3"],
        "auto layout, boxes shifted by 15 %: shape and hue anywhere, against true boxes": 100
        * (at["shifted boxes, auto layout"] - at["masks"]),
    }.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {what} |"))
        assert f"| {value:.1f} % [" in row
    assert "## Adapters of other families" in page and "on the first 3 scenes" in page
    assert page.endswith("A note.\n")
    assert quality_page.sheets(scores_of(of_adapters))["quality_families.png"] == [
        *("as drawn, two", "masks", "IP-Adapter, boxes", "MIP-Adapter, names")
    ]
    page = placed_page.write(scores_of(of_flux), "A note.")
    rows = [line for line in page.splitlines() if line.startswith("| placed, own texts |")]
    gap = 100 * (at["placed, own texts"] - at["not placed"])
    assert f"| {gap:.1f} % [{gap:.1f}, {gap:.1f}] |" in rows[0] and len(rows) == 2


def test_scenes_are_compared_with_themselves() -> None:
    """Lost, shuffled, doubled or mixed lines would compare others."""
    cases = [*drawn_cases("two", 3), replace(CASES[0], count=3)]
    assert CASES[0].name == "masks"

    def error(rows: Sequence[dict[str, Any]]) -> str:
        with pytest.raises(ValueError, match=r"^scores") as caught:
            read_cases(Path("scores"), dict(enumerate(rows, 1)))
        return str(caught.value)

    rows = [*made_up(cases).values()]
    assert error(rows[:7] + rows[8:]).startswith(
        "scores: expected scene 1 of 'two' as the next of case 'masks', got line 9, 'masks/two 2'."
    )
    assert "expected scene 0" in error([*rows[:6], rows[7], rows[6], rows[8]])
    assert "expected scene 3 of 'two' as the next of case 'as drawn, two'" in error(rows + rows)
    assert "got line 8, 'masks/wide 1'" in error(
        [*rows[:7], {**rows[7], "name": "masks/wide 1"}, rows[8]]
    )
    said = "scores has 3 scenes of case '{}', and {} of 'VAE round trip, two', which it is compared"
    assert said.format("as drawn, two", 0) in error(rows[:3] + rows[6:])
    assert said.format("as drawn, two", 2) in error(rows[:5] + rows[6:])
    assert "case 'masks', and 0 of 'as drawn, two'" in error(rows[6:])
    with pytest.raises(ValueError, match=r"1 lines of scores have no scores, line 5 \(VAE"):
        read_cases(Path("scores"), {5: {**rows[4], "error": "It has no picture."}})


def test_pictures_that_the_judge_cannot_score(tmp_path: Path) -> None:
    judged, path = Judged(JUDGE), tmp_path / "picture.png"
    Image.new("RGB", (64, 128)).save(path)
    for name in ("line 1", "masks/two", "masks/two 200", "masks/two 01", "masks/four 1"):
        with pytest.raises(ValueError, match=f"expected a line of the micro world, .*{name}"):
            read_line_name(name)
    with pytest.raises(ValueError, match="has 64 x 128 pixels; its scene has 128 x 128"):
        judged.score(Made(1, "masks/two 0", "", (), "1", path))
    with pytest.raises(FileNotFoundError, match=r"--judge: .*lost doesn't exist"):
        Judged(tmp_path / "lost")
    with pytest.raises(ValueError, match=r"--judge: .*picture.png can't be read as the micro"):
        Judged(path)
    with pytest.raises(ValueError, match=r"--judge: .*micro.safetensors can't be read as the"):
        Judged(MODELS / "checkpoints" / "micro.safetensors")


def test_every_case_fits_the_workflow(tmp_path: Path) -> None:
    """Each line is a job of its own, and sets only inputs that are there."""
    cases, path = choose_cases(MODELS, None, 1), tmp_path / "lines.jsonl"
    save_scenes(cases, tmp_path)
    save_lines((line for case in cases for line in case_lines(case)), path)
    jobs = read_jobs(path, read_workflow(WORKFLOW), MODELS, Hashes(None))
    assert len(jobs) == len(cases)
    of_flux = [job for job in jobs if job.name.endswith("small 0") and "seed" in job.line]
    assert len(of_flux) == 6
    for job in jobs:
        sampled = {"micro_flux.safetensors" in job.models, "vision" in job.prompt}
        assert sampled == ({True, False} if "seed" in job.line else {False})
        assert (job in of_flux) == ("micro_flux.safetensors" in job.models)


def test_cases_whose_adapter_is_missing_are_left_out() -> None:
    cases = choose_cases(MODELS, None, 1)
    assert {case.name for case in CASES} - {case.name for case in cases} == {
        *("IP-Adapter, boxes", "MIP-Adapter, names")
    }
    assert [case.name for case in cases[:3]] == ["as drawn, two", "VAE round trip, two", "masks"]
    assert all(case.count == 1 for case in cases)
