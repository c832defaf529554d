"""Job lines of the micro family, in a folder of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from lab import ROOT
from lab.host.workflows import CFG, NEGATIVE, use_micro_files
from lab.jobs.lines import WORKFLOW
from lab.microworld import MODELS
from lab.microworld.sprites import save_sprites

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def line(seed: int, **more: Any) -> dict[str, Any]:
    """A star and a heart; the seed tells the pictures apart."""
    star = {"phrase": "star", "box": [0.04, 0.28, 0.48, 0.72], "reference": "reference_1.png"}
    heart = {"phrase": "heart", "box": [0.54, 0.3, 0.96, 0.74], "reference": "reference_2.png"}
    return {
        "prompt": "a star and a heart on grass",
        "negative": NEGATIVE,
        "subjects": [star, heart],
        "seed": seed,
        "cfg": CFG,
        **more,
    }


def failing(seed: int, error: str) -> dict[str, Any]:
    """A line whose sampling fails with one of MicroWorldFail's errors."""
    return line(seed, inputs={"KSampler": {"model": ["fail", 0]}, "Fail": {"error": error}})


def save_lines(folder: Path, lines: list[dict[str, Any]], steps: int = 6) -> list[str]:
    """Write them with references and workflow; returns the command that makes their pictures, --out
    apart."""
    save_sprites(folder)
    workflow = use_micro_files(json.loads(WORKFLOW.read_text()), 64, 64, steps)
    workflow["fail"] = {
        "class_type": "MicroWorldFail",
        "inputs": {"model": workflow["14"]["inputs"]["model"], "error": "of memory"},
        "_meta": {"title": "Fail"},
    }
    (folder / "workflow.json").write_text(json.dumps(workflow))
    (folder / "jobs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in lines))
    files = (folder / "jobs.jsonl", "--workflow", folder / "workflow.json", "--models", MODELS)
    return [sys.executable, "-m", "lab.jobs", "run", *map(str, files)]


def start(command: list[str], out: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, "--out", str(out), *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it printed, once it has ended with this code."""
    printed, _ = process.communicate()
    assert process.returncode == code, printed
    return printed


def pictures(out: Path) -> dict[str, bytes]:
    """The pixels of all pictures that are there, by id."""
    found = {}
    for manifest in out.glob("??/*.json"):
        with Image.open(manifest.with_suffix(".png")) as picture:
            found[manifest.stem] = picture.convert("RGB").tobytes()
    return found
