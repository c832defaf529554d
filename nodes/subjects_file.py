"""The file of subjects: all that the wire carries, in one safetensors file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..msd_core.checkpoint import read_safetensors
from .layout.boxes import parse_layout
from .subjects import AutoLayoutSettings, Features, Subject, Subjects

VERSION = 1
KEY = "msd_subjects"  # of the metadata; it holds what isn't a tensor, as JSON
# Tensors of a subject, and their shapes. A size with a name in capitals is the same in all
# subjects, another one in all of a subject's tensors.
_SHAPES: dict[str, tuple[str | int, ...]] = {
    "references": ("references", "height", "width", 3),
    "reference_masks": ("references", "height", "width"),
    "region": ("rows", "columns"),
    "hidden_states": ("encoded", "P", "E"),
    "pooled": ("encoded", "D"),
    "blank_hidden_states": ("P", "E"),
    "blank_pooled": ("D",),
    "image_tokens": ("sets", "T", "C"),
    "blank_image_tokens": ("T", "C"),
    "name_tokens": ("words", "C"),  # 0 for a subject without a phrase
}
_FEATURES = ("hidden_states", "pooled", "blank_hidden_states", "blank_pooled")
_IN_0_1 = ("references", "reference_masks", "region")
_OF_SOME = {"reference_masks", "region"}  # which one subject may have without the others


def to_file(subjects: Subjects) -> tuple[dict[str, Tensor], str]:
    """Tensors by key, and the JSON that goes with them under KEY."""
    tensors: dict[str, Tensor] = {}
    written = []
    for number, subject in enumerate(subjects.subjects):
        given = {name: getattr(subject.features or subject, name, None) for name in _FEATURES}
        given |= {name: getattr(subject, name) for name in _SHAPES if name not in _FEATURES}
        for name, tensor in given.items():
            if tensor is not None:
                tensors[f"subjects.{number}.{name}"] = _written(tensor, name in _IN_0_1)
        written.append(
            {
                "phrase": subject.phrase,
                "box": subject.box,
                "weight": subject.weight,
                "token_positions": subject.token_positions,
                "adapter_digest": subject.adapter_digest,
            }
        )
    auto = subjects.auto_layout
    for number, text in enumerate((auto.texts if auto else None) or ()):
        tensors[f"texts.{number}"] = _written(text)
    content = {
        "version": VERSION,
        "size": subjects.size,
        "subjects": written,
        "auto_layout": auto and {"threshold": auto.threshold, "start_step": auto.start_step},
    }
    return tensors, json.dumps(content)


def _written(tensor: Tensor, in_0_1: bool = False) -> Tensor:
    """A tensor of its own on the CPU, in 8 bits if nothing is lost, as of pictures from files."""
    tensor = tensor.detach().float().cpu().clone(memory_format=torch.contiguous_format)
    levels = (tensor * 255).round().byte()
    return levels if in_0_1 and torch.equal(levels.float() / 255, tensor) else tensor


def from_file(path: Path) -> Subjects:
    """The subjects of a file, on the CPU.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it can't be read.
        ValueError: it isn't a sound file of subjects; names the file and what is wrong.
    """
    tensors, metadata = read_safetensors(path)
    if KEY not in metadata:
        raise ValueError(
            f"{path} holds no subjects. Choose a file that MSD Save Subjects has written."
        )
    try:
        content = json.loads(metadata[KEY])
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} doesn't hold sound subjects: its description is no JSON object.")
    if (version := content.get("version")) != VERSION:
        raise ValueError(
            f"{path} has version {version!r}, this pack reads version {VERSION}. Update "
            "MS-Diffusion, or save the subjects again."
        )
    try:
        return _read(content, tensors)
    except ValueError as error:
        raise ValueError(f"{path} doesn't hold sound subjects: {error}") from error


def _read(content: Mapping[str, Any], tensors: dict[str, Tensor]) -> Subjects:
    specs = parse_layout({"subjects": content.get("subjects")})
    if not specs:
        raise ValueError("there are none.")
    every = _read_tensors(tensors, len(specs))
    subjects = []
    for number, (spec, own, given) in enumerate(
        zip(specs, every, content["subjects"], strict=True), 1
    ):
        features = {name: own.pop(name) for name in _FEATURES if name in own}
        positions, digest = given.get("token_positions"), given.get("adapter_digest")
        if not isinstance(positions, list) or not all(_is_count(n, 0) for n in positions):
            raise ValueError(f"subject {number}: token_positions must be whole numbers.")
        if isinstance(digest, str) != ("image_tokens" in own):
            raise ValueError(f"subject {number}: image tokens and adapter_digest go together.")
        subjects.append(
            Subject(
                phrase=spec.phrase or "",
                box=spec.box,
                weight=spec.weight,
                features=Features(**features) if features else None,
                token_positions=tuple(positions),
                adapter_digest=digest,
                **own,
            )
        )
    texts: list[Tensor] = []
    while (text := tensors.pop(f"texts.{len(texts)}", None)) is not None:
        texts.append(_checked(text, f"text {len(texts) + 1}", ("tokens", "channels"), False, {}))
    if tensors:
        raise ValueError(f"{min(tensors)!r} is no tensor of version {VERSION}.")
    size = content.get("size")
    if size is not None:
        if not (isinstance(size, list) and len(size) == 2 and all(map(_is_count, size))):
            raise ValueError("size must be a width and a height in pixels.")
        size = size[0], size[1]
    auto_layout = _auto_layout(content.get("auto_layout"), tuple(texts) or None)
    return Subjects(tuple(subjects), auto_layout, size)


def _auto_layout(given: Any, texts: tuple[Tensor, ...] | None) -> AutoLayoutSettings | None:
    if given is None:
        return None
    settings: dict[str, Any] = given if isinstance(given, dict) else {}
    threshold = settings.get("threshold")
    is_share = isinstance(threshold, (int, float)) and 0 <= threshold <= 1
    if not is_share or not _is_count(settings.get("start_step")):
        raise ValueError("auto_layout must have a threshold in 0..1 and a start_step from 1 on.")
    return AutoLayoutSettings(settings["threshold"], settings["start_step"], texts)


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _read_tensors(tensors: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """Take each subject's tensors, by name, out of those of the file."""
    every: list[dict[str, Tensor]] = []
    shared: dict[str | int, int] = {}
    for number in range(count):
        sizes, own = dict(shared), {}
        for name, shape in _SHAPES.items():
            tensor = tensors.pop(f"subjects.{number}.{name}", None)
            if tensor is not None:
                where = f"subject {number + 1}: {name}"
                own[name] = _checked(tensor, where, shape, name in _IN_0_1, sizes)
        shared |= {size: value for size, value in sizes.items() if str(size).isupper()}
        kinds = own.keys() - _OF_SOME
        whole = kinds.isdisjoint(_FEATURES) or kinds.issuperset(_FEATURES)
        tokens = "image_tokens" in own or kinds.isdisjoint(("blank_image_tokens", "name_tokens"))
        if "references" not in own or not whole or not tokens:
            raise ValueError(f"subject {number + 1}: some of its tensors are missing.")
        if every and kinds != every[0].keys() - _OF_SOME:
            raise ValueError(f"subject {number + 1} has other tensors than subject 1.")
        every.append(own)
    return every


def _checked(
    tensor: Tensor,
    where: str,
    shape: Sequence[str | int],
    in_0_1: bool,
    sizes: dict[str | int, int],
) -> Tensor:
    """A tensor in float32, of a shape whose named sizes agree with, or go into, `sizes`."""
    if tensor.dtype == torch.uint8 and in_0_1:
        tensor = tensor.float() / 255
    got = tuple(tensor.shape)
    fits = len(got) == len(shape) and (0 not in got or shape[0] == "words")
    for name, size in zip(shape, got, strict=False):
        fits = fits and size == (name if isinstance(name, int) else sizes.setdefault(name, size))
    if not fits:
        expected = ", ".join(str(sizes.get(name, name)) for name in shape)
        raise ValueError(f"{where} has shape {got}, expected ({expected}).")
    if tensor.dtype != torch.float32:
        raise ValueError(f"{where} is of {tensor.dtype}, expected torch.float32.")
    if not tensor.isfinite().all():
        raise ValueError(f"{where} holds values that are not numbers (NaN or infinity).")
    # Resizing a mask may round a little beyond.
    if in_0_1 and (tensor.amin() < -1e-3 or tensor.amax() > 1 + 1e-3):
        raise ValueError(f"{where} holds values outside 0..1.")
    return tensor
