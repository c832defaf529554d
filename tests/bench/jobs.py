"""What the engine and the folder cost: python tests/bench/jobs.py

Workers of Ray sleep instead of sampling, as a CPU does while a GPU works; all else is real. Prints
the share of the workers' time that is sleep, from when the last one began until the first one had
nothing left.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lab.jobs.engines import work_on_ray
from lab.jobs.folder import Folder
from lab.jobs.lines import Job
from lab.jobs.worker import Worker

SIZE = 1_500_000  # bytes, about those of a picture of 1024 x 1024


@dataclass
class Sleeper:
    """A host whose pictures take a fixed time."""

    seconds: float
    notes: Path
    name: str = "sleeper"

    def upload(self, path: Path, name: str) -> None: ...

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        start = time.time()
        time.sleep(self.seconds)
        with self.notes.open("a") as file:
            file.write(json.dumps([start, time.time()]) + "\n")
        return {}

    def view(self, outputs: dict[str, Any], node: str) -> bytes:
        return bytes(SIZE)

    def free(self) -> None: ...


@dataclass(frozen=True)
class MakeSleeper:
    """Makes a sleeping worker of a name, in the actor's process."""

    out: Path
    notes: Path
    seconds: float

    def __call__(self, name: str) -> Worker:
        return Worker(name, Folder(self.out), Sleeper(self.seconds, self.notes / name))


def measure(workers: int, seconds: float, rounds: int, base: Path) -> dict[str, float]:
    folder, notes = Folder(base / "out"), base / "notes"
    folder.create({"jobs": "1"})
    notes.mkdir()
    jobs = [Job(f"{n:016x}", "", n, {}, {}, "", {}, {}) for n in range(workers * rounds)]
    made = 0
    driver, start = 0.0, time.monotonic()
    for result in work_on_ray(jobs, MakeSleeper(folder.path, notes, seconds), workers, None):
        driver = driver or psutil.Process().cpu_times().user
        made += result.state == "made"
    driver = psutil.Process().cpu_times().user - driver
    assert made == len(jobs)
    slept = [[json.loads(row) for row in path.open()] for path in notes.iterdir()]
    assert len(slept) == workers
    begin = max(times[0][0] for times in slept)
    end = min(times[-1][1] for times in slept)
    inside = sum(
        max(0.0, min(stop, end) - max(first, begin)) for times in slept for first, stop in times
    )
    return {
        "efficiency": inside / (workers * (end - begin)),
        "seconds measured": end - begin,
        "seconds in all": time.monotonic() - start,
        "ms of the driver's CPU a job": 1000 * driver / made,
        "load": psutil.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a picture")
    parser.add_argument("--rounds", type=int, default=40, help="pictures for each worker")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        found = measure(options.workers, options.seconds, options.rounds, Path(base))
    for name, value in found.items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
