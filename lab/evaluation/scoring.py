"""The command `score`: figures of made pictures, into files."""

import argparse
import hashlib
from pathlib import Path
from typing import Any, Protocol

import torch

from lab.evaluation.cases import read_line_name
from lab.evaluation.detected import Detected
from lab.evaluation.encoders import Clip, Detector, Dino
from lab.evaluation.judged import Judged
from lab.evaluation.made import Made, check_subjects, read_made
from lab.evaluation.paper import Paper
from lab.evaluation.score_files import ScoreFiles
from lab.jobs.folder import Folder
from lab.jobs.lines import naming_line
from lab.progress import Progress

PORTION = 50  # lines a file: what a killed run loses at most
FEW = 5  # lines without scores that are named


class Figures(Protocol):
    """A set of figures."""

    made_by: dict[str, str]

    def score(self, made: Made) -> dict[str, Any]: ...


def load_figures(name: str, options: argparse.Namespace) -> Figures:
    """A set by name, with the networks that the options name."""
    if name == "judged":
        return Judged(options.judge)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "paper":
        return Paper(Clip(options.clip, device), Dino(options.dino, device))
    detector = Detector(options.owlv2, device)
    return Detected(detector, Dino(options.dinov2, device, second=True))


def check_lines(name: str, lines: Path, made: list[Made]) -> None:
    """Raises ValueError: a set can't be of one of the lines; says which."""
    for line in made:
        with naming_line(lines, line.number):
            if name == "judged":
                read_line_name(line.name)
            else:
                check_subjects(line)


def score(options: argparse.Namespace) -> bool:
    """Score what has no scores yet; returns whether all lines have.

    Raises:
        ValueError: a bad line, a folder of another version, an encoder of another kind.
        FileNotFoundError: a reference or an encoder is missing.
    """
    if not options.lines.is_file():
        raise FileNotFoundError(f"lines: there is no file {options.lines}.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, and PyTorch sees none.")
    made = read_made(options.lines, options.pictures)
    for name in options.sets:
        check_lines(name, options.lines, made)
    lines = hashlib.sha256(options.lines.read_bytes()).hexdigest()[:16]
    made_by = {"lines": lines, **Folder(options.pictures).versions()}
    complete = True
    for name in options.sets:
        figures = load_figures(name, options)
        files = ScoreFiles(options.out / name, name, {**made_by, **figures.made_by})
        left = [line for line in made if not _is_scored(line, files)]
        without = sum(not line.id for line in left)
        print(
            f"{name}: {len(made)} lines, {len(made) - len(left)} are scored, {without} have no "
            f"picture, {len(left) - without} to score."
        )
        if options.dry_run:
            continue
        options.out.mkdir(parents=True, exist_ok=True)  # before hours are spent
        score_lines(figures, files, left)
        complete &= print_failures(name, files)
    if options.dry_run:
        print("Nothing was scored or written.")
    return complete


def score_lines(figures: Figures, files: ScoreFiles, lines: list[Made]) -> None:
    """Score lines; what was scored is written whatever happens."""
    progress, failed, rows = Progress(len(lines)), 0, []
    try:
        for done, made in enumerate(lines, 1):
            row = {"number": made.number, "name": made.name, "picture": made.id, "error": None}
            try:
                if not made.id:
                    raise ValueError("It has no picture.")
                row |= figures.score(made)
            except (OSError, ValueError, RuntimeError) as error:
                failed += 1
                row["error"] = (str(error) or type(error).__name__).splitlines()[0]
            rows.append(row)
            if len(rows) == PORTION:
                files.add(rows)
                rows = []
            progress.show(done, f"{failed} failed")
    finally:
        if rows:
            files.add(rows)


def print_failures(name: str, files: ScoreFiles) -> bool:
    """Print which lines have no scores; returns whether there are none."""
    failed = [row for row in files.rows.values() if row["error"]]
    for row in failed[:FEW]:
        print(f"{name}: line {row['number']} ({row['name']}) has no scores: {row['error']}")
    if failed[FEW:]:
        print(f"{name}: {len(failed) - FEW} more have none.")
    return not failed


def _is_scored(made: Made, files: ScoreFiles) -> bool:
    row = files.rows.get(made.number)
    return bool(made.id and row and not row["error"] and row["picture"] == made.id)
