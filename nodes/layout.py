"""MSDLayout: references, phrases and places of all subjects become one wire."""

import json
import math
import uuid
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..msd_core.layout import mask_box
from .boxes import NO_BOX, parse_boxes, parse_layout, pixel_box
from .layout_preview import draw_layout, first_photo
from .node_text import show_warnings
from .references import inversion_warnings, read_mask, read_photo_masks, read_photos
from .subjects import MOST_SUBJECTS, SHOWS_OUTPUT, MSDSubjects, Subject, Subjects

LAYOUT_PROPERTY = "msd_layout"  # as web/js/node/layout_node.mjs names it
THUMBNAIL = 128  # pixels of the longer edge


@io.comfytype(io_type="MSD_LAYOUT")
class LayoutValue(io.ComfyTypeIO):
    """Value of the layout widget; nodes/boxes.py tells its form."""

    Type = dict

    class Input(io.WidgetInput):
        def __init__(self, id: str, tooltip: str) -> None:
            # Without a socket: promoted out of a subgraph the editor would lose its value.
            super().__init__(
                id,
                optional=True,
                tooltip=tooltip,
                default={"version": 1, "subjects": []},
                socketless=True,
            )


def _numbered(name: str, input: io.Input, min: int = 0) -> io.Autogrow.TemplateNames:
    names = [f"{name}_{number}" for number in range(1, MOST_SUBJECTS + 1)]
    return io.Autogrow.TemplateNames(input, names=names, min=min)


