"""One worker: a ComfyUI that makes the pictures of jobs, one after the other."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lab.host.prompt_error import PromptError
from lab.jobs.folder import Folder
from lab.jobs.lines import Job

OUT_OF_MEMORY = ("OutOfMemoryError", "ran out of memory on your GPU")  # as the host says it
# By Ctrl-C. Its exception alone isn't enough: libraries make other errors of it, safetensors among
# them, or none.
STOPPED = threading.Event()


class Host(Protocol):
    """A ComfyUI, in this process or at an address."""

    @property
    def name(self) -> str: ...

    def upload(self, path: Path, name: str) -> None: ...

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]: ...

    def view(self, outputs: dict[str, Any], node: str) -> bytes: ...

    def free(self) -> None: ...


@dataclass(frozen=True)
class Result:
    """What became of a job: it was "made", was "there" before, or has "failed"."""

    job: Job
    state: str
    error: str = ""


class Worker:
    """Makes pictures on a host.

    Args:
        name: of this worker among all that share the folder. A process that comes in the place of
            one that died has its name.
    """

    def __init__(self, name: str, folder: Folder, host: Host) -> None:
        self.name, self.folder, self.host = name, folder, host
        folder.bury(name)
        self.uploaded: set[str] = set()

    def make(self, job: Job) -> Result:
        """Make a job's picture, unless it is there; again if that fails, as often as is allowed.

        Raises KeyboardInterrupt: the process was stopped.
        """
        while True:
            if STOPPED.is_set():
                raise KeyboardInterrupt
            if self.folder.is_there(job.id):
                return Result(job, "there")
            if error := self.folder.failures().get(job.id):
                return Result(job, "failed", error)
            self.folder.begin(self.name, job.id)
            start = time.monotonic()
            try:
                png = self._run(job)
                manifest = {
                    "id": job.id,
                    "name": job.name,
                    "line": job.line,
                    "seconds": round(time.monotonic() - start, 3),
                    "worker": self.name,
                    "host": self.host.name,
                    **self.folder.versions(),
                    "files": {name: str(path) for name, path in job.files.items()},
                    "models": job.models,
                }
                first = self.folder.commit(self.name, job.id, png, manifest)
                return Result(job, "made" if first else "there")
            except PromptError as error:
                if STOPPED.is_set():
                    continue
                sentence = str(error).splitlines()[0]
                self.folder.add_try(job.id, sentence, last=_is_out_of_memory(error))
            finally:
                self.folder.end(self.name)

    def _run(self, job: Job) -> bytes:
        """The picture as PNG; where memory runs out, once more with nothing else in it."""
        for name in job.files.keys() - self.uploaded:
            try:
                self.host.upload(job.files[name], name)
            except OSError as error:
                if error.filename != str(job.files[name]):
                    raise  # the host's, or its folder's
                sentence = f"{job.files[name]} can't be read: {error.strerror}."
                raise PromptError(sentence, None) from error
            self.uploaded.add(name)
        try:
            outputs = self.host.run(job.prompt)
        except PromptError as error:
            if not _is_out_of_memory(error):
                raise
            self.host.free()
            outputs = self.host.run(job.prompt)
        return self.host.view(outputs, job.picture)


def _is_out_of_memory(error: PromptError) -> bool:
    details = error.details if isinstance(error.details, dict) else {}
    said = f"{details.get('exception_type')} {details.get('exception_message')}"
    return any(words in said for words in OUT_OF_MEMORY)
