"""The stages of the micro family's training, each a task."""

from pathlib import Path

import torch

from lab.training.config import StageSettings
from lab.training.task import Task


def build_task(settings: StageSettings, folder: Path, device: torch.device) -> Task:
    """The task of a stage; it reads what earlier stages left in the work folder."""
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
