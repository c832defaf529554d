"""MSDApply: masked multi-subject attention on a MODEL."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor, nn

from ..msd_core.adapters.family import Adapter
from ..msd_core.attention.subjects import weighted_values
from ..msd_core.models.unet import (
    Block,
    CrossAttention,
    check_fit,
    cross_attentions,
    module_shapes,
    text_keys,
)
from .sampling.image_branch import ImageBranch
from .sampling.merge_branch import MergeBranch
from .sampling.unet_patch import SubjectAttentionPatch
from .subjects import MSDAdapterType, MSDSubjects, Subjects

logger = logging.getLogger(__name__)


class MSDApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDApply",
            display_name="MSD Apply",
            category="MS-Diffusion",
            description="Draw each subject where its box is, with a model of SDXL or SD1.5.",
            search_aliases=["ms diffusion", "multi subject", "regional ipadapter"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Model that the adapter is for, SDXL or SD1.5; LoRAs and other "
                    "patches stay.",
                ),
                MSDAdapterType.Input("adapter", tooltip="Adapter from Load MS-Diffusion Adapter."),
                MSDSubjects.Input(
                    "subjects", tooltip="Subjects from MSD Ground References or MSD Auto Layout."
                ),
                io.Float.Input(
                    "weight",
                    default=0.6,
                    min=-1.0,
                    max=3.0,
                    step=0.05,
                    tooltip="Strength of all subjects, multiplied by each subject's own weight. "
                    "Raising it makes them more like their references and the prompt weaker; 0.4 "
                    "suits a subject that is the whole background.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling the subjects begin to act. Raising it leaves "
                    "the composition to the prompt.",
                    advanced=True,
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling the subjects stop acting. Lowering it leaves "
                    "the details to the prompt.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Model that draws the subjects.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        adapter: ModelPatcher,
        subjects: Subjects,
        weight: float = 0.6,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
    ) -> io.NodeOutput:
        patched = model.clone()
        weights = [weight * subject.weight for subject in subjects.subjects]
        if not any(weights):
            return io.NodeOutput(patched)
        family: Adapter = adapter.model
        attentions = _cross_attentions(model)
        try:
            check_fit(attentions, family.layers)
        except ValueError as error:
            raise ValueError(f"adapter: it doesn't fit this model: {error}.") from error
        tokens = _image_tokens(subjects, family, attentions[0].context)
        blocks = [attention.block for attention in attentions]
        comfy.model_management.load_model_gpu(adapter)
        if family.text_weights is None:
            branch = _image_branch(adapter, subjects, tokens, weights, blocks)
        else:
            keys = text_keys(_unet(model))
            branch = _merge_branch(adapter, subjects, tokens, weight, blocks, keys)
        unique_id = cls.hidden.unique_id if cls.hidden else None
        patch = SubjectAttentionPatch(branch, start_percent, end_percent, unique_id)
        patch.put_on(patched.model_options)
        return io.NodeOutput(patched)


def _image_branch(
    adapter: ModelPatcher,
    subjects: Subjects,
    tokens: Sequence[Tensor],
    weights: Sequence[float],
    blocks: Sequence[Block],
) -> ImageBranch:
    """References in boxes; tokens [n, T, C] and weight of each subject."""
    family: Adapter = adapter.model
    indices = [n for n, each in enumerate(tokens) for _ in each]
    every, scales = torch.cat(list(tokens)), torch.tensor([weights[n] for n in indices])
    blanks = [
        subject.blank_image_tokens.expand_as(of_subject)
        for subject, of_subject in zip(subjects.subjects, tokens, strict=True)
        if subject.blank_image_tokens is not None
    ]
    return ImageBranch(
        _keys_values(adapter, blocks, every, scales),
        family.rule,
        replace(subjects, subjects=tuple(s.without_references() for s in subjects.subjects)),
        indices,
        # In each subject's place, since a softmax over equal tokens is that over one of them:
        # so the positive rows' coverages hold, and so do their weights.
        _keys_values(adapter, blocks, torch.cat(blanks), scales) if blanks else None,
    )


def _merge_branch(
    adapter: ModelPatcher,
    subjects: Subjects,
    tokens: Sequence[Tensor],
    weight: float,
    blocks: Sequence[Block],
    keys: Mapping[Block, nn.Module],
) -> MergeBranch:
    """References that follow their names; tokens [1, T, C] of each subject."""
    family: Adapter = adapter.model
    if subjects.auto_layout is not None:
        logger.warning(
            "MSD Apply: references of a %s adapter follow their phrases by themselves, so that MSD "
            "Auto Layout has nothing to do.", family.name,
        )  # fmt: skip
    scales = torch.tensor([weight * subject.weight for subject in subjects.subjects])
    blank = next(
        each.blank_image_tokens for each in subjects.subjects if each.blank_image_tokens is not None
    )
    names = [each.name_tokens for each in subjects.subjects if each.name_tokens is not None]
    strengths = [each.detach().float().cpu() for each in family.text_weights or ()]
    # Nothing of the layout counts: neither boxes nor their aspect nor auto layout.
    phrases = tuple(s.without_references() for s in subjects.subjects)
    return MergeBranch(
        _keys_values(adapter, blocks, torch.cat(list(tokens)), scales),
        _keys_values(adapter, blocks, blank[None], torch.tensor([weight])),
        dict(zip(blocks, strengths, strict=True)),
        keys,
        [name.float().cpu() for name in names],
        Subjects(phrases),
    )


def _unet(model: ModelPatcher) -> nn.Module:
    unet = model.get_model_object("diffusion_model")
    unet = getattr(unet, "_orig_mod", unet)  # what torch.compile has wrapped
    if not isinstance(unet, nn.Module):
        raise ValueError(
            f"model: its UNet ({type(unet).__name__}) shows no layers, so that its attention "
            "can't be reached (for example TensorRT's). Load the checkpoint without it."
        )
    return unet


def _cross_attentions(model: ModelPatcher) -> list[CrossAttention]:
    """The text cross-attentions of a MODEL's UNet, in the order of adapter files."""
    unet = _unet(model)
    attentions = cross_attentions(module_shapes(unet))
    if not attentions:
        raise ValueError(
            f"model: expected a UNet of SDXL or SD1.5, got {type(unet).__name__} without text "
            "cross-attentions (a model of another family, as Flux or SD3). Load an SDXL or SD1.5 "
            "checkpoint, as the adapter needs it; with a model that takes reference latents, use "
            "MSD Place References."
        )
    return attentions


