"""MSDGroundReferences: image features, phrase and box of each subject -> its image tokens."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..msd_core import MSAdapter
from .subjects import Kept, MSDAdapterType, MSDSubjects, Subjects

_kept = Kept()
_ENCODERS = {1664: "CLIP-ViT-bigG-14", 1280: "CLIP-ViT-H-14", 1024: "CLIP-ViT-L-14"}


class MSDGroundReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDGroundReferences",
            display_name="MSD Ground References",
            category="MS-Diffusion",
            description="Tell each reference its phrase and its place (grounding tokens).",
            search_aliases=["ms diffusion", "grounding", "resampler"],
            inputs=[
                MSDAdapterType.Input("adapter", tooltip="Adapter from Load MS-Diffusion Adapter."),
                io.Clip.Input("clip", tooltip="The SDXL text encoder of the checkpoint."),
                MSDSubjects.Input("subjects", tooltip="Subjects from MSD Encode References."),
                io.Boolean.Input(
                    "use_grounding",
                    default=True,
                    tooltip="Let phrase and box guide what is taken from the reference. Off: the "
                    "box still places the subject, but nothing says what it is.",
                    advanced=True,
                ),
            ],
            outputs=[
                MSDSubjects.Output(
                    display_name="subjects",
                    tooltip="Subjects with their image tokens, for MSD Apply.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, adapter: Any, clip: Any, subjects: Subjects, use_grounding: bool = True
    ) -> io.NodeOutput:
        model: MSAdapter = adapter.model
        features = [subject.features for subject in subjects.subjects]
        for number, feature in enumerate(features, 1):
            _check_features(feature, model.feature_width, number)
        for number, subject in enumerate(subjects.subjects, 1):
            if use_grounding and not subject.phrase:
                logging.warning("MSD Ground References: subject %d has no phrase.", number)
        phrases = phrase_embeds(clip, [subject.phrase for subject in subjects.subjects])
        if phrases.shape[-1] != model.phrase_width:
            raise ValueError(
                f"clip: its first text encoder is {phrases.shape[-1]} wide, the adapter needs "
                f"{model.phrase_width}. Connect the CLIP of an SDXL checkpoint."
            )
        grounded = []
        for subject, feature, phrase in zip(subjects.subjects, features, phrases, strict=True):
            photos = len(feature)  # type: ignore[arg-type]
            # In float32: at half precision the box's Fourier features lose two decimals.
            made_from = (
                feature.float(),  # type: ignore[union-attr]
                phrase.float().expand(photos, -1),
                torch.tensor([subject.box] * photos),
                torch.full((photos,), not use_grounding),
            )
            tokens = _kept.get(adapter, *made_from, make=partial(_ground, adapter, *made_from))
            grounded.append(replace(subject, image_tokens=tokens, adapter_digest=model.digest))
        return io.NodeOutput(replace(subjects, subjects=tuple(grounded)))


def _ground(adapter: Any, *made_from: Tensor) -> Tensor:
    comfy.model_management.load_model_gpu(adapter)
    tokens = adapter.model.resampler(*(x.to(adapter.load_device) for x in made_from))
    return tokens.to(comfy.model_management.intermediate_device())


def phrase_embeds(clip: Any, phrases: Sequence[str]) -> Tensor:
    """[S, F]: the pooled output of SDXL's first text encoder (after its final layer norm, at the
    end-of-text token, not projected) for each bare phrase, weights of prompt syntax ignored."""
    if getattr(clip.cond_stage_model, "clip_l", None) is None:
        raise ValueError("clip: it has no CLIP-L. Connect the CLIP of an SDXL checkpoint.")
    # Kept, so that the text encoder needn't come back to the GPU where only boxes have moved.
    weights = str(clip.patcher.patches_uuid)
    return torch.cat([_kept.get(clip, weights, p, make=partial(_embed, clip, p)) for p in phrases])


def _embed(clip: Any, phrase: str) -> Tensor:
    encoders = clip.cond_stage_model
    encoders.reset_clip_options()
    try:
        tokens = clip.tokenize(phrase, disable_weights=True)
        clip.load_model(tokens)
        # Projected, the default, is wrong for SDXL: its CLIP-L has no projection weights.
        options = {"projected_pooled": False, "execution_device": clip.patcher.load_device}
        encoders.clip_l.set_clip_options(options)
        pooled: Tensor = encoders.clip_l.encode_token_weights(tokens["l"])[1]
    finally:
        encoders.reset_clip_options()
    return pooled.float()


def _check_features(features: Tensor | None, wanted: int, number: int) -> None:
    if features is None:
        raise ValueError(
            f"subjects: subject {number} has no image features. Put MSD Encode References between "
            "MSD Layout and this node."
        )
    if features.shape[-1] != wanted:
        name, came = (_ENCODERS.get(w, "another encoder") for w in (wanted, features.shape[-1]))
        raise ValueError(
            f"subjects: the adapter needs image features of {name} ({wanted} wide), got those of "
            f"{came} ({features.shape[-1]} wide). Load {name} in Load CLIP Vision."
        )
