"""What training needs of a sample, by the host's own encoders and the pack's own nodes: computed
once, before training, and kept."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from lab import ROOT
from lab.host import host_folder
from lab.host.in_process import load_host, pack_module, run_node
from lab.jobs.hashes import Hashes
from lab.training.real.training_set import Part, Sample
from msd_core.adapters.family import Needs
from msd_core.coverage import crop_box

# How references are prepared, as each family was trained.
PREPARED = {
    "MS-Diffusion": ("stretch", "black"),
    "IP-Adapter": ("clip", "keep"),
    "MIP-Adapter": ("clip", "white"),
}
# Files and folders that decide what is encoded.
CODE = (
    "lab/training/real/encoders.py",
    "lab/training/real/training_set.py",
    "msd_core/adapters/family.py",
    "msd_core/coverage.py",
    "nodes/encode_references.py",
    "nodes/ground_references.py",
    "nodes/images.py",
    "nodes/layout",
    "nodes/memo.py",
    "nodes/subjects.py",
)
KINDS = {"--checkpoint": "a checkpoint of SDXL or SD1.5", "--clip-vision": "CLIP's image encoder"}
# What the host's loaders raise of files that aren't what they expect.
LOAD_ERRORS = (
    AttributeError, EOFError, KeyError, RuntimeError, SafetensorError, TypeError, UnpicklingError,
    ValueError,
)  # fmt: skip
KEPT = 0.25  # of a subject's box that must be left when its picture was cropped
Encoded = dict[str, Tensor]


def bucket(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """Height and width that a picture (height, width) is trained in: about as many pixels as a
    square of this edge, both sides multiples of a sixteenth of it, at most 4:1."""
    step = edge // 16
    columns = round(16 * (min(4, max(1 / 4, size[1] / size[0]))) ** 0.5)
    return round(256 / columns) * step, columns * step


def fit_picture(sample: Sample, size: tuple[int, int]) -> tuple[Tensor, list[tuple[float, ...]]]:
    """A sample's picture [H, W, 3] in 0..1, resized and its middle cropped to a size, and its boxes
    there; zeros for a subject of which too little is left."""
    picture = sample.picture.open().convert("RGB")
    height, width = size
    scale = max(width / picture.width, height / picture.height)
    resized = (round(picture.width * scale), round(picture.height * scale))
    left, top = ((a - b) // 2 for a, b in zip(resized, (width, height), strict=True))
    part = (left, top, left + width, top + height)
    (wide, high), (x0, y0, x1, y1) = resized, part
    shown = (x0 / wide, y0 / high, x1 / wide, y1 / high)
    boxes = []
    for subject in sample.subjects:
        box = crop_box(subject.box, shown)
        left_of_it = _area(box) * _area(shown) / _area(subject.box)
        boxes.append(box if left_of_it >= KEPT else (0.0,) * 4)
    return to_pixels(picture.resize(resized, Image.Resampling.LANCZOS).crop(part)), boxes


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def to_pixels(picture: Image.Image) -> Tensor:
    """[H, W, C] in 0..1"""
    return torch.from_numpy(np.array(picture)).float() / 255


@dataclass
class Encoders:
    """The frozen models of a run, each loaded by the host's stock loaders when it is needed.

    Args:
        checkpoint, clip_vision: files of the host's formats.
        family: name of the adapter's, and what it needs of a sample.
        edge: of a square with as many pixels as the pictures are trained in.
    """

    checkpoint: Path
    clip_vision: Path
    family: str
    needs: Needs
    edge: int

    def key(self, hashes: Hashes) -> str:
        """Hash of all that decides what is computed of a sample, besides the sample."""
        own = (self.edge, self.needs.features, self.needs.phrase, PREPARED[self.family])
        key = hashlib.sha256(f"{own}".encode())
        for path in (self.checkpoint, self.clip_vision):
            key.update(hashes.of(path).encode())
        code = [host_folder() / "comfyui_version.py"]
        for name in CODE:
            path = ROOT / name
            code += sorted(path.glob("*.py")) if path.is_dir() else [path]
        for path in code:
            key.update(hashlib.sha256(path.read_bytes()).digest())
        return key.hexdigest()

    @cached_property
    def nodes(self) -> dict[str, Any]:
        return load_host()

    @cached_property
    def loaded(self) -> tuple[Any, Any, Any]:
        """Model, CLIP and VAE of the checkpoint.

        Raises ValueError: it has none of these, or can't be read.
        """
        nodes = self.nodes  # which loads the host
        add_folder("checkpoints", self.checkpoint)
        with explain("--checkpoint", self.checkpoint):
            model, clip, vae = run_node(
                nodes, "CheckpointLoaderSimple", ckpt_name=self.checkpoint.name
            )
            vae.throw_exception_if_invalid()
            if clip is None:
                raise ValueError("It has no text encoder.")
        return model, clip, vae

    @cached_property
    def vision(self) -> Any:
        """Raises ValueError: it isn't CLIP's, or can't be read."""
        nodes = self.nodes
        add_folder("clip_vision", self.clip_vision)
        with explain("--clip-vision", self.clip_vision):
            return run_node(nodes, "CLIPVisionLoader", clip_name=self.clip_vision.name)[0]

    def load(self) -> None:
        """Have the models now, not when they are needed.

        Raises ValueError: one can't be loaded.
        """
        _ = self.loaded, self.vision

    def forget_vision(self) -> None:
        """Free the image encoder's memory; it's loaded again when it's needed."""
        vars(self).pop("vision", None)

    @torch.no_grad()
    def encode(self, sample: Sample) -> Encoded:
        """A sample as it is trained on, on the CPU in float16.

        Returns:
            latent [4, h, w], context [L, C], pooled [P] (SDXL's), boxes [S, 4] float32, features
            [S, ...], phrase_1, phrase_2, ... [F] or [L, F]
        Raises:
            ValueError: a picture can't be read, or a model doesn't fit the adapter.
        """
        model, _, vae = self.loaded
        height, width = bucket(picture_size(sample.picture), self.edge)
        picture, boxes = fit_picture(sample, (height, width))
        latent = model.model.process_latent_in(vae.encode(picture[None]))[0]
        subjects = [s for s, box in zip(sample.subjects, boxes, strict=True) if any(box)]
        encoded = {"latent": latent, **self.text(sample.caption)}
        encoded["boxes"] = torch.tensor([box for box in boxes if any(box)]).reshape(-1, 4)
        if subjects:
            references = [to_pixels(s.reference.open().convert("RGBA")) for s in subjects]
            encoded["features"], _ = self.features(references)
            for number, embed in enumerate(self.phrases([s.phrase for s in subjects]), 1):
                encoded[f"phrase_{number}"] = embed
        return _kept(encoded)

    @torch.no_grad()
    def blank(self) -> Encoded:
        """What stands for no text, and for no reference: context [L, C], pooled [P], features."""
        _, blank = self.features([torch.zeros(8, 8, 3)])
        return _kept({**self.text(""), "features": blank})

    def text(self, prompt: str) -> Encoded:
        ((context, more),) = run_node(
            self.nodes, "CLIPTextEncode", clip=self.loaded[1], text=prompt
        )[0]
        pooled = more.get("pooled_output")
        return {"context": context[0]} | ({} if pooled is None else {"pooled": pooled[0]})

    def features(self, references: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features [S, ...] of references [H, W, 3 or 4] in 0..1, and those of none [...]."""
        specs = [{"phrase": "", "box": [0, 0, 1, 1], "weight": 1.0} for _ in references]
        (subjects, *_) = run_node(
            self.nodes,
            "MSDLayout",
            {f"reference_{n}": each[None] for n, each in enumerate(references, 1)},
            self.edge,
            self.edge,
            layout={"version": 1, "subjects": specs},
        )
        fit, background = PREPARED[self.family]
        (subjects,) = run_node(
            self.nodes, "MSDEncodeReferences", self.vision, subjects, fit, background
        )
        grounding = pack_module(self.nodes, "nodes.ground_references")
        pairs = [
            grounding._checked_features(subject.features, self.needs, number)
            for number, subject in enumerate(subjects.subjects, 1)
        ]
        return torch.cat([features for features, _ in pairs]), pairs[0][1]

    def phrases(self, phrases: Sequence[str]) -> Sequence[Tensor]:
        """Each phrase as the adapter needs it: pooled [F], tokens [L, F], or [0] without."""
        grounding = pack_module(self.nodes, "nodes.ground_references")
        return grounding._checked_phrases(self.loaded[1], self.needs, phrases)


@contextmanager
def explain(option: str, path: Path) -> Iterator[None]:
    """Raises ValueError: an option's file couldn't be loaded as what it should be."""
    try:
        yield
    except LOAD_ERRORS as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        reason = first.partition(". ")[0].rstrip(".")
        raise ValueError(
            f"{option}: {path} can't be loaded as {KINDS[option]}: {reason}."
        ) from error


def add_folder(kind: str, path: Path) -> None:
    """Let the host find a file, before others of its name."""
    import folder_paths

    folder_paths.add_model_folder_path(kind, str(path.parent.resolve()), is_default=True)


def picture_size(picture: Part) -> tuple[int, int]:
    """Height and width."""
    with picture.open() as opened:
        return opened.height, opened.width


def _kept(encoded: Encoded) -> Encoded:
    return {
        name: value.detach()
        .cpu()
        .to(torch.float32 if name == "boxes" else torch.float16)
        .contiguous()
        for name, value in encoded.items()
    }
