"""Export: from the EMAs of a work folder to files that the host's stock loaders read."""

from pathlib import Path

from lab.microworld import files, networks
from lab.microworld.autoencoder import widen
from lab.training.family import Family
from lab.training.stages.vae import load_vae
from lab.training.state import load_finished, state_path
from lab.training.vocabulary import Vocabulary

ADAPTERS = {
    "adapter": "ms_adapter_micro.safetensors",
    "adapter_without_masks": "ms_adapter_micro_without_masks.safetensors",
}
LICENSE = {"license": "GPL-3.0-or-later", "weights": "ema"}


def export_family(work: Path, models: Path) -> None:
    """Write checkpoint, vision tower, adapters and judge in float16 below a models folder of the
    host. Without a stage "adapter", the adapter is the one that the base was trained with."""
    family = Family(Vocabulary())
    family.load_state_dict(load_finished(work, "base").ema)
    metadata = dict(LICENSE)
    for stage in ("vae", "encoders", "base"):
        metadata |= load_finished(work, stage).metadata()

    taesd = networks.vae()
    widen(load_vae(work), taesd)
    text_l, text_g = (
        files.text_weights(encoder, family.vocabulary.ids)
        for encoder in (family.text_l, family.text_g)
    )
    checkpoint = files.checkpoint_weights(family.unet, text_l, text_g, taesd)
    files.save(checkpoint, models / "checkpoints/micro.safetensors", metadata)
    files.save_vision_tower(
        family.vision, models / "clip_vision/micro_vision.safetensors", metadata
    )
    metadata["resampler_head_width"] = str(family.adapter.head_width)
    for stage, name in ADAPTERS.items():
        own = dict(metadata)
        if state_path(work, stage).exists():
            state = load_finished(work, stage)
            family.adapter.load_state_dict(state.ema)
            own |= state.metadata()
        elif stage != "adapter":
            continue
        files.save(family.adapter.state_dict(), models / "ms_diffusion" / name, own)

    if state_path(work, "flux").exists():
        flux, state = networks.flux(), load_finished(work, "flux")
        flux.load_state_dict(state.ema)
        weights = files.checkpoint_weights(flux, text_l, text_g)
        files.save(
            weights, models / "checkpoints/micro_flux.safetensors", metadata | state.metadata()
        )

    if state_path(work, "judge").exists():
        judge = load_finished(work, "judge")
        files.save(judge.ema, models / "judge/judge.safetensors", LICENSE | judge.metadata())
