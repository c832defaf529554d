"""A custom node pack, for development only: lets the host's stock loaders accept the micro family.

It adds nodes that fail or give something wrong on purpose, one for the evaluation without masks,
and a route that counts the product's live objects. It changes attributes of the host: the list of
known models, and the functions that read a CLIP vision tower, separate text encoders and a
background removal model, all of which know only sizes that exist. The VAE needs nothing: the host
knows a TAESD in a checkpoint.
"""

import gc
import json
import re
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.clip_vision
import comfy.latent_formats
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from . import segmentation

MARK = "micro_world"  # a tensor of this name marks every file of the family
VOCABULARY, END, LENGTH = 49408, 49407, 77
PADDING = {"l": END, "g": 0}  # of each text encoder
HEAD_WIDTH = 16  # of the text encoders; the UNet's is 32
UNET_HEAD_WIDTH = 32
# Of the micro Flux, what its weights don't show the host, or what the host knows one value of.
FLUX = {
    "in_channels": 4,
    "out_channels": 4,
    "patch_size": 1,
    "num_heads": 4,
    "mlp_ratio": 4.0,
    "axes_dim": [8, 12, 12],  # number of the reference, row, column
    "theta": 100,
    "qkv_bias": True,
    "txt_ids_dims": [],
    "default_ref_method": "index",
}
FLUX_SHIFT = 3.0  # of its timesteps to much noise, in training and in sampling


def text_config(sd: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    """Configuration of a CLIP text encoder, read from the shapes of its weights."""
    layers = f"{prefix}text_model.encoder.layers."
    width = sd[f"{prefix}text_model.embeddings.position_embedding.weight"].shape[1]
    return {
        "hidden_size": width,
        "num_hidden_layers": len(
            {k[len(layers) :].split(".")[0] for k in sd if k.startswith(layers)}
        ),
        "num_attention_heads": width // HEAD_WIDTH,
        "intermediate_size": sd[f"{layers}0.mlp.fc1.weight"].shape[0],
        "hidden_act": "gelu",
        "max_position_embeddings": LENGTH,
        "eos_token_id": END,
    }


def expand_vocabulary(sd: dict[str, Tensor], prefix: str) -> None:
    """Files hold only the token rows that training saw; every other token gets their mean."""
    name = f"{prefix}text_model.embeddings.token_embedding."
    rows = sd.pop(f"{name}rows").float()
    full = rows.mean(0, keepdim=True).repeat(VOCABULARY, 1)
    full[sd.pop(f"{name}ids").long()] = rows
    sd[f"{name}weight"] = full


def clip_target(config_l: dict[str, Any], config_g: dict[str, Any]) -> Any:
    class MicroClip(comfy.sdxl_clip.SDXLClipModel):
        def __init__(self, device="cpu", dtype=None, model_options={}) -> None:  # noqa: B006
            torch.nn.Module.__init__(self)
            for name, config in (("l", config_l), ("g", config_g)):
                encoder = comfy.sd1_clip.SDClipModel(
                    layer="hidden",
                    layer_idx=-2,
                    device=device,
                    dtype=dtype,
                    layer_norm_hidden_state=False,
                    textmodel_json_config=dict(config),
                    special_tokens={"start": 49406, "end": END, "pad": PADDING[name]},
                    model_options={**model_options, "model_name": f"clip_{name}"},
                )
                setattr(self, f"clip_{name}", encoder)
            self.dtypes = {dtype}

        def load_sd(self, sd: dict[str, Tensor]) -> Any:
            """One file of DualCLIPLoader; its mark says which encoder it is."""
            return (self.clip_g if int(sd.pop(MARK)) else self.clip_l).load_sd(sd)

    return comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, MicroClip)


class MicroModel(comfy.supported_models_base.BASE):
    """What the family's checkpoints have in common: the mark, and two text encoders."""

    @classmethod
    def matches(cls, unet_config: Any, state_dict: Any = None, unet_key_prefix: str = "") -> bool:
        """Only files with the mark, in hosts that pass the keys' prefix and in older ones."""
        return super().matches(unet_config) and any(k.endswith(MARK) for k in state_dict or ())

    def process_unet_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        state_dict.pop(MARK, None)
        return super().process_unet_state_dict(state_dict)

    def process_clip_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        sd = comfy.utils.state_dict_prefix_replace(
            state_dict, {"micro_text.": ""}, filter_keys=True
        )
        for name in {key.partition(".")[0] for key in sd}:
            expand_vocabulary(sd, f"{name}.transformer.")
        return sd

    def clip_target(self, state_dict: dict[str, Tensor] = {}) -> Any:  # noqa: B006
        return clip_target(
            *(
                text_config(state_dict, f"micro_text.{name}.transformer.")
                for name in ("clip_l", "clip_g")
            )
        )


