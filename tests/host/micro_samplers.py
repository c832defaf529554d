"""The micro family's pictures by the pack's nodes, one node after the other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.host.in_process import run_node
from lab.host.sampler import lay_out, sample_picture
from lab.host.workflows import NEGATIVE, STEPS
from lab.microworld.scenes import SMALL_REFERENCE_SIZE, SMALL_SIZE


class Sampler:
    """The micro family, loaded by the host's stock loaders, and the examples' workflow on it.

    Args:
        nodes: the host's node classes by id, as `load_host` gives them.
        models: folder with checkpoints/, clip_vision/ and ms_diffusion/ of the family, and
            ipadapter/ if there are such adapters.
        adapter: file name of the adapter.
    """

    def __init__(
        self, nodes: dict[str, Any], models: Path, adapter: str = "ms_adapter_micro.safetensors"
    ) -> None:
        self.nodes = nodes
        import folder_paths

        for kind in ("checkpoints", "clip_vision", "ms_diffusion", "ipadapter"):
            folder_paths.add_model_folder_path(kind, str(models / kind), is_default=True)
        self.model, self.clip, self.vae = self._run(
            "CheckpointLoaderSimple", ckpt_name="micro.safetensors"
        )
        (self.clip_vision,) = self._run("CLIPVisionLoader", clip_name="micro_vision.safetensors")
        (self.adapter,) = self._run("MSDLoadAdapter", adapter=adapter)

    def text(self, prompt: str) -> Any:
        return self._run("CLIPTextEncode", clip=self.clip, text=prompt)[0]

    def subjects(
        self,
        references: Tensor,
        phrases: Sequence[str],
        boxes: Tensor,
        size: tuple[int, int],
    ) -> Any:
        """MSDLayout, MSDEncodeReferences, MSDGroundReferences; arguments as those of `lay_out`."""
        subjects = lay_out(self.nodes, references, phrases, boxes, size)
        (subjects,) = self._run(
            "MSDEncodeReferences", clip_vision=self.clip_vision, subjects=subjects
        )
        (subjects,) = self._run(
            "MSDGroundReferences",
            adapter=self.adapter,
            clip=self.clip,
            subjects=subjects,
        )
        return subjects

    def picture(
        self,
        prompt: str,
        size: tuple[int, int],
        seed: int,
        subjects: Any = None,
        steps: int = STEPS,
    ) -> Tensor:
        """A picture [3, H, W] in 0..1; without subjects, of the text alone."""
        model = self.model
        if subjects is not None:
            (model,) = self._run(
                "MSDApply", model=model, adapter=self.adapter, subjects=subjects, weight=1.0
            )
        texts = self.text(prompt), self.text(NEGATIVE)
        return sample_picture(self.nodes, model, *texts, self.vae, size, seed, steps)

    def _run(self, node: str, **inputs: Any) -> Any:
        with torch.no_grad():
            return run_node(self.nodes, node, **inputs)


class FluxSampler:
    """The micro Flux, its references in the conditioning and not placed.

    Args:
        nodes: the host's node classes by id, as `load_host` gives them.
        models: folder with checkpoints/ of the family.
    """

    def __init__(self, nodes: dict[str, Any], models: Path) -> None:
        self.nodes = nodes
        import folder_paths

        folder = str(models / "checkpoints")
        folder_paths.add_model_folder_path("checkpoints", folder, is_default=True)
        self.model, self.clip, _ = self._run(
            "CheckpointLoaderSimple", ckpt_name="micro_flux.safetensors"
        )
        _, _, self.vae = self._run("CheckpointLoaderSimple", ckpt_name="micro.safetensors")
        (self.negative,) = self._run("CLIPTextEncode", clip=self.clip, text="")

    def picture(self, prompt: str, subjects: Any, seed: int) -> Tensor:
        """A picture [3, SMALL_SIZE, SMALL_SIZE] in 0..1, of subjects from `lay_out`."""
        (positive,) = self._run("CLIPTextEncode", clip=self.clip, text=prompt)
        (positive,) = self._run(
            "MSDReferenceLatents",
            conditioning=positive,
            vae=self.vae,
            subjects=subjects,
            megapixels=(SMALL_REFERENCE_SIZE / 1024) ** 2,
        )
        texts = positive, self.negative
        size = (SMALL_SIZE, SMALL_SIZE)
        return sample_picture(
            self.nodes, self.model, *texts, self.vae, size, seed, scheduler="simple"
        )

    def _run(self, node: str, **inputs: Any) -> Any:
        with torch.no_grad():
            return run_node(self.nodes, node, **inputs)
