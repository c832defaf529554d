"""The page of published figures beside our own."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab import ROOT
from lab.evaluation.__main__ import main
from lab.evaluation.average_precision import average_precision, find, weighted_precision
from lab.evaluation.paper_page import (
    BENCHES,
    PAPER_COLUMNS,
    own_table,
    paper_page,
    published_table,
    slots_table,
)
from lab.evaluation.published import WHOLE_PICTURES
from lab.evaluation.report import find_scores, report
from lab.evaluation.score_files import ScoreFiles

BOXES = [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]


def paper_row(number: int, name: str, dino: list[float], error: str | None = None) -> Any:
    row = {"number": number, "name": name, "picture": f"{number}", "error": error}
    if error:
        return row
    return {**row, "clip_t": [0.3], "clip_i": dino, "dino": dino, "m_dino": [math.prod(dino)]}


def detected_row(number: int, boxes: list[list[float]], shown: list[int]) -> Any:
    return {
        **{"number": number, "name": f"{number}", "picture": f"{number}", "error": None},
        **{"dino": [0.5, 0.5], "m_dino": [0.25], "iou": [0.5, 0.5], "missed": [0.0, 0.0]},
        "confused": [
            float(subject != j) if subject else math.nan for j, subject in enumerate(shown, 1)
        ],
        **{"shown": shown, "phrases": ["cat", "dog"], "boxes": BOXES},
        "found_phrases": ["cat", "dog"][: len(boxes)],
        **{"found_boxes": boxes, "found_scores": [0.9, 0.8][: len(boxes)]},
    }


def test_the_page_in_docs() -> None:
    """As long as nothing was measured, it is what the command would write then."""
    page = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
    if page.count("Not measured") == len(BENCHES):
        assert page == paper_page({})


def test_published_rows_have_their_sources() -> None:
    table = published_table(WHOLE_PICTURES["msbench"], PAPER_COLUMNS).splitlines()
    assert table[0] == "| published | CLIP-I | DINO | M-DINO | CLIP-T | source |"
    (ours,) = [line for line in table if line.startswith("| MS-Diffusion | ")]
    assert ours.startswith("| MS-Diffusion | 0.698 | 0.425 | 0.108 | 0.341 | MS-Diffusion's paper")
    assert "| without grounding resampler | | 0.389 | | | MS-Diff" in "\n".join(table)
    assert all(line.count("|") == 7 for line in table)


def test_means_over_lines_and_intervals_over_combinations() -> None:
    """A combination of one line with three subjects, and two of two lines with two."""
    rows = {
        1: paper_row(1, "a", [0.2, 0.4]),
        2: paper_row(2, "a", [0.2, 0.4]),
        3: paper_row(3, "b", [0.6, 0.6]),
        4: paper_row(4, "b", [0.6, 0.6]),
        5: paper_row(5, "c", [0.5, 0.5, 0.2]),
        6: paper_row(6, "c", [], error="It has no picture."),
    }
    lines = own_table(rows, {"dino": "DINO", "m_dino": "M-DINO"}).splitlines()
    assert lines[0] == "| | lines | DINO | M-DINO |"
    assert lines[2].startswith("| all | 5 | 0.440 [") and "| 0.186 [" in lines[2]
    assert lines[3] == "| two subjects | 4 | 0.450 [0.300, 0.600] | 0.220 [0.080, 0.360] |"
    assert lines[4] == "| three subjects | 1 | 0.400 [0.400, 0.400] | 0.050 [0.050, 0.050] |"


def test_average_precision() -> None:
    """A box that overlaps by 0.62 counts at 3 of COCO's 10 thresholds."""

    def values(*rows: Any) -> tuple[float, float]:
        whole, half = average_precision(rows, ["a"] * len(rows))
        for value, *ends in (whole, half):
            assert ends == pytest.approx([value] * 2)  # of one combination
        return whole[0], half[0]

    assert values(detected_row(1, BOXES, [1, 2])) == (1.0, 1.0)
    part = [[0.0, 0.0, 0.5, 0.62], [0.5, 0.0, 1.0, 0.62]]
    assert values(detected_row(1, part, [1, 2])) == pytest.approx((0.3, 1.0))
    assert values(detected_row(1, BOXES[::-1], [2, 1])) == (0.0, 0.0)
    half = values(detected_row(1, BOXES, [1, 2]), detected_row(2, BOXES[:1], [1, 0]))
    # The dog of the second isn't found: precision 1 up to a recall of 1/2, COCO's 51 points of 101.
    assert half == pytest.approx(((1 + 51 / 101) / 2,) * 2)


