"""The stages of training; stage vae is in train_vae.py.

encoders the tower and the resampler learn to tell the sprites' attributes from reference pictures,
         the text encoders from captions: what CLIP brings to SDXL;
base     UNet, text encoders and tower become a text-to-image model, with the adapter attached in a
         part of the samples, so that the frozen base knows what image tokens are;
adapter  as docs/method.md, section 9: everything frozen but resampler and projections.
"""

import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from microworld.family import RESAMPLER
from microworld.family_training import (
    EDGE_NUMBERS,
    KEPT,
    NEGATIVES,
    PREFIXES,
    Family,
    Guidance,
    Map,
    Vocabulary,
    edges_in_cells,
    make_host_trainable,
)
from microworld.judge import train_judge
from microworld.scenes import (
    BACKGROUNDS,
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
    uniform,
)
from microworld.train_vae import load_vae, train_vae
from microworld.trainer import Trainer, load_average

POOL = {"square": 16384, "upright": 2560, "wide": 2560}
OTHER_SIZES = 0.4  # share of the steps that show upright or wide pictures
AUTO_LAYOUT_TIME = 800  # of 1000, about where auto layout starts by default
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
    waiting = dist.is_initialized() and dist.get_rank() > 0
    if waiting:
        dist.barrier()  # the first process draws them
    if path.exists():
        pools = torch.load(path, weights_only=False)
    else:
        pools = _draw_pools(folder, scenes)
        torch.save(pools, path)
    if dist.is_initialized() and not waiting:
        dist.barrier()
    return pools


def _draw_pools(folder: Path, scenes: float) -> dict[str, Pool]:
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

    def to(self, device: torch.device) -> "Batch":
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, guidance=self.guidance.to(device), **moved)


def draw_batch(
    pools: dict[str, Pool],
    g: Generator,
    no_text: float,
    no_image: float,
    no_both: float,
    full_caption: tuple[float, float],
    no_masks: float,
    auto_layout: float,
) -> Batch:
    """A batch with its drops.

    Args:
        no_text, no_image, no_both: shares of samples without a caption, references, or either.
        full_caption: share of captions that name the looks, with references and without.
        no_masks: share of samples whose references are seen everywhere.
        auto_layout: share of the later times whose references are seen where the text attention
            looks.
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
    # One time in each BATCH-th of the range: less chance in how hard a batch is.
    place = torch.randperm(BATCH, generator=g) + torch.rand(BATCH, generator=g)
    time_ = (place / BATCH * 1000).long()
    guided = boxes * ~without_image[:, None, None]
    present = guided.any(-1)
    shown = looks[present]
    guidance = Guidance(
        draw_references(shown, g),
        [SHAPES[int(shape)] for shape in shown.shape],
        guided,
        drop_grounding=chance(0.1),
        without_masks=chance(no_masks),
        auto_layout=chance(auto_layout) & (time_ < AUTO_LAYOUT_TIME),
    )
    kept = KEPT[time_]
    noise = torch.randn(latents.shape, generator=g)
    share = kept[:, None, None, None]
    noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
    # Between the error of the noise and that of the picture: places and colours are decided in much
    # noise, by differences that are small in the noise itself, and shapes and textures in less.
    snr = kept / (1 - kept)
    weight = snr.clamp(max=5) / snr / kept.sqrt()
    return Batch(noisy, noise, time_, texts, guidance, weight)


@dataclass
class Prediction:
    """What the family makes of a batch."""

    batch: Batch
    error: Tensor  # [n] of the noise
    tokens: Tensor  # see Family.image_tokens
    maps: list[Map]


def predict(family: Family, pools: dict[str, Pool], g: Generator, **shares: Any) -> Prediction:
    """A prediction for a new batch, with `shares` as of `draw_batch`."""
    batch = draw_batch(pools, g, **shares).to(family.device)
    tokens = family.image_tokens(batch.guidance)
    noise, maps = family(batch.noisy, batch.time, batch.texts, batch.guidance, tokens)
    error = (noise - batch.noise).square().mean((1, 2, 3))
    return Prediction(batch, error, tokens, maps)


class Attributes(nn.Module):
    """A family's encoders, and linear readings of what they say of a sprite."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family
        family.unet.requires_grad_(False)
        self.sizes = (len(SHAPES), len(TEXTURES), len(COLOURS), 3)  # the last is red, green, blue
        self.read_image = nn.Linear(family.context_width, sum(self.sizes))
        self.read_text = nn.Linear(family.context_width, sum(self.sizes[:3]))
        self.read_latents = nn.Linear(RESAMPLER["dim"], EDGE_NUMBERS)

    def image_losses(self, looks: Looks, g: Generator) -> dict[str, Tensor]:
        """Of the image tokens of references of looks [n]; half of them without grounding."""
        n = len(looks.shape)
        boxes = self._draw_boxes(n, g)
        half, no = torch.rand(n, generator=g) < 0.5, torch.zeros(n, dtype=torch.bool)
        phrases = [SHAPES[int(shape)] for shape in looks.shape]
        guidance = Guidance(draw_references(looks, g), phrases, boxes, half, no, no)
        guidance = guidance.to(self.family.device)
        tokens = self.family.image_tokens(guidance)
        shape, texture, colour, first = self.read_image(tokens.mean(1)).split(self.sizes, 1)
        device = tokens.device
        return {
            "shape": F.cross_entropy(shape, looks.shape.to(device)),
            "texture": F.cross_entropy(texture, looks.texture.to(device)),
            "colour": F.cross_entropy(colour, looks.colour.to(device))
            + 3 * (first - looks.first.to(device)).abs().mean(),
            "edges": 3 * self.family.edge_error(tokens, guidance),
        }

    def latents_loss(self, n: int, g: Generator) -> Tensor:
        """Of what the latents that the resampler starts from tell of n boxes."""
        resampler, device = self.family.adapter.resampler, self.family.device
        boxes = self._draw_boxes(n, g)[:, 0].to(device)
        phrases = self.family.phrase_embeds(SHAPES)[
            torch.randint(0, len(SHAPES), (n,), generator=g)
        ]
        latents = resampler.latents(phrases, boxes, torch.zeros(n, dtype=torch.bool, device=device))
        return (self.read_latents(latents.mean(1)) - edges_in_cells(boxes)).square().mean()

    @staticmethod
    def _draw_boxes(n: int, g: Generator) -> Tensor:
        """[n, 1, 4]"""
        size = uniform((n, 1, 2), 0.25, 0.65, g)
        corner = torch.rand(n, 1, 2, generator=g) * (1 - size)
        return torch.cat([corner, corner + size], -1)

    def text_loss(self, looks: Looks, g: Generator) -> Tensor:
        """Of the context where full captions of looks [n, MOST] name the shapes."""
        n = len(looks.shape)
        everywhere = torch.ones(MOST, 4)
        backgrounds = torch.randint(0, len(BACKGROUNDS), (n,), generator=g)
        prefixes = torch.randint(0, len(PREFIXES), (n,), generator=g)
        texts = [
            PREFIXES[prefixes[i]] + caption(looks[i], everywhere, int(backgrounds[i]), full=True)
            for i in range(n)
        ]
        at_shapes = self.family.vocabulary.places(texts, SHAPES)
        read = self.read_text(self.family.text(texts)[0][at_shapes.to(self.family.device)])
        said = read.split(self.sizes[:3], 1)
        wanted = (looks.shape, looks.texture, looks.colour)
        losses = [
            F.cross_entropy(a, b.flatten().to(a.device)) for a, b in zip(said, wanted, strict=True)
        ]
        return torch.stack(losses).sum()


