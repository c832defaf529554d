"""Evaluations: job lines for lab.jobs, figures of the pictures that it made of them, and pages.

    python -m lab.evaluation microworld --out microworld.jsonl             held-out drawn scenes
    python -m lab.evaluation msbench CHECKOUT --out msbench.jsonl          two and three subjects
    python -m lab.evaluation dreambench CHECKOUT --out dreambench.jsonl    one subject

    python -m lab.evaluation score msbench.jsonl --pictures pictures/ --out scores/msbench/
    python -m lab.evaluation report --scores scores/

docs/evaluation.md says more.
"""

import argparse
import sys
from pathlib import Path

from lab import ROOT
from lab.ending import FAILED, STOPPED, import_torch
from lab.jobs.engines import positive
from lab.microworld import JUDGE, MODELS

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
    import_torch()
    try:
        do(options)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        sys.exit(f"{error.name} is missing: install the dependency group evaluation.")
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}." if error.errno else str(error))
    except ValueError as error:
        sys.exit(str(error))


def do(options: argparse.Namespace) -> None:
    """Do a command. What needs PyTorch is imported from here on."""
    if options.command == "score":
        from lab.evaluation.scoring import score

        if not score(options):
            sys.exit(FAILED)
    elif options.command == "report":
        from lab.evaluation.report import report

        report(options.scores, options.pictures, options.out, options.dry_run)
    else:
        write_lines(options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lab.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    micro = commands.add_parser("microworld", help="write job lines of the micro world, and scenes")
    micro.add_argument("--out", type=Path, required=True, help="file of the lines")
    micro.add_argument("--models", type=Path, default=MODELS, help="folder of the family")
    micro.add_argument("--only", nargs="+", metavar="CASE", help="some of lab/evaluation/cases.py")
    micro.add_argument("--count", type=positive, help="scenes of each case")
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
        choices=("paper", "detected", "judged"),
        default=("paper", "detected"),
        help="figures of whole pictures, of what is found in them; by default these two; or of "
        "what the micro world's judge sees",
    )
    for name, there in ENCODERS.items():
        words = (
            f"a folder as transformers saves it, or a name in the hub's cache; by default {there}"
        )
        score.add_argument(f"--{name}", default=there, metavar="MODEL", help=words)
    score.add_argument("--judge", type=Path, default=JUDGE, help="file of the micro world's judge")
    score.add_argument(
        "--device", choices=("cpu", "cuda"), help="by default cuda if there is one, else cpu"
    )
    report = commands.add_parser("report", help="write the pages of scores")
    report.add_argument(
        "--scores",
        type=Path,
        required=True,
        help="folder with msbench/, dreambench/ or microworld/ as score writes them",
    )
    report.add_argument("--pictures", type=Path, help="of the micro world, for contact sheets")
    report.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the pages")
    for command in commands.choices.values():
        command.add_argument(
            "--dry-run", action="store_true", help="say what would be done, write nothing"
        )
    return parser.parse_args()


def write_lines(options: argparse.Namespace) -> None:
    """Write the job lines of a benchmark."""
    from lab.evaluation import dreambench, microworld, msbench
    from lab.evaluation.samples import sample_lines, save_lines

    folder, cases = options.out.resolve().parent, []
    if options.out.is_dir() or folder.is_file():
        raise FileExistsError(f"--out: expected a file in a folder, got {options.out}.")
    if options.command == "microworld":
        if not options.models.is_dir():
            raise FileNotFoundError(f"--models: {options.models} is no folder.")
        cases = microworld.choose_cases(options.models, options.only, options.count)
        lines = [line for case in cases for line in microworld.case_lines(case)]
        count = f"{len(lines)} lines of {len(cases)} cases"
    else:
        bench = {"msbench": msbench, "dreambench": dreambench}[options.command]
        lines = sample_lines(bench.read_samples(options.checkout), folder)
        count = f"{len(lines)} lines of {len({line['name'] for line in lines})} combinations"
    if options.dry_run:
        print(f"{count} would go to {options.out}.")
        return
    if cases:
        microworld.save_scenes(cases, folder)
    save_lines(lines, options.out)
    print(f"Wrote {count} to {options.out}.")


if __name__ == "__main__":
    main()
