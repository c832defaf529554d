"""Small copies of references and regions for the editor, among the host's temporary files."""

import uuid
from pathlib import Path

import folder_paths
from PIL import Image
from torch import Tensor

from ..images import to_pil
from ..subjects import Subject
from .preview import first_reference

REFERENCE_EDGE = 128  # pixels of the longer edge
REGION_EDGE = 256


def save_reference(subject: Subject) -> str:
    """Save a copy of a subject's first reference, cut out by its mask; returns the file's name."""
    return _save(first_reference(subject), "reference", REFERENCE_EDGE)


def save_region(region: Tensor) -> str:
    """Save a copy of a region [H, W]; returns the file's name."""
    return _save(to_pil(region), "region", REGION_EDGE)


def save_encoded(picture: Tensor) -> str:
    """Save a copy of a reference [H, W, 3] as the encoder takes it; returns the file's name."""
    return _save(to_pil(picture), "encoded", REFERENCE_EDGE)


def _save(image: Image.Image, kind: str, edge: int) -> str:
    image.thumbnail((edge, edge))
    name = f"msd_{kind}_{uuid.uuid4().hex}.png"
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, compress_level=1)
    return name
