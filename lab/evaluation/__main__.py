"""How good the micro family is: samples held-out scenes in the real host through the pack's nodes,
and scores them by the judge.

    python -m lab.evaluation sample    write the pictures that the work folder lacks
    python -m lab.evaluation report    score them, and write docs/quality.md and
                                       docs/quality_placed.md, each if it has pictures

and the job lines of the sets that MS-Diffusion's paper reports, for lab.jobs:

    python -m lab.evaluation msbench CHECKOUT --out msbench.jsonl          two and three subjects
    python -m lab.evaluation dreambench CHECKOUT --out dreambench.jsonl    one subject

and figures of the pictures that lab.jobs made of such lines (docs/evaluation.md):

    python -m lab.evaluation score msbench.jsonl --pictures pictures/ --out scores/msbench/
    python -m lab.evaluation report --scores scores/    write docs/published.md
"""

import argparse
import signal
import sys
import time
from pathlib import Path

import torch

from lab import ROOT
from lab.evaluation import dreambench, msbench
from lab.evaluation.cases import CASES, PLACED_CASES, PlacedCase
from lab.evaluation.samples import save_lines
from lab.microworld import MODELS

BENCHES = {"msbench": msbench, "dreambench": dreambench}

PACKAGES = ("faster_coco_eval", "pyarrow", "torchmetrics")
# Names on the hub; the paper's own code isn't published, see docs/evaluation.md.
ENCODERS = {
    "clip": "openai/clip-vit-base-patch32",
    "dino": "facebook/dino-vits16",
    "owlv2": "google/owlv2-base-patch16-ensemble",
    "dinov2": "facebook/dinov2-base",
}


def main() -> None:
    options = parse()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have had the first ignored
        signal.signal(number, signal.default_int_handler)
    try:
        if options.command in BENCHES:
            write_lines(options)
        elif options.command == "sample":
            sample_cases(options)
        elif options.command == "score":
            from lab.evaluation.scoring import score

            if not score(options):
                sys.exit(1)
        else:
            report_cases(options)
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on.")
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        sys.exit(f"{error.name} is missing: install the dependency group evaluation.")
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
    report.add_argument(
        "--scores",
        type=Path,
        help="write the page of the paper's sets instead, from this folder with msbench/ and "
        "dreambench/ as score writes them",
    )
    for command in (sample, report):
        command.add_argument("--models", type=Path, default=MODELS, help="folder of the family")
        command.add_argument("--work", type=Path, default=ROOT / ".lab" / "quality")
    for name, whose in (("msbench", "MS-Diffusion's"), ("dreambench", "DreamBooth's")):
        bench = commands.add_parser(name, help=f"write job lines of {whose} evaluation")
        bench.add_argument("checkout", type=Path, help=f"of {whose} repository")
        bench.add_argument("--out", type=Path, required=True, help="file of the lines")
    score = commands.add_parser("score", help="score what lab.jobs made")
    score.add_argument("lines", type=Path, help="the file of job lines")
    score.add_argument("--pictures", type=Path, required=True, help="folder of the pictures")
    score.add_argument("--out", type=Path, required=True, help="folder for the scores")
    score.add_argument(
        "--sets",
        nargs="+",
        choices=("paper", "detected"),
        default=("paper", "detected"),
        help="figures of whole pictures, of what is found in them; by default both",
    )
    for name, there in ENCODERS.items():
        words = (
            f"a folder as transformers saves it, or a name in the hub's cache; by default {there}"
        )
        score.add_argument(f"--{name}", default=there, metavar="MODEL", help=words)
    score.add_argument(
        "--device", choices=("cpu", "cuda"), help="by default cuda if there is one, else cpu"
    )
    for command in commands.choices.values():
        command.add_argument(
            "--dry-run", action="store_true", help="say what would be done, write nothing"
        )
    options = parser.parse_args()
    if options.command == "sample" and options.count is not None and options.count < 1:
        parser.error("--count must be at least 1")
    if options.command == "score" and options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, and PyTorch sees none")
    return options


def write_lines(options: argparse.Namespace) -> None:
    """Write the job lines of a benchmark."""
    samples = BENCHES[options.command].read_samples(options.checkout)
    combinations = len({sample.combination for sample in samples})
    if options.out.is_dir() or options.out.parent.is_file():
        raise FileExistsError(f"--out: expected a file in a folder, got {options.out}.")
    if options.dry_run:
        print(f"{len(samples)} lines of {combinations} combinations would go to {options.out}.")
        return
    save_lines(samples, options.out)
    print(f"Wrote {len(samples)} lines of {combinations} combinations to {options.out}.")


def sample_cases(options: argparse.Namespace) -> None:
    """Write the pictures of each case to a file of its own; those that are there stay."""
    if not options.models.is_dir():
        raise FileNotFoundError(f"--models: {options.models} is no folder.")
    left = []
    for case in (*CASES, *PLACED_CASES):
        if (options.work / f"{case.name}.pt").exists():
            continue
        if options.only and case.name not in options.only:
            continue
        adapter = getattr(case, "adapter", None)
        if adapter and not any(options.models.glob(f"*/{adapter}")):
            print(f"{case.name}: there is no {adapter}")
        else:
            left.append(case)
    if options.dry_run:
        for case in left:
            print(f"{case.name}: {options.count or case.count} pictures to sample")
        print("Nothing was sampled or written.")
        return
    from lab.evaluation.placed import sample_placed
    from lab.evaluation.sampling import sample
    from lab.host.in_process import load_host
    from lab.host.sampler import FluxSampler, Sampler

    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    nodes = load_host()
    for case in left:
        start = time.monotonic()
        count = options.count or case.count
        if isinstance(case, PlacedCase):
            pictures = sample_placed(case, FluxSampler(nodes, options.models), count)
        else:
            pictures = sample(case, Sampler(nodes, options.models, case.adapter), count)
        torch.save((pictures * 255).round().byte(), options.work / f"{case.name}.pt")
        seconds = (time.monotonic() - start) / len(pictures)
        print(f"{case.name}: {len(pictures)} pictures, {seconds:.2f} s each", flush=True)


def report_cases(options: argparse.Namespace) -> None:
    """Write the page of the paper's sets; or that of the adapter's cases and that of placed
    references, each if it has pictures."""
    if options.scores:
        from lab.evaluation.paper_report import find_scores, report_paper

        if options.dry_run:
            sets = [
                f"{bench}/{name}"
                for bench, of in find_scores(options.scores).items()
                for name in of
            ]
            print(f"There are scores of {', '.join(sets)}. Nothing was written.")
        else:
            report_paper(options.scores)
        return
    from lab.evaluation.placed import report_placed
    from lab.evaluation.quality import report_quality

    work, models = options.work, options.models
    there = [case for case in (*CASES, *PLACED_CASES) if (work / f"{case.name}.pt").exists()]
    placed = any(case in PLACED_CASES for case in there)
    adapters = not placed or any(case in CASES for case in there)
    if not there:
        raise FileNotFoundError(
            f"{work} has no pictures. Sample them first: python -m lab.evaluation sample."
        )
    if options.dry_run:
        print(f"{len(there)} cases have pictures. Nothing was scored or written.")
        return
    if placed:
        report_placed(work, models)
    if adapters:
        report_quality(work, models)


if __name__ == "__main__":
    main()
