"""A real ComfyUI in this process, with this pack and the micro family's loader, loaded as any pack
is: the quickest way to many pictures. `COMFYUI_PATH` names its folder."""

import asyncio
import atexit
import importlib
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lab import ROOT
from lab.microworld import LOADER_PACK


def host_folder() -> Path:
    """ComfyUI's folder."""
    given = os.environ.get("COMFYUI_PATH")
    if not given or not Path(given, "main.py").is_file():
        raise FileNotFoundError(
            f"COMFYUI_PATH is {given!r}; it must name a folder with ComfyUI's main.py."
        )
    return Path(given).resolve()


@cache
def load_host() -> dict[str, Any]:
    """The host's node classes by id, the pack's among them. Files go to a temporary folder."""
    sys.path.insert(0, str(host_folder()))  # before this repository's folder `nodes`
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    import folder_paths
    import server

    base = tempfile.mkdtemp(prefix="ms-diffusion-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    for setter in (
        folder_paths.set_output_directory,
        folder_paths.set_temp_directory,
        folder_paths.set_input_directory,
    ):
        setter(base)

    host_nodes: Any = importlib.import_module("nodes")

    async def load() -> None:
        server.PromptServer(asyncio.get_running_loop())
        await host_nodes.init_builtin_extra_nodes()
        for pack in (ROOT, LOADER_PACK):
            if not await host_nodes.load_custom_node(str(pack), module_parent="custom_nodes"):
                raise RuntimeError(f"The host could not load {pack.name}.")

    asyncio.run(load())
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    return host_nodes.NODE_CLASS_MAPPINGS


def run_node(nodes: dict[str, Any], name: str, *args: Any, **inputs: Any) -> Any:
    """A node's outputs, by whichever of the host's two interfaces it has."""
    kind = nodes[name]
    if hasattr(kind, "define_schema"):
        output = kind.execute(*args, **inputs)
    else:
        output = getattr(kind(), kind.FUNCTION)(*args, **inputs)
    return getattr(output, "result", output)
