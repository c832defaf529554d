"""The folder of pictures: first come, whole, and never twice."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from job_lines import ENVIRONMENT

from lab import ROOT
from lab.jobs.folder import MAX_TRIES, Folder, process_name
from lab.jobs.lines import Job
from lab.jobs.worker import Worker

MADE_BY = {"jobs": "1", "comfyui": "0.30.0", "pack": "1234"}
JOB = "abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "out")
    folder.create(MADE_BY)
    return folder


def files(folder: Folder) -> set[str]:
    paths = (path for path in folder.path.rglob("*") if path.is_file())
    return {path.relative_to(folder.path).as_posix() for path in paths}


def test_the_first_picture_stays(folder: Folder) -> None:
    assert not folder.is_there(JOB)
    assert folder.commit("first", JOB, b"first", {"worker": "first"})
    assert not folder.commit("second", JOB, b"second", {"worker": "second"})
    assert folder.is_there(JOB)
    assert folder.picture(JOB).read_bytes() == b"first"
    assert json.loads(folder.manifest(JOB).read_text()) == {"worker": "first"}
    assert files(folder) == {"made_by.json", f"ab/{JOB}.png", f"ab/{JOB}.json"}


def test_a_picture_without_manifest_is_made_again(folder: Folder) -> None:
    """Its worker died between the two."""
    folder.picture(JOB).parent.mkdir()
    folder.picture(JOB).write_bytes(b"first")
    assert not folder.is_there(JOB)
    assert folder.commit("second", JOB, b"the same pixels", {})
    assert folder.is_there(JOB) and folder.picture(JOB).read_bytes() == b"first"


def test_a_picture_that_is_lost_is_made_again(folder: Folder) -> None:
    folder.commit("first", JOB, b"first", {"worker": "first"})
    folder.picture(JOB).unlink()
    assert not folder.is_there(JOB)
    assert folder.commit("second", JOB, b"the same pixels", {"worker": "second"})
    assert folder.is_there(JOB) and folder.picture(JOB).read_bytes() == b"the same pixels"
    assert not folder.commit("third", JOB, b"third", {"worker": "third"})
    assert folder.picture(JOB).read_bytes() == b"the same pixels"


class Unread:
    """A host that is given its files, and runs nothing."""

    name = "unread"

    def upload(self, path: Path, name: str) -> None:
        path.read_bytes()

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        return {}

    def view(self, outputs: dict[str, Any], node: str) -> bytes:
        return b"picture"


def test_a_reference_that_is_deleted_fails_its_job(folder: Folder, tmp_path: Path) -> None:
    host: Any = Unread()
    lost = tmp_path / "lost.png"
    jobs = [
        Job(JOB, "", 1, {}, {}, "", {"1.png": lost}, {}),
        Job("fedcba", "", 2, {}, {}, "", {}, {}),
    ]
    worker = Worker("worker", folder, host)
    assert [worker.make(job).state for job in jobs] == ["failed", "made"]
    assert folder.failures() == {JOB: f"{lost} can't be read: No such file or directory."}


def test_files_of_another_program(folder: Folder) -> None:
    lines = (
        b'{"x": 1}\n',
        b"[]\n",
        b'{"id": "1", "err{"id": "2", "error": "It failed."}\n',
        b"\xff\n",
    )
    for line in lines:
        folder.failed.write_bytes(line)
        with pytest.raises(
            ValueError, match=r"failed.jsonl isn't as lab.jobs writes it; delete it"
        ):
            folder.failures()
    folder.failed.write_text('{"id": "1", "error": "It failed."}\n{"id": "2", "err')
    assert folder.failures() == {"1": "It failed."}  # the other is being written
    (folder.path / "made_by.json").write_text("[]")
    with pytest.raises(ValueError, match=r"isn't a folder of pictures of lab.jobs."):
        folder.check(MADE_BY)


def test_the_third_failure_is_the_last(folder: Folder) -> None:
    for _ in range(MAX_TRIES - 1):
        folder.add_try(JOB, "It failed.")
        assert not folder.failures()
    folder.add_try(JOB, "It failed again.")
    folder.add_try("123456", "No memory.", last=True)
    assert folder.failures() == {JOB: "It failed again.", "123456": "No memory."}
    for _ in range(MAX_TRIES):  # another run had it in work too
        folder.add_try(JOB, "It failed.")
    assert len(folder.failed.read_text().splitlines()) == 2
    assert files(folder) == {"made_by.json", "failed.jsonl"}


def test_success_forgets_failures(folder: Folder) -> None:
    folder.add_try(JOB, "It failed.")
    folder.commit("worker", JOB, b"picture", {})
    assert not list((folder.path / "tries").iterdir())


BEGIN = f"""
import os, signal, sys
from pathlib import Path
from lab.jobs.folder import Folder, process_name
name = process_name() + sys.argv[2]
Folder(Path(sys.argv[1])).begin(name, {JOB!r})
(Path(sys.argv[1]) / "running" / f"{{name}}.picture.png").write_bytes(b"unfinished")
os.kill(os.getpid(), signal.SIGKILL)
"""


def die_in_a_job(folder: Folder, number: str = "") -> None:
    command = [sys.executable, "-c", BEGIN, str(folder.path), number]
    killed = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=False)
    assert killed.returncode == -signal.SIGKILL


def test_a_job_that_kills_its_worker_is_left_alone(folder: Folder) -> None:
    for number in ("", "@0", "@1"):
        assert not folder.failures()
        die_in_a_job(folder, number)
        folder.bury(process_name())
    assert folder.failures() == {JOB: "Its worker died."}
    assert files(folder) == {"made_by.json", "failed.jsonl"}


def test_a_worker_that_comes_in_place_of_another_counts_its_death(folder: Folder) -> None:
    """On another machine, where nothing can be said of processes."""
    folder.begin("elsewhere@12@0", JOB)
    folder.bury("elsewhere@12@1")
    assert set(folder.running()) == {"elsewhere@12@0"}
    folder.bury("elsewhere@12@0")
    assert not folder.running() and len(list((folder.path / "tries").iterdir())) == 1


def test_who_lives_is_not_buried(folder: Folder) -> None:
    folder.begin(f"{process_name()}@0", JOB)
    folder.bury(f"{process_name()}@1")
    assert folder.running()
    folder.leave()
    assert not folder.running() and not list((folder.path / "tries").iterdir())


def test_a_death_after_the_picture_was_there_is_no_failure(folder: Folder) -> None:
    folder.begin("worker", JOB)
    folder.commit("worker", JOB, b"picture", {})
    folder.bury("worker")
    assert not list((folder.path / "tries").iterdir())


def test_a_folder_of_another_version_is_refused(folder: Folder, tmp_path: Path) -> None:
    folder.create(MADE_BY)
    with pytest.raises(ValueError, match=r"another version: comfyui was 0.30.0, is 0.31.0. Give"):
        folder.create({**MADE_BY, "comfyui": "0.31.0"})
    (tmp_path / "other").mkdir()
    Folder(tmp_path / "other").check(MADE_BY)
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(ValueError, match=r"other isn't a folder of pictures of lab.jobs."):
        Folder(tmp_path / "other").check(MADE_BY)
