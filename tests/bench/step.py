"""What one sampling step costs with the image branch, against the plain model: `nox -s bench`.

Everything runs in one sampling run of the real host, variants in turn, so that a busy machine hits
all of them alike. On a CPU the branch is timed directly, by the processor time of what MSD Apply
adds, as a share of the whole step: the difference of two whole steps drowns in noise there.

    python tests/bench/step.py [--device cuda] [--full] [--steps 9] [--write]
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "benchmarks"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
parser.add_argument("--full", action="store_true", help="SDXL's real widths at 1024 x 1024, fp16")
parser.add_argument("--steps", type=int, default=9, help="of each variant, after the first")
parser.add_argument("--write", action="store_true", help="write docs/benchmarks/")
options = parser.parse_args()

from microworld.host import load_host  # noqa: E402

HOST_NODES = load_host()  # before anything of the host looks for a GPU

import comfy.samplers  # noqa: E402
import torch  # noqa: E402
from comfy.patcher_extension import WrappersMP  # noqa: E402
from torch import Tensor  # noqa: E402

# Boxes that cover half of the picture with two subjects, all of it with four, an equal share each.
HALF = [(0.0, 0.25, 0.5, 0.75), (0.5, 0.25, 1.0, 0.75)]
QUARTERS = [(x, y, x + 0.5, y + 0.5) for x in (0.0, 0.5) for y in (0.0, 0.5)]
TOKENS = 16  # image tokens of a subject


def module(name: str) -> Any:
    """A module of the pack's, as the host loaded it."""
    own = HOST_NODES["MSDApply"].__module__.removesuffix(".nodes.apply")
    return sys.modules[f"{own}.{name}"]


def build(full: bool, device: str) -> Any:
    """SDXL with random weights: of half the width, or the real one."""
    sys.path.insert(0, str(ROOT / "tests" / "host"))
    sys.path.insert(0, str(ROOT / "tests"))
    from models import build_sdxl

    kind = torch.float16 if device == "cuda" else torch.float32
    patcher = build_sdxl((2, 10), 320 if full else 160, 2048, 64, kind)
    patcher.load_device = torch.device(device)
    g = torch.Generator().manual_seed(0)
    for parameter in patcher.model.diffusion_model.parameters():  # of sizes that keep numbers alive
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        values = torch.randn(parameter.shape, generator=g) * fan**-0.5
        parameter.data = (values if parameter.ndim > 1 else 1 + 0.1 * values).to(kind)
    return patcher


def make_patch(model: Any, boxes: list[Any], auto: bool = False) -> Any:
    """What MSDApply puts on a model, with random keys and values."""
    kinds, g = module("nodes.subjects"), torch.Generator().manual_seed(1)
    subjects = tuple(
        kinds.Subject(f"subject {n}", box, 1.0, torch.empty(0), prompt_tokens=(n + 1,))
        for n, box in enumerate(boxes)
    )
    weights = model.model.diffusion_model.state_dict()
    attentions = module("msd_core.sdxl").cross_attentions({k: w.shape for k, w in weights.items()})
    keys_values = {}
    for attention in attentions:
        size = (len(boxes) * TOKENS, attention.width)
        pair = torch.randn(size, generator=g), torch.randn(size, generator=g)
        keys_values[attention.block] = pair
    return module("nodes.attention_patch").SubjectAttentionPatch(
        keys_values,
        kinds.Subjects(subjects, kinds.AutoLayoutSettings(0.5, 2) if auto else None),
        list(range(len(boxes))),
        sigma_start=1e9,
        sigma_end=0.0,
    )