class MicroSDXL(MicroModel, comfy.supported_models.SDXL):
    unet_config = {"use_linear_in_transformer": True, "use_temporal_attention": False}
    unet_extra_config = {"num_heads": -1, "num_head_channels": UNET_HEAD_WIDTH}


class MicroSD15(MicroModel, comfy.supported_models.SD15):
    unet_config = {"use_linear_in_transformer": False, "use_temporal_attention": False}

    def clip_target(self, state_dict: dict[str, Tensor] = {}) -> Any:  # noqa: B006
        config = text_config(state_dict, "micro_text.clip_l.transformer.")

        class MicroClip(comfy.sd1_clip.SD1ClipModel):
            def __init__(self, device="cpu", dtype=None, model_options={}) -> None:  # noqa: B006
                options = {**model_options, "clip_l_model_config": config}
                super().__init__(device, dtype, options)

        return comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, MicroClip)


class MicroFlux(MicroModel, comfy.supported_models.FluxSchnell):
    """Takes references as Flux Kontext does, and is guided as SDXL is."""

    unet_extra_config = FLUX
    sampling_settings = {"multiplier": 1.0, "shift": FLUX_SHIFT}
    latent_format = comfy.latent_formats.SDXL

    def clip_target(self, state_dict: dict[str, Tensor] = {}) -> Any:  # noqa: B006
        target = super().clip_target(state_dict)

        class Tokenizer(target.tokenizer):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.clip_l.pad_to_max_length = self.clip_g.pad_to_max_length = False

        class Encoder(target.clip):
            """The transformer gets no padding, which these encoders can't do without."""

            def encode_token_weights(self, token_weight_pairs: Any) -> tuple[Tensor, Tensor]:
                padded = {
                    name: [[*text, *[(PADDING[name], 1.0)] * (LENGTH - len(text))]]
                    for name, (text,) in token_weight_pairs.items()
                }
                context, pooled = super().encode_token_weights(padded)
                return context[:, : len(token_weight_pairs["l"][0])], pooled

        return comfy.supported_models_base.ClipTarget(Tokenizer, Encoder)


def _install() -> None:
    comfy.supported_models.models[:0] = MicroSDXL, MicroSD15, MicroFlux

    host_vision = comfy.clip_vision.load_clipvision_from_sd

    def load_clipvision_from_sd(sd, prefix="", convert_keys=False):
        mark = sd.pop(MARK, None)  # image size and heads
        if mark is None:
            return host_vision(sd, prefix, convert_keys)
        patches = sd["vision_model.embeddings.patch_embedding.weight"]
        layers = "vision_model.encoder.layers."
        config = {
            "model_type": "clip_vision_model",
            "hidden_size": patches.shape[0],
            "num_channels": patches.shape[1],
            "patch_size": patches.shape[-1],
            "image_size": int(mark[0]),
            "num_attention_heads": int(mark[1]),
            "num_hidden_layers": len(
                {k[len(layers) :].split(".")[0] for k in sd if k.startswith(layers)}
            ),
            "intermediate_size": sd[f"{layers}0.mlp.fc1.weight"].shape[0],
            "hidden_act": "gelu",
            "projection_dim": sd["visual_projection.weight"].shape[0],
        }
        with tempfile.TemporaryDirectory() as folder:  # older hosts take a file only
            path = Path(folder) / "config.json"
            path.write_text(json.dumps(config))
            vision = comfy.clip_vision.ClipVisionModel(str(path))
        vision.load_sd(sd)
        return vision

    comfy.clip_vision.load_clipvision_from_sd = load_clipvision_from_sd

    host_text = comfy.sd.load_text_encoder_state_dicts

    def load_text_encoder_state_dicts(state_dicts=[], *args, **kwargs):  # noqa: B006
        if not (len(state_dicts) == 2 and all(MARK in sd for sd in state_dicts)):
            return host_text(state_dicts, *args, **kwargs)
        ordered = sorted(state_dicts, key=lambda sd: int(sd[MARK]))
        for sd in ordered:
            expand_vocabulary(sd, "")
        return comfy.sd.CLIP(
            clip_target(*(text_config(sd, "") for sd in ordered)),
            embedding_directory=kwargs.get("embedding_directory"),
            state_dict=ordered,
            model_options=kwargs.get("model_options", {}),
        )

    comfy.sd.load_text_encoder_state_dicts = load_text_encoder_state_dicts


