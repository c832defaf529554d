"""The stages that train on noise.

base     UNet, text encoders and tower become a text-to-image model, with the adapter attached to a
         part of the samples, so that the frozen base knows what image tokens are.
adapter  As MS-Diffusion is trained: everything is frozen but resampler and projections.
"""

from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from lab.training.config import StageSettings
from lab.training.dataset import Drops, NoisyScenes, draw_noisy_scenes, load_scenes
from lab.training.family import Family
from lab.training.state import load_ema
from lab.training.task import Losses, Task
from lab.training.vocabulary import Vocabulary

BASE_DROPS = Drops(
    text=0.02, image=0.28, both=0.05, full_caption=(0.2, 0.95), masks=0.1, auto_layout=0.25
)
ADAPTER_DROPS = Drops(text=0.05, image=0.05, both=0.05, full_caption=(0.25, 0.25), masks=0.0)
WITHOUT_MASKS_DROPS = Drops(text=0.05, image=0.05, both=0.05, full_caption=(0.25, 0.25), masks=1.0)


class DenoisingTask(Task):
    """The family, on noisy scenes."""

    unused_parameters = True  # a micro batch may have no references

    def __init__(self, settings: StageSettings, folder: Path, drops: Drops) -> None:
        super().__init__()
        torch.manual_seed(settings.seed)
        self.n, self.drops = settings.micro_batch, drops
        self.family = Family(Vocabulary())
        self.scenes = load_scenes(folder, settings.scenes)

    def draw(self, g: Generator, step: int) -> NoisyScenes:
        return draw_noisy_scenes(self.scenes, self.n, self.drops, g)


class BaseTask(DenoisingTask):
    def __init__(self, settings: StageSettings, folder: Path, device: torch.device) -> None:
        super().__init__(settings, folder, BASE_DROPS)
        encoders = load_ema(folder, "encoders")
        self.family.load_state_dict(
            {k.removeprefix("family."): v for k, v in encoders.items() if k.startswith("family.")}
        )
        self.to(device)

    @property
    def trained(self) -> Family:
        return self.family

    def forward(self, micro_batch: NoisyScenes) -> Losses:
        batch, family = micro_batch.to(self.family.device), self.family
        tokens = family.image_tokens(batch.subjects)
        noise, maps = family(batch.noisy, batch.timesteps, batch.texts, batch.subjects, tokens)
        error = (noise - batch.noise).square().mean((1, 2, 3))
        edge_error = family.edge_error(tokens, batch.subjects)
        map_error = family.map_error(maps, batch.texts, batch.subjects)
        guided, per_sample = batch.subjects.present.any(1), error.detach()
        return {
            "loss": (error * batch.weight).mean() + 0.1 * edge_error + map_error,
            "guided": per_sample[guided].mean() if guided.any() else per_sample.mean(),
            "text": per_sample[~guided].mean() if (~guided).any() else per_sample.mean(),
            "edges": edge_error.detach(),
            "maps": map_error.detach(),
        }


class AdapterTask(DenoisingTask):
    """From the base's own adapter."""

    def __init__(
        self, settings: StageSettings, folder: Path, device: torch.device, drops: Drops
    ) -> None:
        super().__init__(settings, folder, drops)
        self.family.load_state_dict(load_ema(folder, "base"))
        self.to(device)
        self.family.requires_grad_(False)
        self.family.adapter.requires_grad_(True)
        self.family.adapter.dummy_image_tokens.requires_grad_(False)

    @property
    def trained(self) -> nn.Module:
        return self.family.adapter

    def forward(self, micro_batch: NoisyScenes) -> Losses:
        batch, family = micro_batch.to(self.family.device), self.family
        tokens = family.image_tokens(batch.subjects)
        noise, _ = family(batch.noisy, batch.timesteps, batch.texts, batch.subjects, tokens)
        return denoising_losses(noise, batch)


def denoising_losses(noise: Tensor, batch: NoisyScenes) -> Losses:
    """Of predicted noise [n, 4, h, w]."""
    error = (noise - batch.noise).square().mean((1, 2, 3))
    return {"loss": (error * batch.weight).mean(), "error": error.detach().mean()}
