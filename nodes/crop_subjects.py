"""MSDCropSubjects: the layout of a part of the picture, for packs that sample it by itself."""

from dataclasses import replace

import torch
from comfy_api.latest import io

from ..msd_core.coverage import crop_box, crop_mask
from .subjects import MSDSubjects, Subject, Subjects

_IN = "of the part, in pixels of MSD Layout's picture."


class MSDCropSubjects(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDCropSubjects",
            display_name="MSD Crop Subjects",
            category="MS-Diffusion",
            description="Take the layout of a part of the picture, to sample that part by itself.",
            search_aliases=["ms diffusion", "crop", "tile", "detailer", "inpaint crop"],
            inputs=[
                MSDSubjects.Input("subjects", tooltip="Subjects from any MSD node."),
                io.Int.Input("x", default=0, min=0, max=16384, tooltip=f"Left edge {_IN}"),
                io.Int.Input("y", default=0, min=0, max=16384, tooltip=f"Upper edge {_IN}"),
                io.Int.Input("width", default=512, min=1, max=16384, tooltip=f"Width {_IN}"),
                io.Int.Input("height", default=512, min=1, max=16384, tooltip=f"Height {_IN}"),
            ],
            outputs=[
                MSDSubjects.Output(
                    display_name="subjects",
                    tooltip="The subjects as the part shows them; one outside of it isn't seen.",
                )
            ],
        )

    @classmethod
    def execute(cls, subjects: Subjects, x: int, y: int, width: int, height: int) -> io.NodeOutput:
        w, h = subjects.size or (0, 0)
        if x + width > w or y + height > h:
            raise ValueError(
                f"width, height: the part of {width} x {height} pixels at {x}, {y} reaches beyond "
                f"the layout's {w} x {h}."
            )
        part = (x / w, y / h, (x + width) / w, (y + height) / h)

        def cropped(subject: Subject) -> Subject:
            region = subject.region
            if region is not None:
                region = crop_mask(region, (h, w), (x, y, x + width, y + height))
            box = crop_box(subject.box, part)
            if region is None and any(subject.box) and not any(box):
                region = torch.zeros(1, 1)  # nowhere, which no box isn't for every method
            return replace(subject, box=box, region=region)

        shown = tuple(map(cropped, subjects.subjects))
        return io.NodeOutput(replace(subjects, subjects=shown, size=(width, height)))
