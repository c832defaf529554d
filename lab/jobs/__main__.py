"""Makes the picture of each line of a file, on one machine or many.

    python -m lab.jobs run layouts.jsonl --out out/
    python -m lab.jobs status out/

Run again, it makes what is missing. Several runs may share the folder: nothing is lost, and nothing
is made twice. It ends with 3 where jobs failed. docs/scale.md says more, lab/jobs/lines.py what a
line may hold.
"""

import argparse
import hashlib
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from lab import ROOT, ending
from lab.host import host_folder
from lab.jobs.engines import (
    InProcessWorker,
    add_engine,
    work,
    work_on_servers,
)
from lab.jobs.folder import Folder
from lab.jobs.hashes import Hashes
from lab.jobs.lines import VERSION, WORKFLOW, Job, read_jobs, read_workflow
from lab.jobs.worker import STOPPED, Result
from lab.microworld import LOADER_PACK
from lab.progress import Progress

FEW = 5  # failed jobs that are named
Results = Generator[Result, None, None]


def main() -> None:
    options = parse()

    def stop(*_: Any) -> None:
        STOPPED.set()
        raise KeyboardInterrupt

    ending.listen(stop)
    try:
        if options.command == "status":
            print_status(Folder(options.out))
        elif not run(options):
            sys.exit(ending.FAILED)
    except KeyboardInterrupt:
        sys.exit(ending.STOPPED)
    except (OSError, ValueError, RuntimeError) as error:  # NumPy's import makes one of Ctrl-C
        sys.exit(ending.STOPPED if STOPPED.is_set() else str(error))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lab.jobs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="make the pictures that are missing")
    run.add_argument("lines", type=Path, help="file with a job a line")
    run.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    run.add_argument(
        "--workflow", type=Path, default=WORKFLOW, help="in API form; by default MS-Diffusion's"
    )
    run.add_argument(
        "--models", type=Path, help="folder of the models; by default that of COMFYUI_PATH"
    )
    run.add_argument(
        "--server", nargs="+", metavar="URL", help="ComfyUIs that run, instead of one in here"
    )
    add_engine(run)
    run.add_argument("--dry-run", action="store_true", help="say what would be made, write nothing")
    status = commands.add_parser(
        "status", help="say what is there, what failed and what is missing"
    )
    status.add_argument("out", type=Path)
    status.add_argument("--dry-run", action="store_true", help="no difference: it writes nothing")
    options = parser.parse_args()
    if options.command == "run" and options.server and (options.workers or options.address):
        parser.error("--server goes without --workers and --address: each server is a worker")
    return options


def run(options: argparse.Namespace) -> bool:
    """Make what is missing; returns whether no job failed."""
    for option, path in (("lines", options.lines), ("--workflow", options.workflow)):
        if not path.is_file():
            raise FileNotFoundError(f"{option}: there is no file {path}.")
    models = options.models or host_folder() / "models"
    if not models.is_dir():
        raise ValueError(f"--models: {models} is no folder.")
    folder, made_by = Folder(options.out), versions(options.server or [])
    folder.check(made_by)
    hashes = Hashes(options.out / "hashes.json")
    workflow = read_workflow(options.workflow)
    jobs = read_jobs(options.lines, workflow, models.resolve(), hashes)
    shard, shards = options.shard
    jobs = [job for job in jobs if int(job.id, 16) % shards == shard - 1]
    failures = folder.failures()
    left = [job for job in jobs if not folder.is_there(job.id)]
    failed = [job for job in left if job.id in failures]
    left = [job for job in left if job.id not in failures]
    print(
        f"{len(jobs)} jobs: {len(jobs) - len(left) - len(failed)} are there, {len(failed)} failed "
        f"before, {len(left)} to make {engine_name(options)}.",
        flush=True,
    )
    if options.dry_run:
        print("Nothing was made or written.")
        return not failed
    folder.create(made_by)
    folder.want(jobs)
    hashes.save()
    new = 0
    try:
        with closing(make(left, options, models.resolve())) as results:
            new = print_progress(results, len(left))
    finally:
        folder.leave()
    print_failures(folder.failures(), {job.id: job for job in jobs})
    return not (failed or new)


def versions(servers: list[str]) -> dict[str, str]:
    """What a picture depends on besides its job.

    Raises ValueError: the servers are of several versions.
    """
    if servers:
        found = {server_version(url) for url in servers}
        if len(found) > 1:
            raise ValueError(f"--server: they are of several versions, {', '.join(sorted(found))}.")
        # Nobody can ask them for their pack's code.
        return {"jobs": str(VERSION), "comfyui": found.pop(), "pack": "that of servers"}
    code = hashlib.sha256((ROOT / "__init__.py").read_bytes())
    folders = (ROOT / "nodes", ROOT / "msd_core", LOADER_PACK)
    for path in sorted(path for folder in folders for path in folder.glob("**/*.py")):
        code.update(path.read_bytes())
    text = (host_folder() / "comfyui_version.py").read_text()
    return {
        "jobs": str(VERSION),
        "comfyui": text.split('"')[1],
        "pack": code.hexdigest()[:16],
    }


def server_version(url: str) -> str:
    """Raises ValueError: there is no ComfyUI, or no package to ask one with."""
    try:
        from lab.host.client import Client
    except ModuleNotFoundError as error:
        raise ValueError(
            "--server needs websocket-client: install the dependency group scale."
        ) from error
    try:
        return Client(url).version()
    except ConnectionError as error:
        raise ValueError(f"--server: {error}") from None


def engine_name(options: argparse.Namespace) -> str:
    if options.server:
        return f"on {len(options.server)} servers"
    if options.address:
        return f"by Ray at {options.address}"
    return f"by {options.workers} workers" if options.workers else "in this process"


def make(jobs: list[Job], options: argparse.Namespace, models: Path) -> Results:
    out = options.out.resolve()
    if options.server:
        return work_on_servers(jobs, out, options.server)
    return work(jobs, InProcessWorker(out, models), options.workers, options.address)


def print_progress(results: Results, count: int) -> int:
    """Print how far it is; returns how many failed."""
    states = {"made": 0, "there": 0, "failed": 0}
    progress = Progress(count)
    for result in results:
        states[result.state] += 1
        by_others = f", {states['there']} by others" if states["there"] else ""
        words = f"{states['made']} made{by_others}, {states['failed']} failed"
        progress.show(sum(states.values()), words)
    return states["failed"]


def print_failures(failures: dict[str, str], jobs: dict[str, Job]) -> None:
    mine = [(jobs[job_id], error) for job_id, error in failures.items() if job_id in jobs]
    for job, error in mine[:FEW]:
        print(f"Line {job.number} failed ({job.id}): {error}")
    if mine[FEW:]:
        print(f"{len(mine) - FEW} more are in failed.jsonl.")


def print_status(folder: Folder) -> None:
    folder.versions()
    wanted, failures = folder.wanted(), folder.failures()
    there = {job_id for job_id in wanted if folder.is_there(job_id)}
    failed = {job_id: failures[job_id] for job_id in failures if job_id not in there}
    running = folder.running()
    print(
        f"{len(wanted)} jobs: {len(there)} are there, {len(failed)} failed, "
        f"{len(wanted - there - failed.keys())} to make, {len(running)} of them in work."
    )
    for job_id, error in failed.items():
        print(f"{job_id} failed: {error}")
    for worker, job in running.items():
        print(f"{job.partition(' ')[0]} in work by {worker}")


if __name__ == "__main__":
    main()
