"""A real ComfyUI in this process, with the pack and the family's loader as it loads any pack: the
quickest way to many pictures. `COMFYUI_PATH` says where it is."""

import asyncio
import atexit
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
NEGATIVE = "low quality, worst quality, blurry"
STEPS, GUIDANCE = 20, 4.0
WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)


@cache
def load_host() -> dict[str, Any]:
    """The host's node classes by id, the pack's among them. Files go to a temporary folder."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])  # before this repository's folder `nodes`
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    import folder_paths
    import server

    base = tempfile.mkdtemp(prefix="ms-diffusion-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    for setter in (
        folder_paths.set_output_directory,
        folder_paths.set_temp_directory,
        folder_paths.set_input_directory,
    ):
        setter(base)

    host_nodes: Any = importlib.import_module("nodes")

    async def load() -> None:
        server.PromptServer(asyncio.get_running_loop())
        await host_nodes.init_builtin_extra_nodes()
        for pack in (ROOT, ROOT / "microworld" / "host_pack"):
            if not await host_nodes.load_custom_node(str(pack), module_parent="custom_nodes"):
                raise RuntimeError(f"The host could not load {pack.name}.")

    asyncio.run(load())
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    return host_nodes.NODE_CLASS_MAPPINGS


def run_node(nodes: dict[str, Any], name: str, *args: Any, **inputs: Any) -> Any:
    """A node's outputs, by whichever of the host's two interfaces it has."""
    kind = nodes[name]
    if hasattr(kind, "define_schema"):
        given = kind.execute(*args, **inputs)
    else:
        given = getattr(kind(), kind.FUNCTION)(*args, **inputs)
    return getattr(given, "result", given)


class Sampler:
    """The family, loaded by the host's stock loaders, and the workflow of the examples.

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
        places = [
            {"phrase": phrase, "box": box, "weight": 1.0}
            for phrase, box in zip(phrases, boxes.tolist(), strict=True)
        ]
        photos = {
            f"reference_{number}": reference.movedim(0, -1)[None]
            for number, reference in enumerate(references, 1)
        }
        subjects = self._run(
            "MSDLayout",
            references=photos,
            width=size[1],
            height=size[0],
            layout={"version": 1, "subjects": places},
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
        """The same grounded subjects, each covering the whole picture: attention without masks."""
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
        """[3, H, W] in 0..1; without subjects, of the text alone."""
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
            cfg=GUIDANCE,
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
