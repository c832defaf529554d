"""MSDEncodeReferences: photos -> image features (docs/method.md, section 1)."""

from dataclasses import replace

import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageOps
from torch import Tensor

from .subjects import Kept, MSDSubjects, Subject, Subjects

# The research code stretches every reference to this before the encoder's own resizing.
PUBLISHED_SIZE = 512
_BACKGROUNDS = {"black": 0, "grey": 128}
_kept = Kept()


def prepare_photo(
    photo: Tensor, mask: Tensor | None, fit: str, background: str, size: int
) -> Tensor:
    """One photo as the encoder takes it, in 8-bit steps exactly as PIL resizes it.

    Args:
        photo: [H, W, 3] in 0..1. mask: [H, W], where the subject is, or None.
        fit: "stretch" (published), "crop" or "pad" to a square.
        background: "black" (published), "grey" or "keep", outside the mask.
        size: pixels of the encoder's edge.
    Returns:
        [size, size, 3] in 0..1
    """
    picture = Image.fromarray((photo * 255).round().byte().cpu().numpy())
    level = _BACKGROUNDS.get(background, 0)
    if mask is not None and background != "keep":
        fill = Image.new("RGB", picture.size, (level,) * 3)
        picture = Image.composite(
            picture, fill, Image.fromarray((mask * 255).round().byte().cpu().numpy())
        )
    if fit == "crop":
        edge = min(picture.size)
        picture = ImageOps.fit(picture, (edge, edge), Image.Resampling.BICUBIC)
    elif fit == "pad":
        edge = max(picture.size)
        picture = ImageOps.pad(picture, (edge, edge), color=(level,) * 3)
    for edge in (PUBLISHED_SIZE, size):
        picture = picture.resize((edge, edge), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)


class MSDEncodeReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDEncodeReferences",
            display_name="MSD Encode References",
            category="MS-Diffusion",
            description="Look at the reference photos of each subject with CLIP vision.",
            search_aliases=["ms diffusion", "reference encoding", "clip vision"],
            inputs=[
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The image encoder that the adapter was trained with: "
                    "CLIP-ViT-bigG-14 for the released one.",
                ),
                MSDSubjects.Input("subjects", tooltip="Subjects from MSD Layout."),
                io.Combo.Input(
                    "fit",
                    options=["stretch", "crop", "pad"],
                    default="stretch",
                    tooltip="How a photo becomes square: stretch it (as the method was trained), "
                    "crop its middle, or pad it.",
                ),
                io.Combo.Input(
                    "background",
                    options=["black", "grey", "keep"],
                    default="black",
                    tooltip="What replaces the photo outside its reference mask: black (as the "
                    "method was trained), grey, or nothing. Without a mask the photo stays.",
                ),
                io.Combo.Input(
                    "several_photos",
                    options=["average", "concatenate"],
                    default="average",
                    tooltip="Several photos of one subject: average their features, or give each "
                    "photo image tokens of its own (as if the subject were there twice).",
                    advanced=True,
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
        clip_vision: object,
        subjects: Subjects,
        fit: str = "stretch",
        background: str = "black",
        several_photos: str = "average",
    ) -> io.NodeOutput:
        progress = comfy.utils.ProgressBar(len(subjects.subjects))
        encoded = []
        for subject in subjects.subjects:
            features = _features(clip_vision, subject, fit, background)
            if several_photos == "average":
                features = features.mean(0, keepdim=True)
            encoded.append(replace(subject, features=features))
            progress.update(1)
        return io.NodeOutput(replace(subjects, subjects=tuple(encoded)))


def _features(clip_vision: object, subject: Subject, fit: str, background: str) -> Tensor:
    """[n, P, E] of a subject's n photos: the hidden state of the last layer but one."""
    masks = subject.photo_masks if subject.photo_masks is not None else [None] * len(subject.photos)
    size: int = clip_vision.image_size  # type: ignore[attr-defined]
    pictures = [
        prepare_photo(photo, mask, fit, background, size)
        for photo, mask in zip(subject.photos, masks, strict=True)
    ]
    prepared = torch.stack(pictures)
    return _kept.get(clip_vision, prepared, make=lambda: _encode(clip_vision, prepared))


def _encode(clip_vision: object, pictures: Tensor) -> Tensor:
    output = clip_vision.encode_image(pictures, crop=False)  # type: ignore[attr-defined]
    features = output["penultimate_hidden_states"]
    if features is None:
        raise ValueError(
            "clip_vision: this encoder gives no hidden states. Load CLIP-ViT-bigG-14 in "
            "Load CLIP Vision."
        )
    return features.float()
