"""The folder that pictures go to. What is in it decides what is left to do, whoever did it: several
runs, shards and machines may share one.

    made_by.json            the versions that all its pictures are of
    ab/abcd....png, .json   a picture and its manifest; the picture is there when both are
    failed.jsonl            the jobs that are left alone, and why; delete it to try them again
    tries/                  why jobs failed that will be tried again
    running/                the job that each worker has in work
    wanted/                 the ids of each list of jobs
"""

import hashlib
import json
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from lab.jobs.lines import Job

MAX_TRIES = 3


def process_name() -> str:
    """This process among those of all machines, by which a worker's name begins."""
    return f"{socket.gethostname().replace('.', '_')}@{os.getpid()}"


class Folder:
    """Such a folder, which need not exist before `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failed = path / "failed.jsonl"

    def create(self, made_by: dict[str, str]) -> None:
        """Raises ValueError: other versions made what is in it."""
        for name in ("running", "tries", "wanted"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self._link(self.path / "made_by.json", json.dumps(made_by).encode(), process_name())
        self.check(made_by)

    def check(self, made_by: dict[str, str]) -> None:
        """Raises ValueError: it isn't such a folder, or other versions made what is in it."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if (before := self.versions()) != made_by:
            changed = "; ".join(
                f"{name} was {before.get(name)}, is {version}"
                for name, version in made_by.items()
                if before.get(name) != version
            )
            raise ValueError(
                f"{self.path} has pictures of another version: {changed}. Give another folder, or "
                "go back to that version."
            )

    def versions(self) -> dict[str, str]:
        """Raises ValueError: it isn't such a folder."""
        try:
            made_by = json.loads((self.path / "made_by.json").read_text())
        except (OSError, ValueError):
            made_by = None
        if not isinstance(made_by, dict):
            raise ValueError(f"{self.path} isn't a folder of pictures of lab.jobs.")
        return made_by

    def is_there(self, job_id: str) -> bool:
        return self.manifest(job_id).exists() and self.picture(job_id).exists()

    def failures(self) -> dict[str, str]:
        """Why jobs are left alone, by id.

        Raises ValueError: failed.jsonl isn't of lab.jobs.
        """
        if not self.failed.exists():
            return {}
        found = {}
        for text in self.failed.read_text(errors="replace").splitlines(keepends=True):
            if not text.endswith("\n"):
                break  # it is being written, or was when a machine was lost
            try:
                line = json.loads(text)
                found[str(line["id"])] = str(line["error"])
            except (ValueError, LookupError, TypeError):
                raise ValueError(
                    f"{self.failed} isn't as lab.jobs writes it; delete it, and the jobs that "
                    f"failed are tried again. A line of it: {text.strip()[:80]}"
                ) from None
        return found

    def running(self) -> dict[str, str]:
        """The id of the job that each worker has in work, and of its process, by its name."""
        found = {}
        for note in (self.path / "running").glob("*"):
            with suppress(FileNotFoundError):  # it has just ended
                if "." not in note.name:
                    found[note.name] = note.read_text()
        return found

    def wanted(self) -> set[str]:
        """The ids of all jobs that were ever asked for."""
        lists = (self.path / "wanted").iterdir()
        return {job_id for ids in lists for job_id in ids.read_text().split()}

    def picture(self, job_id: str) -> Path:
        return self.path / job_id[:2] / f"{job_id}.png"

    def manifest(self, job_id: str) -> Path:
        return self.picture(job_id).with_suffix(".json")

    def want(self, jobs: Iterable[Job]) -> None:
        """Remember a list of jobs, for `status`."""
        text = "\n".join(job.id for job in jobs)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._link(self.path / "wanted" / name, text.encode(), process_name())

    def begin(self, worker: str, job_id: str) -> None:
        (self.path / "running" / worker).write_text(f"{job_id} {os.getpid()}")

    def end(self, worker: str) -> None:
        (self.path / "running" / worker).unlink(missing_ok=True)

    def leave(self) -> None:
        """Forget what this process and its workers have in work: they were stopped on purpose."""
        for note in (self.path / "running").glob(f"{process_name()}*"):
            if not note.name.removeprefix(process_name())[:1].isdigit():
                note.unlink(missing_ok=True)

    def bury(self, worker: str) -> None:
        """Count a failed try of each job in which this worker's last process died, or a process of
        this machine that is no more."""
        for note in (self.path / "running").iterdir():
            owner = note.name.split(".")[0]
            if not (owner == worker or _is_dead(owner)):
                continue
            try:
                job_id = note.read_text().partition(" ")[0] if note.name == owner else ""
                note.unlink()  # of several who see it one can
            except FileNotFoundError:
                continue
            if job_id and not self.is_there(job_id):
                self.add_try(job_id, "Its worker died.")

    def commit(self, worker: str, job_id: str, png: bytes, manifest: dict[str, Any]) -> bool:
        """Put a picture into its place, whole or not at all; returns whether it is the first."""
        self.picture(job_id).parent.mkdir(exist_ok=True)
        # A picture whose worker died before the manifest is as good as this one, and so is the
        # manifest of a picture that was lost.
        pictured = self._link(self.picture(job_id), png, worker)
        text = json.dumps(manifest, indent=1).encode()
        first = self._link(self.manifest(job_id), text, worker) or pictured
        self._forget_tries(job_id)
        return first

    def add_try(self, job_id: str, error: str, last: bool = False) -> None:
        """Note why a job failed. After the third time it's left alone, or after the `last`."""
        for number in range(1, MAX_TRIES):
            if last:
                break
            try:
                with self._try(job_id, number).open("x") as file:
                    file.write(error)
                return
            except FileExistsError:
                continue
        if job_id not in self.failures():
            line = json.dumps({"id": job_id, "error": error})
            with self.failed.open("ab", buffering=0) as file:  # one write: others may write too
                file.write(f"{line}\n".encode())
        self._forget_tries(job_id)

    def _forget_tries(self, job_id: str) -> None:
        for number in range(1, MAX_TRIES):
            self._try(job_id, number).unlink(missing_ok=True)

    def _try(self, job_id: str, number: int) -> Path:
        return self.path / "tries" / f"{job_id}.{number}"

    def _link(self, place: Path, content: bytes, worker: str) -> bool:
        """Write aside, and link into place, which fails if something is there."""
        aside = self.path / "running" / f"{worker}.{place.name}"
        aside.write_bytes(content)
        try:
            os.link(aside, place)
        except FileExistsError:
            return False
        finally:
            aside.unlink()
        return True


def _is_dead(worker: str) -> bool:
    """Whether it was a worker of this machine and its process is no more."""
    machine, _, process = worker.partition("@")
    here = process_name().partition("@")[0]
    return machine == here and not psutil.pid_exists(int(process.split("@")[0]))
