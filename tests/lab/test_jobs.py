"""Pictures of job lines on the real host with the micro family, by every engine, while workers and
drivers are killed: nothing is lost, nothing is there twice, and all have the loop's pixels."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from job_lines import ENVIRONMENT, failing, finish, line, pictures, save_lines, start

from lab.ending import FAILED
from lab.host import host_folder
from lab.host.server import PromptError, Server
from lab.jobs.__main__ import main
from lab.jobs.engines import JOB_MEMORY
from lab.jobs.folder import Folder
from lab.microworld import MODELS

COUNT = 14
IMPOSSIBLE = "KSampler: Value not in list: sampler_name: 'nonsense'"


@dataclass
class Loop:
    """What the plain loop made of lines of which two can't be made."""

    command: list[str]
    out: Path
    printed: str
    pixels: dict[str, bytes]
    failures: dict[str, str]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    folder = tmp_path_factory.mktemp("jobs")
    lines = [line(seed) for seed in range(COUNT)]
    lines[3]["inputs"] = {"KSampler": {"sampler_name": "nonsense"}}
    lines[5] = failing(5, "of memory")
    lines[7] = failing(7, "of memory, once")
    command, out = save_lines(folder, lines), folder / "out"
    printed = finish(start(command, out), FAILED)
    return Loop(command, out, printed, pictures(out), Folder(out).failures())