class Clock:
    """Time by part. Processor time on the CPU; on a GPU, wall time with the queue run empty."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.parts: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            begin = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.parts[part] += self.now() - begin

        return run


def measure(
    model: Any, patches: dict[str, Any], cells: tuple[int, int], steps: int, device: str
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each step of each variant, "plain" among them: variant -> part -> steps, the first
    of which is the first step. Parts: step, and on a CPU ours, what the branch adds to it."""
    clock, ours = Clock(device), module("nodes.attention_patch")
    kind = ours.SubjectAttentionPatch
    order = ["plain", *patches]
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in order}
    calls = 0

    def forward(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal calls
        name = order[calls % len(order)]
        calls += 1
        clock.parts.clear()
        begin = clock.now()
        if name == "plain":
            out = executor(*args, **kwargs)
        elif device == "cpu":
            host = clock.timed("host", executor)
            host.class_obj = executor.class_obj  # type: ignore[attr-defined]
            out = patches[name].apply_model(host, *args, **kwargs)
        else:  # waiting for each part would be what is measured
            out = patches[name].apply_model(executor, *args, **kwargs)
        whole = clock.now() - begin
        found[name]["step"].append(whole)
        if device == "cpu" and name != "plain":
            parts = clock.parts
            added = whole - parts["host"] + parts["attend"] - parts["text"]
            found[name]["ours"].append(added)
        return out

    patched = model.clone()
    for patch in patches.values():
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "bench", patch.start_run)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "bench", forward)
    guider = comfy.samplers.CFGGuider(patched)
    g = torch.Generator().manual_seed(2)
    texts = [torch.randn(1, 77, 2048, generator=g) for _ in range(2)]
    guider.set_conds(*([[t, {"pooled_output": torch.zeros(1, 1280)}]] for t in texts))
    guider.set_cfg(7.0)
    noise = torch.randn(1, 4, *cells, generator=g)
    count = len(order) * (steps + 1)
    sigmas = torch.cat([torch.linspace(14.0, 0.5, count), torch.zeros(1)])
    euler = comfy.samplers.sampler_object("euler")
    attend, text = kind._attend, ours.optimized_attention
    try:
        if device == "cpu":
            ours.optimized_attention = clock.timed("text", text)
            kind._attend = lambda *given: clock.timed("attend", attend)(*given)
        guider.sample(noise, noise * 0, euler, sigmas, disable_pbar=True, seed=1)
    finally:
        kind._attend, ours.optimized_attention = attend, text
    assert calls == count
    return found


def report(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Ratios to the plain step, by variant; medians over the steps after the first."""
    plain = statistics.median(found["plain"]["step"][1:])
    rows = {}
    for name, parts in found.items():
        if name == "plain":
            continue
        first, *later = parts["step"]
        rows[name] = {"step over plain": statistics.median(later) / plain}
        if ours := parts.get("ours"):
            rows[name]["directly timed, share of plain"] = statistics.median(ours[1:]) / plain
            rows[name]["the same, first step"] = ours[0] / plain
        else:
            rows[name]["first step over a later one, ms"] = 1000 * (
                first - statistics.median(later)
            )
    return rows


def machine() -> dict[str, Any]:
    import comfyui_version

    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        lines = info.read_text().splitlines()
        processor = next(
            (li.split(": ")[1] for li in lines if li.startswith("model name")), processor
        )
    return {
        "processor": processor,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu, one thread",
        "torch": torch.__version__,
        "comfyui": comfyui_version.__version__,
        "model": "SDXL" if options.full else "SDXL of half the width, float32",
        "cells of the latent": 128 if options.full else 64,
        "steps of each variant": options.steps,
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name, row in rows.items():
        cells = (
            f"{100 * row[c]:.2f} %" if "share" in c or "same" in c else f"{row[c]:.3g}"
            for c in columns
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1 if options.device == "cpu" else 8)
    edge = 128 if options.full else 64
    model = build(options.full, options.device)
    patches = {
        "2 subjects on half": make_patch(model, HALF),
        "4 subjects on all": make_patch(model, QUARTERS),
        "2 subjects, auto layout": make_patch(model, HALF, auto=True),
    }
    found = measure(model, patches, (edge, edge), options.steps, options.device)
    rows = report(found)
    print(table(rows), flush=True)
    result: dict[str, Any] = {"machine": machine(), "rows": rows, "seconds": found}
    if options.write:
        DOCS.mkdir(parents=True, exist_ok=True)
        name = f"{options.device}{'-full' if options.full else ''}"
        (DOCS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        page = DOCS / "README.md"
        text = page.read_text(encoding="utf-8")
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        told = ", ".join(f"{k} {v}" for k, v in result["machine"].items())
        page.write_text(
            f"{before}{begin}{table(rows)}\n\n{told}\n{end}{rest.split(end)[1]}", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
