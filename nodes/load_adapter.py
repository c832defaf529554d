"""MSDLoadAdapter: an adapter file becomes a model that the host's memory management owns."""

import os

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import folder_paths
from comfy_api.latest import io

from ..msd_core.checkpoint import load_adapter
from .subjects import MSDAdapterType

FOLDERS = ("ms_diffusion", "ipadapter")
# Where users of other packs may have MS-Diffusion's file; only names that say so are ours there.
_SHARED_FOLDER = "photomaker"

_EXTENSIONS = (".bin", ".safetensors", ".sft", ".pt")


def _register_folders() -> None:
    """Add our folders and extensions. Another pack may have registered the same names before, with
    lists, tuples or frozen sets of paths and extensions."""
    registered = folder_paths.folder_names_and_paths
    for folder in FOLDERS:
        paths, extensions = registered.get(folder, ((), ()))
        own = os.path.join(folder_paths.models_dir, folder)
        registered[folder] = (
            list(dict.fromkeys((*paths, own))),
            {*(extensions or ()), *_EXTENSIONS},
        )


_register_folders()


def _adapter_files() -> list[str]:
    names = [name for folder in FOLDERS for name in folder_paths.get_filename_list(folder)]
    if _SHARED_FOLDER in folder_paths.folder_names_and_paths:
        shared = folder_paths.get_filename_list(_SHARED_FOLDER)
        names += [name for name in shared if "ms_adapter" in name.lower()]
    return list(dict.fromkeys(names))


def _adapter_path(name: str) -> str:
    for folder in (*FOLDERS, _SHARED_FOLDER):
        if folder in folder_paths.folder_names_and_paths:
            path = folder_paths.get_full_path(folder, name)
            if path is not None:
                return path
    raise FileNotFoundError(
        f"adapter: there is no {name!r} in models/ms_diffusion or models/ipadapter. Put it there."
    )


class MSDLoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDLoadAdapter",
            display_name="Load MS-Diffusion Adapter",
            category="MS-Diffusion",
            description="Load an adapter of MS-Diffusion, IP-Adapter or MIP-Adapter; its file "
            "says which.",
            search_aliases=[
                "ms diffusion",
                "ms_adapter",
                "multi subject",
                "subject loader",
                "ip adapter",
                "ipadapter",
            ],
            inputs=[
                io.Combo.Input(
                    "adapter",
                    options=_adapter_files(),
                    tooltip="Adapter file in models/ms_diffusion or models/ipadapter. Files named "
                    "ms_adapter in models/photomaker are listed too.",
                ),
            ],
            outputs=[
                MSDAdapterType.Output(
                    display_name="adapter",
                    tooltip="Adapter for MSD Ground References and MSD Apply.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, adapter: str) -> tuple[str, int, int]:
        """A file that was replaced on disk is loaded again."""
        status = os.stat(_adapter_path(adapter))
        return adapter, status.st_mtime_ns, status.st_size

    @classmethod
    def execute(cls, adapter: str) -> io.NodeOutput:
        model = load_adapter(_adapter_path(adapter), operations=comfy.ops.manual_cast)
        patcher = comfy.model_patcher.CoreModelPatcher(
            model,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
        return io.NodeOutput(patcher)