def wait_for(event: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that must happen while the process runs."""
    while not event():
        assert process.poll() is None, process.communicate()[0]
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue


def stop_inside_a_picture(out: Path, run: subprocess.Popen[str]) -> int:
    """Stop a process that has a picture in work, which is then sure not to end; returns it."""
    folder, stopped = Folder(out), []

    def stop() -> bool:
        for worker, note in folder.running().items():
            job_id, _, process = note.partition(" ")
            if process and psutil.pid_exists(int(process)) and not stopped:
                os.kill(int(process), signal.SIGSTOP)
                if folder.running().get(worker) == note and not folder.is_there(job_id):
                    stopped.append(int(process))
                else:
                    os.kill(int(process), signal.SIGCONT)
        return bool(stopped)

    wait_for(stop, run)
    return stopped[0]


def assert_as_the_loop(out: Path, loop: Loop) -> None:
    assert pictures(out) == loop.pixels
    assert len(list(out.glob("??/*.png"))) == len(loop.pixels)
    failed = [json.loads(row)["id"] for row in (out / "failed.jsonl").read_text().splitlines()]
    assert sorted(failed) == sorted(loop.failures)
    assert not list((out / "running").iterdir()) and not list((out / "tries").iterdir())


def test_the_loop_makes_what_can_be_made(loop: Loop) -> None:
    """One that the host refuses and one that needs more memory than there is are told; one that
    finds its memory after all models were unloaded is made."""
    assert len(loop.pixels) == COUNT - 2 and len(set(loop.pixels.values())) == COUNT - 2
    memory, refused = sorted(loop.failures.values(), key=lambda error: IMPOSSIBLE in error)
    assert IMPOSSIBLE in refused and "An attention failed." in memory
    done = f"{COUNT} of {COUNT}: {COUNT - 2} made, 2 failed"
    assert re.search(rf"^{done}, \d+\.\d\d/s, 0:00:00 left$", loop.printed, re.MULTILINE)
    assert "Line 4 failed" in loop.printed and "Line 6 failed" in loop.printed
    assert_as_the_loop(loop.out, loop)


def test_a_manifest_says_what_made_the_picture(loop: Loop) -> None:
    (path, *_) = loop.out.glob("??/*.json")
    manifest = json.loads(path.read_text())
    assert manifest["id"] == path.stem and manifest["seconds"] > 0
    assert manifest["line"]["prompt"] == "a star and a heart on grass"
    assert set(manifest["models"]) == {
        "micro.safetensors",
        "micro_vision.safetensors",
        "ms_adapter_micro.safetensors",
    }
    assert len(manifest["files"]) == 2 and "in process" in manifest["host"]


def test_running_again_makes_nothing(loop: Loop) -> None:
    printed = finish(start(loop.command, loop.out), FAILED)
    assert f"{COUNT} jobs: {COUNT - 2} are there, 2 failed before, 0 to make" in printed


def test_status(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "status", str(loop.out)])
    main()
    first, *failed = capsys.readouterr().out.splitlines()
    assert first == f"{COUNT} jobs: {COUNT - 2} are there, 2 failed, 0 to make, 0 of them in work."
    assert sorted(failed) == sorted(f"{n} failed: {error}" for n, error in loop.failures.items())


def test_a_killed_worker_a_killed_driver_then_two_shards_and_ray_at_once(
    loop: Loop, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    driver = start(loop.command, out, "--workers", "2")
    wait_for(lambda: len(pictures(out)) >= 2, driver)
    os.kill(stop_inside_a_picture(out, driver), signal.SIGKILL)
    before = len(pictures(out))
    wait_for(lambda: len(pictures(out)) > before, driver)
    stop_inside_a_picture(out, driver)
    processes = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.communicate()
    for process in processes:  # as where the whole machine is lost
        process.kill()
    psutil.wait_procs(processes)
    assert before < len(pictures(out)) < len(loop.pixels)
    engines = (("--workers", "1"), ("--shard", "1/2"), ("--shard", "2/2"))
    for run in [start(loop.command, out, *arguments) for arguments in engines]:
        finish(run, FAILED)
    assert_as_the_loop(out, loop)


def test_ctrl_c_loses_nothing(loop: Loop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = start(loop.command, out)
    wait_for(lambda: bool(Folder(out).running()), run)
    run.send_signal(signal.SIGINT)
    assert finish(run, 1).endswith("Stopped. The same command goes on.\n")
    assert not list((out / "running").iterdir()) and not list((out / "tries").iterdir())


def test_ctrl_c_stops_where_a_library_makes_another_error_of_it(tmp_path: Path) -> None:
    command = save_lines(tmp_path, [line(0), failing(1, "of Ctrl-C"), line(2)])
    out = tmp_path / "out"
    printed = finish(start(command, out), 1)
    assert "An attention failed." in printed
    assert printed.endswith("Stopped. The same command goes on.\n")
    assert len(pictures(out)) == 1 and not Folder(out).failures()
    assert not list((out / "running").iterdir()) and not list((out / "tries").iterdir())


def test_ray_leaves_a_job_alone_that_kills_its_worker(tmp_path: Path) -> None:
    script = Path(__file__).parent / "deadly.py"
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    for number in range(8):
        expected = "failed Its worker died." if number == 3 else "made"
        assert f"{number} {expected}" in done.stdout
    assert "\nA worker failed: ValueError: It can't begin.\n" in done.stdout


@pytest.fixture
def ray_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a Ray that runs already, as `ray start` leaves one on a cluster's first machine, with a
    token."""
    monkeypatch.setitem(ENVIRONMENT, "RAY_AUTH_TOKEN", "a" * 64)  # not one in the user's folder
    monkeypatch.delitem(ENVIRONMENT, "RAY_AUTH_MODE", raising=False)
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        address = Path(folder) / "ray_current_cluster"
        options = {
            "--port": "0",  # any that is free
            "--num-cpus": "2",
            "--include-dashboard": "false",
            "--object-store-memory": str(JOB_MEMORY),
            "--temp-dir": folder,
        }
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--disable-usage-stats", *(x for pair in options.items() for x in pair)),
            ],
            env={**ENVIRONMENT, "RAY_AUTH_MODE": "token"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_for(lambda: address.exists() and bool(address.read_text()), head)
            yield address.read_text()
            assert head.poll() is None
        finally:
            processes = psutil.Process(head.pid).children(recursive=True)
            for process in (head, *processes):
                process.kill()
            head.communicate()
            psutil.wait_procs(processes)


def test_a_ray_that_runs_already_makes_the_same(
    loop: Loop, ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, given = tmp_path / "out", ("--address", ray_address, "--workers", "2")
    printed = finish(start(loop.command, out, *given), 1)
    said = printed.splitlines()[-1]
    assert said.startswith(f"--address: Ray can't be reached at {ray_address}: Failed to connect")
    assert said.endswith(" If it was started with a token, set RAY_AUTH_MODE=token.")
    monkeypatch.setitem(ENVIRONMENT, "RAY_AUTH_MODE", "token")
    printed = finish(start(loop.command, out, *given), FAILED)
    assert f"{COUNT} to make by Ray at {ray_address}." in printed
    assert_as_the_loop(out, loop)
    workers = {json.loads(path.read_text())["worker"][-2:] for path in out.glob("??/*.json")}
    assert workers <= {"@0", "@1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("server")
    (base / "models").symlink_to(MODELS, target_is_directory=True)
    with Server(host_folder(), base) as running:
        yield running


def test_a_node_that_is_not_there(server: Server) -> None:
    with pytest.raises(PromptError) as caught:
        server.run({"1": {"class_type": "NoSuchNode", "inputs": {}}})
    said = "Node 'NoSuchNode' not found. The custom node may not be installed. Node ID '#1'"
    assert str(caught.value) == f"The host refused the prompt: {said}"


def test_a_server_makes_the_same_until_it_goes_away(
    loop: Loop, server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    finish(start(loop.command, out, "--server", server.address), FAILED)
    assert_as_the_loop(out, loop)
    assert all(
        json.loads(path.read_text())["host"] == server.address for path in out.glob("??/*.json")
    )
    command = save_lines(tmp_path, [line(seed) for seed in range(100, 140)])
    run = start(command, out, "--server", server.address)
    wait_for(lambda: len(pictures(out)) > len(loop.pixels), run)
    server.stop()
    assert f"{server.address} " in finish(run, 1).splitlines()[-1]
    printed = finish(start(command, out, "--server", server.address), 1)
    assert f"--server: {server.address} isn't a ComfyUI that answers" in printed
