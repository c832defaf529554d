"""The micro world's evaluation in the tests' own host: lines, pictures, scores."""

from pathlib import Path
from typing import Any

import pytest

import lab.host.in_process
import lab.microworld.pack
from lab.evaluation.cases import Case
from lab.evaluation.judged import COLUMNS, Judged
from lab.evaluation.made import Made, read_made
from lab.evaluation.microworld import WORKFLOW, case_lines, save_scenes
from lab.evaluation.samples import save_lines
from lab.evaluation.statistics import Scores
from lab.host.in_process import InProcess
from lab.jobs.folder import Folder
from lab.jobs.hashes import Hashes
from lab.jobs.lines import read_jobs, read_workflow
from lab.jobs.worker import Worker
from lab.microworld import JUDGE, MODELS


class Evaluation:
    """What lab.jobs makes of cases, and its scores, in a ComfyUI that is loaded already.

    Args:
        registry: its node classes, with the micro world's.
        folder: for lines and pictures.
    """

    def __init__(self, registry: dict[str, Any], folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lab.host.in_process, "load_host", lambda: registry)
            self.host = InProcess(MODELS)
        self.folder, self.runs, self.judged = folder, 0, Judged(JUDGE)

    def made(self, case: Case) -> list[Made]:
        """Its lines with their pictures, made now."""
        self.host.free()  # else the executor gives what it had before a test changed the pack
        self.runs += 1
        out = self.folder / f"{self.runs}"
        lines, pictures = out / "lines.jsonl", Folder(out / "pictures")
        save_scenes([case], out)
        save_lines(case_lines(case), lines)
        pictures.create({})
        worker = Worker("test", pictures, self.host)
        for job in read_jobs(lines, read_workflow(WORKFLOW), MODELS, Hashes(None)):
            result = worker.make(job)
            assert result.state == "made", result.error
        return read_made(lines, pictures.path)

    def scores(self, case: Case) -> Scores:
        """By column, a row a scene."""
        rows = [self.judged.score(made) for made in self.made(case)]
        return {column: [row[column] for row in rows] for column in COLUMNS}
