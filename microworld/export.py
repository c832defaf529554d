"""From the work folder's moving averages to files that the host's stock loaders read."""

from pathlib import Path
from typing import Any

import torch

from microworld import family
from microworld.autoencoder import widen
from microworld.family_training import Family, Vocabulary
from microworld.host_pack import MARK
from microworld.train_vae import load_vae

ADAPTERS = {
    "adapter": "ms_adapter_micro.safetensors",
    "adapter_without_masks": "ms_adapter_micro_without_masks.safetensors",
}


def export_family(work: Path, models: Path) -> None:
    """Write checkpoint, vision tower and adapters in float16 below a models folder of the host.

    Without a stage "adapter" yet, the adapter is the one that the base was trained with.
    """
    base = _state(work, "base")
    trained = Family(Vocabulary())
    trained.load_state_dict(base["average"])
    metadata = {"license": "GPL-3.0-or-later", "weights": "moving average"}
    metadata |= {k: v for stage in ("vae", "encoders", "base") for k, v in _metadata(work, stage)}

    taesd = family.vae()
    widen(load_vae(work), taesd)
    text_l, text_g = (
        family.text_weights(encoder, trained.vocabulary.ids)
        for encoder in (trained.text_l, trained.text_g)
    )
    sd = family.checkpoint_weights(trained.unet, text_l, text_g, taesd)
    family.save(sd, models / "checkpoints/micro.safetensors", metadata)

    mark = torch.tensor([family.VISION["image_size"], family.VISION["heads"]])
    tower = {**trained.vision.state_dict(), MARK: mark}
    family.save(tower, models / "clip_vision/micro_vision.safetensors", metadata)

    for stage, name in ADAPTERS.items():
        own = dict(metadata, resampler_head_width=str(trained.adapter.head_width))
        if (work / f"{stage}.pt").exists():
            trained.adapter.load_state_dict(_state(work, stage)["average"])
            own |= dict(_metadata(work, stage))
        elif stage != "adapter":
            continue
        family.save(trained.adapter.state_dict(), models / "ms_diffusion" / name, own)

    if (work / "judge.pt").exists():
        own = {"license": "GPL-3.0-or-later", **dict(_metadata(work, "judge"))}
        family.save(_state(work, "judge")["average"], models / "judge/judge.safetensors", own)


def _state(work: Path, stage: str) -> dict[str, Any]:
    return torch.load(work / f"{stage}.pt", weights_only=False)


def _metadata(work: Path, stage: str) -> list[tuple[str, str]]:
    return list(_state(work, stage)["metadata"].items())