def _image_tokens(subjects: Subjects, family: Adapter, width: int) -> list[Tensor]:
    """[n, T, C] of each subject, checked to be the adapter's, which are `width` wide."""
    tokens = []
    for number, subject in enumerate(subjects.subjects, 1):
        if subject.image_tokens is None:
            raise ValueError(
                f"subjects: subject {number} has no image tokens. Put MSD Ground References before "
                "this node."
            )
        if subject.adapter_digest not in (None, family.digest):
            raise ValueError(
                f"subjects: subject {number} was grounded with another adapter than the one "
                "connected here. Connect the same Load MS-Diffusion Adapter to MSD Ground "
                "References and to this node."
            )
        if (got := subject.image_tokens.shape[-1]) != width:
            raise ValueError(
                f"subjects: their image tokens are {got} wide, this adapter's are {width}. Ground "
                "them with the adapter that is connected here."
            )
        names = subject.blank_image_tokens is not None and subject.name_tokens is not None
        if family.text_weights is not None and not names:  # in a file that was made by hand
            raise ValueError(
                f"subjects: subject {number} has no blank image tokens or no name, which a "
                f"{family.name} needs. Ground it with the adapter that is connected here."
            )
        in_box = family.text_weights is None and subjects.auto_layout is None
        if in_box and not any(subject.box):
            logger.warning("MSD Apply: subject %d has no box and won't appear.", number)
        tokens.append(subject.image_tokens)
    return tokens


def _keys_values(
    adapter: ModelPatcher, blocks: Sequence[Block], tokens: Tensor, weights: Tensor
) -> dict[Block, tuple[Tensor, Tensor]]:
    """Key and value [K, width] of each cross-attention on the CPU, by an adapter that is loaded.

    Args:
        blocks: of the cross-attentions, in the order of adapter files.
        tokens: [S, T, C], sets of image tokens. weights: [S].
    """
    family: Adapter = adapter.model
    projected = family.keys_and_values(tokens.flatten(0, 1).to(adapter.load_device, torch.float32))
    return {
        block: (key.cpu(), weighted_values(value, weights).cpu())
        for block, (key, value) in zip(blocks, projected, strict=True)
    }
