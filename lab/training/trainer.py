"""The loop that all stages of training share: steps, EMA, resuming, progress.

The result depends on task and settings alone. A micro batch is drawn from a seed of its own, by the
stage's seed, the step and its number in it, so that a resumed run goes on exactly as one without a
break. More processes share the same micro batches, and differ by the rounding of their sum alone.
"""

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lab.training import processes
from lab.training.config import StageSettings
from lab.training.curve import draw_curve
from lab.training.state import Curve, StageState, Weights, resume_state, save_state
from lab.training.task import Task

SAVE_SECONDS, PRINT_STEPS = 60, 50


class Ema:
    """Exponential moving average of a module's weights; over fewer steps in the beginning."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: Weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)

    def load(self, weights: Weights) -> None:
        for name, value in weights.items():
            self.weights[name].copy_(value)


class Trainer:
    """Trains a task for its samples, from where an earlier run of the stage stopped.

    Args:
        folder: for the state, <stage>.pt, and the loss curve, <stage>.png.
    """

    def __init__(self, task: Task, settings: StageSettings, folder: Path) -> None:
        self.task, self.settings, self.folder = task, settings, folder
        if settings.micro_batches % processes.count():
            raise ValueError(
                f"{settings.stage}: {processes.count()} processes can't share "
                f"{settings.micro_batches} micro batches."
            )
        self.parameters = [p for p in task.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters, settings)
        self.ema = Ema(task.trained, settings.ema_decay)
        self.step, self.samples, self.seconds = 0, 0, 0.0
        self.curve: Curve = []
        self.validations: Curve = []
        self._recent: list[dict[str, float]] = []  # losses of the steps since the last report
        self._stopped = False
        folder.mkdir(parents=True, exist_ok=True)
        if (state := resume_state(folder, settings)) is not None:
            self._resume(state)
        self.model: nn.Module = task
        if processes.count() > 1:
            self.model = DistributedDataParallel(
                task, find_unused_parameters=task.unused_parameters
            )

    def run(self) -> bool:
        """Train until all samples are seen, or the minutes of the settings are over; save, and load
        the EMA into the task. Returns whether the stage is finished.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, once the step is done and saved.
            ValueError: the loss is no finite number.
        """
        with self._stopping():
            return self._run()

    def _run(self) -> bool:
        start, before, saved = time.monotonic(), self.seconds, time.monotonic()
        while self.samples < self.settings.samples and not self._is_over(start):
            losses = self._train_step()
            self.ema.update(self.task.trained, self.step)
            self.step += 1
            self.samples += self.settings.batch
            self.seconds = before + time.monotonic() - start
            self._recent.append(losses)
            if self.step % PRINT_STEPS == 0:
                self._report(self.samples / self.seconds)
            if self.task.validate_steps and self.step % self.task.validate_steps == 0:
                self._validate()
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()
        self.task.trained.load_state_dict(self.ema.weights)
        finished = self.samples >= self.settings.samples
        if processes.rank() == 0:
            stage, end = self.settings.stage, "finished" if finished else "paused"
            print(f"{stage}: {end} after {self.samples} samples", flush=True)
            if finished:
                self.task.check()
        if self._stopped:
            raise KeyboardInterrupt
        return finished

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Let a signal to stop wait for the end of a step; a second one doesn't."""

        def stop(*_: Any) -> None:
            if self._stopped:
                raise KeyboardInterrupt
            self._stopped = True

        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def save(self) -> None:
        if processes.rank():
            return
        state = StageState(
            self.settings.to_dict(),
            dict(self.task.trained.state_dict()),
            self.ema.weights,
            self.optimizer.state_dict(),
            self.step,
            self.samples,
            self.seconds,
            self.curve,
            self.validations,
        )
        save_state(state, self.folder)
        draw_curve(self.curve, self.folder / f"{self.settings.stage}.png")

    def _train_step(self) -> dict[str, float]:
        """One step of AdamW; returns the losses of this process' micro batches."""
        lr = self.settings.learning_rate(self.samples)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        count = self.settings.micro_batches // processes.count()
        sums: dict[str, float] = {}
        for n in range(count):
            g = micro_batch_generator(self.settings.seed, self.step, processes.rank() * count + n)
            micro_batch = self.task.draw(g, self.step)
            alone = n < count - 1 and isinstance(self.model, DistributedDataParallel)
            # The processes' gradients are averaged with those of the last micro batch.
            with self.model.no_sync() if alone else nullcontext():  # type: ignore[operator]
                losses: dict[str, Tensor] = self.model(micro_batch)
                (losses["loss"] / count).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.item() / count
        if not math.isfinite(sums["loss"]):
            raise ValueError(
                f"{self.settings.stage}: the loss is {sums['loss']} after {self.samples} samples; "
                "a lower lr may help. The last state that was saved stays."
            )
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return sums

    def _validate(self) -> None:
        if processes.rank():
            return
        trained = self.task.trained
        weights = {name: value.clone() for name, value in trained.state_dict().items()}
        trained.load_state_dict(self.ema.weights)
        losses = {name: value.item() for name, value in self.task.validate(self.step).items()}
        trained.load_state_dict(weights)
        self.validations.append((self.samples, losses))
        text = " ".join(f"{name} {value:.5f}" for name, value in losses.items())
        print(f"{self.settings.stage} step {self.step}: {text}", flush=True)

    def _is_over(self, start: float) -> bool:
        minutes = self.settings.minutes
        over = minutes is not None and time.monotonic() - start >= 60 * minutes
        return processes.agree(over or self._stopped)

    def _resume(self, state: StageState) -> None:
        self.task.trained.load_state_dict(state.weights)
        self.optimizer.load_state_dict(state.optimizer)
        self.ema.load(state.ema)
        self.step, self.samples, self.seconds = state.step, state.samples, state.seconds
        self.curve, self.validations = state.curve, state.validations
        print(f"{state.stage}: resumed after {self.samples} samples", flush=True)

    def _report(self, samples_per_second: float) -> None:
        """Add the mean losses since the last report to the curve, and print them."""
        if processes.rank():
            return
        count = len(self._recent)
        means = {k: sum(losses[k] for losses in self._recent) / count for k in self._recent[-1]}
        self._recent.clear()
        self.curve.append((self.samples, means))
        losses = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        left = (self.settings.samples - self.samples) / samples_per_second / 60
        print(
            f"{self.settings.stage} step {self.step}, {self.samples} of {self.settings.samples} "
            f"samples: {losses}; {samples_per_second:.3g} samples/s, {processes.memory():.1f} GiB, "
            f"{left:.1f} minutes left",
            flush=True,
        )


def make_optimizer(
    parameters: Sequence[nn.Parameter], settings: StageSettings
) -> torch.optim.Optimizer:
    """The optimizer of the settings. That of 8 bits keeps the moments of parameters with fewer than
    4096 numbers in float32."""
    given: dict[str, Any] = {
        "lr": settings.lr,
        "betas": (0.9, 0.99),
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **given)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, **given)


def micro_batch_generator(seed: int, step: int, number: int) -> Generator:
    """A generator for micro batch `number` of a step, independent of every other's."""
    (mixed,) = np.random.SeedSequence((seed, step, number)).generate_state(1)
    return torch.Generator().manual_seed(int(mixed))
