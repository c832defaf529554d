"""Model files by what their headers say, before any weight is loaded: a run finds a bad one at
once, and so does a dry run."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from lab.training.real.encoders import explain
from msd_core.models.unet import check_fit, cross_attentions

Shapes = Mapping[str, Sequence[int]]


def checkpoint_shapes(path: Path) -> Shapes | None:
    """Key -> shape of a checkpoint's file; None where only loading tells: of a pickle as PyTorch
    wrote it before 1.6.

    Raises ValueError: it can't be read, or has no UNet or VAE.
    """
    with explain("--checkpoint", path):
        shapes = _shapes_of(path)
        if shapes is not None and not cross_attentions(unet_shapes(shapes)):
            raise ValueError("It has no UNet of theirs.")
        if shapes is not None and not _has(shapes, "first_stage_model."):
            raise ValueError("It has no VAE.")
    return shapes


def vision_shapes(path: Path) -> Shapes | None:
    """As `checkpoint_shapes`, of an image encoder's file."""
    with explain("--clip-vision", path):
        shapes = _shapes_of(path)
        if shapes is not None and not (_has(shapes, "vision_model.") or _has(shapes, "visual.")):
            raise ValueError("It has no image encoder of CLIP's.")
    return shapes


def unet_shapes(checkpoint: Shapes) -> Shapes:
    """Those of its UNet, by the names that they have in there."""
    prefix = "model.diffusion_model."
    return {k.removeprefix(prefix): v for k, v in checkpoint.items() if k.startswith(prefix)}


def check_adapter(checkpoint: Shapes, layers: Sequence[tuple[int, int]]) -> None:
    """Check that an adapter's projections (width, context) fit a checkpoint.

    Raises ValueError: they don't.
    """
    # Packed weights haven't the shapes of their layers; the loaded model is checked too.
    if any(key.endswith(".comfy_quant") for key in checkpoint):
        return
    try:
        check_fit(cross_attentions(unet_shapes(checkpoint)), layers)
    except ValueError as error:
        raise ValueError(f"--adapter: {error}.") from None


def _shapes_of(path: Path) -> Shapes | None:
    if path.suffix.lower() in (".safetensors", ".sft"):  # by which the host decides too
        with safe_open(path, "pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(1) == b"\x80":
                return None
        raise ValueError("It is no file of torch.save, or was cut short.")
    content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict):
        raise ValueError("It holds no table of weights.")
    return {str(key): v.shape for key, v in content.items() if isinstance(v, torch.Tensor)}


def _has(shapes: Shapes, start: str) -> bool:
    return any(key.startswith(start) for key in shapes)
