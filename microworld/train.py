"""The stages of training; stage vae is in train_vae.py.

vision   the tower learns to tell the sprites' attributes from reference pictures;
base     UNet, text encoders and tower become a text-to-image model, with the adapter attached in a
         part of the samples, so that the frozen base knows what image tokens are;
adapter  as METHOD section 9: everything frozen but resampler and projections.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from microworld.family_training import (
    KEPT,
    NEGATIVES,
    PREFIXES,
    Family,
    Guidance,
    Vocabulary,
    make_host_trainable,
)
from microworld.judge import train_judge
from microworld.scenes import (
    COLOURS,
    MOST,
    SHAPES,
    SIZES,
    TEXTURES,
    Looks,
    caption,
    draw_looks,
    draw_references,
    draw_scenes,
)
from microworld.train_vae import load_vae, train_vae
from microworld.trainer import Trainer

POOL = {"square": 9216, "upright": 1536, "wide": 1536}
OTHER_SIZES = 0.2  # share of the steps that show upright or wide pictures
BATCH = 16


@dataclass
class Pool:
    """Latents of many scenes of one size, and what they show."""

    latents: Tensor  # [n, 4, h, w]
    boxes: Tensor  # [n, MOST, 4]
    looks: Looks  # [n, MOST]
    background: Tensor  # [n]


def load_pools(folder: Path, scenes: float) -> dict[str, Pool]:
    """Draw and encode the scenes once, and keep them in a file. scenes: share of POOL to draw."""
    path = folder / "pools.pt"
    if path.exists():
        return torch.load(path, weights_only=False)
    autoencoder, begin = load_vae(folder), time.monotonic()
    g = torch.Generator().manual_seed(21)
    pools = {}
    for name, size in SIZES.items():
        latents, parts = [], []
        for _ in range(max(1, int(scenes * POOL[name]) // 64)):
            drawn = draw_scenes(64, g, size)
            picture = drawn.picture.contiguous(memory_format=torch.channels_last)
            latents.append(autoencoder.encode(picture).contiguous())
            parts.append(drawn)
        pools[name] = Pool(
            torch.cat(latents),
            torch.cat([s.boxes for s in parts]),
            Looks.cat([s.looks for s in parts]),
            torch.cat([s.background for s in parts]),
        )
        print(f"{name}: {64 * len(parts)} scenes, {time.monotonic() - begin:.0f} s", flush=True)
    torch.save(pools, path)
    return pools


@dataclass
class Batch:
    """Scenes with noise, texts and guidance, as one step of training sees them."""

    noisy: Tensor  # [n, 4, h, w]
    noise: Tensor
    time: Tensor  # [n]
    texts: list[str]
    guidance: Guidance
    weight: Tensor  # [n] of the squared error

    def error(self, predicted: Tensor) -> Tensor:
        """[n]"""
        return (predicted - self.noise).square().mean((1, 2, 3))


def draw_batch(
    pools: dict[str, Pool],
    g: Generator,
    no_text: float,
    no_image: float,
    no_both: float,
    full_caption: tuple[float, float],
    no_masks: float,
) -> Batch:
    """A batch with its drops.

    Args:
        no_text, no_image, no_both: shares of samples without a caption, references, or either.
        full_caption: share of captions that name the looks, with references and without.
        no_masks: share of samples whose references are seen everywhere.
    """

    def chance(share: float) -> Tensor:
        return torch.rand(BATCH, generator=g) < share

    name = "square"
    if torch.rand((), generator=g) < OTHER_SIZES:
        name = ("upright", "wide")[int(torch.randint(0, 2, (), generator=g))]
    pool = pools[name]
    rows = torch.randint(0, len(pool.latents), (BATCH,), generator=g)
    latents, boxes, looks = pool.latents[rows], pool.boxes[rows], pool.looks[rows]
    draw = torch.rand(BATCH, generator=g)
    without_text = draw < no_text + no_both
    without_image = (draw >= no_text) & (draw < no_text + no_both + no_image)
    full = torch.where(without_image, chance(full_caption[1]), chance(full_caption[0]))
    prefix = torch.randint(0, len(PREFIXES), (BATCH,), generator=g)
    negative = torch.randint(0, len(NEGATIVES), (BATCH,), generator=g)
    texts = [
        NEGATIVES[negative[i]]
        if without_text[i]
        else PREFIXES[prefix[i]]
        + caption(looks[i], boxes[i], int(pool.background[rows[i]]), bool(full[i]))
        for i in range(BATCH)
    ]
    guided = boxes * ~without_image[:, None, None]
    present = guided.any(-1)
    shown = looks[present]
    guidance = Guidance(
        draw_references(shown, g),
        [SHAPES[int(shape)] for shape in shown.shape],
        guided,
        chance(0.1),
        chance(no_masks),
    )
    # One time in each BATCH-th of the range: less chance in how hard a batch is.
    place = torch.randperm(BATCH, generator=g) + torch.rand(BATCH, generator=g)
    time_ = (place / BATCH * 1000).long()
    kept = KEPT[time_]
    noise = torch.randn(latents.shape, generator=g)
    share = kept[:, None, None, None]
    noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
    # Weighed as a velocity's error, and less where next to no noise is left: places, shapes and
    # the ground are decided in much noise, by differences that are small in the noise itself.
    snr = kept / (1 - kept)
    weight = snr.clamp(max=5) / snr / kept
    return Batch(noisy, noise, time_, texts, guidance, weight)


class Attributes(nn.Module):
    """Vision tower and linear readings of its features."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.vision = family.vision
        self.read = nn.Linear(64, len(SHAPES) + len(TEXTURES) + len(COLOURS) + 3)


