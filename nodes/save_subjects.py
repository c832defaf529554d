"""MSDSaveSubjects: subjects go into a file of the output folder, as they are at any node."""

import json
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io, ui
from safetensors.torch import save_file

from .node_text import show_text
from .subjects import MSDSubjects, Subjects
from .subjects_file import KEY, to_file


class MSDSaveSubjects(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDSaveSubjects",
            display_name="MSD Save Subjects",
            category="MS-Diffusion",
            description="Save subjects with their references, layout and all that is encoded, to "
            "load them in another graph.",
            search_aliases=["ms diffusion", "save embeds", "export subjects"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            inputs=[
                MSDSubjects.Input(
                    "subjects",
                    tooltip="Subjects from any MSD node. After MSD Ground References they need "
                    "neither CLIP vision nor text encoder any more.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="subjects/ComfyUI",
                    tooltip="Where in the output folder, and what the names begin with; a number "
                    "follows. MSD Load Subjects lists what is in output/subjects.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(
        cls, subjects: Subjects, filename_prefix: str = "subjects/ComfyUI"
    ) -> io.NodeOutput:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        file = f"{name}_{counter:05}_.safetensors"
        tensors, content = to_file(subjects)
        metadata = {KEY: content}
        if cls.hidden and not args.disable_metadata:
            graph = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
            metadata |= {key: json.dumps(value) for key, value in graph.items()}
        save_file(tensors, Path(folder, file), metadata)
        if cls.hidden:
            show_text(f"Saved output/{Path(subfolder, file).as_posix()}", cls.hidden.unique_id)
        saved = ui.SavedResult(file, subfolder, io.FolderType.output)
        return io.NodeOutput(ui={"msd_subjects": [saved]})
