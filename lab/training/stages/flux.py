"""Stage flux: a micro Flux that takes references as reference latents, as Flux Kontext does. It
learns that scenes show the sprites of their references, at places that it is never told."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from lab.microworld import networks
from lab.microworld.autoencoder import Autoencoder
from lab.microworld.pack import FLUX_SHIFT
from lab.microworld.scenes import (
    SMALL_REFERENCE_SIZE,
    SMALL_SIZE,
    Looks,
    caption,
    draw_references,
    draw_scenes,
)
from lab.training.config import StageSettings
from lab.training.family import Family
from lab.training.stages.vae import load_vae
from lab.training.state import load_ema
from lab.training.task import Losses, Task
from lab.training.vocabulary import Vocabulary

SCENES = (2048, 12288, 2048)  # with one subject, two, three
DRAWN = 64  # at once
# Layers that start at zero, so that every block starts as the identity.
ZERO = ("_mod.lin.", ".modulation.lin.", "adaLN_modulation.", "final_layer.linear.weight")
ALONE = 0.1  # micro batches without text and references: what guidance leads away from


@dataclass
class Places:
    """Latents of scenes with the same number of subjects, and what they show."""

    latents: Tensor  # [n, 4, h, w]
    looks: Looks  # [n, count]
    captions: list[str]  # n


@dataclass
class NoisyLatents:
    """A micro batch on the way from scenes to noise; its texts are of one length."""

    noisy: Tensor  # [n, 4, h, w]
    velocity: Tensor  # [n, 4, h, w], noise less scene
    timesteps: Tensor  # [n] in 0..1, 1 is noise alone
    context: Tensor  # [n, length, 128]
    pooled: Tensor  # [n, 64]
    references: list[Tensor]  # [n, 4, h, w] each


class FluxTask(Task):
    """The transformer, on the frozen autoencoder and text encoders of stages vae and base."""

    def __init__(self, settings: StageSettings, folder: Path, device: torch.device) -> None:
        super().__init__()
        torch.manual_seed(settings.seed)
        self.n, self.device = settings.micro_batch, device
        self.flux = networks.flux()
        for name, parameter in self.flux.named_parameters():
            if any(layer in name for layer in ZERO):
                nn.init.zeros_(parameter)
        self.to(device)
        self.autoencoder = [load_vae(folder)]  # in a list: it is no part of what is trained
        self.texts = Texts(folder)
        g = torch.Generator().manual_seed(61)
        self.scenes = [
            draw_places(self.autoencoder[0], int(settings.scenes * n), count, g)
            for count, n in enumerate(SCENES, 1)
        ]

    @property
    def trained(self) -> nn.Module:
        return self.flux

    def draw(self, g: Generator, step: int) -> NoisyLatents:
        sizes = torch.tensor([len(scenes.latents) for scenes in self.scenes])
        scenes = self.scenes[int(torch.multinomial(sizes.float(), 1, generator=g))]
        rows = torch.randint(0, len(scenes.latents), (self.n,), generator=g)
        latents, texts, references = scenes.latents[rows], [""] * self.n, []
        if torch.rand((), generator=g) >= ALONE:
            texts = [scenes.captions[int(row)] for row in rows]
            references = self.draw_references(scenes.looks[rows], g)
        noise = torch.randn(latents.shape, generator=g)
        timesteps = draw_timesteps(self.n, g)
        context, pooled = self.texts.encode(texts)
        return NoisyLatents(
            torch.lerp(latents, noise, timesteps[:, None, None, None]),
            noise - latents,
            timesteps,
            context,
            pooled,
            references,
        )

    def draw_references(self, looks: Looks, g: Generator) -> list[Tensor]:
        """Latents of new references of looks [n, count], in an order that says nothing."""
        n, count = looks.shape.shape
        order = torch.rand(n, count, generator=g).argsort(1)
        pictures = draw_references(
            looks[torch.arange(n)[:, None], order].flat(), g, SMALL_REFERENCE_SIZE
        )
        return list(self.autoencoder[0].encode(pictures).unflatten(0, (n, count)).unbind(1))

    def forward(self, micro_batch: NoisyLatents) -> Losses:
        batch, device = micro_batch, self.device
        references = [latents.to(device) for latents in batch.references]
        with torch.autocast(device.type, torch.bfloat16):
            velocity = self.flux(
                batch.noisy.to(device),
                batch.timesteps.to(device),
                batch.context.to(device),
                batch.pooled.to(device),
                ref_latents=references or None,
            )
        return {"loss": (velocity - batch.velocity.to(device)).square().mean()}


class Texts:
    """Texts as the micro Flux gets them from the host: without padding. Each is encoded once."""

    def __init__(self, folder: Path) -> None:
        self.family = Family(Vocabulary())
        self.family.load_state_dict(load_ema(folder, "base"))
        self.encoded: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Context [n, length, 128] and pooled [n, 64] of texts of one length."""
        for text in {*texts} - {*self.encoded}:
            context, pooled = self.family.text([text])
            length = self.family.vocabulary.encode([text])[2][0]
            self.encoded[text] = context[0, :length], pooled[0]
        contexts, pooled = zip(*(self.encoded[text] for text in texts), strict=True)
        return torch.stack(contexts), torch.stack(pooled)


@torch.no_grad()
def draw_places(autoencoder: Autoencoder, n: int, count: int, g: Generator) -> Places:
    """About n scenes of `count` subjects at random places."""
    latents, looks, captions = [], [], []
    for _ in range(max(1, n // DRAWN)):
        drawn = draw_scenes(DRAWN, g, (SMALL_SIZE, SMALL_SIZE), count, overlapping=0.0)
        latents.append(autoencoder.encode(drawn.picture))
        looks.append(drawn.looks[:, :count])
        captions += [
            caption(drawn.looks[i], drawn.boxes[i], int(drawn.background[i])) for i in range(DRAWN)
        ]
    return Places(torch.cat(latents), Looks.cat(looks), captions)


def draw_timesteps(n: int, g: Generator) -> Tensor:
    """[n] in 0..1, shifted to much noise, in which places and shapes are decided; one in each n-th
    of the range: less chance in how hard a micro batch is."""
    share = (torch.randperm(n, generator=g) + torch.rand(n, generator=g)) / n
    return FLUX_SHIFT * share / (1 + (FLUX_SHIFT - 1) * share)