def train_vision(folder: Path, minutes: float, scenes: float) -> None:
    torch.manual_seed(2)
    family = Family(Vocabulary())
    module = Attributes(family)
    trainer = Trainer("vision", module, folder, minutes, seed=2)
    g, batch = trainer.generator, 48
    for _ in trainer.steps():
        looks = draw_looks(batch // MOST, g).flat()
        read = module.read(family.features(draw_references(looks, g)).mean(1))
        shape, texture, colour, first = read.split(
            [len(SHAPES), len(TEXTURES), len(COLOURS), 3], dim=1
        )
        parts = {
            "shape": F.cross_entropy(shape, looks.shape),
            "texture": F.cross_entropy(texture, looks.texture),
            "colour": F.cross_entropy(colour, looks.colour)
            + 3 * (first - looks.first).abs().mean(),
        }
        trainer.update(torch.stack(list(parts.values())).sum(), batch, **parts)


def train_base(folder: Path, minutes: float, scenes: float) -> None:
    torch.manual_seed(3)
    family, pools = Family(Vocabulary()), load_pools(folder, scenes)
    vision = torch.load(folder / "vision.pt", weights_only=False)["average"]
    family.vision.load_state_dict(
        {k.removeprefix("vision."): v for k, v in vision.items() if k.startswith("vision.")}
    )
    if minutes > 20:  # compiling takes minutes itself
        family.compiled = torch.compile(family.denoise, dynamic=False)
    trainer = Trainer("base", family, folder, minutes, rate=1.2e-3, decay=0.998, seed=3)
    for _ in trainer.steps():
        batch = draw_batch(
            pools,
            trainer.generator,
            no_text=0.03,
            no_image=0.30,
            no_both=0.05,
            full_caption=(0.3, 0.9),
            no_masks=0.15,
        )
        error = batch.error(family(batch.noisy, batch.time, batch.texts, batch.guidance))
        guided = batch.guidance.present.any(1)
        trainer.update(
            (error * batch.weight).mean(),
            BATCH,
            guided=error[guided].mean(),
            text=error[~guided].mean() if (~guided).any() else error.mean(),
        )


def train_adapter(folder: Path, minutes: float, scenes: float, masks: bool = True) -> None:
    stage = "adapter" if masks else "adapter_without_masks"
    torch.manual_seed(4)
    family, pools = Family(Vocabulary()), load_pools(folder, scenes)
    base = torch.load(folder / "base.pt", weights_only=False)["average"]
    family.load_state_dict(base)
    family.requires_grad_(False)
    family.adapter.requires_grad_(True)
    family.adapter.dummy_image_tokens.requires_grad_(False)
    trainer = Trainer(stage, family.adapter, folder, minutes, rate=6e-4, decay=0.997, seed=4)
    for _ in trainer.steps():
        batch = draw_batch(
            pools,
            trainer.generator,
            no_text=0.05,
            no_image=0.05,
            no_both=0.05,
            full_caption=(0.25, 0.25),
            no_masks=0.0 if masks else 1.0,
        )
        error = batch.error(family(batch.noisy, batch.time, batch.texts, batch.guidance))
        trainer.update((error * batch.weight).mean(), BATCH, error=error.mean())


STAGES = {
    "vae": train_vae,
    "vision": train_vision,
    "base": train_base,
    "adapter": train_adapter,
    "adapter_without_masks": partial(train_adapter, masks=False),
    "judge": train_judge,
}


def train(stage: str, folder: Path, minutes: float, scenes: float = 1.0) -> None:
    """Train one stage for some minutes; scenes: share of the usual number of scenes to draw."""
    make_host_trainable()
    STAGES[stage](folder, minutes, scenes)
