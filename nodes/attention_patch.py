"""The image branch inside a running host, beside whatever other packs have put on the same
attentions."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY, TORCH_COMPILE_KWARGS
from torch import Tensor

from .image_branch import Block, ImageBranch, Run
from .rows import ROWS, Batch, guess_rows, marked

_RUNS = "ms_diffusion_runs"  # transformer option


class SubjectAttentionPatch:
    """What MSDApply puts on a model: two wrappers. State lives in a run; only auto layout outside
    of any sampling run has a place here.

    Args:
        branch: what is added.
        sigma_start, sigma_end: acts from the one down to the other.
    """

    def __init__(self, branch: ImageBranch, sigma_start: float, sigma_end: float) -> None:
        self.branch = branch
        self.sigma_start = sigma_start
        self.sigma_end = sigma_end
        self.outside = Run([])

    def start_run(
        self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *args: Any
    ) -> Tensor:
        """SAMPLER_SAMPLE wrapper: a fresh state, and a mark on every conditioning."""
        noise = args[1]
        picture = tuple(noise.shape[-2:])
        for name, conds in guider.conds.items():
            guider.conds[name] = [
                marked(cond, number if name == "positive" else None, picture)
                for number, cond in enumerate(conds)
            ]
        model_options = extra_args["model_options"]
        compiled = model_options.get(TORCH_COMPILE_KWARGS) or {}
        run = Run(sigmas[:-1].tolist(), backend=compiled.get("backend"))
        options = model_options.setdefault("transformer_options", {})
        options[_RUNS] = {**options.get(_RUNS, {}), self: run}
        return executor(guider, sigmas, extra_args, *args)

    def apply_model(
        self,
        executor: Any,
        x: Tensor,
        timesteps: Tensor,
        concat: Tensor | None = None,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """APPLY_MODEL wrapper: put the image branch over what is on each block right now. It is
        put there also for calls in which it does nothing, since compiled code stays as it was at
        first."""
        options = transformer_options or {}
        rows = kwargs.get(ROWS) or guess_rows(options)
        run = options.get(_RUNS, {}).get(self)
        if run is None:
            run = Run([]) if self.branch.subjects.auto_layout is None else self.outside
        calls = _calls.get()
        if any(row.positive is not None for row in rows):
            acts = self._acts(run, options)
            # Auto layout looks on from the first step, also while the subjects don't act yet.
            if acts or self.branch.subjects.auto_layout is not None:
                order = options.get("cond_or_uncond", [])
                calls = (*calls, Call(self.branch, run, acts, Batch(rows, x.shape[0], order)))
        stance = nullcontext()
        if _is_compiled_wrongly(run, options):
            stance = torch.compiler.set_stance("force_eager")
            if not run.told:
                logging.warning(
                    "MSD Apply: the model runs uncompiled, since what TorchCompileModel compiles "
                    "would keep the subjects of an earlier run."
                )
            run.told = True
        options = self._patched(options)
        before = _calls.set(calls)
        try:
            with stance:
                return executor(x, timesteps, concat, context, control, options, **kwargs)
        finally:
            _calls.reset(before)

    def _acts(self, run: Run, transformer_options: dict[str, Any]) -> bool:
        always = self.sigma_start > 1e8 and self.sigma_end <= 0
        if always and self.branch.subjects.auto_layout is None:
            return True
        sigma = float(transformer_options["sigmas"][0])
        run.enter(sigma)
        return self.sigma_end <= sigma <= self.sigma_start

    def _patched(self, transformer_options: dict[str, Any]) -> dict[str, Any]:
        replaced = transformer_options.get("patches_replace", {})
        attn2 = dict(replaced.get("attn2", {}))
        for block in self.branch.keys_values:
            # The host looks for the block's own patch first, then for its room's.
            previous = attn2.get(block, attn2.get(block[:2]))
            if not _is_ours(previous):
                attn2[block] = partial(_attend, block, previous)
        return {**transformer_options, "patches_replace": {**replaced, "attn2": attn2}}


def _is_compiled_wrongly(run: Run, transformer_options: dict[str, Any]) -> bool:
    """TorchCompileModel's code doesn't look at the options again, so that it takes one block for
    another wherever the model isn't a single graph; and CUDA graphs replay an earlier run."""
    wrappers = transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    if COMPILE_KEY not in wrappers:
        return False
    replaced = transformer_options.get("patches_replace", {}).values()
    others = any(not _is_ours(patch) for patches in replaced for patch in patches.values())
    return (
        run.backend == "cudagraphs"
        or optimized_attention is not attention_pytorch  # others measure memory, and break graphs
        or others
        or bool(transformer_options.get("patches"))
    )


@dataclass(frozen=True)
class Call:
    """One call of the model, as one MSD Apply sees it."""

    branch: ImageBranch
    run: Run
    acts: bool
    batch: Batch
    seen: set[Block] = field(default_factory=set)


# Those of the model's call that is under way: what is compiled once asks here each time.
_calls: ContextVar[tuple[Call, ...]] = ContextVar("ms_diffusion_calls", default=())


def _attend(
    block: Block,
    previous: Callable[..., Tensor] | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra_options: dict[str, Any],
    **kwargs: Any,
) -> Tensor:
    """attn2 replace patch: the text attention as it was, plus the image branch."""
    heads = extra_options["n_heads"]
    if previous is not None:
        out = previous(q, k, v, extra_options, **kwargs).clone()
    else:
        out = optimized_attention(
            q,
            k,
            v,
            heads,
            attn_precision=extra_options["attn_precision"],
            transformer_options=extra_options,
        )
    height, width = extra_options["activations_shape"][-2:]
    couple, compiled = "cond_or_uncond_couple" in extra_options, torch.compiler.is_compiling()
    add = _add_compiled if compiled else _add
    add(out, q, k, *block, heads, height, width, couple, compiled)
    return out


def _is_ours(patch: Any) -> bool:
    return isinstance(patch, partial) and patch.func is _attend


def _add(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    room: str,
    number: int,
    index: int,
    heads: int,
    height: int,
    width: int,
    couple: bool,
    compiled: bool,
) -> None:
    block = (room, number, index)
    for call in _calls.get():
        if compiled and block in call.seen:
            raise ValueError(
                f"MSD Apply: the compiled model came to its block {block} twice in one call. "
                "Bypass the node that compiles the model."
            )
        call.seen.add(block)
        if q.shape[1] != height * width:
            raise ValueError(
                f"MSD Apply: another node changed the {height * width} queries of block {block} to "
                f"{q.shape[1]}, so that the subjects' places can't be found."
            )
        parts = call.batch.positive_parts(q, couple)
        call.branch.add(call.run, call.acts, parts, block, out, q, k, heads, height, width)


# For torch.compile an operation that it doesn't look into: the code stays the same whoever goes
# where, and whatever CUDA graph is made around it leaves it out.
_UNSAFE: dict[str, Any] = (
    {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
)
_add_compiled = torch.library.custom_op(
    "ms_diffusion::add_image_branch", _add, mutates_args=("out",), **_UNSAFE
)
