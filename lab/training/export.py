"""From the EMAs of a work folder to files that the host's stock loaders read, and back."""

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lab.microworld import files, networks
from lab.microworld.autoencoder import Autoencoder, narrow, widen
from lab.microworld.pack import MARK
from lab.training.config import STAGES
from lab.training.family import Family
from lab.training.stages.ip_adapter import KINDS
from lab.training.stages.vae import load_vae
from lab.training.state import StageState, Weights, load_finished, save_state, state_path
from lab.training.vocabulary import Vocabulary

ADAPTERS = {
    "adapter": "ms_adapter_micro.safetensors",
    "adapter_without_masks": "ms_adapter_micro_without_masks.safetensors",
}
LICENSE = {"license": "GPL-3.0-or-later", "weights": "ema"}


def export_family(work: Path, models: Path, dry_run: bool = False) -> None:
    """Write checkpoint, vision tower, adapters and judge in float16 below a models folder of the
    host; a dry run names them. Without a stage "adapter", the adapter is the one that the base was
    trained with."""
    for name, weights, metadata in _files_of(work):
        if dry_run:
            numbers = sum(value.numel() for value in weights.values())
            print(f"Would write {models / name}, {numbers / 1e6:.1f} million numbers.")
        else:
            files.save(weights, models / name, metadata)
    if dry_run:
        print("Nothing was written.")


def _files_of(work: Path) -> Iterator[tuple[str, Weights, dict[str, str]]]:
    """The files of a work folder's stages: name, weights and metadata."""
    family = Family(Vocabulary())
    family.load_state_dict(load_finished(work, "base").ema)
    metadata = dict(LICENSE)
    for stage in ("vae", "encoders", "base"):
        if state_path(work, stage).exists():  # stage encoders isn't, after `import_family`
            metadata |= load_finished(work, stage).metadata()

    taesd = networks.vae()
    widen(load_vae(work), taesd)
    text_l, text_g = (
        files.text_weights(encoder, family.vocabulary.ids)
        for encoder in (family.text_l, family.text_g)
    )
    weights = files.checkpoint_weights(family.unet, text_l, text_g, taesd)
    yield "checkpoints/micro.safetensors", weights, metadata
    yield "clip_vision/micro_vision.safetensors", files.vision_weights(family.vision), metadata

    metadata = metadata | {"resampler_head_width": str(family.adapter.head_width)}
    for stage, name in ADAPTERS.items():
        if state_path(work, stage).exists():
            state = load_finished(work, stage)
            yield f"ms_diffusion/{name}", state.ema, metadata | state.metadata()
        elif stage == "adapter":
            yield f"ms_diffusion/{name}", dict(family.adapter.state_dict()), metadata

    for stage in KINDS:
        if state_path(work, stage).exists():
            state = load_finished(work, stage)
            name = f"ipadapter/{stage}_micro.safetensors"
            yield name, state.ema, metadata | state.metadata()

    if state_path(work, "flux").exists():
        flux, state = networks.flux(), load_finished(work, "flux")
        flux.load_state_dict(state.ema)
        weights = files.checkpoint_weights(flux, text_l, text_g)
        yield "checkpoints/micro_flux.safetensors", weights, metadata | state.metadata()

    if state_path(work, "judge").exists():
        judge = load_finished(work, "judge")
        yield "judge/judge.safetensors", judge.ema, LICENSE | judge.metadata()


def import_family(models: Path, work: Path, dry_run: bool = False) -> None:
    """Write what `export_family` left in a models folder to a work folder, as finished stages vae
    and base, for stages that go on from these; a dry run names them.

    Raises:
        FileExistsError: the work folder has these stages.
        ValueError: the models aren't the family's.
    """
    for stage in ("vae", "base"):
        if state_path(work, stage).exists():
            raise FileExistsError(f"{state_path(work, stage)} is there already: move it away.")
    try:
        autoencoder, family = _load_family(models)
    except (KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{models} doesn't hold the micro family: {first}") from None
    if dry_run:
        print(f"Would write stages vae and base to {work}. Nothing was written.")
        return
    work.mkdir(parents=True, exist_ok=True)
    for stage, module in (("vae", autoencoder), ("base", family)):
        weights, settings = dict(module.state_dict()), STAGES[stage]
        save_state(
            StageState(settings.to_dict(), weights, weights, {}, samples=settings.samples), work
        )


def _load_family(models: Path) -> tuple[Autoencoder, Family]:
    """Raises KeyError, RuntimeError or SafetensorError: the files are others."""
    checkpoint = _floats(models / "checkpoints/micro.safetensors")
    family = Family(Vocabulary())
    family.unet.load_state_dict(_part(checkpoint, "model.diffusion_model."))
    for name, encoder in (("clip_l", family.text_l), ("clip_g", family.text_g)):
        weights = _part(checkpoint, f"micro_text.{name}.transformer.")
        embedding = "text_model.embeddings.token_embedding."
        weights[f"{embedding}weight"] = weights.pop(f"{embedding}rows")
        del weights[f"{embedding}ids"]
        encoder.load_state_dict(weights)
    family.vision.load_state_dict(_floats(models / "clip_vision/micro_vision.safetensors"))
    family.adapter.load_state_dict(_floats(models / "ms_diffusion" / ADAPTERS["adapter"]))
    return narrow(_part(checkpoint, "first_stage_model.")), family


def _floats(path: Path) -> Weights:
    return {k: v.float() for k, v in load_file(path).items() if k != MARK}


def _part(weights: dict[str, Tensor], prefix: str) -> Weights:
    """The weights below a prefix, but for the family's mark."""
    part = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    part.pop(MARK, None)
    return part
