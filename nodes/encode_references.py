"""MSDEncodeReferences: references -> image features (docs/method.md, section 1)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import comfy.model_management
import comfy.utils
import torch
from comfy.clip_vision import ClipVisionModel
from comfy_api.latest import io
from PIL import Image, ImageOps
from torch import Tensor

from .images import to_pil, to_tensor
from .layout.copies import save_encoded
from .layout.references import read_references
from .memo import Memo
from .node_text import SHOWS_OUTPUT
from .subjects import Features, MSDSubjects, Subjects

# MS-Diffusion's research code stretches every reference to this before the encoder's own resizing.
PUBLISHED_SIZE = 512
_BACKGROUNDS = {"black": 0, "grey": 128, "white": 255}
_memo = Memo[ClipVisionModel, Features]()
_blanks = Memo[ClipVisionModel, Tensor]()


def cut_out(reference: Tensor, mask: Tensor | None, background: str) -> Image.Image:
    """One reference, its background replaced.

    Args:
        reference: [H, W, 3] in 0..1. mask: [H, W], where the subject is, or None.
        background: "black", "grey", "white" or "keep", outside the mask.
    """
    image = to_pil(reference)
    if mask is None or background == "keep":
        return image
    fill = Image.new("RGB", image.size, (_BACKGROUNDS[background],) * 3)
    return Image.composite(image, fill, to_pil(mask))


def prepare_reference(
    reference: Tensor, mask: Tensor | None, fit: str, background: str, size: int
) -> Tensor:
    """One reference as the encoder takes it, in 8-bit steps exactly as PIL resizes it.

    Args:
        reference: [H, W, 3] in 0..1. mask: [H, W], where the subject is, or None.
        fit: "stretch" (published), "crop" or "pad" to a square, or "clip": the middle at the
            encoder's size, without the published one between.
        background: "black" (published), "grey", "white" or "keep", outside the mask.
        size: pixels of the encoder's edge.
    Returns:
        [size, size, 3] in 0..1
    """
    image = cut_out(reference, mask, background)
    level = _BACKGROUNDS.get(background, 0)
    if fit == "clip":
        # The longer edge is cut, not rounded; the host's own crop rounds it, and is a column off.
        shortest = min(image.size)
        width, height = (int(size * edge / shortest) for edge in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        return to_tensor(image.crop((left, top, left + size, top + size)))
    if fit == "crop":
        edge = min(image.size)
        image = ImageOps.fit(image, (edge, edge), Image.Resampling.BICUBIC)
    elif fit == "pad":
        edge = max(image.size)
        image = ImageOps.pad(image, (edge, edge), color=(level,) * 3)
    for edge in (PUBLISHED_SIZE, size):
        image = image.resize((edge, edge), Image.Resampling.BICUBIC)
    return to_tensor(image)


class MSDEncodeReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDEncodeReferences",
            display_name="MSD Encode References",
            category="MS-Diffusion",
            description="Look at the references of each subject with CLIP vision.",
            search_aliases=["ms diffusion", "reference encoding", "clip vision"],
            **SHOWS_OUTPUT,
            inputs=[
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The image encoder that the adapter was trained with: "
                    "CLIP-ViT-bigG-14 for MS-Diffusion, mostly CLIP-ViT-H-14 for IP-Adapter.",
                ),
                MSDSubjects.Input("subjects", tooltip="Subjects from MSD Layout."),
                io.Combo.Input(
                    "fit",
                    options=["stretch", "crop", "pad", "clip"],
                    default="stretch",
                    tooltip="How a reference becomes square: stretch it (as MS-Diffusion was "
                    "trained), crop its middle, pad it, or crop its middle as CLIP does it by "
                    "itself (clip, as IP-Adapter and MIP-Adapter were trained).",
                ),
                io.Combo.Input(
                    "background",
                    options=["black", "grey", "keep", "white"],
                    default="black",
                    tooltip="What replaces a reference outside its mask: black (as MS-Diffusion "
                    "was trained), grey, nothing (keep, as IP-Adapter was trained), or white (as "
                    "MIP-Adapter was trained). Without a mask the reference stays whole.",
                ),
                io.Combo.Input(
                    "several_photos",
                    options=["average", "concatenate"],
                    default="average",
                    tooltip="Several references of one subject: average their features, or give "
                    "each its own image tokens (as if the subject were there twice), as is usual "
                    "with IP-Adapter.",
                    advanced=True,
                ),
                io.Image.Input(
                    "negative_reference",
                    optional=True,
                    tooltip="What the subjects shall not look like: one picture in place of the "
                    "blank one that IP-Adapter and MIP-Adapter give the negative prompt. "
                    "MS-Diffusion leaves that alone.",
                ),
            ],
            outputs=[
                MSDSubjects.Output(
                    display_name="subjects",
                    tooltip="Subjects with their image features, for MSD Ground References.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        clip_vision: ClipVisionModel,
        subjects: Subjects,
        fit: str = "stretch",
        background: str = "black",
        several_photos: str = "average",
        negative_reference: Tensor | None = None,
    ) -> io.NodeOutput:
        progress = comfy.utils.ProgressBar(len(subjects.subjects))
        prepare = partial(_prepare, clip_vision.image_size, fit, background)
        negative = None
        if negative_reference is not None:
            pictures, alpha = read_references(negative_reference, "negative_reference")
            if len(pictures) != 1:
                raise ValueError(
                    f"negative_reference: expected one picture, got a batch of {len(pictures)}. "
                    "Take one of them with ImageFromBatch."
                )
            negative = _features(
                clip_vision, prepare(pictures, [None if alpha is None else alpha[0]])
            )
        encoded, copies = [], []
        for subject in subjects.subjects:
            prepared = prepare(subject.references, subject.mask_of_each)
            features = _features(clip_vision, prepared)
            if several_photos == "average":
                features = replace(
                    features,
                    hidden_states=features.hidden_states.mean(0, keepdim=True),
                    pooled=features.pooled.mean(0, keepdim=True),
                )
            if negative is not None:
                features = replace(
                    features,
                    blank_hidden_states=negative.hidden_states[0],
                    blank_pooled=negative.pooled[0],
                )
            encoded.append(replace(subject, features=features))
            copies.append(save_encoded(prepared[0]))
            progress.update(1)
        # For the layout's editor; as text, see MSDLayout.
        return io.NodeOutput(replace(subjects, subjects=tuple(encoded)), ui={"msd_encoded": copies})


def _prepare(
    size: int, fit: str, background: str, references: Tensor, masks: Sequence[Tensor | None]
) -> Tensor:
    """Each of some references [n, H, W, 3] as the encoder takes it, [n, size, size, 3]; masks: of
    each, where the subject is."""
    pairs = zip(references, masks, strict=True)
    return torch.stack([prepare_reference(r, m, fit, background, size) for r, m in pairs])


def _features(clip_vision: ClipVisionModel, prepared: Tensor) -> Features:
    return _memo.get(clip_vision, prepared, compute=lambda: _encode(clip_vision, prepared))


def _encode(clip_vision: ClipVisionModel, references: Tensor) -> Features:
    output = clip_vision.encode_image(references, crop=False)
    hidden_states = output["penultimate_hidden_states"]
    if hidden_states is None:
        raise ValueError(
            "clip_vision: this encoder gives no hidden states. Load the CLIP vision model that "
            "the adapter was trained with in Load CLIP Vision; CLIP-ViT-bigG-14 for the released "
            "one."
        )
    blank = _blanks.get(clip_vision, compute=lambda: _encode_blank(clip_vision))
    pooled = output["image_embeds"].float()
    return Features(hidden_states.float(), pooled, blank, torch.zeros_like(pooled[0]))


def _encode_blank(clip_vision: ClipVisionModel) -> Tensor:
    """[P, E], the hidden states for pixel values of zeros: after mean and std, so a grey image,
    which the host would round to 8 bits if it were given as one."""
    comfy.model_management.load_model_gpu(clip_vision.patcher)
    size = clip_vision.image_size
    zeros = torch.zeros(1, 3, size, size, device=clip_vision.load_device)
    hidden_states = clip_vision.model(pixel_values=zeros, intermediate_output=-2)[1][0]
    return hidden_states.float().to(comfy.model_management.intermediate_device())
