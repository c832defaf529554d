"""From a released pickle to safetensors:

    python -m msd_core.convert ms_adapter.bin ms_adapter.safetensors

File format of safetensors: https://github.com/huggingface/safetensors#format
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

from .checkpoint import FLOATS, check_values, family_of, read_pickle, unsound


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Turn a released pickle into safetensors, holding one tensor at a time.

    Raises:
        FileExistsError: the target exists; it is never overwritten.
        FileNotFoundError, ValueError: as `load_adapter`; nothing is left at the target.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise FileExistsError(f"{target} exists; it is not overwritten.")
    layout = {
        key: (tensor.dtype, tensor.shape)
        for key, tensor in read_pickle(source, mapped=True).items()
    }
    shapes = {key: shape for key, (_, shape) in layout.items()}
    family = family_of(source, shapes)
    try:
        adapter = family.from_shapes(shapes)
    except ValueError as error:
        raise unsound(source, family.name, error) from error

    header: dict[str, Any] = {"__metadata__": adapter.metadata()}
    offset = 0
    for key, (dtype, shape) in layout.items():
        end = offset + shape.numel() * dtype.itemsize
        header[key] = {"dtype": FLOATS[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with target.open("xb") as file:
        try:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for key in layout:
                # Each tensor gets a new mapping of the file: pages of a mapping stay in memory
                # until it is gone, and in the end that would be the whole file.
                tensor = read_pickle(source, mapped=True)[key]
                check_values(source, key, tensor)
                file.write(tensor.contiguous().view(torch.uint8).numpy().data)
                del tensor
        except BaseException:
            target.unlink()
            raise


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m msd_core.convert",
        description="Convert an adapter file from the released pickle to safetensors.",
    )
    parser.add_argument("source", help="the .bin file")
    parser.add_argument("target", help="the safetensors file to write; must not exist")
    options = parser.parse_args()
    try:
        convert(options.source, options.target)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"Wrote {options.target}.")


if __name__ == "__main__":
    main()
