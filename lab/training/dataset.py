"""The data of the stages that train on noise: latents of drawn scenes, and micro batches of them
with noise, captions, references and their drops."""

import hashlib
import pickle
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from lab.microworld.autoencoder import Autoencoder
from lab.microworld.scenes import (
    SHAPES,
    SIZES,
    Looks,
    caption,
    draw_references,
    draw_scenes,
)
from lab.training import processes
from lab.training.draws import draw_timesteps
from lab.training.family import SubjectBatch
from lab.training.stages.vae import load_vae
from lab.training.vocabulary import NEGATIVES, PREFIXES

SCENES = {"square": 16384, "upright": 2560, "wide": 2560}
DRAWN = 64  # at once
OTHER_SIZES = 0.4  # how many micro batches are upright or wide
AUTO_LAYOUT_TIMESTEP = 800  # of 1000, about where auto layout starts by default
# SDXL's noise schedule.
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS_CUMPROD = (1 - BETAS).cumprod(0).float()


@dataclass
class LatentScenes:
    """Latents of many scenes of one size, and what they show."""

    latents: Tensor  # [n, 4, h, w]
    boxes: Tensor  # [n, MAX_SUBJECTS, 4]
    looks: Looks  # [n, MAX_SUBJECTS]
    background: Tensor  # [n]

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "looks": vars(self.looks)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "LatentScenes":
        return LatentScenes(**{**values, "looks": Looks(**values["looks"])})


def load_scenes(folder: Path, scenes: float) -> dict[str, LatentScenes]:
    """Latent scenes by size: from the work folder's file, or drawn and written to it if that is of
    another autoencoder or number of scenes."""
    autoencoder = load_vae(folder)
    key = _cache_key(autoencoder, scenes)
    path = folder / "scenes.pt"
    with processes.first_process_first():
        if (cached := _read_cache(path, key)) is None:
            cached = draw_latent_scenes(autoencoder, scenes)
            values = {name: part.to_dict() for name, part in cached.items()}
            torch.save({"key": key, "scenes": values}, path)
    return cached


def _cache_key(autoencoder: Autoencoder, scenes: float) -> str:
    digest = hashlib.sha256(f"{SCENES} {scenes}".encode())
    for value in autoencoder.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _read_cache(path: Path, key: str) -> dict[str, LatentScenes] | None:
    try:
        cached = torch.load(path, weights_only=True)
    except (FileNotFoundError, pickle.UnpicklingError, RuntimeError, EOFError):
        return None
    if cached.get("key") != key:
        return None
    return {name: LatentScenes.from_dict(part) for name, part in cached["scenes"].items()}


