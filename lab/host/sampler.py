"""Pictures of the micro family by the pack's nodes, in a ComfyUI in this process."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.host.in_process import run_node
from lab.host.workflows import CFG, NEGATIVE, STEPS

WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)


class Sampler:
    """The micro family, loaded by the host's stock loaders, and the examples' workflow on it.

    Args:
        nodes: the host's node classes by id, as `load_host` gives them.
        models: folder with checkpoints/, clip_vision/ and ms_diffusion/ of the family.
        adapter: file name of the adapter.
    """

    def __init__(
        self, nodes: dict[str, Any], models: Path, adapter: str = "ms_adapter_micro.safetensors"
    ) -> None:
        self.nodes = nodes
        import folder_paths

        for kind in ("checkpoints", "clip_vision", "ms_diffusion"):
            folder_paths.add_model_folder_path(kind, str(models / kind), is_default=True)
        self.model, self.clip, self.vae = self._run(
            "CheckpointLoaderSimple", ckpt_name="micro.safetensors"
        )
        (self.clip_vision,) = self._run("CLIPVisionLoader", clip_name="micro_vision.safetensors")
        (self.adapter,) = self._run("MSDLoadAdapter", adapter=adapter)
        self.texts: dict[str, Any] = {}

    def text(self, prompt: str) -> Any:
        if prompt not in self.texts:
            (self.texts[prompt],) = self._run("CLIPTextEncode", clip=self.clip, text=prompt)
        return self.texts[prompt]

    def subjects(
        self,
        references: Tensor,
        phrases: Sequence[str],
        boxes: Tensor,
        size: tuple[int, int],
        grounding: bool = True,
    ) -> Any:
        """MSDLayout, MSDEncodeReferences, MSDGroundReferences.

        Args:
            references: [S, 3, H, W] in 0..1. phrases: S. boxes: [S, 4].
            size: height and width of the picture in pixels.
        """
        specs = [
            {"phrase": phrase, "box": box, "weight": 1.0}
            for phrase, box in zip(phrases, boxes.tolist(), strict=True)
        ]
        sockets = {
            f"reference_{number}": reference.movedim(0, -1)[None]
            for number, reference in enumerate(references, 1)
        }
        subjects = self._run(
            "MSDLayout",
            references=sockets,
            width=size[1],
            height=size[0],
            layout={"version": 1, "subjects": specs},
        )[0]
        (subjects,) = self._run(
            "MSDEncodeReferences", clip_vision=self.clip_vision, subjects=subjects
        )
        (subjects,) = self._run(
            "MSDGroundReferences",
            adapter=self.adapter,
            clip=self.clip,
            subjects=subjects,
            use_grounding=grounding,
        )
        return subjects

    def auto_layout(self, subjects: Any, prompt: str) -> Any:
        return self._run("MSDAutoLayout", clip=self.clip, subjects=subjects, prompt=prompt)[0]

    def everywhere(self, subjects: Any) -> Any:
        """The same grounded subjects, each over the whole picture: attention without masks."""
        return replace(
            subjects, subjects=tuple(replace(s, box=WHOLE_PICTURE) for s in subjects.subjects)
        )

    def picture(
        self,
        prompt: str,
        size: tuple[int, int],
        seed: int,
        subjects: Any = None,
        weight: float = 1.0,
        steps: int = STEPS,
    ) -> Tensor:
        """A picture [3, H, W] in 0..1; without subjects, of the text alone."""
        model = self.model
        if subjects is not None:
            (model,) = self._run(
                "MSDApply", model=model, adapter=self.adapter, subjects=subjects, weight=weight
            )
        (latent,) = self._run("EmptyLatentImage", width=size[1], height=size[0])
        (latent,) = self._run(
            "KSampler",
            model=model,
            seed=seed,
            steps=steps,
            cfg=CFG,
            sampler_name="euler",
            scheduler="normal",
            positive=self.text(prompt),
            negative=self.text(NEGATIVE),
            latent_image=latent,
        )
        (image,) = self._run("VAEDecode", vae=self.vae, samples=latent)
        return image[0].movedim(-1, 0).clamp(0, 1)

    def _run(self, node: str, **inputs: Any) -> Any:
        with torch.no_grad():
            return run_node(self.nodes, node, **inputs)
