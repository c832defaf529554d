"""MSDLoadSubjects: subjects that MSDSaveSubjects has saved."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from .subjects import MSDSubjects
from .subjects_file import from_file

_SUBFOLDER = "subjects"  # of the output folder; all of that may hold very many files


def _files() -> list[str]:
    """Names of files as the host writes them: plain in the input folder, marked in the output."""
    given, _ = folder_paths.recursive_search(folder_paths.get_input_directory())
    output = Path(folder_paths.get_output_directory(), _SUBFOLDER)
    saved, _ = folder_paths.recursive_search(str(output))
    names = [*given, *(f"{Path(_SUBFOLDER, name)} [output]" for name in saved)]
    return sorted(name for name in names if name.removesuffix(" [output]").endswith(".safetensors"))


class MSDLoadSubjects(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDLoadSubjects",
            display_name="MSD Load Subjects",
            category="MS-Diffusion",
            description="Load subjects that MSD Save Subjects has saved.",
            search_aliases=["ms diffusion", "load embeds", "import subjects"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_files(),
                    tooltip="File in the input folder, or in subjects of the output folder.",
                ),
            ],
            outputs=[
                MSDSubjects.Output(
                    display_name="subjects",
                    tooltip="The subjects as they were saved, for the node that came next there.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> tuple[str, int, int]:
        """A file that was replaced on disk is loaded again."""
        status = Path(folder_paths.get_annotated_filepath(file)).stat()
        return file, status.st_mtime_ns, status.st_size

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(from_file(Path(folder_paths.get_annotated_filepath(file))))