def random_rows(count: int, seed: int) -> list[Any]:
    """Of three phrases, with detections near the boxes and elsewhere."""
    g, rows = np.random.default_rng(seed), []
    for number in range(count):
        phrases = list(g.choice(["cat", "dog", "cup"], g.integers(1, 4)))
        low = g.uniform(0, 0.5, (len(phrases), 2))
        boxes = np.concatenate([low, low + g.uniform(0.2, 0.5, low.shape)], axis=1)
        row = detected_row(number, [], [0] * len(phrases))
        row |= {"name": f"{number % 7}", "phrases": phrases, "boxes": boxes.tolist()}
        more = g.integers(0, 5)
        seen = g.integers(0, len(phrases), more)
        found = boxes[seen] + g.normal(0, 0.03, (more, 4))
        row["found_phrases"] = [phrases[n] for n in seen]
        row |= {"found_boxes": found.tolist(), "found_scores": g.uniform(0.1, 1, more).tolist()}
        rows.append(row)
    return rows


def test_intervals_of_average_precision() -> None:
    """What is drawn again has torchmetrics' precision of lines that are there as often."""
    rows = random_rows(40, 1)
    found, weights = find(rows), np.random.default_rng(2).integers(0, 4, len(rows))
    for times in (np.ones(len(rows), dtype=int), weights):
        repeated = [row for row, count in zip(rows, times, strict=True) for _ in range(count)]
        (whole, *_), (half, *_) = average_precision(repeated, ["a"] * len(repeated))
        assert weighted_precision(found, times) == pytest.approx((whole, half), abs=1e-6)
        assert 0.05 < whole < half < 0.95
    few, many = (
        average_precision(of, [row["name"] for row in of])[0] for of in (rows, random_rows(400, 3))
    )
    assert few[1] < few[0] < few[2] and many[1] < many[0] < many[2]
    alone = average_precision(rows, [f"{n}" for n in range(len(rows))])[0]
    assert alone[1] < alone[0] < alone[2] and alone != few


def test_which_slot_shows_whom() -> None:
    rows = {n: detected_row(n, BOXES, shown) for n, shown in enumerate(([1, 2], [2, 1], [1, 0]))}
    assert slots_table(rows).splitlines()[1:] == [
        "| two subjects: shows | subject 1 | subject 2 | none, or not judged |",
        "| --- | --- | --- | --- |",
        "| slot 1 | 0.667 | 0.333 | 0.000 |",
        "| slot 2 | 0.333 | 0.333 | 0.333 |",
    ]


def test_a_page_with_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores"
    paper = [paper_row(n, f"{n // 2}", [0.1 * n, 0.4]) for n in range(1, 6)]
    lost = paper_row(6, "3", [], error="It has no picture.")
    ScoreFiles(scores / "msbench" / "paper", "paper", {"clip": "abc"}).add([*paper, lost])
    found = [detected_row(n, BOXES, [1, 2]) for n in range(1, 6)]
    ScoreFiles(scores / "msbench" / "detected", "detected", {"owlv2": "def"}).add(found)
    monkeypatch.setattr(sys, "argv", ["", "report", "--scores", str(scores), "--dry-run"])
    main()
    said = f"published.md would go to {ROOT / 'docs'}. Nothing was written.\n"
    assert capsys.readouterr().out == said
    report(scores, None, tmp_path)
    page = (tmp_path / "published.md").read_text()
    assert page.count("Not measured") == 1 and page.index("## DreamBench") < page.index("Not meas")
    assert "Our own, set `paper`:\n\n| | lines | CLIP-I | DINO | M-DINO | CLIP-T |" in page
    assert (
        "| two subjects | 5 | 0.350 [" in page
        and "AP 1.000 [1.000, 1.000], AP50 1.000 [1.000, 1.000]." in page
    )
    assert "`paper`: version 1, clip abc. Of 6 lines 1 have no scores:" in page
    assert "- line 6 (3): It has no picture." in page
    assert "`detected`: version 1, owlv2 def. Of 5 lines 0 have no scores." in page


def test_no_scores(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There are no scores in .*; expected any of msbench/"):
        find_scores(tmp_path)
    (tmp_path / "msbench" / "paper").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"paper isn't a folder of scores of lab.evaluation"):
        find_scores(tmp_path)
    found = [detected_row(1, BOXES, [1, 2])]
    ScoreFiles(tmp_path / "other", "detected", {"owlv2": "def"}).add(found)
    (tmp_path / "msbench" / "paper").rmdir()
    (tmp_path / "other").rename(tmp_path / "msbench" / "paper")
    with pytest.raises(ValueError, match=r"paper has the scores of another set: detected"):
        find_scores(tmp_path)
