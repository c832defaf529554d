"""A stage of training that takes a moment: python tiny_stage.py WORK_FOLDER"""

import argparse
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from lab.training import processes
from lab.training.config import StageSettings
from lab.training.task import Losses, Task
from lab.training.trainer import Trainer

SETTINGS = StageSettings("tiny", samples=96, batch=8, micro_batch=4, lr=0.05, warmup=16, seed=7)


class TinyTask(Task):
    """Learns whether random numbers add up to more than zero, with one of two layers in turn."""

    unused_parameters = True

    def __init__(self, settings: StageSettings) -> None:
        super().__init__()
        torch.manual_seed(settings.seed)
        self.n = settings.micro_batch
        self.layers = nn.ModuleList([nn.Linear(6, 1), nn.Linear(6, 1), nn.Linear(6, 1)])

    @property
    def trained(self) -> nn.Module:
        return self.layers

    def draw(self, g: Generator, step: int) -> tuple[Tensor, int]:
        return torch.randn(self.n, 6, generator=g), step % 2

    def forward(self, micro_batch: tuple[Tensor, int]) -> Losses:
        x, layer = micro_batch
        logits = self.layers[layer](x)[:, 0]
        expected = (x.sum(1) > 0).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, expected)
        right = ((logits > 0) == (expected > 0)).float().mean()
        return {"loss": loss, "right": right}


def train(folder: Path, settings: StageSettings = SETTINGS) -> Trainer:
    trainer = Trainer(TinyTask(settings), settings, folder)
    trainer.run()
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    torch.set_num_threads(1)
    processes.join()
    train(parser.parse_args().work)
    processes.leave()
