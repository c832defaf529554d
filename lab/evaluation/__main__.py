"""How good the micro family is: samples held-out scenes in the real host through the pack's nodes,
and scores them by the judge.

    python -m lab.evaluation sample    write the pictures that the work folder lacks
    python -m lab.evaluation report    score them, and write docs/quality.md and
                                       docs/quality_placed.md, each if it has pictures

and the job lines of MS-Bench, the evaluation of MS-Diffusion's paper, for lab.jobs:

    python -m lab.evaluation msbench CHECKOUT --out msbench.jsonl
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from lab import ROOT
from lab.evaluation.cases import CASES, PLACED_CASES, PlacedCase
from lab.evaluation.msbench import read_samples, save_lines
from lab.microworld import MODELS


def main() -> None:
    options = parse()
    try:
        if options.command == "msbench":
            samples = read_samples(options.checkout)
            save_lines(samples, options.out)
            print(f"Wrote {len(samples)} lines to {options.out}.")
        elif options.command == "sample":
            sample_cases(options.work, options.models, options.only, options.count)
        else:
            report_cases(options.work, options.models)
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lab.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sample = commands.add_parser("sample", help="write the pictures that the work folder lacks")
    names = [case.name for case in (*CASES, *PLACED_CASES)]
    sample.add_argument("--only", nargs="+", metavar="CASE", choices=names, help=", ".join(names))
    sample.add_argument("--count", type=int, help="scenes of each case")
    report = commands.add_parser("report", help="score them, and write the pages")
    for command in (sample, report):
        command.add_argument("--models", type=Path, default=MODELS, help="folder of the family")
        command.add_argument("--work", type=Path, default=ROOT / ".lab" / "quality")
    msbench = commands.add_parser("msbench", help="write the job lines of MS-Bench")
    msbench.add_argument("checkout", type=Path, help="of MS-Diffusion's research repository")
    msbench.add_argument("--out", type=Path, required=True, help="file of the lines")
    options = parser.parse_args()
    if options.command == "sample" and options.count is not None and options.count < 1:
        parser.error("--count must be at least 1")
    return options


def sample_cases(work: Path, models: Path, only: list[str] | None, count: int | None) -> None:
    """Write the pictures of each case to a file of its own; those that are there stay."""
    from lab.evaluation.placed import sample_placed
    from lab.evaluation.sampling import sample
    from lab.host.in_process import load_host
    from lab.host.sampler import FluxSampler, Sampler

    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    nodes = load_host()
    for case in (*CASES, *PLACED_CASES):
        path = work / f"{case.name}.pt"
        if path.exists() or (only and case.name not in only):
            continue
        start = time.monotonic()
        if isinstance(case, PlacedCase):
            pictures = sample_placed(case, FluxSampler(nodes, models), count or case.count)
        elif any(models.glob(f"*/{case.adapter}")):
            pictures = sample(case, Sampler(nodes, models, case.adapter), count or case.count)
        else:
            print(f"{case.name}: there is no {case.adapter}")
            continue
        torch.save((pictures * 255).round().byte(), path)
        seconds = (time.monotonic() - start) / len(pictures)
        print(f"{case.name}: {len(pictures)} pictures, {seconds:.2f} s each", flush=True)


def report_cases(work: Path, models: Path) -> None:
    """Write the page of the adapter's cases and that of placed references, each if it has
    pictures."""
    from lab.evaluation.placed import report_placed
    from lab.evaluation.report import report

    placed = any((work / f"{case.name}.pt").exists() for case in PLACED_CASES)
    if placed:
        report_placed(work, models)
    if not placed or any((work / f"{case.name}.pt").exists() for case in CASES):
        report(work, models)


if __name__ == "__main__":
    main()