class MSDLayout(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDLayout",
            display_name="MSD Layout",
            category="MS-Diffusion",
            description="Say which subjects the picture shows, and where each goes.",
            search_aliases=["ms diffusion", "multi subject", "regional", "boxes", "layout"],
            **SHOWS_OUTPUT,
            hidden=[io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            inputs=[
                io.Autogrow.Input(
                    "references",
                    template=_numbered(
                        "reference",
                        io.Image.Input(
                            "reference",
                            tooltip="Photo of one subject; a batch is several photos of it. What "
                            "is transparent counts as background.",
                        ),
                        min=1,
                    ),
                    tooltip="One picture per subject, in the order of the layout. A batch on one "
                    "socket is several photos of the same subject. What is transparent counts as "
                    "background, where no mask is connected.",
                ),
                io.Autogrow.Input(
                    "reference_masks",
                    optional=True,
                    template=_numbered(
                        "reference_mask",
                        io.Mask.Input(
                            "reference_mask",
                            optional=True,
                            tooltip="White where the subject is in its photo.",
                        ),
                    ),
                    tooltip="White where the subject is in its photo. Takes the background out of "
                    "the reference, which the method likes best.",
                ),
                io.Autogrow.Input(
                    "regions",
                    optional=True,
                    template=_numbered(
                        "region",
                        io.Mask.Input(
                            "region",
                            optional=True,
                            tooltip="White where the subject goes in the picture.",
                        ),
                    ),
                    tooltip="White where the subject goes in the picture, instead of its box. Grey "
                    "pulls it there more softly.",
                ),
                io.MultiType.Input(
                    "boxes",
                    [io.Custom("ARRAY"), io.BoundingBox, io.Custom("BOUNDING_BOXES"), io.String],
                    optional=True,
                    tooltip="Boxes from another node instead of those of the layout: elements, "
                    "bounding boxes in pixels, or text x0,y0,x1,y1;... in 0..1.",
                ),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=16,
                    max=16384,
                    step=8,
                    tooltip="Width of the picture in pixels. Raising it makes the layout wider.",
                ),
                io.Int.Input(
                    "height",
                    default=1024,
                    min=16,
                    max=16384,
                    step=8,
                    tooltip="Height of the picture in pixels. Raising it makes the layout taller.",
                ),
                LayoutValue.Input(
                    "layout",
                    tooltip="Phrase, box and weight of each subject. A higher weight makes a "
                    "subject more like its reference.",
                ),
            ],
            outputs=[
                MSDSubjects.Output(
                    display_name="subjects", tooltip="The subjects, for MSD Encode References."
                ),
                io.Mask.Output(
                    display_name="masks", tooltip="Where each subject goes, one mask a subject."
                ),
                io.BoundingBox.Output(
                    display_name="boxes", tooltip="The box of each subject, in pixels."
                ),
                io.Image.Output(
                    display_name="preview", tooltip="The layout, numbered and coloured."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        layout: Any = None,
        references: Any = None,
        reference_masks: Any = None,
        regions: Any = None,
    ) -> bool | str:
        """Check the layout before the run. The host insists on handing over growing inputs too."""
        try:
            parse_layout(layout)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, layout: Any = None, **inputs: Any) -> float:
        """Without a layout the saved copy counts, which is no input: then always run anew."""
        return math.nan if layout is None else 0.0

    @classmethod
    def execute(
        cls,
        references: io.Autogrow.Type,
        width: int,
        height: int,
        reference_masks: io.Autogrow.Type | None = None,
        regions: io.Autogrow.Type | None = None,
        boxes: Any = None,
        layout: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        if layout is None and cls.hidden:
            layout = _saved_layout(cls.hidden.extra_pnginfo, cls.hidden.unique_id)
        places = parse_layout(layout)
        linked = None if boxes is None else parse_boxes(boxes, width, height)
        reference_masks, regions = reference_masks or {}, regions or {}
        count = _subject_count(references, len(places), None if linked is None else len(linked))
        subjects, warnings = [], []
        for number in range(1, count + 1):
            place = places[number - 1] if number <= len(places) else None
            box, phrase = (place.box, place.phrase or "") if place else (NO_BOX, "")
            if linked is not None:
                box, phrase = linked[number - 1].box, phrase or linked[number - 1].phrase or ""
            photos, alpha = read_photos(references[f"reference_{number}"], f"reference_{number}")
            region = regions.get(f"region_{number}")
            if region is not None:
                region = read_mask(region, f"region_{number}")
                if len(region) != 1:
                    raise ValueError(f"region_{number}: {len(region)} masks came for one region.")
                region = region[0]
                box = mask_box(region)
            elif place is None and linked is None:
                raise ValueError(
                    f"layout: subject {number} has a reference but no place. "
                    f"Give it a box in the layout, or connect boxes or region_{number}."
                )
            mask = reference_masks.get(f"reference_mask_{number}")
            masks = read_photo_masks(mask, alpha, photos, number)
            warnings += inversion_warnings(masks, number, connected=mask is not None)
            subjects.append(
                Subject(
                    phrase=phrase.strip(),
                    box=box,
                    weight=place.weight if place else 1.0,
                    photos=photos,
                    photo_masks=masks,
                    region=region,
                )
            )
        show_warnings("MSD Layout", cls.hidden.unique_id if cls.hidden else None, warnings)
        masks = torch.stack(
            [s.coverage(height, width).view(height, width).float() for s in subjects]
        )
        pixel_boxes = [pixel_box(subject.box, width, height) for subject in subjects]
        shown = [subject.box for subject in subjects]
        return io.NodeOutput(
            Subjects(tuple(subjects), size=(width, height)),
            masks,
            [pixel_boxes],
            draw_layout(subjects, width, height),
            # For the editor, which can't see references that are processed on their way, nor boxes
            # and sizes of another node. As text: the host takes dictionaries for output files of
            # the job.
            ui={
                "msd_references": [_save_thumbnail(subject) for subject in subjects],
                "msd_layout": [
                    json.dumps(
                        {"boxes": shown, "linked": linked is not None, "size": [width, height]}
                    )
                ],
            },
        )


def _saved_layout(saved: Any, path: Any) -> Any:
    """The copy of the layout that the editor keeps among the node's properties, None without one.

    A front end that can't load the editor sends no layout, and keeps the properties.

    Args:
        saved: what the host saves with pictures, with the graph under "workflow".
        path: the node's id, after those of the subgraphs around it: "5" or "12:5".
    """
    try:
        graph = saved["workflow"]
        inner = {graph["id"]: graph for graph in graph.get("definitions", {}).get("subgraphs", [])}
        for step in str(path).split(":"):
            node = next(node for node in graph["nodes"] if str(node["id"]) == step)
            graph = inner.get(node["type"], {})
        return node["properties"].get(LAYOUT_PROPERTY)
    except (AttributeError, KeyError, StopIteration, TypeError):
        return None


def _save_thumbnail(subject: Subject) -> str:
    """Save a small copy of a subject's first photo, cut out where it is, among the host's temporary
    files; returns its name."""
    picture = first_photo(subject)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    name = f"msd_reference_{uuid.uuid4().hex}.png"
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / name, compress_level=1)
    return name


def _subject_count(references: dict[str, Tensor], places: int, linked: int | None) -> int:
    """Subjects of the layout, once every reference has its place and every place its reference."""
    count = len(references)
    for number in range(1, count + 1):
        if references.get(f"reference_{number}") is None:
            raise ValueError(
                f"reference_{number} is not connected, a later one is. Connect them without a gap."
            )
    if places > count:
        raise ValueError(
            f"layout: subject {places} has no picture. Connect reference_{count + 1}, or remove "
            "the subject from the layout."
        )
    if linked is not None and linked != count:
        raise ValueError(
            f"boxes: {linked} came for {count} references. There must be one for each reference."
        )
    return count
