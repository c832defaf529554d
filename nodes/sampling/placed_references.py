"""How placed references get into a running transformer: a wrapper around each call of the model,
which for that call answers the host's `optimized_attention_override`, the one hook that all these
architectures have in common."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from comfy.model_base import BaseModel
from comfy.samplers import CFGGuider

from ...msd_core.models.reference_transformers import ReferenceTransformer
from . import compiled
from .conditionings import Row
from .joint_attention import PlacedCall, PlacedRun, attend_placed
from .placed_layout import Layout
from .sampling_patch import Sampling, SamplingPatch

_OVERRIDE = "optimized_attention_override"  # transformer option


class PlacedReferencesPatch(SamplingPatch[PlacedRun]):
    """What MSDPlaceReferences puts on a model.

    Args:
        layout: what is placed.
        transformer: the model's architecture.
    """

    node = "MSD Place References"
    acts_on_all = True

    def __init__(
        self,
        layout: Layout,
        transformer: ReferenceTransformer,
        start_percent: float,
        end_percent: float,
        unique_id: str | None = None,
    ) -> None:
        super().__init__(layout.subjects.size, start_percent, end_percent, unique_id)
        self.layout = layout
        self.transformer = transformer
        self.outside = PlacedRun([])

    def begin(
        self, guider: CFGGuider, sigmas: list[float], sigma_range: tuple[float, float]
    ) -> PlacedRun:
        conds = [cond["model_conds"] for of_name in guider.conds.values() for cond in of_name]
        counts = {len(cond["ref_latents"].cond) for cond in conds if "ref_latents" in cond}
        if not counts:
            raise ValueError(
                "MSD Place References: no conditioning of this sampler has reference latents, so "
                "there is nothing to place. Put MSD Reference Latents between the prompt and the "
                "sampler."
            )
        for count in counts:
            self.layout.owners(count)
        run = PlacedRun(sigmas, sigma_range)
        if self.layout.has_first_stage and not self.layout.first_steps(len(sigmas)):
            run.warn(
                f"{self.node}: first_stage {self.layout.first_stage:g} is less than half a step "
                f"with {len(sigmas)} steps, so there is no first stage."
            )
        return run

    @contextmanager
    def acting(
        self,
        model: BaseModel,
        inputs: Mapping[str, Any],
        rows: tuple[Row, ...],
        sampling: Sampling[PlacedRun] | None,
        transformer_options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Answer the joint attentions of this call."""
        options = transformer_options
        run = self.outside if sampling is None else sampling.run
        if sampling is None:
            run.sigma_range = self._sigma_range(model)
        context, references = inputs["context"], inputs.get("ref_latents")
        if not references or context is None or not self._enter_step(run, options):
            yield options
            return
        network: Any = model.diffusion_model
        network = getattr(network, "_orig_mod", network)  # if compiled
        call = PlacedCall.of(
            self.layout, self.transformer, run, rows, network, inputs["x"], context, references
        )
        stance = nullcontext()
        if compiled.is_compiled(options):
            stance = compiled.uncompiled(self.node)
            run.warn(
                f"{self.node}: the model runs uncompiled, since what TorchCompileModel compiles "
                "would keep the layout of an earlier run."
            )
        with stance:
            yield {**options, _OVERRIDE: partial(attend_placed, call, options.get(_OVERRIDE))}
        if not call.joint_attentions:
            raise ValueError(
                f"{self.node}: the model has no attention over its {call.text} tokens of text, "
                f"{call.picture} of the picture and {call.of_references} of references, so the "
                "references can't be placed. Some models take them only with a method: put Edit "
                "Model Reference Method after MSD Reference Latents. Else bypass the nodes that "
                "change the model's tokens."
            )

    def _enter_step(self, run: PlacedRun, transformer_options: Mapping[str, Any]) -> bool:
        """Move the run's clock on, where the step matters: to read the time is to wait for the
        GPU. Returns whether the subjects act in this step."""
        if self.layout.first_steps(len(run.sigmas)) or not run.covers_all_steps:
            run.enter(float(transformer_options["sigmas"][0]))
        return run.acts