def count_live() -> dict[str, int]:
    """Live objects of the product by class, and how many tensors they hold themselves."""
    gc.collect()
    counts: dict[str, int] = {"tensors": 0}
    kinds = ("MSAdapter", "SubjectAttentionPatch", "ImageBranch", "Run", "Subject")
    counts |= dict.fromkeys(kinds, 0)
    for thing in gc.get_objects():
        kind = type(thing)
        if kind.__name__ in counts and re.search(r"\.(nodes|msd_core)\.", kind.__module__):
            counts[kind.__name__] += 1
            counts["tensors"] += sum(isinstance(v, Tensor) for v in vars(thing).values())
    return counts


def _serve_live() -> None:
    """Answer /micro_world/live with these counts, if this is a server."""
    prompt_server = getattr(sys.modules.get("server"), "PromptServer", None)
    if (running := getattr(prompt_server, "instance", None)) is None:
        return
    from aiohttp import web

    async def live(request: web.Request) -> web.Response:
        return web.json_response(count_live())

    running.routes.get("/micro_world/live")(live)


class MicroWorldFail:
    """A patch of another pack's that fails inside a cross-attention."""

    ERRORS = {
        "of its own": RuntimeError,
        "of memory": torch.OutOfMemoryError,
        "of memory, once": torch.OutOfMemoryError,
        "of Ctrl-C": ValueError,  # as safetensors makes it of a KeyboardInterrupt
    }
    failed_once = False
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "micro world"

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"model": ("MODEL",), "error": (list(cls.ERRORS),)}}

    def patch(self, model: Any, error: str) -> tuple[Any]:
        def fail(*args: Any, **kwargs: Any) -> Tensor:
            MicroWorldFail.failed_once = True
            if error == "of Ctrl-C":
                with suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
            raise self.ERRORS[error]("An attention failed.")

        patched = model.clone()
        if error == "of memory, once" and self.failed_once:
            return (patched,)
        patched.set_model_attn2_replace(fail, "middle", 0, 0)
        return (patched,)


class MicroWorldTensor:
    """Ones of any shape as picture and mask, as some packs pass on what holds nothing."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE", "MASK"), "make", "micro world"

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"shape": ("STRING", {}), "dtype": (["float32", "uint8"],)}}

    def make(self, shape: str, dtype: str) -> tuple[Any, Any]:
        ones = torch.ones(*map(int, shape.split(",")), dtype=getattr(torch, dtype))
        return ones, ones


class MicroWorldUNet:
    """A model whose UNet is of another kind: no torch module, as TensorRT's, or a transformer."""

    KINDS = {
        "no layers": lambda: SimpleNamespace(dtype=torch.float16),
        "no cross-attentions": lambda: torch.nn.ModuleDict({"qkv": torch.nn.Linear(8, 24)}),
    }
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "micro world"

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"model": ("MODEL",), "kind": (list(cls.KINDS),)}}

    def patch(self, model: Any, kind: str) -> tuple[Any]:
        patched = model.clone()
        patched.add_object_patch("diffusion_model", self.KINDS[kind]())
        return (patched,)


class MicroWorldEverywhere:
    """The same grounded subjects, each over the whole picture: attention without masks."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MSD_SUBJECTS",), "widen", "micro world"

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"subjects": ("MSD_SUBJECTS",)}}

    def widen(self, subjects: Any) -> tuple[Any]:
        everywhere = tuple(replace(s, box=(0.0, 0.0, 1.0, 1.0)) for s in subjects.subjects)
        return (replace(subjects, subjects=everywhere),)


NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (MicroWorldEverywhere, MicroWorldFail, MicroWorldTensor, MicroWorldUNet)
}
_install()
segmentation.install(MARK)
_serve_live()
