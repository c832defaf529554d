"""MSDGroundReferences: image features, phrase and box of each subject -> its image tokens."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy_api.latest import io
from torch import Tensor

from ..msd_core.adapters.family import Adapter, Needs, PhraseKind, image_encoder
from .memo import Memo
from .node_text import show_warnings
from .subjects import Features, MSDAdapterType, MSDSubjects, Subjects

logger = logging.getLogger(__name__)

_tokens = Memo[ModelPatcher, tuple[Tensor, Tensor | None]]()
_phrases = Memo[CLIP, Tensor]()


class MSDGroundReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDGroundReferences",
            display_name="MSD Ground References",
            category="MS-Diffusion",
            description="Turn each subject's features into image tokens, with its phrase and box "
            "where the adapter asks for them.",
            search_aliases=["ms diffusion", "grounding", "resampler"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                MSDAdapterType.Input("adapter", tooltip="Adapter from Load MS-Diffusion Adapter."),
                io.Clip.Input(
                    "clip",
                    tooltip="The text encoder of the checkpoint. It reads the phrases for "
                    "MS-Diffusion and MIP-Adapter; IP-Adapter doesn't ask it.",
                ),
                MSDSubjects.Input("subjects", tooltip="Subjects from MSD Encode References."),
                io.Boolean.Input(
                    "use_grounding",
                    default=True,
                    tooltip="Let phrase and box guide what is taken from the reference. Off: the "
                    "box still places the subject, but nothing says what it is. IP-Adapter has no "
                    "such guidance.",
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
        cls, adapter: ModelPatcher, clip: CLIP, subjects: Subjects, use_grounding: bool = True
    ) -> io.NodeOutput:
        family: Adapter = adapter.model
        needs = family.needs
        features = [
            _checked_features(subject.features, needs, number)
            for number, subject in enumerate(subjects.subjects, 1)
        ]
        for number, subject in enumerate(subjects.subjects, 1):
            if use_grounding and needs.phrase is not None and not subject.phrase:
                logger.warning("MSD Ground References: subject %d has no phrase.", number)
        phrases = _checked_phrases(clip, needs, [subject.phrase for subject in subjects.subjects])
        grounded, warnings = [], []
        for subject, (feature, blank), phrase in zip(
            subjects.subjects, features, phrases, strict=True
        ):
            # In float32: at half precision the box's Fourier features lose two decimals.
            inputs = (
                feature.float(),
                phrase.float().expand(len(feature), *phrase.shape),
                torch.tensor([subject.box if needs.box else ()] * len(feature)),
                blank,
            )
            tokens, blank_tokens = _tokens.get(
                adapter, *inputs, str(use_grounding),
                compute=partial(_image_tokens, adapter, *inputs, use_grounding),
            )  # fmt: skip
            negative = subject.features is not None and subject.features.has_negative_reference
            if negative and blank_tokens is None:
                warnings = [
                    f"The negative reference does nothing: {family.name} leaves the rows of the "
                    "negative prompt as they are."
                ]
            names = None
            if needs.phrase == "tokens":
                names = phrase if use_grounding else phrase[:0]
            grounded.append(
                replace(
                    subject, image_tokens=tokens, blank_image_tokens=blank_tokens,
                    name_tokens=names, adapter_digest=family.digest,
                )
            )  # fmt: skip
        unique_id = cls.hidden.unique_id if cls.hidden else None
        show_warnings("MSD Ground References", unique_id, warnings)
        return io.NodeOutput(replace(subjects, subjects=tuple(grounded)))


def _image_tokens(
    adapter: ModelPatcher, features: Tensor, phrases: Tensor, boxes: Tensor, blank: Tensor,
    use_grounding: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Image tokens [n, T, C] and blank ones [T, C], if the family has any."""
    comfy.model_management.load_model_gpu(adapter)
    family: Adapter = adapter.model
    device = comfy.model_management.intermediate_device()
    features, phrases, boxes, blank = (
        x.to(adapter.load_device) for x in (features, phrases, boxes, blank)
    )
    tokens = family.image_tokens(features, phrases, boxes, use_grounding)
    blank_tokens = family.blank_image_tokens(blank)
    return tokens.to(device), None if blank_tokens is None else blank_tokens.to(device)


