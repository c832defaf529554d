"""python -m microworld train --stage vae|encoders|base|adapter|adapter_without_masks|judge

Every stage is resumable: give it more minutes to train on. Several processes train one together:
python -m torch.distributed.run --standalone --nproc-per-node 2 -m microworld train ...

What a stage leaves in the work folder: <stage>.pt with weights, moving average and optimizer, and
<stage>.png with the loss curve. `python -m microworld export` writes the trained files below
microworld/models.
"""

import argparse
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
MINUTES = {
    "vae": 11.0,
    "encoders": 6.0,
    "base": 250.0,
    "adapter": 6.0,
    "adapter_without_masks": 6.0,
    "judge": 5.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m microworld", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train stages, one after the other")
    train.add_argument("--stage", choices=MINUTES, required=True, nargs="+")
    train.add_argument("--minutes", type=float, help="wall clock, earlier runs included")
    train.add_argument("--scenes", type=float, default=1.0, help="share of the scenes to draw")
    train.add_argument("--threads", type=int, default=1)
    train.add_argument("--device", default="cpu", help="cpu or cuda")
    export = commands.add_parser("export", help="write the family's files")
    export.add_argument("--models", type=Path, default=ROOT / "microworld" / "models")
    for command in (train, export):
        command.add_argument("--work", type=Path, default=ROOT / ".microworld")
    options = parser.parse_args()
    if options.command == "export":
        from microworld.export import export_family

        export_family(options.work, options.models)
        return
    from microworld.train import train as train_stage

    torch.set_num_threads(options.threads)
    for stage in options.stage:
        minutes = options.minutes or MINUTES[stage]
        train_stage(stage, options.work, minutes, options.scenes, options.device)


if __name__ == "__main__":
    main()
