"""Trains the micro family, stage by stage, and exports its files.

    python -m lab.training train --stage vae encoders base adapter adapter_without_masks judge
    python -m lab.training export

A stage that follows vae and base can also go on from the family's files:

    python -m lab.training import
    python -m lab.training train --stage ip_adapter mip_adapter

A stage that was stopped goes on where it was, and ends in the same weights as one without a break.
Several processes share the work of one stage:

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m lab.training train ...

A stage leaves its state in the work folder as <stage>.pt, and the loss curve as <stage>.png.

Trains an adapter for a checkpoint of one's own, on one's own pictures (docs/training.md):

    python -m lab.training import coco FOLDER --out SET
    python -m lab.training import mip FOLDER --out SET
    python -m lab.training import frames CLIPS --phrases cat "red car" --out SET
    python -m lab.training check SET
    python -m lab.training cache --set SET --checkpoint FILE --clip-vision FILE --adapter FILE
    python -m lab.training run --set SET --checkpoint FILE --clip-vision FILE --adapter FILE

With --new KIND in place of --adapter FILE it starts from nothing.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import ROOT
from lab.ending import STOPPED, import_torch
from lab.jobs.engines import add_engine, positive
from lab.microworld import MODELS
from lab.training.config import STAGES, StageSettings
from lab.training.real.settings import NEW, PAPER


def main() -> None:
    options = parse()
    import_torch()
    try:
        do(options)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def do(options: argparse.Namespace) -> None:
    """Do a command. What needs PyTorch is imported from here on."""
    from lab.training import processes

    try:
        if options.command == "export":
            from lab.training.export import export_family

            export_family(options.work, options.models, options.dry_run)
            return
        if options.command == "import":
            import_from(options)
            return
        if options.command == "check":
            from lab.training.real.run import check_set

            if not check_set(options.set, None if options.dry_run else options.sheet):
                sys.exit(1)
            return
        if options.command in ("cache", "run"):
            from lab.training.real import run

            sys.exit(0 if run.main(options) else 1)
        processes.join()
        if options.dry_run:
            plan(options)
            return
        for stage in options.stage:
            if not train(stage, options):
                break
    finally:
        processes.leave()


def import_from(options: argparse.Namespace) -> None:
    if options.what is None:
        from lab.training.export import import_family

        import_family(options.models, options.work, options.dry_run)
    elif options.what == "frames":
        from lab.training.real import frames

        frames.main(options)
    else:
        from lab.training.real.coco import import_coco
        from lab.training.real.mip import import_mip

        write = {"coco": import_coco, "mip": import_mip}[options.what]
        count = write(options.source, options.out, options.dry_run)
        done = f"{count} samples would go" if options.dry_run else f"Wrote {count} samples"
        print(f"{done} to {options.out}.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lab.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train stages, one after the other")
    train.add_argument("--stage", choices=STAGES, required=True, nargs="+")
    train.add_argument("--samples", type=int, help="to train on; by default the stage's own number")
    train.add_argument("--minutes", type=float, help="pause after these; the same command goes on")
    train.add_argument("--scenes", type=float, help="multiple of the scenes to draw in advance")
    train.add_argument("--seed", type=int, help="by default the stage's own")
    train.add_argument("--threads", type=positive, default=1, help="of each process")
    train.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    export = commands.add_parser("export", help="write the family's files")
    export.add_argument("--models", type=Path, default=MODELS, help="folder to write to")
    what = "make finished stages of the family's files, or a training set of others' files"
    back = commands.add_parser("import", help=what, description=what)
    back.add_argument("--models", type=Path, default=MODELS, help="folder to read from")
    _add_sets(back.add_subparsers(dest="what", title="training sets"))
    for command in (train, export, back):
        command.add_argument(
            "--work", type=Path, default=ROOT / ".lab" / "training", help="folder of the states"
        )
        _add_dry_run(command)
    _add_real(commands)
    return parser.parse_args()


def _add_sets(sets: Any) -> None:
    """The training sets that others can become."""
    coco = sets.add_parser("coco", help="of COCO's pictures, captions and segmentations")
    mip = sets.add_parser("mip", help="of MIP-Adapter's set")
    frames = sets.add_parser("frames", help="of two frames of each clip")
    for command, what in ((coco, "COCO"), (mip, "images, masks and jsons"), (frames, "clips")):
        command.add_argument("source", type=Path, help=f"folder of {what}")
        command.add_argument("--out", type=Path, required=True, help="folder for the set")
        _add_dry_run(command)
    frames.add_argument(
        "--phrases", nargs="+", required=True, help="subjects; of a clip, those its caption names"
    )
    networks = {
        "detector": ("google/owlv2-base-patch16-ensemble", "OWLv2"),
        "segmenter": ("facebook/sam2.1-hiera-large", "SAM2"),
    }
    for option, (name, kind) in networks.items():
        where = f"a folder, or a name in the hub's cache ({name})"
        frames.add_argument(f"--{option}", default=name, help=f"{kind} of transformers: {where}")
    frames.add_argument(
        "--min-score", type=float, default=0.1,
        help="of what the detector finds; a phrase that is found twice is left out",
    )  # fmt: skip
    frames.add_argument("--device", choices=("cpu", "cuda"), help="by default cuda if there is one")
    add_engine(frames)


def _add_real(commands: Any) -> None:
    """The commands that train an adapter for a real checkpoint."""
    check = commands.add_parser("check", help="say what is wrong with a training set")
    check.add_argument("set", type=Path, help="folder or tar file, as lab/training/real says")
    check.add_argument("--sheet", type=Path, default=Path("set.png"), help="picture to write")
    _add_dry_run(check)
    cache = commands.add_parser("cache", help="encode a set, before it is trained on")
    run = commands.add_parser("run", help="train an adapter; the same command goes on")
    for command in (cache, run):
        command.add_argument("--set", type=Path, required=True)
        command.add_argument("--checkpoint", type=Path, required=True, help="of SDXL or SD1.5")
        command.add_argument(
            "--clip-vision", type=Path, required=True, help="the adapter's image encoder"
        )
        start = command.add_mutually_exclusive_group(required=True)
        start.add_argument("--adapter", type=Path, help="file of any family, to start from")
        start.add_argument("--new", choices=NEW, help="from nothing, of the released files' sizes")
        command.add_argument(
            "--edge", type=int, default=1024, help="of a square with as many pixels as pictures get"
        )
        command.add_argument("--cache", type=Path, help="folder; by default in the work folder")
        command.add_argument("--work", type=Path, default=ROOT / ".lab" / "run")
        _add_dry_run(command)
    add_engine(cache)
    cache.set_defaults(fresh=False)
    run.add_argument("--settings", type=Path, default=PAPER, help="by default the paper's")
    run.add_argument("--fresh", action="store_true", help="from nothing, of the sizes of --adapter")
    run.add_argument("--recompute", action="store_true", help="less memory for more time")
    run.add_argument("--minutes", type=float, help="pause after these; the same command goes on")
    run.set_defaults(workers=None, address=None, shard=(1, 1))


def _add_dry_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dry-run", action="store_true", help="say what would be done, write nothing"
    )


def settings_of(stage: str, options: argparse.Namespace) -> StageSettings:
    """Raises ValueError: an option makes no sense."""
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, and PyTorch sees none.")
    given = {name: getattr(options, name) for name in ("samples", "minutes", "scenes", "seed")}
    return replace(STAGES[stage], **{k: v for k, v in given.items() if v is not None})


def plan(options: argparse.Namespace) -> None:
    """Say what `train` would do."""
    from lab.training.stages import check_needs
    from lab.training.state import resume_state

    for number, stage in enumerate(options.stage):
        settings = settings_of(stage, options)
        check_needs(stage, options.work, trained=options.stage[:number])
        state = resume_state(options.work, settings)
        done = state.samples if state else 0
        print(
            f"{stage}: would train on {max(0, settings.samples - done)} samples, after {done}, in "
            f"steps of {settings.batch}."
        )
    print("Nothing was written.")


def train(stage: str, options: argparse.Namespace) -> bool:
    """Train a stage; returns whether it is finished."""
    import torch

    from lab.training.stages import build_task
    from lab.training.trainer import Trainer

    settings = settings_of(stage, options)
    torch.set_num_threads(options.threads)
    task = build_task(settings, options.work, torch.device(options.device))
    return Trainer(task, settings, options.work).run()


if __name__ == "__main__":
    main()
