"""The ways to have jobs done: a loop, Ray's actors, or ComfyUIs that run already.

None of them is trusted with what is done: `Folder` knows.
"""

import argparse
import os
import queue
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lab import ROOT
from lab.jobs.folder import Folder, process_name
from lab.jobs.lines import Job
from lab.jobs.worker import Result, Worker

STARTS = 5  # of Ray, which gives up after 30 s; a busy machine may take longer
JOB_MEMORY = 2**27  # bytes that Ray keeps for jobs and results, which are small

J = TypeVar("J", contravariant=True)
R = TypeVar("R", covariant=True)


class Makes(Protocol[J, R]):
    """A worker, such as `Worker`: it does one job after the other."""

    def make(self, job: J) -> R: ...


@dataclass(frozen=True)
class InProcessWorker:
    """What makes a worker with a ComfyUI in its process, wherever that is."""

    out: Path
    models: Path

    def __call__(self, name: str) -> Worker:
        from lab.host.in_process import InProcess

        return Worker(name, Folder(self.out), InProcess(self.models))


def add_engine(command: argparse.ArgumentParser) -> None:
    """Give a command the options of an engine."""
    command.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="Ray's actors; a GPU for each, if there are any",
    )
    command.add_argument(
        "--address",
        type=_parse_address,
        metavar="HOST:PORT",
        help="of a Ray cluster that runs; auto finds it",
    )
    command.add_argument(
        "--shard",
        type=_parse_shard,
        default=(1, 1),
        metavar="I/N",
        help="do only the I-th of N parts",
    )


def positive(text: str) -> int:
    """For argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return int(text)


def _parse_address(text: str) -> str:
    if not re.fullmatch(r"auto|[^/\s]+:\d+", text):  # '' would be taken for none
        raise argparse.ArgumentTypeError(f"must be like 10.0.0.1:6379, or auto, got {text!r}")
    return text


def _parse_shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"must be like 3/64, from 1/64 to 64/64, got {text!r}")
    return int(found[1]), int(found[2])


def work(
    jobs: list[J],
    make_worker: Callable[[str], Makes[J, R]],
    workers: int | None,
    address: str | None,
) -> Generator[R, None, None]:
    """By Ray if it's asked for, else in a loop; see there."""
    if workers or address:
        return work_on_ray(jobs, make_worker, workers, address)
    return work_in_a_loop(jobs, make_worker)


def work_in_a_loop(
    jobs: list[J], make_worker: Callable[[str], Makes[J, R]]
) -> Generator[R, None, None]:
    """One after the other, in this process."""
    if not jobs:
        return
    worker = make_worker(process_name())
    for job in jobs:
        yield worker.make(job)


class Actor:
    """A worker in a process of Ray's."""

    def __init__(self, name: str, make_worker: Any) -> None:
        self.worker = make_worker(name)

    def make(self, job: Any) -> Any:
        return self.worker.make(job)


def work_on_ray(
    jobs: list[J],
    make_worker: Callable[[str], Makes[J, R]],
    workers: int | None,
    address: str | None,
) -> Generator[R, None, None]:
    """By Ray's actors, each with a GPU where there are any, in the order in which they get ready.

    Args:
        make_worker: makes a worker of a name, in the actor's process.
        workers: number of actors; None for as many as the cluster has GPUs.
        address: of a cluster that runs; None starts one on this machine.
    Raises:
        ValueError: more workers than GPUs, or no number and no GPU; or there is no Ray.
        ConnectionError: Ray didn't start.
        ChildProcessError: a worker couldn't.
    """
    if not jobs:
        return
    ray, gpus = _connect(workers, address)
    actors = []
    try:
        count = min(workers or gpus, len(jobs))
        if not count:
            raise ValueError("There are no GPUs to count workers by. Give --workers.")
        if gpus and count > gpus:
            raise ValueError(f"--workers is {workers}, and there are {gpus} GPUs.")
        # A job whose worker died is handed to the one that comes in its place without an end:
        # that one counts, and leaves alone what killed too many.
        kind: Any = ray.remote(Actor).options(
            num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=-1, max_task_retries=-1
        )
        actors = [kind.remote(f"{process_name()}@{n}", make_worker) for n in range(count)]
        waiting, busy = deque(jobs), {}

        def give(actor: Any) -> None:
            if waiting:
                busy[actor.make.remote(waiting.popleft())] = actor
            else:  # its place is for one that waits for another in place of a lost machine
                ray.kill(actor)

        for actor in actors:
            give(actor)
        while busy:
            for done in ray.wait(list(busy))[0]:
                actor = busy.pop(done)
                try:
                    result = ray.get(done)
                except ray.exceptions.RayError as error:
                    raise ChildProcessError(f"A worker failed: {_last_cause(error)}") from error
                give(actor)
                yield result
    finally:
        for actor in actors:
            ray.kill(actor)
        ray.shutdown()