def phrase_embeds(clip: CLIP, phrases: Sequence[str]) -> Tensor:
    """[S, F]: the pooled output of SDXL's first text encoder (after its final layer norm, at the
    end-of-text token, not projected) for each bare phrase, weights of prompt syntax ignored."""
    return torch.cat([_phrase(clip, phrase, "pooled") for phrase in phrases])


def phrase_tokens(clip: CLIP, phrase: str) -> Tensor:
    """[L, F]: what all text encoders side by side give as a prompt's text (SDXL's two: their last
    hidden states but one, not normed) for a bare phrase, at its own L tokens. A phrase too long for
    the encoder gives all after the begin token of its first part."""
    return _phrase(clip, phrase, "tokens")


def _phrase(clip: CLIP, phrase: str, kind: PhraseKind) -> Tensor:
    if getattr(clip.cond_stage_model, "clip_l", None) is None:
        raise ValueError("clip: it has no CLIP-L. Connect the CLIP of an SDXL checkpoint.")
    # Remembered, so that the text encoder needn't return to the GPU where only boxes have moved.
    weights = str(clip.patcher.patches_uuid)
    return _phrases.get(clip, weights, kind, phrase, compute=partial(_embed, clip, phrase, kind))


def _embed(clip: CLIP, phrase: str, kind: PhraseKind) -> Tensor:
    encoders = clip.cond_stage_model
    encoders.reset_clip_options()
    try:
        tokens = clip.tokenize(phrase, disable_weights=True, return_word_ids=True)
        clip.load_model(tokens)
        # Projected, the default, is wrong for SDXL: its CLIP-L has no projection weights.
        options = {"projected_pooled": False, "execution_device": clip.patcher.load_device}
        encoders.set_clip_options(options)
        if kind == "pooled":
            pooled: Tensor = encoders.clip_l.encode_token_weights(tokens["l"])[1]
            return pooled.float()
        text: Tensor = encoders.encode_token_weights(tokens)[0][0]
    finally:
        encoders.reset_clip_options()
    count = sum(word > 0 for part in tokens["l"] for _, _, word in part)  # 0: begin, end, padding
    return text[: len(tokens["l"][0])][1 : 1 + count].float()


def _checked_phrases(clip: CLIP, needs: Needs, phrases: Sequence[str]) -> Sequence[Tensor]:
    """Each subject's phrase as an adapter needs it: pooled [F], tokens [L, F], or [0] without."""
    if needs.phrase is None:
        return [torch.empty(0)] * len(phrases)
    if needs.phrase == "pooled":
        encoders, embeds = "first text encoder is", [*phrase_embeds(clip, phrases)]
    else:
        encoders, embeds = "text encoders are", [phrase_tokens(clip, each) for each in phrases]
    if (width := embeds[0].shape[-1]) != needs.phrase_width:
        raise ValueError(
            f"clip: its {encoders} {width} wide, the adapter needs {needs.phrase_width}. Connect "
            "the CLIP of an SDXL checkpoint."
        )
    return embeds


def _checked_features(
    features: Features | None, needs: Needs, number: int
) -> tuple[Tensor, Tensor]:
    """The image features of subject `number` that an adapter needs, if they are as wide, and what
    stands for no reference among them."""
    if features is None:
        raise ValueError(
            f"subjects: subject {number} has no image features. Put MSD Encode References between "
            "MSD Layout and this node."
        )
    if needs.features == "hidden_states":
        needed, blank = features.hidden_states, features.blank_hidden_states
    else:
        needed, blank = features.pooled, features.blank_pooled
    if (width := needed.shape[-1]) != needs.feature_width:
        got = image_encoder(needs.features, width)
        raise ValueError(
            f"subjects: the adapter needs image features of {needs.image_encoder} "
            f"({needs.feature_width} wide), got those of {got} ({width} wide). Load "
            f"{needs.image_encoder} in Load CLIP Vision."
        )
    return needed, blank
