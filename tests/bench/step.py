"""What one sampling step costs with the image branch, against the plain model: `nox -s bench`.

Everything runs in one sampling run of the real host, variants in turn, so that a busy machine hits
all of them alike. On a CPU what a variant adds is timed directly, as a share of the whole step: the
difference of two whole steps drowns in noise there. IPAdapter_plus and the research code are
measured beside MSD Apply if IPADAPTER_PLUS and MS_DIFFUSION name checkouts of them.

    python tests/bench/step.py [--device cuda] [--full] [--steps 9] [--families] [--scaling]
        [--placed] [--write]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
parser.add_argument("--full", action="store_true", help="SDXL's real widths at 1024 x 1024, fp16")
parser.add_argument("--steps", type=int, default=9, help="of each variant, after the first")
parser.add_argument("--families", action="store_true", help="of adapters, beside each other")
parser.add_argument("--scaling", action="store_true", help="1 to 16 subjects, 32 to 192 cells")
parser.add_argument("--placed", action="store_true", help="MSD Place References instead")
parser.add_argument("--write", action="store_true", help="write docs/benchmarks/")
options = parser.parse_args()

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "host")]
if options.device == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
from lab.host.in_process import load_host, pack_module  # noqa: E402

HOST_NODES = load_host()  # before anything of the host looks for a GPU
module = partial(pack_module, HOST_NODES)

import comfy.samplers  # noqa: E402
import placing  # noqa: E402
import torch  # noqa: E402
from comfy.patcher_extension import WrappersMP  # noqa: E402
from models import build_sdxl  # noqa: E402
from other_packs import find_checkout, load_pack  # noqa: E402
from peers import TOKENS, Box, Research, Step, ipadapters  # noqa: E402
from report import (  # noqa: E402
    CODE,
    DOCS,
    OURS,
    PARTS,
    PLAIN,
    PLAIN_CODE,
    THEIRS,
    Found,
    profile,
    report,
    save,
    table,
    write,
)
from sampling import FAMILIES, noise  # noqa: E402
from scaling import plot, scale  # noqa: E402
from torch import Tensor  # noqa: E402

# Boxes that cover half of the picture with two subjects, all of it with four, an equal share each.
# The two stand apart, since whole rows of the picture would be cheaper.
LAYOUTS: dict[str, list[Box]] = {
    "2 on half": [(0.0, 0.0, 0.25, 1.0), (0.75, 0.0, 1.0, 1.0)],
    "4 on all": [(x, y, x + 0.5, y + 0.5) for x in (0.0, 0.5) for y in (0.0, 0.5)],
}
NAME = 2  # tokens of a subject's name
AROUND = {"ours", "host", "attend", "text", "aside"}  # from which what is added follows


def build(depth: tuple[int, int], channels: int) -> Any:
    """SDXL with random weights, of sizes that keep numbers alive."""
    kind = torch.float16 if options.device == "cuda" else torch.float32
    patcher = build_sdxl(depth, channels, 2048, 64, kind)
    patcher.load_device = torch.device(options.device)
    g = torch.Generator().manual_seed(0)
    for parameter in patcher.model.diffusion_model.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        values = torch.randn(parameter.shape, generator=g) * fan**-0.5
        parameter.data = (values if parameter.ndim > 1 else 1 + 0.1 * values).to(kind)
    return patcher


def make_patch(
    model: Any, boxes: Sequence[Box], auto: bool = False, family: str = FAMILIES[0]
) -> Any:
    """What MSDApply puts on a model for an adapter of a family, with random keys and values."""
    kinds, g = module("nodes.subjects"), torch.Generator().manual_seed(1)
    subjects = tuple(
        kinds.Subject(f"subject {n}", box, 1.0, torch.empty(0), token_positions=(n + 1,))
        for n, box in enumerate(boxes)
    )
    weights = model.model.diffusion_model.state_dict()
    table, core = module("msd_core.models.unet"), module("msd_core.attention.subjects")
    attentions = table.cross_attentions({k: w.shape for k, w in weights.items()})

    def random_pairs(tokens: int) -> dict[Any, tuple[Tensor, Tensor]]:
        return {
            each.block: tuple(torch.randn(tokens, each.width, generator=g) for _ in "kv")
            for each in attentions
        }

    keys_values = random_pairs(len(boxes) * TOKENS)
    hook = module("nodes.sampling.unet_patch").SubjectAttentionPatch
    if family == "MIP-Adapter":
        names = [torch.randn(NAME, attentions[0].context, generator=g) for _ in boxes]
        branch = module("nodes.sampling.merge_branch").MergeBranch(
            keys_values,
            random_pairs(TOKENS),
            {each.block: torch.randn(each.width, generator=g) for each in attentions},
            table.text_keys(model.model.diffusion_model),
            names,
            kinds.Subjects(subjects),
        )
        return hook(branch, 0.0, 1.0)
    branch = module("nodes.sampling.image_branch").ImageBranch(
        keys_values,
        lambda *given: core.subject_attention(*given),  # looked up, so that it can be timed
        kinds.Subjects(subjects, kinds.AutoLayoutSettings(0.5, 2) if auto else None),
        list(range(len(boxes))),
        random_pairs(len(boxes) * TOKENS) if family == "IP-Adapter" else None,
    )
    return hook(branch, 0.0, 1.0)


class Clock:
    """Seconds by part: processor time on a CPU; on a GPU the time between two marks in its queue,
    so that nothing waits inside a step.

    Args:
        parts: names of those that are timed.
    """

    def __init__(self, parts: Collection[str]) -> None:
        self.parts = parts
        self.spans: list[tuple[str, Any, Any]] = []

    def now(self) -> float:
        """With a GPU's queue run empty."""
        if options.device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def mark(self) -> Any:
        if options.device == "cpu":
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)  # which keeps what the host's executors hold
        def run(*args: Any, **kwargs: Any) -> Any:
            begin = self.mark()
            try:
                return function(*args, **kwargs)
            finally:
                self.spans.append((part, begin, self.mark()))

        return run if part in self.parts else function

    def read(self) -> dict[str, float]:
        """Seconds by part since the last reading."""
        self.now()
        parts: dict[str, float] = defaultdict(float)
        for part, begin, end in self.spans:
            cuda = options.device == "cuda"
            parts[part] += begin.elapsed_time(end) / 1000 if cuda else end - begin
        self.spans.clear()
        return parts


