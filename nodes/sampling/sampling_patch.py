"""What every patch of a MODEL here has in common: it follows a sampling run from the sampler's
start down to each call of the model, and knows whose rows that call holds."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from comfy.model_base import BaseModel
from comfy.patcher_extension import WrapperExecutor, WrappersMP, add_wrapper_with_key
from comfy.samplers import CFGGuider
from torch import Tensor

from ..aspect import warn_of_aspect
from . import compiled
from .conditionings import CONDITIONINGS, ROWS, Row, guess_rows, is_marked, mark, read_rows
from .latent import SampledLatent
from .run import StepClock

_SAMPLINGS = "ms_diffusion_samplings"  # transformer option
_WRAPPER_KEY = "ms_diffusion"

Clock = TypeVar("Clock", bound=StepClock)


@dataclass
class Sampling(Generic[Clock]):
    """What one patch knows of the sampler that is running."""

    run: Clock
    latent: SampledLatent
    backend: str | None  # of TorchCompileModel
    # The model's options while the host evaluates conditionings that all carry their rows
    evaluated: Mapping[str, Any] | None = None
    saw_positive: bool | None = None  # among the rows of its calls; None before the first


class SamplingPatch(ABC, Generic[Clock]):
    """What a node puts on a model: its wrappers. What they remember belongs to a sampling run.

    Args:
        size: width and height of the layout in pixels, None if it isn't known.
        start_percent, end_percent: of the sampling, from where to where the subjects act.
        unique_id: of the node, to show warnings on it.
    """

    node: str  # as users see its name
    acts_on_all: bool  # also on the rows of negative conditionings

    def __init__(
        self,
        size: tuple[int, int] | None,
        start_percent: float,
        end_percent: float,
        unique_id: str | None,
    ) -> None:
        self.size = size
        self.start_percent = start_percent
        self.end_percent = end_percent
        self.unique_id = unique_id

    @abstractmethod
    def begin(
        self, guider: CFGGuider, sigmas: list[float], sigma_range: tuple[float, float]
    ) -> Clock:
        """A sampler starts, the conditionings of whose guider are marked."""

    @abstractmethod
    def acting(
        self,
        model: BaseModel,
        inputs: Mapping[str, Any],
        rows: tuple[Row, ...],
        sampling: Sampling[Clock] | None,
        transformer_options: dict[str, Any],
    ) -> AbstractContextManager[dict[str, Any]]:
        """Around a call of the model: gives the transformer options to call it with.

        Args:
            inputs: `x`, `context` and what else the conditionings give this model.
            rows: whose they are.
            sampling: the sampling run, None outside of any.
        """

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
        pixels = getattr(guider.inner_model.latent_format, "spacial_downscale_ratio", 8)
        warn_of_aspect(self.node, self.size, latent.size, pixels, self.unique_id)
        model_options = extra_args["model_options"]
        options = model_options.setdefault("transformer_options", {})
        if CONDITIONINGS not in options:  # else another patch's
            options[CONDITIONINGS] = mark(guider.conds, len(noise))
        run = self.begin(guider, sigmas[:-1].tolist(), self._sigma_range(guider.inner_model))
        sampling = Sampling(run, latent, compiled.backend_of(model_options))
        options[_SAMPLINGS] = {**options.get(_SAMPLINGS, {}), self: sampling}
        out = executor(guider, sigmas, extra_args, callback, noise, *args)
        if sampling.saw_positive is False:
            run.warn(
                f"{self.node}: nothing in this run belonged to a positive prompt, so no subject "
                f"was drawn. The guider has {', '.join(map(repr, guider.conds))}."
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
        sampling = self.sampling_of(model_options.get("transformer_options", {}))
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
        sampling = self.sampling_of(options)
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
        """APPLY_MODEL wrapper: a call of the model."""
        options = transformer_options or {}
        sampling = self.sampling_of(options)
        rows = self.rows_of(kwargs.get(ROWS), x, sampling, options)
        if ROWS in kwargs:
            kwargs[ROWS] = rows  # for another patch; the model leaves it alone
        model: Any = executor.class_obj
        inputs = {"x": x, "context": context, **kwargs}
        with self.acting(model, inputs, rows, sampling, options) as options:
            return executor(x, timesteps, concat, context, control, options, **kwargs)

    def sampling_of(self, transformer_options: Mapping[str, Any]) -> Sampling[Clock] | None:
        """The sampling run that a call belongs to, None outside of any."""
        return transformer_options.get(_SAMPLINGS, {}).get(self)

    def rows_of(
        self,
        marks: Any,
        x: Tensor,
        sampling: Sampling[Clock] | None,
        transformer_options: Mapping[str, Any],
    ) -> tuple[Row, ...]:
        """The rows of a call of the model.

        Args:
            marks: what has become of the conditionings' `RowsCond`, or the rows, where another
                patch has read them.
        Raises:
            ValueError: they can't be told.
        """
        if isinstance(marks, tuple):
            return marks
        conditionings = transformer_options.get(CONDITIONINGS)
        try:
            if marks is not None and conditionings is not None:
                latent = (
                    sampling.latent
                    if sampling is not None
                    else SampledLatent(len(x), (x.shape[-2], x.shape[-1]))
                )
                # They are read once, for all patches.
                patches = transformer_options.get(_SAMPLINGS, {})
                acts_on_all = any(patch.acts_on_all for patch in patches)
                return read_rows(marks.cpu(), x, conditionings, latent, acts_on_all)
            if sampling is not None and sampling.evaluated is not None:
                raise ValueError("the model is called without what belongs to its conditionings")
        except ValueError as error:
            evaluated = (sampling.evaluated if sampling is not None else None) or {}
            raise ValueError(
                f"{self.node}: {error}. Bypass the node that crops or batches by itself"
                f"{_functions(evaluated)}, or {self.node}."
            ) from error
        return guess_rows(transformer_options, x)

    def _sigma_range(self, model: BaseModel) -> tuple[float, float]:
        """From which sigma down to which it acts, by the schedule of the model that runs: a node
        that sets it may come after this patch."""
        sigma = model.model_sampling.percent_to_sigma
        return float(sigma(self.start_percent)), float(sigma(self.end_percent))


def _functions(model_options: Mapping[str, Any]) -> str:
    """The functions that other packs have put around the model's calls."""
    found = []
    for key, value in model_options.items():
        if key == "model_function_wrapper" or "cfg_function" in key:
            for function in value if isinstance(value, list) else [value]:
                kind = function if hasattr(function, "__qualname__") else type(function)
                found.append(f"{kind.__qualname__} of {kind.__module__}")
    return f" ({', '.join(found)})" if found else ""