def train_encoders(folder: Path, minutes: float, scenes: float, device: torch.device) -> None:
    torch.manual_seed(2)
    module = Attributes(Family(Vocabulary())).to(device)
    trainer = Trainer("encoders", module, folder, minutes, seed=2)
    g, batch = trainer.generator, 16
    for _ in trainer.steps():
        looks = draw_looks(batch, g)
        parts = module.image_losses(looks.flat(), g)
        parts["text"] = module.text_loss(looks, g)
        parts["latents"] = 3 * module.latents_loss(128, g)
        trainer.update(torch.stack(list(parts.values())).sum(), batch * MOST, **parts)


def train_base(folder: Path, minutes: float, scenes: float, device: torch.device) -> None:
    torch.manual_seed(3)
    family, pools = Family(Vocabulary()), load_pools(folder, scenes)
    encoders = load_average(folder, "encoders")
    family.load_state_dict(
        {k.removeprefix("family."): v for k, v in encoders.items() if k.startswith("family.")}
    )
    family.to(device)
    trainer = Trainer("base", family, folder, minutes, rate=1.2e-3, decay=0.998, seed=3)
    for _ in trainer.steps():
        made = predict(
            family,
            pools,
            trainer.generator,
            no_text=0.02,
            no_image=0.28,
            no_both=0.05,
            full_caption=(0.2, 0.95),
            no_masks=0.1,
            auto_layout=0.25,
        )
        batch, error = made.batch, made.error
        edges = family.edge_error(made.tokens, batch.guidance)
        maps = family.map_error(made.maps, batch.texts, batch.guidance)
        guided = batch.guidance.present.any(1)
        trainer.update(
            (error * batch.weight).mean() + 0.1 * edges + maps,
            BATCH,
            guided=error[guided].mean(),
            text=error[~guided].mean() if (~guided).any() else error.mean(),
            edges=edges,
            maps=maps,
        )


def train_adapter(
    folder: Path, minutes: float, scenes: float, device: torch.device, masks: bool = True
) -> None:
    stage = "adapter" if masks else "adapter_without_masks"
    torch.manual_seed(4)
    family, pools = Family(Vocabulary()), load_pools(folder, scenes)
    family.load_state_dict(load_average(folder, "base"))
    family.to(device)
    family.requires_grad_(False)
    family.adapter.requires_grad_(True)
    family.adapter.dummy_image_tokens.requires_grad_(False)
    trainer = Trainer(stage, family.adapter, folder, minutes, rate=6e-4, decay=0.997, seed=4)
    for _ in trainer.steps():
        made = predict(
            family,
            pools,
            trainer.generator,
            no_text=0.05,
            no_image=0.05,
            no_both=0.05,
            full_caption=(0.25, 0.25),
            no_masks=0.0 if masks else 1.0,
            auto_layout=0.0,
        )
        loss = (made.error * made.batch.weight).mean()
        trainer.update(loss, BATCH, error=made.error.mean())


STAGES = {
    "vae": train_vae,
    "encoders": train_encoders,
    "base": train_base,
    "adapter": train_adapter,
    "adapter_without_masks": partial(train_adapter, masks=False),
    "judge": train_judge,
}


def train(
    stage: str, folder: Path, minutes: float, scenes: float = 1.0, device: str = "cpu"
) -> None:
    """Train one stage for some minutes; scenes: share of the usual number of scenes to draw."""
    make_host_trainable()
    if "RANK" in os.environ and not dist.is_initialized():  # set by torch.distributed.run
        dist.init_process_group("gloo")
    STAGES[stage](folder, minutes, scenes, torch.device(device))
