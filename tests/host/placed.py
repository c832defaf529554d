"""References, conditionings and short sampling runs of the tiny models that take reference latents,
and what their joint attentions must give."""

from typing import Any

import comfy.samplers
import torch
from placed_rule import masked_scores
from reference_models import ARCHITECTURES, available, latent
from torch import Tensor

NAMES = available()
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
INNER, WHOLE, NOWHERE = (0.2, 0.1, 0.7, 0.8), (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0)
HEIGHT, WIDTH = 5, 8  # odd, so that tokens of two cells are padded


def references(name: str, count: int = 2, seed: int = 50) -> list[Tensor]:
    """References of several sizes."""
    sizes = [(4, 3), (3, 5), (4, 4)]
    return [latent(name, *sizes[n % 3], seed + n) for n in range(count)]


def cond(name: str, seed: int, given: Any = None, tokens: int = 7, **more: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, ARCHITECTURES[name].width, generator=generator)
    values: dict[str, Any] = {"pooled_output": torch.zeros(1, 24), **more}
    values["attention_mask"] = torch.ones(1, tokens, dtype=torch.int64)
    if given is not None:
        values["reference_latents"] = given
    return [[text, values]]


def guide(model: Any, positive: Any, negative: Any = None, cfg: float = 4.0) -> Any:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative or positive)
    guider.set_cfg(cfg)
    return guider


def sample(
    guider: Any, name: str, batch: int = 1, size: Any = (HEIGHT, WIDTH), steps: int = 2,
    sampler: str = "euler", **more: Any,
) -> Tensor:  # fmt: skip
    start = latent(name, *size, 1, batch)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
    return guider.sample(
        start, torch.zeros_like(start), comfy.samplers.sampler_object(sampler), sigmas,
        disable_pbar=True, seed=1, **more,
    )  # fmt: skip


class Attention:
    """One joint attention: its parts, what went in, what came out."""

    def __init__(
        self, call: Any, order: Any, qkv: Any, kwargs: Any, out: Tensor, masks: Any
    ) -> None:
        self.call, self.order, self.qkv, self.out = call, tuple(order), qkv, out
        self.kwargs, self.masks = kwargs, masks

    def error(self, row: int) -> float:
        """Of one row, against the rule in float64; a share of the largest value above 1."""
        heads = self.kwargs["heads"]
        q, k, v = (x[row].double() for x in self.qkv)
        if not self.kwargs.get("skip_reshape"):
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (q, k, v))
        times = len(q) // len(k)  # grouped heads
        k, v = k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        expected = torch.softmax(scores + self._mask(row), -1) @ v
        difference = (self.out[row] - expected.transpose(0, 1).flatten(1)).abs().max()
        return float(difference / expected.abs().max().clamp(min=1.0))

    def _mask(self, row: int) -> Tensor | float:
        of_row = self.call.rows[row * len(self.call.rows) // len(self.qkv[0])]
        start = self.call._prompt_start(of_row)
        layout = self.call.grid, self.call.text, self.call.references, self.call.first_stage
        cached = of_row.window, start, self.order, *layout
        if cached not in self.masks:
            placement = self.call._placement(of_row.window, start)
            count = self.qkv[1].shape[-2]
            self.masks[cached] = (
                0.0
                if placement.parts_nothing
                else masked_scores(placement, self.order, torch.zeros(count, count).double())
            )
        return self.masks[cached]
