"""The settings of a stage of training: all that decides its result, however busy the machine is and
however many processes share the work. They go into every file that a stage leaves."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

MAX_SEED = 2**63  # as torch takes it
CHOICES = {"schedule": ("linear", "cosine"), "optimizer": ("adamw", "adamw8bit")}


@dataclass(frozen=True)
class StageSettings:
    """Settings of one stage. Progress and learning rate count samples.

    Args:
        samples: how many to train on in all, rounded up to whole steps.
        batch: samples of a step of the optimizer.
        micro_batch: samples of one forward pass. A step's micro batches are shared among the
            processes; each draws from a seed of its own.
        lr: AdamW's highest learning rate; it rises over the first `warmup` samples.
        ema_decay: of the exponential moving average of the weights, which is the stage's result.
        seed: of the initial weights and of every sample.
        scenes: how many scenes to draw in advance, as a multiple of the usual number.
        schedule: how the learning rate falls: "linear", over the last 60 % of the samples to a
            50th; "cosine", over all that follow the warm-up, to 0.
        optimizer: "adamw", or "adamw8bit", whose moments have 8 bits (arXiv 2110.02861).
        minutes: after which a run of the stage pauses; a later run goes on. They don't decide the
            result.
    """

    stage: str
    samples: int
    batch: int
    micro_batch: int
    lr: float
    warmup: int
    seed: int
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    scenes: float = 1.0
    schedule: str = "linear"
    optimizer: str = "adamw"
    minutes: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for f in fields(self):
            self._check_kind(f.name, f.type)
        for name in ("samples", "batch", "micro_batch", "scenes", "lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{self.stage}: {name} must be positive.")
        for name in ("warmup", "minutes", "weight_decay", "seed"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{self.stage}: {name} must not be negative.")
        if self.seed >= MAX_SEED:
            raise ValueError(f"{self.stage}: seed must be less than {MAX_SEED}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"{self.stage}: ema_decay must be from 0 to 1, got {self.ema_decay}.")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{self.stage}: {name} must be {' or '.join(known)}, "
                    f"got {getattr(self, name)!r}."
                )
        if self.batch % self.micro_batch:
            raise ValueError(
                f"{self.stage}: a batch of {self.batch} samples can't be split into micro batches "
                f"of {self.micro_batch}."
            )

    def _check_kind(self, name: str, kind: Any) -> None:
        """Raises ValueError: a number isn't finite, or a whole one isn't whole."""
        value = getattr(self, name)
        if kind not in (int, float, float | None) or (value is None and kind == float | None):
            return
        kinds = int if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            words = "whole" if kind is int else "finite"
            raise ValueError(f"{self.stage}: {name} must be a {words} number, got {value!r}.")

    @property
    def micro_batches(self) -> int:
        """Of one step."""
        return self.batch // self.micro_batch

    def learning_rate(self, samples: int) -> float:
        """Of the step after this many samples."""
        rise = (samples + self.batch) / self.warmup if self.warmup else 1.0
        if self.schedule == "cosine":
            done = (samples - self.warmup) / max(1, self.samples - self.warmup)
            fall = (1 + math.cos(math.pi * max(0.0, done))) / 2
        else:
            fall = max(0.02, (1 - samples / self.samples) / 0.6)
        return self.lr * min(1.0, rise, fall)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def differences(self, other: dict[str, Any]) -> list[str]:
        """What decides the result and is otherwise in `other`, as "name is 1, was 2". What `other`
        lacks came later, and was as it is by default."""
        return [
            f"{f.name} is {getattr(self, f.name)}, was {other.get(f.name, f.default)}"
            for f in fields(self)
            if f.compare and getattr(self, f.name) != other.get(f.name, f.default)
        ]


# The shipped models saw as many samples; see the README beside them. A sample of stage encoders is
# a reference, three to a caption, of the others a crop, a scene or a window.
STAGES = {
    stage.stage: stage
    for stage in (
        StageSettings("vae", 72_592, 16, 16, lr=2e-3, warmup=1_600, seed=1, weight_decay=0.0),
        StageSettings("encoders", 59_760, 48, 48, lr=1e-3, warmup=4_800, seed=2),
        StageSettings("base", 296_544, 32, 16, lr=1.2e-3, warmup=3_200, seed=3),
        StageSettings("adapter", 9_568, 32, 16, lr=6e-4, warmup=3_200, seed=4, ema_decay=0.997),
        StageSettings(
            "adapter_without_masks", 12_384, 32, 16, lr=6e-4, warmup=3_200, seed=4, ema_decay=0.997
        ),
        StageSettings("ip_adapter", 9_568, 32, 16, lr=6e-4, warmup=3_200, seed=4, ema_decay=0.997),
        StageSettings("mip_adapter", 9_568, 32, 16, lr=6e-4, warmup=3_200, seed=4, ema_decay=0.997),
        StageSettings("flux", 150_400, 32, 16, lr=1.5e-3, warmup=3_200, seed=6),
        StageSettings("judge", 51_776, 64, 64, lr=2e-3, warmup=6_400, seed=5, ema_decay=0.99),
    )
}
