"""The image branch inside a running host, beside whatever other packs have put on the same
attentions."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY, TORCH_COMPILE_KWARGS
from torch import Tensor

from .aspect import warn_of_aspect
from .image_branch import Block, ImageBranch, Run
from .rows import (
    CONDITIONINGS,
    ROWS,
    Batch,
    Row,
    guess_rows,
    is_marked,
    mark,
    read_rows,
    window_of,
)

_RUNS = "ms_diffusion_runs"  # transformer option
_WRAPPER_KEY = "ms_diffusion"
ANY_SIGMA = 1e8  # the host says 999999999.9 for the start of sampling


class SubjectAttentionPatch:
    """What MSDApply puts on a model: its wrappers. State lives in a run; only auto layout outside
    of any sampling run has a place here.

    Args:
        branch: what is added.
        start_percent, end_percent: of the sampling, from where to where it acts.
        unique_id: of the node, to show warnings on it.
    """

    def __init__(
        self,
        branch: ImageBranch,
        start_percent: float,
        end_percent: float,
        unique_id: str | None = None,
    ) -> None:
        self.branch = branch
        self.start_percent = start_percent
        self.end_percent = end_percent
        self.unique_id = unique_id
        self.outside = Run([])

    def put_on(self, model_options: dict[str, Any]) -> None:
        """In the options rather than on the patcher: so it also holds for a pack that evaluates the
        model by itself, without the host's preparation of a sampling run."""
        for kind, wrapper in (
            (WrappersMP.SAMPLER_SAMPLE, self.start_run),
            (WrappersMP.PREDICT_NOISE, self.predict_noise),
            (WrappersMP.CALC_COND_BATCH, self.calc_cond_batch),
            (WrappersMP.APPLY_MODEL, self.apply_model),
        ):
            add_wrapper_with_key(kind, _WRAPPER_KEY, wrapper, model_options, True)

    def start_run(
        self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *args: Any
    ) -> Tensor:
        """SAMPLER_SAMPLE wrapper: a fresh state, and the rows of every conditioning."""
        noise = args[1]
        latent_size = (noise.shape[-2], noise.shape[-1])
        warn_of_aspect(self.branch.subjects.size, latent_size, self.unique_id)
        model_options = extra_args["model_options"]
        options = model_options.setdefault("transformer_options", {})
        if CONDITIONINGS not in options:  # else another MSD Apply's
            options[CONDITIONINGS] = mark(guider.conds, len(noise))
        compiled = model_options.get(TORCH_COMPILE_KWARGS) or {}
        run = Run(
            sigmas[:-1].tolist(),
            sigma_range=self._sigma_range(guider.inner_model),
            pictures=len(noise),
            latent_size=latent_size,
            backend=compiled.get("backend"),
        )
        auto = self.branch.subjects.auto_layout
        if auto is not None and len(run.sigmas) < auto.start_step:
            run.warn(
                f"MSD Auto Layout: this sampler runs {len(run.sigmas)} steps, and counts them by "
                f"itself, so that the boxes stay: start_step is {auto.start_step}."
            )
        options[_RUNS] = {**options.get(_RUNS, {}), self: run}
        out = executor(guider, sigmas, extra_args, *args)
        if run.saw_positive is False:
            run.warn(
                "MSD Apply: nothing in this run was a positive prompt's, so that no subject was "
                f"drawn. The guider has {', '.join(map(repr, guider.conds))}."
            )
        return out

    def predict_noise(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """PREDICT_NOISE wrapper: keep the sampler's latent, to know its parts again. Some samplers
        let it grow; what is smaller than before might be a part of it itself."""
        run = self._run_of((model_options or {}).get("transformer_options", {}))
        size = (x.shape[-2], x.shape[-1])
        if run is None or size[0] < run.latent_size[0] or size[1] < run.latent_size[1]:
            return executor(x, timestep, model_options or {}, *args, **kwargs)
        run.latent, run.latent_size = x, size
        try:
            return executor(x, timestep, model_options or {}, *args, **kwargs)
        finally:
            run.latent = None

    def calc_cond_batch(
        self,
        executor: Any,
        model: Any,
        conds: list[Any],
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> Any:
        """CALC_COND_BATCH wrapper: what the host evaluates."""
        options = model_options.get("transformer_options", {})
        run = self._run_of(options)
        if run is None:
            return executor(model, conds, x, timestep, model_options)
        before = run.evaluated, run.window
        run.evaluated, run.window = model_options if is_marked(conds) else None, None
        window = options.get("context_window")
        if window is not None and run.latent is not None:
            handler = model_options.get("context_handler")
            retained = getattr(handler, "latent_retain_index_list", [])
            run.window = window_of(window, retained, x, run.latent)
        try:
            return executor(model, conds, x, timestep, model_options)
        finally:
            run.evaluated, run.window = before

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
        run = self._run_of(options)
        rows = _rows_of(kwargs.get(ROWS), x, run, options)
        if ROWS in kwargs:
            kwargs[ROWS] = rows  # for another MSD Apply; the UNet leaves it alone
        if run is None:
            run = Run([]) if self.branch.subjects.auto_layout is None else self.outside
            run.sigma_range = self._sigma_range(executor.class_obj)
            run.pictures = max((picture for _, picture, _ in rows), default=0) + 1
        calls = _calls.get()
        positive = any(conditioning.positive is not None for conditioning, _, _ in rows)
        run.saw_positive = bool(run.saw_positive or positive)
        if positive:
            acts = _acts(run, self.branch, options)
            # Auto layout looks on from the first step, also while the subjects don't act yet.
            if acts or self.branch.subjects.auto_layout is not None:
                order = tuple(options.get("cond_or_uncond", ()))
                calls = (*calls, Call(self.branch, run, acts, Batch(rows, order)))
        stance = nullcontext()
        if _is_compiled_wrongly(run, options):
            if not hasattr(torch.compiler, "set_stance"):
                raise ValueError(
                    "MSD Apply: what TorchCompileModel compiles would keep the subjects of an "
                    f"earlier run, and PyTorch {torch.__version__} can't leave it aside (2.6 and "
                    "newer can). Bypass TorchCompileModel."
                )
            stance = torch.compiler.set_stance("force_eager")
            run.warn(
                "MSD Apply: the model runs uncompiled, since what TorchCompileModel compiles "
                "would keep the subjects of an earlier run."
            )
        options = self._patched(options)
        before = _calls.set(calls)
        try:
            with stance:
                return executor(x, timesteps, concat, context, control, options, **kwargs)
        finally:
            _calls.reset(before)

    def _run_of(self, transformer_options: Mapping[str, Any]) -> Run | None:
        return transformer_options.get(_RUNS, {}).get(self)

    def _sigma_range(self, model: Any) -> tuple[float, float]:
        """From which sigma down to which it acts, by the schedule of the model that runs: a node
        that sets it may come after MSD Apply."""
        sigma = model.model_sampling.percent_to_sigma
        return float(sigma(self.start_percent)), float(sigma(self.end_percent))

    def _patched(self, transformer_options: dict[str, Any]) -> dict[str, Any]:
        replaced = transformer_options.get("patches_replace", {})
        attn2 = dict(replaced.get("attn2", {}))
        for block in self.branch.keys_values:
            # The host looks for the block's own patch first, then for its room's.
            previous = attn2.get(block, attn2.get(block[:2]))
            if not _is_ours(previous):
                attn2[block] = partial(_attend, block, previous)
        return {**transformer_options, "patches_replace": {**replaced, "attn2": attn2}}


def _rows_of(
    marks: Any, x: Tensor, run: Run | None, transformer_options: Mapping[str, Any]
) -> tuple[Row, ...]:
    """The rows of a call of the model; ValueError where they can't be told."""
    if isinstance(marks, tuple):
        return marks  # another MSD Apply has read them
    conditionings = transformer_options.get(CONDITIONINGS)
    try:
        if marks is not None and conditionings is not None:
            latent, size, window = None, (x.shape[-2], x.shape[-1]), None
            if run is not None:
                latent, size, window = run.latent, run.latent_size, run.window
            return read_rows(marks.cpu(), x, conditionings, latent, size, window)
        if run is not None and run.evaluated is not None:
            raise ValueError("the model is called without what belongs to its conditionings")
    except ValueError as error:
        evaluated = (run.evaluated if run is not None else None) or {}
        raise ValueError(
            f"MSD Apply: {error}. Bypass the node that crops or batches by itself"
            f"{_functions(evaluated)}, or MSD Apply."
        ) from error
    return guess_rows(transformer_options, x)


def _functions(model_options: Mapping[str, Any]) -> str:
    """The functions that other packs have put around the model's calls."""
    found = []
    for key, value in model_options.items():
        if key == "model_function_wrapper" or "cfg_function" in key:
            for function in value if isinstance(value, list) else [value]:
                kind = function if hasattr(function, "__qualname__") else type(function)
                found.append(f"{kind.__qualname__} of {kind.__module__}")
    return f" ({', '.join(found)})" if found else ""


def _acts(run: Run, branch: ImageBranch, transformer_options: Mapping[str, Any]) -> bool:
    start, end = run.sigma_range
    if start > ANY_SIGMA and end <= 0 and branch.subjects.auto_layout is None:
        return True
    sigma = float(transformer_options["sigmas"][0])
    run.enter(sigma)
    return end <= sigma <= start


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
        or _add_compiled is _add
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
    # As attention-couple packs say how they have enlarged the batch
    order = extra_options.get("cond_or_uncond_couple", extra_options.get("cond_or_uncond", ()))
    compiled = torch.compiler.is_compiling()
    add = _add_compiled if compiled else _add
    add(out, q, k, *block, heads, height, width, len(order), compiled)
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
    listed: int,
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
        parts = call.batch.positive_parts(q, listed)
        call.branch.add(call.run, call.acts, parts, block, out, q, k, heads, height, width)


# For torch.compile an operation that it doesn't look into: the code stays the same whoever goes
# where, and whatever CUDA graph is made around it leaves it out.
_UNSAFE: dict[str, Any] = (
    {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
)
if hasattr(torch.library, "custom_op"):
    _add_compiled: Callable[..., None] = torch.library.custom_op(
        "ms_diffusion::add_image_branch", _add, mutates_args=("out",), **_UNSAFE
    )
else:  # PyTorch before 2.4 breaks the graph there
    _add_compiled = _add
