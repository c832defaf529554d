"""Adapter files: the released `ms_adapter.bin`, the same as safetensors, and the way between.

    python -m msd_core.checkpoint ms_adapter.bin ms_adapter.safetensors

The released file is a pickle; only weights are ever read from it, no code in it is run. File
format of safetensors: https://github.com/huggingface/safetensors#format
"""

import argparse
import json
import os
import pickle  # nosec B403
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from .adapter import MSAdapter, flat_keys

_HEAD_WIDTH = "resampler_head_width"
_FLOATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
# What people mistake for an adapter, by what its keys begin with.
_OTHER_FAMILIES = (
    ("ip_adapter", "an IP-Adapter"),
    ("model.diffusion_model", "a whole checkpoint"),
    ("double_blocks", "a Flux model"),
    ("vision_model", "a CLIP vision model"),
    ("lora_", "a LoRA"),
    ("id_encoder", "a PhotoMaker"),
)


def load_adapter(path: str | os.PathLike[str], operations: Any = nn) -> MSAdapter:
    """Read an adapter, weights in the file's own types, on the CPU.

    Args:
        path: `ms_adapter.bin` as released, or safetensors with the same flat keys.
        operations: namespace with `Linear` and `LayerNorm` for the modules.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file isn't a sound MS-Diffusion adapter; names the file and the key.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    for key, tensor in tensors.items():
        _check_values(path, key, tensor)
    try:
        return MSAdapter.from_state_dict(tensors, _head_width(metadata), operations)
    except ValueError as error:
        raise ValueError(_complaint(path, tensors, str(error))) from error


def save_adapter(adapter: MSAdapter, path: str | os.PathLike[str]) -> None:
    """Write an adapter as safetensors, in the types that it has."""
    save_file(
        {key: tensor.contiguous() for key, tensor in adapter.state_dict().items()},
        path,
        metadata=_metadata(adapter),
    )


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Turn a released pickle into safetensors, holding one tensor at a time.

    Raises:
        FileExistsError: the target exists; it is never overwritten.
        FileNotFoundError, ValueError: as `load_adapter`; nothing is left at the target.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise FileExistsError(f"{target} exists; it is not overwritten.")
    layout = {key: (tensor.dtype, tensor.shape) for key, tensor in _pickled(source, True).items()}
    try:
        adapter = MSAdapter.from_shapes({key: shape for key, (_, shape) in layout.items()})
    except ValueError as error:
        raise ValueError(_complaint(source, layout, str(error))) from error

    header: dict[str, Any] = {"__metadata__": _metadata(adapter)}
    offset = 0
    for key, (dtype, shape) in layout.items():
        end = offset + shape.numel() * dtype.itemsize
        header[key] = {"dtype": _FLOATS[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with target.open("xb") as file:
        try:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for key in layout:
                # The file is mapped anew for every tensor: pages of a mapping stay in memory
                # until it goes, and the whole would add up to the file.
                tensor = _pickled(source, True)[key]
                _check_values(source, key, tensor)
                file.write(tensor.contiguous().view(torch.uint8).numpy().data)
                del tensor
        except BaseException:
            target.unlink()
            raise


def _metadata(adapter: MSAdapter) -> dict[str, str]:
    return {"format": "pt", "architecture": "ms-diffusion", _HEAD_WIDTH: str(adapter.head_width)}


def _head_width(metadata: Mapping[str, str]) -> int | None:
    value = metadata.get(_HEAD_WIDTH, "")
    return int(value) if value.isdigit() and int(value) else None


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Flat key -> tensor, and the file's metadata."""
    if path.suffix.lower() not in (".safetensors", ".sft"):
        return _pickled(path, mapped=False), {}
    _check_readable(path)
    try:
        opened: Any = safe_open(path, framework="pt")
        with opened as file:
            # Cloned, because a mapping of a file that is replaced later breaks under its reader.
            flat = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
            return _weights(path, flat), file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from error


def _check_readable(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file.")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{path} can't be read: its permissions don't allow it.")


def _pickled(path: Path, mapped: bool) -> dict[str, Tensor]:
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
        if not isinstance(tensor, Tensor) or tensor.dtype not in _FLOATS:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(_complaint(path, flat, f"{key!r} is no weight but {kind}"))
    return {key: tensor.detach() for key, tensor in flat.items()}


def _check_values(path: Path, key: str, tensor: Tensor) -> None:
    # The extremes carry a NaN or infinity on, without a second tensor of the same size.
    if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
        raise ValueError(f"{path}: {key!r} holds values that are not numbers (NaN or infinity).")


def _complaint(path: Path, keys: Mapping[str, Any], problem: str) -> str:
    def starts(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in keys)

    if not starts("ms_adapter."):
        family = next((name for prefix, name in _OTHER_FAMILIES if starts(prefix)), None)
        hint = f"; it looks like {family}" if family else ""
        return f"{path} is not an MS-Diffusion adapter: it has no 'ms_adapter' weights{hint}."
    return f"{path} is not a whole MS-Diffusion adapter: {problem}."


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m msd_core.checkpoint",
        description="Convert an MS-Diffusion adapter from the released pickle to safetensors.",
    )
    parser.add_argument("source", help="ms_adapter.bin")
    parser.add_argument("target", help="the safetensors file to write; must not exist")
    options = parser.parse_args()
    try:
        convert(options.source, options.target)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"Wrote {options.target}.")


if __name__ == "__main__":
    main()
