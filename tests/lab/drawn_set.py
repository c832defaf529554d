"""A training set of the micro world's scenes."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import torch

from lab.microworld.scenes import SHAPES, SIZES, caption, draw_references, draw_scenes, to_pil


def save_drawn_set(folder: Path, count: int, seed: int = 21, size: str = "square") -> None:
    """Write scenes of two or three subjects, in WebDataset's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    g = torch.Generator().manual_seed(seed)
    scenes = draw_scenes(count, g, SIZES[size])
    references = draw_references(scenes.looks.flat(), g).unflatten(0, (count, -1))
    for n in range(count):
        subjects = []
        for number, box in enumerate(scenes.boxes[n].tolist()):
            if any(box):
                name = f"{size}_{n}.{number}.png"
                to_pil(references[n, number]).save(folder / name)
                shape = SHAPES[int(scenes.looks.shape[n, number])]
                subjects.append({"phrase": shape, "box": box, "reference": name})
        to_pil(scenes.picture[n]).save(folder / f"{size}_{n}.png")
        text = caption(scenes.looks[n], scenes.boxes[n], int(scenes.background[n]))
        sample = {"caption": text, "subjects": subjects}
        (folder / f"{size}_{n}.json").write_text(json.dumps(sample))


def save_bomb(path: Path) -> None:
    """A small PNG file that says it's of 30000 x 30000 pixels, which PIL refuses."""
    to_pil(torch.zeros(3, 8, 8)).save(path)
    content = path.read_bytes()
    header = content[12:16] + struct.pack(">2I", 30000, 30000) + content[24:29]
    crc = struct.pack(">I", zlib.crc32(header))
    path.write_bytes(content[:12] + header + crc + content[33:])


def pack(folder: Path, path: Path) -> None:
    """The same files in a tar file."""
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            member = tarfile.TarInfo(file.name)
            content = file.read_bytes()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
