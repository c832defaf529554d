"""How the image branch gets into a running UNet: wrappers around the sampler's and the model's
calls, and a replacement of each text cross-attention, beside whatever other packs have put there.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from comfy.ldm.modules.attention import optimized_attention
from comfy.model_base import BaseModel
from comfy.samplers import CFGGuider
from torch import Tensor

from ...msd_core.models.unet import Block
from . import compiled
from .call import Call, calls
from .conditionings import Row, acts_on
from .image_branch import Branch, Layer
from .latent import SampledLatent
from .run import Run
from .sampling_patch import Sampling, SamplingPatch


class SubjectAttentionPatch(SamplingPatch[Run]):
    """What MSDApply puts on a model. Only auto layout outside of any sampling run remembers its run
    here.

    Args:
        branch: what is added.
    """

    node = "MSD Apply"

    def __init__(
        self,
        branch: Branch,
        start_percent: float,
        end_percent: float,
        unique_id: str | None = None,
    ) -> None:
        super().__init__(branch.subjects.size, start_percent, end_percent, unique_id)
        self.branch = branch
        self.acts_on_all = branch.acts_on_all
        self.outside = Run([])

    def begin(
        self, guider: CFGGuider, sigmas: list[float], sigma_range: tuple[float, float]
    ) -> Run:
        run = Run(sigmas, sigma_range)
        auto = self.branch.subjects.auto_layout
        if auto is not None and len(sigmas) < auto.start_step:
            run.warn(
                f"MSD Auto Layout: this sampler runs {len(sigmas)} steps and counts them from 1, "
                f"so the boxes stay: start_step is {auto.start_step}."
            )
        return run

    @contextmanager
    def acting(
        self,
        model: BaseModel,
        inputs: Mapping[str, Any],
        rows: tuple[Row, ...],
        sampling: Sampling[Run] | None,
        transformer_options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Put the image branch over what is on each block right now. It is put there also for calls
        in which it does nothing, since compiled code stays as it was at first."""
        options = transformer_options
        if sampling is None:
            sampling = self._outside_sampling(model, inputs["x"], rows)
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
            stance = compiled.uncompiled(self.node)
            sampling.run.warn(
                "MSD Apply: the model runs uncompiled, since what TorchCompileModel compiles "
                "would keep the subjects of an earlier run."
            )
        before = calls.set(under_way)
        try:
            with stance:
                yield self._patched(options)
        finally:
            calls.reset(before)

    def _outside_sampling(
        self, model: BaseModel, x: Tensor, rows: tuple[Row, ...]
    ) -> Sampling[Run]:
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

    def _patched(self, transformer_options: dict[str, Any]) -> dict[str, Any]:
        replaced = transformer_options.get("patches_replace", {})
        attn2 = dict(replaced.get("attn2", {}))
        for block in self.branch.keys_values:
            # The host looks for the patch of a transformer block first, then for its module's.
            previous = attn2.get(block, attn2.get(block[:2]))
            if not _is_ours(previous):
                attn2[block] = partial(_attend, block, previous)
        return {**transformer_options, "patches_replace": {**replaced, "attn2": attn2}}


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
