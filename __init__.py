"""MS-Diffusion for ComfyUI: several chosen subjects in one picture, each where its box is."""

from pathlib import Path

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .nodes.apply import MSDApply
from .nodes.auto_layout import MSDAutoLayout
from .nodes.crop_subjects import MSDCropSubjects
from .nodes.encode_references import MSDEncodeReferences
from .nodes.folder_name import warn_of_folder_name
from .nodes.ground_references import MSDGroundReferences
from .nodes.layout.node import MSDLayout
from .nodes.load_adapter import MSDLoadAdapter
from .nodes.load_subjects import MSDLoadSubjects
from .nodes.place_references import MSDPlaceReferences
from .nodes.reference_latents import MSDReferenceLatents
from .nodes.save_subjects import MSDSaveSubjects

WEB_DIRECTORY = "./web"


class MSDiffusionExtension(ComfyExtension):
    @override
    async def on_load(self) -> None:
        warn_of_folder_name(Path(__file__).parent.name)

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            MSDLoadAdapter,
            MSDLayout,
            MSDEncodeReferences,
            MSDGroundReferences,
            MSDAutoLayout,
            MSDApply,
            MSDCropSubjects,
            MSDReferenceLatents,
            MSDPlaceReferences,
            MSDSaveSubjects,
            MSDLoadSubjects,
        ]


async def comfy_entrypoint() -> MSDiffusionExtension:
    return MSDiffusionExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