def plain(clock: Clock, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
    return executor(*args, **kwargs)


def ours(patch: Any) -> Step:
    """One call of the host's model with MSD Apply's patch; times all that it adds."""

    def step(clock: Clock, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        host = clock.timed("host", executor)
        return clock.timed("ours", patch.apply_model)(host, *args, **kwargs)

    return step


@contextmanager
def timed_parts(clock: Clock) -> Iterator[None]:
    """Time the parts of MSD Apply's patch."""
    hooks, code = module("nodes.sampling.unet_patch"), module("nodes.sampling.image_branch")
    core = module("msd_core.attention.subjects")
    parts = {**PARTS, "attend": "_attend", "text": "optimized_attention"}
    holders = (hooks, code, code.ImageBranch, core)
    attributes = {
        part: (next(owner for owner in holders if hasattr(owner, name)), name)
        for part, name in parts.items()
    }
    originals = {part: getattr(*attribute) for part, attribute in attributes.items()}
    for part, attribute in attributes.items():
        setattr(*attribute, clock.timed(part, originals[part]))
    try:
        yield
    finally:
        for part, attribute in attributes.items():
            setattr(*attribute, originals[part])


def watch(own: dict[str, list[float]], step: Callable[[], Tensor]) -> Tensor:
    """Take a step, and note the most MiB that a GPU holds over what it held before, and how often
    it is waited for."""
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = step()
    torch.cuda.set_sync_debug_mode("default")
    own["waits"].append(sum("synchroniz" in str(warning.message) for warning in caught))
    own["MiB"].append((torch.cuda.max_memory_allocated() - held) / 2**20)
    return out


def measure(
    model: Any,
    variants: dict[str, Step],
    cells: int,
    steps: int,
    patches: Sequence[Any],
    timed: Collection[str] = (*AROUND, *PARTS),
    watched: bool = False,
) -> Found:
    """Seconds of each step of each variant, of what it added, and of the parts that are timed; of
    a GPU that is watched, MiB and waits."""
    clock, order = Clock(timed), list(variants)
    found: Found = {name: defaultdict(list) for name in order}
    calls = 0

    def forward(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal calls
        name = order[calls % len(order)]
        calls += 1
        step = partial(variants[name], clock, executor, *args, **kwargs)
        begin, own = clock.now(), found[name]
        out = watch(own, step) if watched else step()
        whole, parts = clock.now() - begin, clock.read()
        own["step"].append(whole - parts.pop("aside", 0.0))
        # Ours calls the host's model, which calls our attention, which calls the text's.
        around = parts.pop("ours", 0.0) - parts.pop("host", 0.0)
        own["added"].append(around + parts["attend"] - parts["text"])
        for part, seconds in parts.items():
            own[part].append(seconds)
        print(f"{name}, step {len(own['step'])}: {whole:.2f} s", flush=True)
        return out

    # Else the host calls the model twice a step if it thinks that memory is short.
    model.model.memory_required = lambda *args, **kwargs: 0
    patched = model.clone()
    for patch in patches:
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "bench", patch.sampler_sample)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "bench", forward)
    guider = comfy.samplers.CFGGuider(patched)
    texts = [noise(seed, 1, 77, 2048) for seed in (2, 3)]
    guider.set_conds(*([[t, {"pooled_output": torch.zeros(1, 1280)}]] for t in texts))
    guider.set_cfg(7.0)
    start = noise(4, 1, 4, cells, cells)
    count = len(order) * (steps + 1)
    sigmas = torch.cat([torch.linspace(14.0, 0.5, count), torch.zeros(1)])
    euler = comfy.samplers.sampler_object("euler")
    with timed_parts(clock):
        guider.sample(start, start * 0, euler, sigmas, disable_pbar=True, seed=1)
    assert calls == count
    return found


def add_ipadapters(variants: dict[str, Step], model: Any) -> list[str]:
    """Add those of IPAdapter_plus, if there is a checkout; returns its commit, if so."""
    if not (checkout := find_checkout("IPADAPTER_PLUS")):
        return []
    load_pack(checkout[0])
    for name, boxes in LAYOUTS.items():
        variants[f"{THEIRS}: {name}"] = ipadapters(HOST_NODES, model, boxes)
    return [checkout[1]]


def compare(full: bool, steps: int) -> tuple[Found, Found, list[str]]:
    """All variants in one run; the same with MSD Apply's parts; also what the checkouts are."""
    channels, edge = (320, 128) if full else (160, 64)
    model = build((2, 10), channels)
    patches = {
        f"{OURS}: {name}": make_patch(model, boxes, auto)
        for name, boxes, auto in (
            *((name, boxes, False) for name, boxes in LAYOUTS.items()),
            ("2 on half, auto layout", LAYOUTS["2 on half"], True),
        )
    }
    variants: dict[str, Step] = {PLAIN: plain, **{n: ours(patch) for n, patch in patches.items()}}
    commits = add_ipadapters(variants, model)
    if checkout := find_checkout("MS_DIFFUSION"):
        import diffusers

        widths = [channels * n for n in (1, 2, 4)]
        kind = model.model.get_dtype()
        research = Research(checkout[0], widths, kind, options.device)
        variants[PLAIN_CODE] = research.step([])
        for name, boxes in LAYOUTS.items():
            variants[f"{CODE}: {name}"] = research.step(boxes)
        commits += [checkout[1], f"diffusers {diffusers.__version__}"]
    run = partial(measure, model, variants, edge, steps, list(patches.values()))
    if options.device == "cpu":
        found = run()
        return found, found, commits
    # On a GPU marks cost time of their own. The watched run also loads the kernels.
    watched, whole, added, parts = run((), True), run(()), run(AROUND), run()
    for name, own in watched.items():
        own |= {"step": whole[name]["step"], "added": added[name]["added"]}
    return watched, parts, commits


def time_families() -> None:
    """Write the table of the adapters' families."""
    model = build((2, 10), 320 if options.full else 160)
    patches = {
        f"{OURS if family == FAMILIES[0] else family}: {name}": make_patch(
            model, boxes, family=family
        )
        for family in FAMILIES
        for name, boxes in LAYOUTS.items()
    }
    variants: dict[str, Step] = {PLAIN: plain, **{n: ours(patch) for n, patch in patches.items()}}
    commits = add_ipadapters(variants, model)
    cells = 128 if options.full else 64
    found = measure(model, variants, cells, options.steps, list(patches.values()), AROUND)
    publish("families", machine(commits), {"rows": report(found)}, {"steps": found})


def time_layouts(
    model: Any, layouts: dict[int, Sequence[Box]], cells: int
) -> tuple[dict[int, float], float]:
    """Median seconds that MSD Apply adds to a step, by layout, and of the plain step."""
    patches = {str(n): make_patch(model, boxes) for n, boxes in layouts.items()}
    variants: dict[str, Step] = {PLAIN: plain, **{n: ours(patch) for n, patch in patches.items()}}
    found = measure(model, variants, cells, 5, list(patches.values()))
    added = {n: statistics.median(found[str(n)]["added"][1:]) for n in layouts}
    return added, statistics.median(found[PLAIN]["step"][1:])


def machine(commits: list[str]) -> dict[str, Any]:
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
        "model": "SDXL" if options.full else "SDXL of half the width",
        "numbers": "float16" if options.device == "cuda" else "float32",
        "cells of the latent": 128 if options.full else 64,
        "steps of each variant": options.steps,
        "beside it": " and ".join(commits) or "nothing",
    }


