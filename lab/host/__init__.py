"""Drivers for a real ComfyUI: in this process, and as a server of its own."""

import os
from pathlib import Path


def host_folder() -> Path:
    """ComfyUI's folder."""
    given = os.environ.get("COMFYUI_PATH")
    if not given or not Path(given, "main.py").is_file():
        raise FileNotFoundError(
            f"COMFYUI_PATH is {given!r}; it must name a folder with ComfyUI's main.py."
        )
    return Path(given).resolve()
