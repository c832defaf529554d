"""Ray's workers on jobs of which one kills its worker: python deadly.py OUT

Prints what became of each, and then the error of a worker that can't begin.
"""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.jobs.engines import work_on_ray
from lab.jobs.folder import Folder
from lab.jobs.lines import Job
from lab.jobs.worker import Worker


class Deadly:
    """In place of a ComfyUI, which would take long to start four times."""

    name = "deadly"

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        if prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def view(self, outputs: dict[str, Any], node: str) -> bytes:
        return b"picture"


@dataclass(frozen=True)
class MakeDeadly:
    out: Path

    def __call__(self, name: str) -> Worker:
        host: Any = Deadly()
        return Worker(name, Folder(self.out), host)


def make_nothing(name: str) -> Worker:
    raise ValueError("It can't begin.")


if __name__ == "__main__":
    folder = Folder(Path(sys.argv[1]))
    folder.create({"jobs": "1"})
    jobs = [
        Job(f"{n:016x}", "", n, {}, {"kill": {}} if n == 3 else {}, "", {}, {}) for n in range(8)
    ]
    for result in work_on_ray(jobs, MakeDeadly(folder.path), 2, None):
        print(result.job.number, result.state, result.error)
    try:
        list(work_on_ray(jobs[:1], make_nothing, 1, None))
    except ChildProcessError as error:
        print(error)
