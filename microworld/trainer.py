"""The loop that all stages of training share: schedule, moving average, resuming, progress."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

SAVE_SECONDS, PRINT_STEPS = 60, 50
MIN_STEPS = 20  # of a stage, however short its time and busy the machine


class Trainer:
    """Trains a module for a number of minutes, from where an earlier run of the stage stopped.

    Several processes (of torch.distributed.run) train one module, each on samples of its own.

    Args:
        stage: its name; the state goes to `folder`/`stage`.pt, the loss curve to `stage`.png.
        module: everything that is trained; parameters that need no gradient stay as they are.
        minutes: wall clock in all, earlier runs included.
        rate: AdamW's highest learning rate; it rises over 100 steps and falls over the last 60 %.
        decay: of the moving average of the weights, which is what a stage results in.
        seed: of everything random in the stage.
    """

    def __init__(
        self,
        stage: str,
        module: nn.Module,
        folder: Path,
        minutes: float,
        rate: float = 1e-3,
        weight_decay: float = 0.01,
        decay: float = 0.998,
        seed: int = 0,
    ) -> None:
        self.stage, self.module, self.folder = stage, module, folder
        self.budget, self.rate, self.decay, self.seed = minutes * 60, rate, decay, seed
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )
        self.rank, self.processes = 0, 1
        if dist.is_initialized():
            self.rank, self.processes = dist.get_rank(), dist.get_world_size()
        self.generator = torch.Generator().manual_seed(seed + 1000 * self.rank)
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.step, self.seconds, self.samples = 0, 0.0, 0
        self.curve: list[tuple[float, dict[str, float]]] = []
        self._sums: dict[str, float] = {}
        self._count = 0  # steps in the sums
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{stage}.pt"
        if self.path.exists():
            state = torch.load(self.path, map_location="cpu", weights_only=False)
            module.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.rank == 0:
                self.generator.set_state(state["generator"])
            else:  # of its own, and not what it drew before
                self.generator.manual_seed(seed + 1000 * self.rank + state["progress"][0])
            self.average = state["average"]
            self.step, self.seconds, self.samples, self.curve = state["progress"]
            print(f"{stage}: resumed at step {self.step}", flush=True)

    def steps(self) -> Iterator[int]:
        """Number the steps until the time is used up; then save, and load the moving average."""
        begin, before, saved = time.monotonic(), self.seconds, time.monotonic()
        while self.seconds < self.budget or self.step < MIN_STEPS:
            share = self.seconds / self.budget
            rate = self.rate * min(1, (self.step + 1) / 100, max(0.02, (1 - share) / 0.6))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            yield self.step
            self.step += 1
            self.seconds = self._together(before + time.monotonic() - begin)
            if self.step % PRINT_STEPS == 0:
                self._report()
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
        self._save()
        self.module.load_state_dict(self.average)

    def update(self, loss: Tensor, samples: int, **parts: Tensor) -> None:
        """One step of AdamW on a loss of `samples` samples; `parts` are shown beside it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._average_gradients()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.samples += samples * self.processes
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.module.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)
        self._count += 1
        for name, value in {"loss": loss, **parts}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.item()

    def _average_gradients(self) -> None:
        if self.processes == 1:
            return
        for parameter in self.parameters:
            if parameter.grad is None:  # another process' samples may have needed it
                parameter.grad = torch.zeros_like(parameter)
        gradients = torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])
        dist.all_reduce(gradients)
        gradients /= self.processes
        sizes = [p.numel() for p in self.parameters]
        for parameter, part in zip(self.parameters, gradients.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    def _together(self, seconds: float) -> float:
        """The first process' time, so that all stop at the same step."""
        if self.processes == 1:
            return seconds
        value = torch.tensor([seconds], dtype=torch.float64)
        dist.broadcast(value, 0)
        return value.item()

    def metadata(self) -> dict[str, str]:
        """What a file of weights says about its training."""
        return {
            f"{self.stage}.seed": str(self.seed),
            f"{self.stage}.steps": str(self.step),
            f"{self.stage}.samples": str(self.samples),
            f"{self.stage}.minutes": f"{self.seconds / 60:.1f}",
            "torch": torch.__version__,
        }

    def _report(self) -> None:
        if self.rank:
            return
        means = {name: value / self._count for name, value in self._sums.items()}
        self.curve.append((self.seconds, means))
        losses = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        print(
            f"{self.stage} step {self.step} {losses} "
            f"{self.samples / self.seconds:.0f} samples/s, "
            f"{(self.budget - self.seconds) / 60:.1f} minutes to go",
            flush=True,
        )
        self._sums, self._count = {}, 0

    def _save(self) -> None:
        if self.rank:
            return
        state = {
            "weights": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "average": self.average,
            "progress": (self.step, self.seconds, self.samples, self.curve),
            "metadata": self.metadata(),
        }
        unfinished = self.path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(self.path)
        draw_curve(self.curve, self.path.with_suffix(".png"))


def load_average(folder: Path, stage: str) -> dict[str, Tensor]:
    """What a stage resulted in."""
    return torch.load(folder / f"{stage}.pt", map_location="cpu", weights_only=False)["average"]


def draw_curve(curve: list[tuple[float, dict[str, float]]], path: Path) -> None:
    """The losses over time, on a logarithmic axis."""
    from PIL import Image, ImageDraw

    if len(curve) < 2:
        return
    width, height, margin = 720, 360, 40
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    logs = [{k: math.log10(max(v, 1e-6)) for k, v in losses.items()} for _, losses in curve]
    values = [value for losses in logs for value in losses.values()]
    low, high = min(values), max(values) + 1e-3
    for index, (name, last) in enumerate(logs[-1].items()):
        colour = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e")[index % 5]
        points = [
            (
                margin + (width - 2 * margin) * seconds / curve[-1][0],
                margin + (height - 2 * margin) * (high - losses[name]) / (high - low),
            )
            for (seconds, _), losses in zip(curve, logs, strict=True)
            if name in losses  # a stage may have learned to report it on its way
        ]
        pen.line(points, fill=colour, width=2)
        pen.text(
            (width - 2 * margin - 40, 10 + 14 * index),
            f"{name} {10**last:.4f}",
            colour,
        )
    pen.rectangle((margin, margin, width - margin, height - margin), outline="grey")
    pen.text((4, margin), f"{10**high:.3f}", "black")
    pen.text((4, height - margin - 10), f"{10**low:.3f}", "black")
    pen.text((margin, height - margin + 8), f"0 to {curve[-1][0] / 60:.1f} minutes", "black")
    picture.save(path)
