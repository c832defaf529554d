"""MSDReferenceLatents: each subject's references become reference latents of the conditioning, in
the layout's order."""

import math
from functools import partial
from typing import Any

import comfy.utils
import node_helpers
from comfy.sd import VAE
from comfy_api.latest import io
from torch import Tensor

from .encode_references import cut_out
from .images import to_tensor
from .memo import Memo
from .subjects import MSDSubjects, Subjects

EDGE = 16  # pixels that a token covers in all these models: their sizes are whole multiples
_memo = Memo[VAE, Tensor]()


class MSDReferenceLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDReferenceLatents",
            display_name="MSD Reference Latents",
            category="MS-Diffusion",
            description="Give the references of all subjects to a prompt, for a model that takes "
            "reference latents.",
            search_aliases=["reference latent", "kontext", "flux 2", "qwen image edit"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The encoded prompt."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                MSDSubjects.Input("subjects", tooltip="Subjects from MSD Layout."),
                io.Combo.Input(
                    "background",
                    options=["white", "grey", "black", "keep"],
                    default="white",
                    tooltip="What replaces a reference outside its mask, or nothing (keep). "
                    "Without a mask the reference stays whole.",
                ),
                io.Float.Input(
                    "megapixels",
                    default=1.0,
                    min=0.01,
                    max=4.0,
                    step=0.01,
                    tooltip="Size of each reference, its aspect ratio kept. Lowering it makes "
                    "sampling faster and the subjects less like their references.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="The prompt with the references, for the sampler.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        conditioning: Any,
        vae: VAE,
        subjects: Subjects,
        background: str = "white",
        megapixels: float = 1.0,
    ) -> io.NodeOutput:
        progress = comfy.utils.ProgressBar(len(subjects.subjects))
        latents: list[Tensor] = []
        for subject in subjects.subjects:
            for reference, mask in zip(subject.references, subject.mask_of_each, strict=True):
                image = cut_out(reference, mask, background)
                pixels = fit_reference(to_tensor(image)[None], megapixels)
                latents.append(_memo.get(vae, pixels, compute=partial(vae.encode, pixels)))
            progress.update(1)
        values = {"reference_latents": latents}
        return io.NodeOutput(
            node_helpers.conditioning_set_values(conditioning, values, append=True)
        )


def fit_reference(image: Tensor, megapixels: float) -> Tensor:
    """An image [1, H, W, 3] resized to an area of about so many times 1024 x 1024 pixels, both
    edges multiples of 16, its aspect ratio kept as nearly as these allow."""
    _, height, width, _ = image.shape
    scale = math.sqrt(megapixels * 1024 * 1024 / (height * width))
    height, width = (max(EDGE, round(edge * scale / EDGE) * EDGE) for edge in (height, width))
    resized = comfy.utils.common_upscale(image.movedim(-1, 1), width, height, "lanczos", "disabled")
    return resized.movedim(1, -1)