def _last_cause(error: BaseException) -> str:
    """What Ray's errors end with: they have the whole trace of the worker as their text."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def _connect(workers: int | None, address: str | None) -> tuple[Any, int]:
    """Ray, and how many GPUs it has.

    Raises:
        ValueError: it isn't installed.
        ConnectionError: it didn't start, or there is none at the address, or one that wants a
            token.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 would wait for all that is at work
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")  # of half a minute, for its address
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError(
            "--workers and --address need Ray: install the dependency group scale."
        ) from error

    if address and address != "auto":
        _check_answer(address)
    kept = ("COMFYUI_PATH", "OMP_NUM_THREADS", "HF_HUB_OFFLINE")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    own = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": JOB_MEMORY}
    for left in reversed(range(STARTS)):
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                runtime_env={"env_vars": {**environment, "PYTHONPATH": str(ROOT)}},
                **({} if address else own),
            )
            break
        except Exception as error:  # it has no narrower one
            ray.shutdown()
            if address:
                raise ConnectionError(_not_let_in(address, error)) from error
            if not left:
                raise ConnectionError(f"Ray didn't start: {error}") from error
    return ray, int(ray.cluster_resources().get("GPU", 0))


def _check_answer(address: str) -> None:
    """Raises ConnectionError: nothing answers there, which Ray itself would say after 80 s."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"--address: nothing answers at {address}: {error}.") from error


def _not_let_in(address: str, error: Exception) -> str:
    said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    token = ""
    if address != "auto" and "RAY_AUTH_MODE" not in os.environ:  # auto finds the token too
        token = " If it was started with a token, set RAY_AUTH_MODE=token."
    return f"--address: Ray can't be reached at {address}: {said}.{token}"


def work_on_servers(
    jobs: list[Job], out: Path, addresses: list[str]
) -> Generator[Result, None, None]:
    """By ComfyUIs that run already, one job at a time on each.

    Raises:
        RuntimeError: all of them went away, or none is a ComfyUI.
        OSError: of the folder.
    """
    from lab.host.client import Client

    waiting = deque(jobs)
    results: queue.Queue[Result | str | BaseException] = queue.Queue()

    def serve(number: int, address: str) -> None:
        name, folder = f"{process_name()}@{number}", Folder(out)
        client = Client(address)
        worker = Worker(name, folder, client)
        while waiting:
            try:
                job = waiting.popleft()
            except IndexError:
                break
            try:
                results.put(worker.make(job))
                continue
            except RuntimeError as error:  # in the middle of the job
                folder.add_try(job.id, str(error))
                reason = str(error)
            except ConnectionError as error:
                reason = str(error)
            waiting.append(job)
            results.put(reason)
            return
        results.put("")

    def serve_or_tell(number: int, address: str) -> None:
        try:
            serve(number, address)
        except BaseException as error:  # else the run would wait for this thread for ever
            results.put(error)

    for number, address in enumerate(addresses):
        threading.Thread(target=serve_or_tell, args=(number, address), daemon=True).start()
    serving, last = len(addresses), ""
    while serving:
        result = results.get()
        if isinstance(result, Result):
            yield result
        elif isinstance(result, BaseException):
            raise result
        else:
            serving, last = serving - 1, result or last
    if waiting:
        raise RuntimeError(last)
