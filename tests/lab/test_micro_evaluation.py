"""The micro world's evaluation by the commands: lines, pictures, scores and pages."""

import sys
from pathlib import Path
from typing import Any

import job_lines
import pytest
from PIL import Image

from lab.evaluation.__main__ import main
from lab.evaluation.cases import CASES
from lab.evaluation.judged import COLUMNS, Judged
from lab.evaluation.made import Made
from lab.evaluation.microworld import WORKFLOW, case_lines, choose_cases, save_scenes
from lab.evaluation.report import report
from lab.evaluation.samples import save_lines
from lab.evaluation.score_files import ScoreFiles, read_scores
from lab.jobs.hashes import Hashes
from lab.jobs.lines import read_jobs, read_workflow
from lab.microworld import MODELS
from lab.microworld.judge import JUDGE

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
    assert capsys.readouterr().out.startswith("There are scores of microworld/judged. Nothing was")
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


def test_a_page_needs_all_scores(work: Path, tmp_path: Path) -> None:
    pictures = work / "pictures"
    with pytest.raises(ValueError, match=r"^--pictures: the micro world's contact sheets need its"):
        report(work / "scores", None, tmp_path)
    made_by, rows = read_scores(work / "scores" / "microworld" / "judged")
    made_by = {key: value for key, value in made_by.items() if key not in ("version", "set")}

    def save(name: str, kept: list[dict[str, Any]]) -> Path:
        scores = tmp_path / name
        ScoreFiles(scores / "microworld" / "judged", "judged", made_by).add(kept)
        return scores

    lost = {**dict.fromkeys(COLUMNS), **{k: rows[5][k] for k in ("number", "name", "picture")}}
    scores = save("lost", [*rows.values(), {**lost, "error": "It has no picture."}])
    with pytest.raises(ValueError, match=r"1 lines of .* no scores, line 5 \(masks/two 0\) among"):
        report(scores, pictures, tmp_path)
    drawn = [row for row in rows.values() if row["name"].startswith("as drawn")]
    with pytest.raises(ValueError, match="has neither the case 'masks' nor 'not placed'"):
        report(save("drawn", drawn), pictures, tmp_path)
    assert not list(tmp_path.glob("*.md"))


def test_pictures_that_the_judge_cannot_score(tmp_path: Path) -> None:
    judged, path = Judged(JUDGE), tmp_path / "picture.png"
    Image.new("RGB", (64, 128)).save(path)
    for name in ("line 1", "masks/two", "masks/two 200", "masks/four 1"):
        with pytest.raises(ValueError, match=f"expected a line of the micro world, .*{name}"):
            judged.check(Made(1, name, "", (), "1", path))
    with pytest.raises(ValueError, match="has 64 x 128 pixels; its scene has 128 x 128"):
        judged.score(Made(1, "masks/two 0", "", (), "1", path))
    with pytest.raises(FileNotFoundError, match=r"--judge: .*lost doesn't exist"):
        Judged(tmp_path / "lost")
    with pytest.raises(ValueError, match=r"--judge: .*picture.png isn't the micro world's judge"):
        Judged(path)
    with pytest.raises(ValueError, match=r"--judge: .*micro.safetensors isn't the micro world's"):
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
        assert ("seed" in job.line and sampled == {True, False}) or sampled == {False}
        assert (job in of_flux) == ("micro_flux.safetensors" in job.models)


def test_cases_whose_adapter_is_missing_are_left_out() -> None:
    cases = choose_cases(MODELS, None, 1)
    assert {case.name for case in CASES} - {case.name for case in cases} == {
        *("IP-Adapter, boxes", "MIP-Adapter, names")
    }
    assert [case.name for case in cases[:3]] == ["as drawn, two", "VAE round trip, two", "masks"]
    assert all(case.count == 1 for case in cases)
