"""MSDLoadAdapter: an adapter file becomes a model that the host's memory management owns."""

import os

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import folder_paths
from comfy_api.latest import io

from ..msd_core.checkpoint import load_adapter
from .subjects import MSDAdapterType

FOLDER = "ms_diffusion"
# Where users of other packs already have the file; there only names that say so are ours.
_SHARED_FOLDERS = ("photomaker", "ipadapter")

_EXTENSIONS = (".bin", ".safetensors", ".sft", ".pt")


def _register_folder() -> None:
    """Add our folder and extensions. Another pack may have registered the same name before, with
    lists, tuples or frozen sets of paths and extensions."""
    registered = folder_paths.folder_names_and_paths
    paths, extensions = registered.get(FOLDER, ((), ()))
    own = os.path.join(folder_paths.models_dir, FOLDER)
    registered[FOLDER] = (
        list(dict.fromkeys((*paths, own))),
        {*(extensions or ()), *_EXTENSIONS},
    )


_register_folder()


def _adapter_files() -> list[str]:
    names = folder_paths.get_filename_list(FOLDER)
    for folder in _SHARED_FOLDERS:
        if folder in folder_paths.folder_names_and_paths:
            names += [
                n for n in folder_paths.get_filename_list(folder) if "ms_adapter" in n.lower()
            ]
    return list(dict.fromkeys(names))


def _adapter_path(name: str) -> str:
    for folder in (FOLDER, *_SHARED_FOLDERS):
        if folder in folder_paths.folder_names_and_paths:
            path = folder_paths.get_full_path(folder, name)
            if path is not None:
                return path
    raise FileNotFoundError(
        f"adapter: there is no {name!r} in models/{FOLDER}. Put ms_adapter.bin there."
    )


class MSDLoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDLoadAdapter",
            display_name="Load MS-Diffusion Adapter",
            category="MS-Diffusion",
            description="Load the MS-Diffusion adapter (ms_adapter.bin or .safetensors).",
            search_aliases=["ms diffusion", "ms_adapter", "multi subject", "subject loader"],
            inputs=[
                io.Combo.Input(
                    "adapter",
                    options=_adapter_files(),
                    tooltip="Adapter file in models/ms_diffusion. Files named ms_adapter in "
                    "models/photomaker and models/ipadapter are listed too.",
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
