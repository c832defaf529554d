"""The stages of the micro family's training, each a task."""

from collections.abc import Collection
from pathlib import Path

import torch

from lab.training.config import StageSettings
from lab.training.state import load_finished
from lab.training.task import Task

NEEDS = {  # the stages that each goes on from
    "vae": (),
    "encoders": (),
    "base": ("vae", "encoders"),
    "judge": ("vae",),
}
OTHERS_NEED = ("vae", "base")


def check_needs(stage: str, folder: Path, trained: Collection[str] = ()) -> None:
    """Look for the stages that one goes on from, but for those that will be trained before it.

    Raises:
        FileNotFoundError, ValueError: one isn't in the work folder, or not finished.
    """
    for needed in NEEDS.get(stage, OTHERS_NEED):
        if needed not in trained:
            load_finished(folder, needed)


def build_task(settings: StageSettings, folder: Path, device: torch.device) -> Task:
    """The task of a stage; it reads what earlier stages left in the work folder.

    Raises:
        FileNotFoundError, ValueError: as `check_needs`, before anything is drawn.
    """
    check_needs(settings.stage, folder)
    if settings.stage == "vae":
        from lab.training.stages.vae import VaeTask

        return VaeTask(settings, device)
    if settings.stage == "judge":
        from lab.training.stages.judge import JudgeTask

        return JudgeTask(settings, folder, device)
    # Only these need the host.
    from lab.training.attention import make_host_trainable

    make_host_trainable()
    if settings.stage == "encoders":
        from lab.training.stages.encoders import EncodersTask

        return EncodersTask(settings, device)
    if settings.stage == "flux":
        from lab.training.stages.flux import FluxTask

        return FluxTask(settings, folder, device)
    if settings.stage in ("ip_adapter", "mip_adapter"):
        from lab.training.stages.ip_adapter import IPAdapterTask

        return IPAdapterTask(settings, folder, device)
    from lab.training.stages import denoising

    if settings.stage == "base":
        return denoising.BaseTask(settings, folder, device)
    drops = {
        "adapter": denoising.ADAPTER_DROPS,
        "adapter_without_masks": denoising.WITHOUT_MASKS_DROPS,
    }
    return denoising.AdapterTask(settings, folder, device, drops[settings.stage])
