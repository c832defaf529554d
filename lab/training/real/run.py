"""The commands that train an adapter for a real checkpoint: check, cache, run."""

import argparse
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lab.jobs.engines import work
from lab.jobs.hashes import Hashes
from lab.progress import Progress
from lab.training import processes
from lab.training.real.cache import Cache, MakeEncodingWorker
from lab.training.real.encoders import Encoders
from lab.training.real.headers import check_adapter, checkpoint_shapes, vision_shapes
from lab.training.real.settings import read_settings
from lab.training.real.start import initialize, new_adapter
from lab.training.real.training_set import Sample, count_strays, draw_samples, read_set, scan

SHOWN = 12  # samples on the contact sheet
MAX_EDGE = 4096


def check_set(path: Path, sheet: Path | None) -> bool:
    """Say what is in a set and what is wrong with it, and draw a contact sheet of some samples;
    returns whether nothing is wrong."""
    samples, problems = scan(path, look=True)
    for problem in problems:
        print(problem)
    subjects = Counter(len(sample.subjects) for sample in samples)
    numbers = ", ".join(f"{subjects[n]} with {n}" for n in sorted(subjects))
    print(f"{len(samples)} sound samples ({numbers} subjects), {len(problems)} that aren't.")
    unnamed = sum(
        subject.phrase.lower() not in sample.caption.lower()
        for sample in samples
        for subject in sample.subjects
    )
    if subjects[0]:
        print(f"{subjects[0]} samples have no subject: they aren't trained on.")
    if strays := count_strays(path, samples):
        print(f"{strays} pictures are of no sample: there is no .json file of their names.")
    if unnamed:
        print(f"{unnamed} phrases aren't in their captions: those subjects aren't asked for there.")
    if samples and sheet:
        try:
            draw_samples(samples[:: max(1, len(samples) // SHOWN)][:SHOWN], sheet)
        except (OSError, ValueError) as error:
            raise ValueError(f"--sheet: {sheet} can't be written: {error}.") from error
        print(f"Some of them are in {sheet}.")
    elif not sheet:
        print("Nothing was written.")
    return not problems


@dataclass(frozen=True)
class Run:
    """What cache and run are given, opened.

    Args:
        samples: by their keys in the cache, and None for what stands for no reference.
        decided_by: as in `RunSettings`, but for the set.
    """

    options: argparse.Namespace
    adapter: Any
    encoders: Encoders
    cache: Cache
    samples: dict[str, Sample | None]
    decided_by: dict[str, str]

    @classmethod
    def open(cls, options: argparse.Namespace) -> "Run":
        """Raises FileNotFoundError or ValueError: something isn't there, or not sound."""
        from msd_core.checkpoint import load_adapter

        for name in ("checkpoint", "clip_vision", "adapter"):
            path = getattr(options, name)
            if path and not path.is_file():
                raise FileNotFoundError(f"--{name.replace('_', '-')}: there is no such file.")
        checkpoint = checkpoint_shapes(options.checkpoint)
        clip_vision = vision_shapes(options.clip_vision)
        samples = read_set(options.set)
        adapter: Any
        if options.new:
            if checkpoint is None or clip_vision is None:
                option = "--checkpoint" if checkpoint is None else "--clip-vision"
                raise ValueError(
                    f"{option}: --new can't read sizes off files as PyTorch wrote them before 1.6. "
                    "Save it as safetensors."
                )
            adapter = new_adapter(options.new, checkpoint, clip_vision)
            start = f"new {options.new}"
        else:
            adapter = load_adapter(options.adapter)
            if checkpoint is not None:
                check_adapter(checkpoint, adapter.layers)
            start = adapter.digest
            if options.fresh:
                start = f"new weights of the sizes of {start}"
        adapter.float()
        folder = options.cache or options.work / "cache"
        if not options.dry_run:
            folder.mkdir(parents=True, exist_ok=True)
        hashes = Hashes(None if options.dry_run else folder / "hashes.json")
        encoders = Encoders(
            options.checkpoint, options.clip_vision, adapter.name, adapter.needs, options.edge
        )
        cache = Cache(folder, encoders.key(hashes))
        hashes.save()
        decided = {"encoders": cache.encoders_key, "adapter": start}
        by_key = {cache.key(sample): sample for sample in (None, *samples)}  # reads each file
        return cls(options, adapter, encoders, cache, by_key, decided)

    def missing(self) -> list[tuple[str, Sample | None]]:
        """Keys of what isn't encoded yet, with the samples."""
        return [job for job in self.samples.items() if not self.cache.has(job[0])]


def fill_cache(run: Run) -> bool:
    """Encode what isn't yet; returns whether all samples could be."""
    options, missing = run.options, run.missing()
    shard, shards = options.shard
    mine = [job for job in missing if int(job[0], 16) % shards == shard - 1]
    print(
        f"{len(run.samples) - 1} samples: {len(missing)} of the cache's files are missing, "
        f"{len(mine)} to make here.",
        flush=True,
    )
    if options.dry_run:
        return True
    make_worker = MakeEncodingWorker(run.cache, run.encoders)
    results = work(mine, make_worker, options.workers, options.address)
    progress, failed = Progress(len(mine)), 0
    for done, problem in enumerate(results, 1):
        if problem:
            failed += 1
            print(problem, flush=True)
        progress.show(done, f"{failed} failed")
    return not failed


def train_adapter(run: Run) -> None:
    """Train until all samples of the settings are seen, and write adapter.safetensors; or until the
    minutes are over."""
    from lab.training.real.frozen import Frozen
    from lab.training.real.pictures import Pictures
    from lab.training.real.task import AdapterOnSet, too_few
    from lab.training.state import resume_state
    from lab.training.trainer import Trainer

    options = run.options
    keys = sorted(key for key, sample in run.samples.items() if sample)
    decided = {**run.decided_by, "set": hashlib.sha256(" ".join(keys).encode()).hexdigest()}
    settings = read_settings(options.settings, minutes=options.minutes, decided_by=decided)
    with processes.first_process_first():
        if run.missing() and not fill_cache(run):
            raise ValueError("Some samples can't be encoded; see above.")
    if options.dry_run:
        state = resume_state(options.work, settings)
        done = state.samples if state else 0
        if len(keys) <= settings.validation:
            raise ValueError(too_few(len(keys), settings))
        count = sum(value.numel() for value in run.adapter.parameters())
        print(
            f"Would train {run.adapter.name}, {count / 1e6:.1f} million numbers, on "
            f"{max(0, settings.samples - done)} samples, after {done}, in steps of "
            f"{settings.batch}. Nothing was written."
        )
        return
    model = run.encoders.loaded[0]
    frozen = Frozen(model, run.adapter)
    if options.recompute:
        frozen.recompute()
    if options.fresh or options.new:
        torch.manual_seed(settings.seed)
        initialize(run.adapter, frozen)
    task = AdapterOnSet(settings, frozen, run.adapter, run.cache, keys, options.work)
    held_out = [run.samples[key] for keys in task.held_out for key in keys]
    if shown := [sample for sample in held_out if sample][: settings.pictures]:
        task.pictures = Pictures(run.encoders, shown, options.work / "pictures")
    Trainer(task, settings, options.work).run()


def main(options: argparse.Namespace) -> bool:
    """Do `cache` or `run`; returns whether nothing was wrong."""
    processes.join()
    if options.edge % 128 or not 128 <= options.edge <= MAX_EDGE:
        raise ValueError(
            f"--edge: expected a multiple of 128 up to {MAX_EDGE}, got {options.edge}."
        )
    for name in ("work", "cache"):
        if (path := getattr(options, name)) and path.exists() and not path.is_dir():
            raise ValueError(f"--{name}: {path} is no folder.")
    run = Run.open(options)
    if options.command == "cache":
        return fill_cache(run)
    try:
        train_adapter(run)
    except torch.OutOfMemoryError as error:
        said = str(error).splitlines()[0].partition(". ")[0]
        raise ValueError(f"Lower micro_batch or --edge, or give --recompute: {said}.") from error
    return True
