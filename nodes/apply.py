"""MSDApply: masked multi-subject attention on a MODEL."""

import logging
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io

from ..msd_core import MSAdapter
from ..msd_core.sdxl import check_fit, cross_attentions
from .attention_patch import SubjectAttentionPatch
from .image_branch import ImageBranch
from .subjects import MSDAdapterType, MSDSubjects, Subject, Subjects


def _where(subject: Subject) -> Subject:
    """Of a subject only what says where it goes: the model shall not keep its photos."""
    return replace(
        subject, photos=torch.empty(0), photo_masks=None, features=None, image_tokens=None
    )


class MSDApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDApply",
            display_name="MSD Apply",
            category="MS-Diffusion",
            description="Draw each subject in its place, with any SDXL model.",
            search_aliases=["ms diffusion", "multi subject", "regional ipadapter"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="SDXL model; LoRAs and other patches stay."),
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
        model: Any,
        adapter: Any,
        subjects: Subjects,
        weight: float = 0.6,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
    ) -> io.NodeOutput:
        patched = model.clone()
        weights = [weight * subject.weight for subject in subjects.subjects]
        if not any(weights):
            return io.NodeOutput(patched)
        ms_adapter: MSAdapter = adapter.model
        photo_tokens = []  # [T, C] of each photo of each subject
        owners, token_weights = [], []
        for index, (subject, subject_weight) in enumerate(
            zip(subjects.subjects, weights, strict=True)
        ):
            if subject.image_tokens is None:
                raise ValueError(
                    f"subjects: subject {index + 1} has no image tokens. Put MSD Ground "
                    "References before this node."
                )
            if subject.adapter_digest not in (None, ms_adapter.digest):
                raise ValueError(
                    f"subjects: subject {index + 1} was grounded with another adapter than the one "
                    "connected here. Connect the same Load MS-Diffusion Adapter to MSD Ground "
                    "References and to this node."
                )
            if not any(subject.box) and subjects.auto_layout is None:
                logging.warning("MSD Apply: subject %d has no box and won't appear.", index + 1)
            photo_tokens += subject.image_tokens
            owners += [index] * len(subject.image_tokens)
            token_weights += [subject_weight] * subject.image_tokens.shape[:2].numel()

        unet = model.get_model_object("diffusion_model")
        unet = getattr(unet, "_orig_mod", unet)  # what torch.compile has wrapped
        if not hasattr(unet, "named_modules"):
            raise ValueError(
                f"model: its UNet ({type(unet).__name__}) shows no layers, so that its attention "
                "can't be reached (for example TensorRT's). Load the checkpoint without it."
            )
        # From the layers, whose stored weights may be packed.
        shapes = {
            f"{name}.weight": (layer.out_features, layer.in_features)
            for name, layer in unet.named_modules()
            if name.endswith("attn2.to_k") and hasattr(layer, "out_features")
        }
        attentions = cross_attentions(shapes)
        if not attentions:
            raise ValueError(
                f"model: expected an SDXL UNet, got {type(unet).__name__} without SDXL's text "
                "cross-attentions (a model of another family, as Flux or SD3). Load an SDXL "
                "checkpoint."
            )
        sizes = [(p.to_k_ip.out_features, p.to_k_ip.in_features) for p in ms_adapter.projections]
        try:
            check_fit(attentions, sizes)
        except ValueError as error:
            raise ValueError(f"adapter: it doesn't fit this model: {error}.") from error

        comfy.model_management.load_model_gpu(adapter)
        if (came := photo_tokens[0].shape[-1]) != (wanted := attentions[0].context):
            raise ValueError(
                f"subjects: their image tokens are {came} wide, this adapter's are {wanted}. "
                "Ground them with the adapter that is connected here."
            )
        tokens = torch.cat(photo_tokens).to(adapter.load_device, torch.float32)
        # Weighting the probabilities after the softmax is weighting the values, once.
        value_weights = torch.tensor(token_weights)[:, None].to(tokens)
        keys_values = [
            (key.cpu(), (value * value_weights).cpu())
            for key, value in ms_adapter.keys_and_values(tokens)
        ]
        branch = ImageBranch(
            dict(zip((a.block for a in attentions), keys_values, strict=True)),
            replace(subjects, subjects=tuple(map(_where, subjects.subjects))),
            owners,
        )
        unique_id = cls.hidden.unique_id if cls.hidden else None
        patch = SubjectAttentionPatch(branch, start_percent, end_percent, unique_id)
        patch.put_on(patched.model_options)
        return io.NodeOutput(patched)
