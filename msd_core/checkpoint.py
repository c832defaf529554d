"""Adapter files, as released (pickles) and as safetensors: what is in them, and whose family it
is. Of a pickle only weights are ever read; no code in it is run."""

import os
import pickle  # nosec B403
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .adapters.family import Adapter, flat_keys
from .adapters.ip_adapter import IPAdapter
from .adapters.mip_adapter import MIPAdapter
from .adapters.ms_diffusion import MSAdapter
from .adapters.released import ReleasedAdapter

Shapes = Mapping[str, Sequence[int]]

FAMILIES = (MSAdapter, MIPAdapter, IPAdapter)  # the second's files have the third's keys too
_FAMILIES_IN_WORDS = "MS-Diffusion, nor of IP-Adapter or MIP-Adapter for SDXL or SD1.5"
FLOATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # as safetensors has


def _begins(start: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(key.startswith(start) for key in shapes)


def _has(key: str, size: int, axis: int) -> Callable[[Shapes], bool]:
    return lambda shapes: len(shapes.get(key, ())) > axis and shapes[key][axis] == size


def _is_face_id(shapes: Shapes) -> bool:
    """Portrait files have no LoRAs, and their image projection is that of FaceID."""
    lora = any(key.startswith("ip_adapter.") and "_lora." in key for key in shapes)
    parts = {key.split(".weight")[0] for key in shapes}
    portrait = "image_proj.proj.2" in parts and "image_proj.proj.3" not in parts
    return lora or portrait or _begins("image_proj.perceiver_resampler.")(shapes)


# What people mistake for an adapter of ours. Most of the first ones have its keys too.
_OTHERS: tuple[tuple[str, Callable[[Shapes], bool]], ...] = (
    ("a FaceID adapter, which takes InsightFace's embedding of a face", _is_face_id),
    (
        "InstantID, which takes InsightFace's embedding of a face",
        _has("image_proj.proj_in.weight", 512, axis=1),
    ),
    ("an IP-Adapter for Kolors", _has("image_proj.layers.0.0.to_out.weight", 2048, axis=0)),
    ("an IP-Adapter for SD3", _begins("ip_adapter.0.norm_ip.")),
    ("an IP-Adapter for Flux", _begins("double_blocks.0.processor.ip_adapter")),
    ("an IP-Adapter for Flux", _begins("ip_adapter.0.to_k_ip.")),
    ("a whole checkpoint", _begins("model.diffusion_model")),
    ("a Flux model", _begins("double_blocks")),
    ("a CLIP vision model", _begins("vision_model")),
    ("a LoRA", _begins("lora_")),
    ("a PhotoMaker", _begins("id_encoder")),
)


def load_adapter(path: str | os.PathLike[str], operations: Any = nn) -> Adapter:
    """Read an adapter of any of `FAMILIES`, weights in the file's own types, on the CPU.

    Args:
        path: the file as released, or safetensors with the same flat keys.
        operations: namespace with `Linear` and `LayerNorm` for the modules.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file isn't a sound adapter; names the file and the key.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    family = family_of(path, {key: tensor.shape for key, tensor in tensors.items()})
    for key, tensor in tensors.items():
        check_values(path, key, tensor)
    try:
        return family.from_state_dict(tensors, metadata, operations)
    except ValueError as error:
        raise unsound(path, family.name, error) from error


def family_of(path: Path, shapes: Shapes) -> type[ReleasedAdapter]:
    """The family that a file's flat keys and shapes belong to.

    Raises:
        ValueError: none of ours; says what the file looks like.
    """
    refused = f"{path} is not an adapter of {_FAMILIES_IN_WORDS}"
    for other, looks_like_it in _OTHERS:
        if looks_like_it(shapes):
            raise ValueError(f"{refused}: it looks like {other}.")
    for family in FAMILIES:
        if family.owns(shapes):
            return family
    parts = " or ".join(dict.fromkeys(repr(family.part) for family in FAMILIES))
    raise ValueError(f"{refused}: it has no {parts} weights.")


def unsound(path: Path, family: str, problem: object) -> ValueError:
    """The error for a file that doesn't hold all of a family's weights, or other ones."""
    return ValueError(f"{path} is not a whole {family} adapter: {problem}.")


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Flat key -> tensor, and the file's metadata."""
    if path.suffix.lower() not in (".safetensors", ".sft"):
        return read_pickle(path), {}
    flat, metadata = read_safetensors(path)
    return _weights(path, flat), metadata


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Key -> tensor on the CPU, and the file's metadata.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it can't be read.
        ValueError: it isn't a whole safetensors file.
    """
    _check_readable(path)
    try:
        opened: Any = safe_open(path, framework="pt")
        with opened as file:
            # Cloned, because a mapping of a file that is replaced later breaks under its reader.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from error


def _check_readable(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file.")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{path} can't be read: its permissions don't allow it.")


def read_pickle(path: Path, mapped: bool = False) -> dict[str, Tensor]:
    """Flat key -> tensor of a pickle; `mapped` leaves the data on disk until it is touched."""
    _check_readable(path)
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            old = file.read(1) == b"\x80"  # a bare pickle, as torch wrote before 1.6
        if not old or mapped:
            reason = "of PyTorch's form before 1.6" if old else "cut short or no file of torch.save"
            raise ValueError(f"{path} is {reason}. Was it downloaded whole?")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a file of plain weights; what else it holds was not run."
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} can't be read as weights; it is damaged or cut short.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no table of weights.")
    return _weights(path, flat_keys(cast(Mapping[Any, Any], content)))


def _weights(path: Path, flat: Mapping[str, Any]) -> dict[str, Tensor]:
    for key, tensor in flat.items():
        if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            shapes = {key: getattr(value, "shape", ()) for key, value in flat.items()}
            raise unsound(path, family_of(path, shapes).name, f"{key!r} is no weight but {kind}")
    return {key: tensor.detach() for key, tensor in flat.items()}


def check_values(path: Path, key: str, tensor: Tensor) -> None:
    """Raise ValueError if a weight holds anything that isn't a number."""
    # The extremes carry a NaN or infinity on, without a second tensor of the same size.
    if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
        raise ValueError(f"{path}: {key!r} holds values that are not numbers (NaN or infinity).")
