"""Pictures of the micro family by the pack's nodes, in a ComfyUI in this process."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.host.in_process import run_node
from lab.host.workflows import CFG, NEGATIVE, STEPS
from lab.microworld.scenes import SMALL_REFERENCE_SIZE, SMALL_SIZE

WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)


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
        texts = self.text(prompt), self.text(NEGATIVE)
        return sample_picture(self.nodes, model, *texts, self.vae, size, seed, steps)

    def _run(self, node: str, **inputs: Any) -> Any:
        with torch.no_grad():
            return run_node(self.nodes, node, **inputs)


class FluxSampler:
    """The micro Flux, its references in the conditioning, and placed or not.

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

    def picture(
        self,
        prompt: str,
        subjects: Any,
        seed: int,
        place: bool = True,
        own_texts: bool = False,
        first_stage: float = 0.0,
    ) -> Tensor:
        """A picture [3, SMALL_SIZE, SMALL_SIZE] in 0..1.

        Args:
            subjects: from `lay_out`.
            place: whether MSDPlaceReferences puts the references into their boxes.
            own_texts: whether each subject's phrase in the prompt is its own.
        """
        (positive,) = self._run("CLIPTextEncode", clip=self.clip, text=prompt)
        (positive,) = self._run(
            "MSDReferenceLatents",
            conditioning=positive,
            vae=self.vae,
            subjects=subjects,
            megapixels=(SMALL_REFERENCE_SIZE / 1024) ** 2,
        )
        model = self.model
        if place:
            texts = {"clip": self.clip, "prompt": prompt} if own_texts else {}
            (model,) = self._run(
                "MSDPlaceReferences",
                model=model,
                subjects=subjects,
                first_stage=first_stage,
                **texts,
            )
        size = (SMALL_SIZE, SMALL_SIZE)
        return sample_picture(
            self.nodes, model, positive, self.negative, self.vae, size, seed, scheduler="simple"
        )

    def _run(self, node: str, **inputs: Any) -> Any:
        with torch.no_grad():
            return run_node(self.nodes, node, **inputs)


@torch.no_grad()
def sample_picture(
    nodes: dict[str, Any],
    model: Any,
    positive: Any,
    negative: Any,
    vae: Any,
    size: tuple[int, int],
    seed: int,
    steps: int = STEPS,
    cfg: float = CFG,
    scheduler: str = "normal",
) -> Tensor:
    """A picture [3, height, width] in 0..1, by EmptyLatentImage, KSampler and VAEDecode."""
    (latent,) = run_node(nodes, "EmptyLatentImage", width=size[1], height=size[0])
    (latent,) = run_node(
        nodes,
        "KSampler",
        model=model,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name="euler",
        scheduler=scheduler,
        positive=positive,
        negative=negative,
        latent_image=latent,
    )
    (image,) = run_node(nodes, "VAEDecode", vae=vae, samples=latent)
    return image[0].movedim(-1, 0).clamp(0, 1)


def lay_out(
    nodes: dict[str, Any],
    references: Tensor | Sequence[Tensor],
    phrases: Sequence[str],
    boxes: Tensor,
    size: tuple[int, int],
    weight: float = 1.0,
) -> Any:
    """Subjects from MSDLayout.

    Args:
        references: S of [3 or 4, H, W] in 0..1. phrases: S. boxes: [S, 4].
        size: height and width of the picture in pixels.
        weight: of every subject.
    """
    specs = [
        {"phrase": phrase, "box": box, "weight": weight}
        for phrase, box in zip(phrases, boxes.tolist(), strict=True)
    ]
    sockets = {
        f"reference_{number}": reference.movedim(0, -1)[None]
        for number, reference in enumerate(references, 1)
    }
    return run_node(
        nodes,
        "MSDLayout",
        references=sockets,
        width=size[1],
        height=size[0],
        layout={"version": 1, "subjects": specs},
    )[0]
