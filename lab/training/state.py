"""The state of a stage of training: one file that holds all that a run needs to go on.

It is a dict of plain values and tensors, which torch.load reads with weights_only.
"""

import json
import pickle
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.training.config import StageSettings

VERSION = 2  # 1 counted minutes
Weights = dict[str, Tensor]
Curve = list[tuple[int, dict[str, float]]]  # samples so far, and the mean losses of the latest


@dataclass
class StageState:
    """How far a stage is, and with what."""

    settings: dict[str, Any]
    weights: Weights
    ema: Weights
    optimizer: dict[str, Any]
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    curve: Curve = field(default_factory=list)
    validations: Curve = field(default_factory=list)  # samples so far, and `Task.validate`'s losses
    torch: str = str(torch.__version__)

    @property
    def stage(self) -> str:
        return self.settings["stage"]

    @property
    def finished(self) -> bool:
        return self.samples >= self.settings["samples"]

    def metadata(self) -> dict[str, str]:
        """What goes into a file of these weights."""
        return {
            f"{self.stage}.seed": str(self.settings["seed"]),
            f"{self.stage}.steps": str(self.step),
            f"{self.stage}.samples": str(self.samples),
            f"{self.stage}.minutes": f"{self.seconds / 60:.1f}",
            f"{self.stage}.settings": json.dumps(self.settings),
            "torch": self.torch,
        }


def state_path(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.pt"


def save_state(state: StageState, folder: Path) -> None:
    """Write a state; a process that is killed meanwhile leaves the old one."""
    path = state_path(folder, state.stage)
    unfinished = path.with_suffix(".unfinished")
    torch.save({"version": VERSION, **vars(state)}, unfinished)
    unfinished.replace(path)


def load_state(folder: Path, stage: str) -> StageState:
    """The state of a stage in a work folder.

    Raises:
        FileNotFoundError: the stage hasn't been trained there.
        ValueError: the file is of another version, or no state.
    """
    path = state_path(folder, stage)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} doesn't exist. Train it first: python -m lab.training train --stage {stage}."
        )
    try:
        if not zipfile.is_zipfile(path):  # of other bytes PyTorch makes errors of any kind
            raise EOFError
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} can't be read as the state of a stage.") from error
    known = {f.name for f in fields(StageState)}
    if not isinstance(loaded, dict) or loaded.pop("version", 1) != VERSION or set(loaded) != known:
        raise ValueError(
            f"{path} is the state of another version of the trainer, and can't be resumed or used. "
            "Move it away, and train the stage again."
        )
    return StageState(**loaded)


def load_ema(folder: Path, stage: str) -> Weights:
    """What a stage resulted in."""
    return load_finished(folder, stage).ema


def load_finished(folder: Path, stage: str) -> StageState:
    """The state of a stage that has seen all its samples."""
    state = load_state(folder, stage)
    if not state.finished:
        raise ValueError(
            f"Stage {stage} has seen {state.samples} of {state.settings['samples']} samples. "
            f"Go on with it: python -m lab.training train --stage {stage}."
        )
    return state


def resume_state(folder: Path, settings: StageSettings) -> StageState | None:
    """The state to go on from, if there is one.

    Raises:
        ValueError: it is of other settings.
    """
    if not state_path(folder, settings.stage).exists():
        return None
    state = load_state(folder, settings.stage)
    if differences := settings.differences(state.settings):
        raise ValueError(
            f"{state_path(folder, settings.stage)} is of other settings: {', '.join(differences)}. "
            "Resume with the same, or use another work folder."
        )
    return state