def draw_latent_scenes(autoencoder: Autoencoder, scenes: float) -> dict[str, LatentScenes]:
    """Draw and encode scenes of each size; `scenes` multiplies SCENES."""
    start, drawn = time.monotonic(), {}
    g = torch.Generator().manual_seed(21)
    for name, size in SIZES.items():
        latents, parts = [], []
        for _ in range(max(1, int(scenes * SCENES[name]) // DRAWN)):
            part = draw_scenes(DRAWN, g, size)
            picture = part.picture.contiguous(memory_format=torch.channels_last)
            latents.append(autoencoder.encode(picture).contiguous())
            parts.append(part)
        drawn[name] = LatentScenes(
            torch.cat(latents),
            torch.cat([part.boxes for part in parts]),
            Looks.cat([part.looks for part in parts]),
            torch.cat([part.background for part in parts]),
        )
        seconds = time.monotonic() - start
        print(f"{name}: {DRAWN * len(parts)} scenes, {seconds:.0f} s", flush=True)
    return drawn


@dataclass(frozen=True)
class Drops:
    """How many samples lack what; each a fraction of 1.

    Args:
        text, image, both: without a caption, references, or either.
        full_caption: captions that name the looks, with references and without.
        masks: references that every query sees.
        grounding: references without the grounding of phrase and box.
        auto_layout: at the earlier of the sampled steps, references that the queries see which look
            at their phrase.
    """

    text: float
    image: float
    both: float
    full_caption: tuple[float, float]
    masks: float
    grounding: float = 0.1
    auto_layout: float = 0.0


@dataclass
class NoisyScenes:
    """A micro batch of scenes with noise, texts and subjects."""

    noisy: Tensor  # [n, 4, h, w]
    noise: Tensor
    timesteps: Tensor  # [n]
    texts: list[str]
    subjects: SubjectBatch
    weight: Tensor  # [n] of the squared error

    def to(self, device: torch.device) -> "NoisyScenes":
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, subjects=self.subjects.to(device), **moved)


def draw_noisy_scenes(
    scenes: dict[str, LatentScenes], n: int, drops: Drops, g: Generator
) -> NoisyScenes:
    """A micro batch of n scenes of one size."""
    size = "square"
    if torch.rand((), generator=g) < OTHER_SIZES:
        size = ("upright", "wide")[int(torch.randint(0, 2, (), generator=g))]
    source = scenes[size]
    rows = torch.randint(0, len(source.latents), (n,), generator=g)
    latents, boxes, looks = source.latents[rows], source.boxes[rows], source.looks[rows]
    draw = torch.rand(n, generator=g)
    without_text = draw < drops.text + drops.both
    without_image = (draw >= drops.text) & (draw < drops.text + drops.both + drops.image)
    full = torch.where(
        without_image, _chance(drops.full_caption[1], n, g), _chance(drops.full_caption[0], n, g)
    )
    texts = draw_texts(looks, boxes, source.background[rows], full, without_text, g)
    timesteps = draw_timesteps(n, g)
    subjects = draw_subjects(looks, boxes * ~without_image[:, None, None], timesteps, drops, g)
    noise = torch.randn(latents.shape, generator=g)
    noisy, weight = add_noise(latents, noise, timesteps)
    return NoisyScenes(noisy, noise, timesteps, texts, subjects, weight)


def draw_texts(
    looks: Looks,
    boxes: Tensor,
    background: Tensor,
    full: Tensor,
    without_text: Tensor,
    g: Generator,
) -> list[str]:
    """n captions, or negative prompts where `without_text` [n]; in full where `full` [n]."""
    n = len(boxes)
    prefix = torch.randint(0, len(PREFIXES), (n,), generator=g)
    negative = torch.randint(0, len(NEGATIVES), (n,), generator=g)
    return [
        NEGATIVES[negative[i]]
        if without_text[i]
        else PREFIXES[prefix[i]] + caption(looks[i], boxes[i], int(background[i]), bool(full[i]))
        for i in range(n)
    ]


def draw_subjects(
    looks: Looks, boxes: Tensor, timesteps: Tensor, drops: Drops, g: Generator
) -> SubjectBatch:
    """The subjects that have a box, with new references."""
    shown, n = looks[boxes.any(-1)], len(boxes)
    return SubjectBatch(
        draw_references(shown, g),
        [SHAPES[int(shape)] for shape in shown.shape],
        boxes,
        drop_grounding=_chance(drops.grounding, n, g),
        without_masks=_chance(drops.masks, n, g),
        auto_layout=_chance(drops.auto_layout, n, g) & (timesteps < AUTO_LAYOUT_TIMESTEP),
    )


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents, and the weight [n] of their squared error."""
    alphas_cumprod = ALPHAS_CUMPROD[timesteps]
    alpha = alphas_cumprod[:, None, None, None]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    # Between the error of the noise and that of the picture: positions and colours are decided in
    # much noise, by differences that are small in the noise itself, shapes and textures in less.
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return noisy, snr.clamp(max=5) / snr / alphas_cumprod.sqrt()


def _chance(probability: float, n: int, g: Generator) -> Tensor:
    """Bool [n], true with this probability."""
    return torch.rand(n, generator=g) < probability
