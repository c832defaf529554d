"""How the image branch gets into a running UNet: wrappers around the sampler's and the model's
calls, and a replacement of each text cross-attention, beside whatever other packs have put there.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from comfy.ldm.modules.attention import optimized_attention
from comfy.model_base import BaseModel
from comfy.patcher_extension import WrapperExecutor, WrappersMP, add_wrapper_with_key
from comfy.samplers import CFGGuider
from torch import Tensor

from ...msd_core.models.unet import Block
from ..aspect import warn_of_aspect
from . import compiled
from .call import Call, calls
from .conditionings import (
    CONDITIONINGS,
    ROWS,
    Row,
    acts_on,
    guess_rows,
    is_marked,
    mark,
    read_rows,
)
from .image_branch import ImageBranch, Layer
from .latent import SampledLatent
from .run import Run

_SAMPLINGS = "ms_diffusion_samplings"  # transformer option
_WRAPPER_KEY = "ms_diffusion"


@dataclass
class Sampling:
    """What one MSD Apply knows of the sampler that is running."""

    run: Run
    latent: SampledLatent
    backend: str | None  # of TorchCompileModel
    # The model's options while the host evaluates conditionings that all carry their rows
    evaluated: Mapping[str, Any] | None = None
    saw_positive: bool | None = None  # among the rows of its calls; None before the first


class SubjectAttentionPatch:
    """What MSDApply puts on a model: its wrappers. What they remember belongs to a sampling run;
    only auto layout outside of any remembers its run here.

    Args:
        branch: what is added.
        start_percent, end_percent: of the sampling, from where to where the subjects act.
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
            (WrappersMP.SAMPLER_SAMPLE, self.sampler_sample),
            (WrappersMP.PREDICT_NOISE, self.predict_noise),
            (WrappersMP.CALC_COND_BATCH, self.calc_cond_batch),
            (WrappersMP.APPLY_MODEL, self.apply_model),
        ):
            add_wrapper_with_key(kind, _WRAPPER_KEY, wrapper, model_options, True)

    def sampler_sample(
        self,
        executor: WrapperExecutor,
        guider: CFGGuider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        *args: Any,
    ) -> Tensor:
        """SAMPLER_SAMPLE wrapper: a new run, and marks on the rows of every conditioning."""
        latent = SampledLatent(len(noise), (noise.shape[-2], noise.shape[-1]))
        warn_of_aspect(self.branch.subjects.size, latent.size, self.unique_id)
        model_options = extra_args["model_options"]
        options = model_options.setdefault("transformer_options", {})
        if CONDITIONINGS not in options:  # else another MSD Apply's
            options[CONDITIONINGS] = mark(guider.conds, len(noise))
        run = Run(sigmas[:-1].tolist(), self._sigma_range(guider.inner_model))
        auto = self.branch.subjects.auto_layout
        if auto is not None and len(run.sigmas) < auto.start_step:
            run.warn(
                f"MSD Auto Layout: this sampler runs {len(run.sigmas)} steps and counts them from "
                f"1, so the boxes stay: start_step is {auto.start_step}."
            )
        sampling = Sampling(run, latent, compiled.backend_of(model_options))
        options[_SAMPLINGS] = {**options.get(_SAMPLINGS, {}), self: sampling}
        out = executor(guider, sigmas, extra_args, callback, noise, *args)
        if sampling.saw_positive is False:
            run.warn(
                "MSD Apply: nothing in this run belonged to a positive prompt, so no subject was "
                f"drawn. The guider has {', '.join(map(repr, guider.conds))}."
            )
        return out

    def predict_noise(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """PREDICT_NOISE wrapper: remember the sampler's latent, to recognise its parts. Some
        samplers let it grow; what is smaller than before might be a part of it itself."""
        model_options = model_options or {}
        sampling = self._sampling(model_options.get("transformer_options", {}))
        height, width = x.shape[-2:]
        if sampling is None or height < sampling.latent.size[0] or width < sampling.latent.size[1]:
            return executor(x, timestep, model_options, *args, **kwargs)
        latent = sampling.latent
        latent.values, latent.size = x, (height, width)
        try:
            return executor(x, timestep, model_options, *args, **kwargs)
        finally:
            latent.values = None

    def calc_cond_batch(
        self,
        executor: WrapperExecutor,
        model: BaseModel,
        conds: list[Any],
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> Any:
        """CALC_COND_BATCH wrapper: what the host evaluates."""
        options = model_options.get("transformer_options", {})
        sampling = self._sampling(options)
        if sampling is None:
            return executor(model, conds, x, timestep, model_options)
        latent = sampling.latent
        before = sampling.evaluated, latent.window
        sampling.evaluated, latent.window = model_options if is_marked(conds) else None, None
        if (window := options.get("context_window")) is not None:
            handler = model_options.get("context_handler")
            retained = getattr(handler, "latent_retain_index_list", [])
            latent.window = latent.context_window(window, retained, x)
        try:
            return executor(model, conds, x, timestep, model_options)
        finally:
            sampling.evaluated, latent.window = before

    def apply_model(
        self,
        executor: WrapperExecutor,
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
        sampling = self._sampling(options)
        rows = _rows_of(kwargs.get(ROWS), x, sampling, options)
        if ROWS in kwargs:
            kwargs[ROWS] = rows  # for another MSD Apply; the UNet leaves it alone
        if sampling is None:
            sampling = self._outside_sampling(executor.class_obj, x, rows)
        positive = any(row.conditioning.positive is not None for row in rows)
        sampling.saw_positive = bool(sampling.saw_positive or positive)
        under_way = calls.get()
        if any(acts_on(row.conditioning, self.branch.acts_on_all) for row in rows):
            self._enter_step(sampling.run, options)
            # Auto layout looks on from the first step, also while the subjects don't act yet.
            if sampling.run.acts or self.branch.subjects.auto_layout is not None:
                order = tuple(options.get("cond_or_uncond", ()))
                call = Call(self.branch, sampling.run, sampling.latent.batch, rows, order)
                under_way = (*under_way, call)
        stance = nullcontext()
        if compiled.keeps_earlier_runs(options, sampling.backend, _has_other_patches(options)):
            stance = compiled.uncompiled()
            sampling.run.warn(
                "MSD Apply: the model runs uncompiled, since what TorchCompileModel compiles "
                "would keep the subjects of an earlier run."
            )
        options = self._patched(options)
        before = calls.set(under_way)
        try:
            with stance:
                return executor(x, timesteps, concat, context, control, options, **kwargs)
        finally:
            calls.reset(before)

    def _sampling(self, transformer_options: Mapping[str, Any]) -> Sampling | None:
        return transformer_options.get(_SAMPLINGS, {}).get(self)

    def _outside_sampling(self, model: Any, x: Tensor, rows: tuple[Row, ...]) -> Sampling:
        """For a pack that calls the model by itself."""
        run = Run([]) if self.branch.subjects.auto_layout is None else self.outside
        run.sigma_range = self._sigma_range(model)
        batch = max((row.picture for row in rows), default=0) + 1
        return Sampling(run, SampledLatent(batch, (x.shape[-2], x.shape[-1])), None)

    def _enter_step(self, run: Run, transformer_options: Mapping[str, Any]) -> None:
        """Move the run's clock on, where the step matters: to read the time is to wait for the
        GPU."""
        if self.branch.subjects.auto_layout is not None or not run.covers_all_steps:
            run.enter(float(transformer_options["sigmas"][0]))

    def _sigma_range(self, model: BaseModel) -> tuple[float, float]:
        """From which sigma down to which it acts, by the schedule of the model that runs: a node
        that sets it may come after MSD Apply."""
        sigma = model.model_sampling.percent_to_sigma
        return float(sigma(self.start_percent)), float(sigma(self.end_percent))

    def _patched(self, transformer_options: dict[str, Any]) -> dict[str, Any]:
        replaced = transformer_options.get("patches_replace", {})
        attn2 = dict(replaced.get("attn2", {}))
        for block in self.branch.keys_values:
            # The host looks for the patch of a transformer block first, then for its module's.
            previous = attn2.get(block, attn2.get(block[:2]))
            if not _is_ours(previous):
                attn2[block] = partial(_attend, block, previous)
        return {**transformer_options, "patches_replace": {**replaced, "attn2": attn2}}


def _rows_of(
    marks: Any, x: Tensor, sampling: Sampling | None, transformer_options: Mapping[str, Any]
) -> tuple[Row, ...]:
    """The rows of a call of the model; ValueError where they can't be told."""
    if isinstance(marks, tuple):
        return marks  # another MSD Apply has read them
    conditionings = transformer_options.get(CONDITIONINGS)
    try:
        if marks is not None and conditionings is not None:
            latent = (
                sampling.latent
                if sampling is not None
                else SampledLatent(len(x), (x.shape[-2], x.shape[-1]))
            )
            # They are read once, for all MSD Applies.
            patches = transformer_options.get(_SAMPLINGS, {})
            acts_on_all = any(patch.branch.acts_on_all for patch in patches)
            return read_rows(marks.cpu(), x, conditionings, latent, acts_on_all)
        if sampling is not None and sampling.evaluated is not None:
            raise ValueError("the model is called without what belongs to its conditionings")
    except ValueError as error:
        evaluated = (sampling.evaluated if sampling is not None else None) or {}
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
    compiled.add(Layer(block, heads, height, width), out, q, k, len(order))
    return out


def _is_ours(patch: Any) -> bool:
    return isinstance(patch, partial) and patch.func is _attend


def _has_other_patches(transformer_options: Mapping[str, Any]) -> bool:
    replaced = transformer_options.get("patches_replace", {}).values()
    return any(not _is_ours(patch) for patches in replaced for patch in patches.values())