def publish(name: str, facts: dict[str, Any], tables: dict[str, Any], found: Any) -> None:
    """Print tables and what they were measured on; with --write, put both into the page, and all
    that was found beside it."""
    setting = ", ".join(f"{key} {value}" for key, value in facts.items())
    text = "\n\n".join((*map(table, tables.values()), setting))
    print(text, flush=True)
    if options.write:
        save(name, {"machine": facts, **tables, **found})
        write(DOCS / "README.md", name, text)


def place(model: Any, boxes: Sequence[Box]) -> Any:
    """MSD Place References on a model."""
    kinds = module("nodes.subjects")
    subjects = tuple(kinds.Subject("", box, 1.0, torch.zeros(1, 8, 8, 3)) for box in boxes)
    return HOST_NODES["MSDPlaceReferences"].execute(model, kinds.Subjects(subjects))[0]


def time_placed() -> None:
    """Write the table of placed references."""
    model, attention = placing.build_flux(), module("nodes.sampling.joint_attention")
    found = {
        count: placing.measure(model, place, attention, count, options.steps)
        for count in placing.LAYOUTS
    }
    facts = machine([])
    facts |= {"model": "Flux of a quarter of the width, three blocks", "cells of the latent": 64}
    publish("placed", facts, {"rows": placing.rows(found)}, {"calls": found})


def main() -> None:
    torch.set_num_threads(1 if options.device == "cpu" else 8)
    if options.placed:
        return time_placed()
    if options.families:
        return time_families()
    if options.scaling:
        result = scale(partial(time_layouts, build((1, 1), 64)))
        text = "\n".join(f"- {k}: {v:.2f}" for k, v in result.items() if isinstance(v, float))
        print(json.dumps(result, indent=1))
        if options.write:
            name = "scaling" if options.device == "cpu" else "scaling-cuda"
            plot(result, DOCS / f"{name}.png")
            save(name, result)
            write(DOCS / "README.md", name, text)
        return
    found, of_parts, commits = compare(options.full, options.steps)
    name = f"{options.device}{'-full' if options.full else ''}"
    tables = {"rows": report(found), "parts": profile(of_parts)}
    publish(name, machine(commits), tables, {"steps": found})


if __name__ == "__main__":
    main()
