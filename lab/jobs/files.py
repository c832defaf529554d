"""The files that decide a job's picture: what its nodes read from the input folder, and models."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from lab.jobs.hashes import Hashes

MODEL_FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
# What is sure to be a file of the input folder.
INPUT_FILES = (
    *(".latent", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".exr"),
    *(".mp3", ".wav", ".flac", ".ogg", ".m4a", ".mp4", ".webm", ".mkv", ".mov"),
    *(".glb", ".gltf", ".obj", ".fbx", ".stl", ".svg", ".json", ".csv", ".npy", ".npz"),
)
FILE = re.compile(r"[^\n]+\.\w{1,12}")  # what may be the name of one
OF_A_COMFYUI = re.compile(r"[^\n]+\.\w{1,12} \[(input|output|temp)\]")
EMBEDDING = re.compile(r"embedding:([^\s,:()]+)")
Prompt = dict[str, dict[str, Any]]  # a workflow in API form: nodes by id


def open_picture(path: Path) -> Image.Image:
    """Raises ValueError: it isn't a picture that can be read; FileNotFoundError: it's not there."""
    if not path.is_file():
        raise FileNotFoundError(f"the picture {path} doesn't exist.")
    try:
        return Image.open(path)
    except OSError:
        raise ValueError(f"{path} isn't a picture.") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"the picture {path} is too large: {error}") from None


def hash_inputs(prompt: Prompt, folder: Path, models: Path, hashes: Hashes) -> dict[str, Path]:
    """Name by their content the files that nodes read from the input folder.

    They are looked for in `folder`: pictures of Load Image, and whatever else a text input names
    that is no model.

    Returns:
        The files by the name that the prompt now has for them.
    Raises:
        FileNotFoundError: there is none; ValueError: it isn't a picture, or is on a ComfyUI.
    """
    files = {}
    for node in prompt.values():
        inputs, kind = node["inputs"], node["class_type"]
        loads = kind in ("LoadImage", "LoadImageMask")
        if loads and not isinstance(inputs.get("image"), str):
            raise ValueError(f"a node {kind} of the workflow names no image.")
        for key, value in inputs.items():
            if not isinstance(value, str):
                continue
            if loads and key == "image":
                path = (folder / value).resolve()
                open_picture(path).close()
            elif (path := _input(value, kind, folder, models)) is None:
                continue
            name = hashes.of(path)[:32] + path.suffix.lower()
            inputs[key] = name
            files[name] = path
    return files


def _input(value: str, kind: str, folder: Path, models: Path) -> Path | None:
    """The file that an input names, if it does."""
    if OF_A_COMFYUI.fullmatch(value):
        raise ValueError(
            f"{kind} reads {value!r}, which may change. Put a copy beside the lines and name that."
        )
    # A node that takes whole paths needs them as they are.
    if not FILE.fullmatch(value) or Path(value).is_absolute():
        return None
    if value.lower().endswith(MODEL_FILES) and _model(value, models):
        return None
    if _is_file(folder / value):
        return (folder / value).resolve()
    if value.lower().endswith(INPUT_FILES):
        raise FileNotFoundError(f"{kind} reads {folder / value}, which doesn't exist.")
    return None


def hash_models(
    prompt: Prompt, files: dict[str, Path], models: Path, hashes: Hashes
) -> Iterator[tuple[str, str]]:
    """Name and hash of each model file that a prompt names, and of each file that it names by its
    whole path. The same name in several of the models' folders counts as all of them.

    Args:
        files: from `hash_inputs`, which are none.
    """
    texts = {v for node in prompt.values() for v in node["inputs"].values() if isinstance(v, str)}
    names = {text for text in texts if text.lower().endswith(MODEL_FILES)}
    names |= {text for text in texts if _is_whole_path(text)}
    for name in sorted(names - files.keys()):
        found = _model(name, models)
        if not found:
            raise FileNotFoundError(
                f"no folder of {models} has {name}, and it isn't beside the lines."
            )
        yield name, " ".join(hashes.of(path) for path in found)
    for name in sorted({name for text in texts for name in EMBEDDING.findall(text)}):
        for path in sorted((models / "embeddings").glob(f"{name}*")):
            yield f"embeddings/{path.name}", hashes.of(path)


def _is_whole_path(text: str) -> bool:
    return bool(FILE.fullmatch(text)) and Path(text).is_absolute() and _is_file(Path(text))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # it is a text, and too long for a name
        return False


def _model(name: str, models: Path) -> list[Path]:
    """The files of a name in the models' folders."""
    folders = sorted(path for path in models.iterdir() if path.is_dir())
    return [folder / name for folder in folders if (folder / name).is_file()]
