"""What placing references does to a call of a transformer: share of the untouched call's time, and
memory, in groups and with one mask. `nox -s bench -- --placed --write`"""

import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.samplers
import torch
from comfy.ldm.flux import math as flux_math
from comfy.ldm.modules.attention import attention_pytorch
from comfy.patcher_extension import WrappersMP
from reference_models import FLUX, build
from torch import Tensor

# Attention's share of the real model's arithmetic is L / (L + 6 width) in each block: of L tokens
# each takes 2 L width for the scores and what they weigh, and 12 width squared for the projections.
# So a quarter of the width with a quarter of the tokens has the same share.
REAL = {"width": 3072, "text": 512, "edge": 64}  # Flux at 1024 x 1024, references of that size
SCALE = 4
LAYOUTS = {1: (1, 1), 2: (2, 1), 4: (2, 2), 8: (4, 2)}  # references: columns and rows of boxes
UNTOUCHED, GROUPS, MASK = "untouched", "groups", "mask"


def attention_share(references: int) -> float:
    """Of the arithmetic of a call of the real model."""
    tokens = REAL["text"] + (1 + references) * REAL["edge"] ** 2
    return tokens / (tokens + 6 * REAL["width"])


def build_flux() -> Any:
    """Flux of a quarter of the width, one block in nineteen."""
    width = REAL["width"] // SCALE
    sizes = {"hidden_size": width, "num_heads": width // 128, "axes_dim": [16, 56, 56]}
    return build("flux", **sizes, mlp_ratio=4.0, depth=1, depth_single_blocks=2)


def boxes(references: int) -> list[tuple[float, float, float, float]]:
    """As many boxes as references, side by side; one alone on half of the picture."""
    columns, rows = LAYOUTS[references]
    if references == 1:
        return [(0.25, 0.0, 0.75, 1.0)]
    return [
        (x / columns, y / rows, (x + 1) / columns, (y + 1) / rows)
        for y in range(rows)
        for x in range(columns)
    ]


class Peak:
    """The most MiB of this process while something runs, over what it had before."""

    def __enter__(self) -> "Peak":
        self.before, self.most, self.running = self._now(), 0.0, True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.running = False
        self.thread.join()

    def _watch(self) -> None:
        while self.running:
            self.most = max(self.most, self._now() - self.before)
            time.sleep(0.002)

    @staticmethod
    def _now() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def measure(
    model: Any, place: Callable[..., Any], attention: Any, references: int, steps: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds and MiB of each call: untouched, in groups, with one mask, in turn."""
    edge = 2 * int((REAL["edge"] ** 2 // SCALE) ** 0.5)  # of the latent: two cells a token
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(1, 16, edge, edge, generator=generator) for _ in range(references)]
    text = torch.randn(1, REAL["text"] // SCALE, FLUX["context_in_dim"], generator=generator)
    found: dict[str, dict[str, list[float]]] = {
        name: {"seconds": [], "MiB": []} for name in (UNTOUCHED, GROUPS, MASK)
    }
    right = attention.attend_in_groups
    dense: list[Tensor] = []

    def masked(attend: Any, q: Tensor, k: Tensor, v: Tensor, groups: Any, own: Any) -> Tensor:
        if not dense:
            dense.append(attention.dense_mask(groups, q.shape[-2], k.shape[-2], q.dtype))
            found[GROUPS]["pairs"] = [float((dense[0] == 0).float().mean())]
        return attend(q, k, v, dense[0])

    order = [UNTOUCHED, GROUPS, MASK]
    placed, calls = place(model, boxes(references)), 0

    def forward(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal calls
        name, calls = order[calls % 3], calls + 1
        attention.attend_in_groups = masked if name == MASK else right
        options = dict(args[-1])
        if name == UNTOUCHED:
            options.pop("optimized_attention_override").args[0].joint_attentions = 1
        begin = time.process_time()
        with Peak() as peak:
            out = executor(*args[:-1], options, **kwargs)
        found[name]["seconds"].append(time.process_time() - begin)
        found[name]["MiB"].append(peak.most)
        print(f"{references} references, {name}: {found[name]['seconds'][-1]:.2f} s", flush=True)
        return out

    # Inside of what places, so that its override is among the options.
    placed.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "bench", forward)
    placed.model.memory_required = lambda *args, **kwargs: 0
    flux_math.optimized_attention = attention_pytorch  # as on GPUs
    guider = comfy.samplers.CFGGuider(placed)
    values = {"reference_latents": given, "pooled_output": torch.zeros(1, 24)}
    guider.set_conds([[text, values]], [[text, values]])
    guider.set_cfg(1.0)
    start = torch.randn(1, 16, edge, edge, generator=generator)
    sigmas = torch.cat([torch.linspace(1.0, 0.1, 3 * (steps + 1)), torch.zeros(1)])
    euler = comfy.samplers.sampler_object("euler")
    try:
        guider.sample(start, start * 0, euler, sigmas, disable_pbar=True, seed=1)
    finally:
        attention.attend_in_groups = right
    return found


def rows(found: dict[int, dict[str, dict[str, list[float]]]]) -> dict[str, dict[str, float]]:
    """A row for each number of references; medians over the calls after the first."""

    def later(of: dict[str, dict[str, list[float]]], name: str, part: str) -> float:
        return statistics.median(of[name][part][1:])

    table: dict[str, dict[str, float]] = {}
    for references, of in found.items():
        whole = later(of, UNTOUCHED, "seconds")
        table[f"{references} reference{'s' if references > 1 else ''}"] = {
            "attention's share of arithmetic": attention_share(references),
            "pairs of tokens kept, share": of[GROUPS]["pairs"][0],
            "groups, share of untouched": later(of, GROUPS, "seconds") / whole,
            "mask, share of untouched": later(of, MASK, "seconds") / whole,
            "groups, first call, share": of[GROUPS]["seconds"][0] / whole,
            **{f"{n}, MiB": max(of[n]["MiB"]) for n in (UNTOUCHED, GROUPS, MASK)},
        }
    return table
