"""MSDLayout: references, phrases, boxes and regions of all subjects become one wire."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...msd_core.coverage import mask_box, polygon_mask
from ..node_text import SHOWS_OUTPUT, show_warnings
from ..subjects import MAX_SUBJECTS, MSDSubjects, Subject, Subjects
from .boxes import NO_BOX, SubjectSpec, parse_boxes, parse_layout, pixel_box
from .copies import save_reference, save_region
from .preview import draw_collage, draw_layout
from .references import (
    inversion_warnings,
    read_reference_masks,
    read_references,
    read_region,
    region_warnings,
)

LAYOUT_PROPERTY = "msd_layout"  # as web/js/node/layout_node.mjs names it
_DETERMINERS = {
    *("a", "an", "the", "this", "that", "these", "those", "some", "several", "many"),
    *("my", "your", "his", "her", "its", "our", "their"),
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
}


@io.comfytype(io_type="MSD_LAYOUT")
class LayoutValue(io.ComfyTypeIO):
    """Value of the layout widget; `parse_layout` describes it."""

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
    names = [f"{name}_{number}" for number in range(1, MAX_SUBJECTS + 1)]
    return io.Autogrow.TemplateNames(input, names=names, min=min)


class MSDLayout(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDLayout",
            display_name="MSD Layout",
            category="MS-Diffusion",
            description="Choose the subjects of the picture, and where each goes.",
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
                            optional=True,  # a run may lack a muted one, be it the first
                            tooltip="Reference of one subject; a batch is several of them. "
                            "Transparent parts count as background.",
                        ),
                        min=1,
                    ),
                    tooltip="One reference for each subject, in the order of the layout. A batch "
                    "on one socket is several references of the same subject. Transparent parts "
                    "count as background, where no mask is connected.",
                ),
                io.Autogrow.Input(
                    "reference_masks",
                    optional=True,
                    template=_numbered(
                        "reference_mask",
                        io.Mask.Input(
                            "reference_mask",
                            optional=True,
                            tooltip="White where the subject is in its reference.",
                        ),
                    ),
                    tooltip="White where the subject is in its reference. Removes the background, "
                    "which suits the method best.",
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
                    display_name="subjects",
                    tooltip="The subjects, for MSD Encode References, or for MSD Reference Latents "
                    "and MSD Place References.",
                ),
                io.Mask.Output(
                    display_name="masks", tooltip="Where each subject goes, one mask for each."
                ),
                io.BoundingBox.Output(
                    display_name="boxes", tooltip="The box of each subject, in pixels."
                ),
                io.Image.Output(
                    display_name="preview", tooltip="The layout, numbered and coloured."
                ),
                io.Image.Output(
                    display_name="collage",
                    tooltip="Each reference in its box on grey, in the layout's size: a reference "
                    "for edit models, or where image to image starts.",
                ),
                io.Mask.Output(
                    display_name="collage_mask", tooltip="White where the collage shows a subject."
                ),
                io.Int.Output(
                    display_name="width", tooltip="Width of the picture, for its latent."
                ),
                io.Int.Output(
                    display_name="height", tooltip="Height of the picture, for its latent."
                ),
                io.String.Output(
                    display_name="phrases",
                    tooltip='The subjects in words, as "a cat and a cup", for a prompt.',
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
        """Without a layout the saved copy counts, which is no input: then always run again."""
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
        unique_id = cls.hidden.unique_id if cls.hidden else None
        if layout is None and cls.hidden:
            layout = _saved_layout(cls.hidden.extra_pnginfo, unique_id)
        specs = parse_layout(layout)
        linked = None if boxes is None else parse_boxes(boxes, width, height)
        references = {
            name: image for name, image in (references or {}).items() if image is not None
        }
        count = _subject_count(references, specs, None if linked is None else len(linked))
        warnings = [
            f"Subject {number} has no reference and is left out. Connect reference_{number}, or "
            "remove the subject from the layout."
            for number, spec in enumerate(specs, 1)
            if f"reference_{number}" not in references and not spec.off
        ]
        specs = _merge(specs, linked, count, {**references, **(regions or {})})
        everyone: list[Subject | None] = []  # None: off, or without its reference
        inverted: list[int] = []  # numbers of subjects whose connected mask looks so
        for number, spec in enumerate(specs, 1):
            if spec.off or f"reference_{number}" not in references:
                everyone.append(None)
                continue
            subject, found = _read_subject(
                number, spec, (width, height), references, reference_masks, regions
            )
            everyone.append(subject)
            warnings += found + region_warnings(subject.region, number)
            if found and (reference_masks or {}).get(f"reference_mask_{number}") is not None:
                inverted.append(number)
        subjects = [subject for subject in everyone if subject is not None]
        fronts = [spec.front for spec, subject in zip(specs, everyone, strict=True) if subject]
        if not subjects:
            raise ValueError("layout: every subject is off. Switch one on.")
        show_warnings("MSD Layout", unique_id, warnings)
        laid_out = Subjects(tuple(subjects), size=(width, height))
        picture, shown_at = draw_collage(subjects, fronts, width, height)
        shown = {
            "boxes": [(subject or spec).box for subject, spec in zip(everyone, specs, strict=True)],
            "linked": linked is not None,
            "size": [width, height],
            "inverted": inverted,
        }
        return io.NodeOutput(
            laid_out,
            laid_out.coverage(height, width).view(-1, height, width).float(),
            [[pixel_box(subject.box, width, height) for subject in subjects]],
            draw_layout(subjects, fronts, width, height),
            picture[None],
            shown_at[None],
            width,
            height,
            _in_words(subject.phrase for subject in subjects),
            # For the editor, which can't see references and regions that are processed on their
            # way, nor boxes and sizes of another node. As text: the host takes dictionaries for
            # output files of the job.
            ui={
                "msd_references": [save_reference(one) if one else "" for one in everyone],
                "msd_regions": [
                    save_region(one.region) if one and one.region is not None else ""
                    for one in everyone
                ],
                "msd_layout": [json.dumps(shown)],
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


def _read_subject(
    number: int,
    spec: SubjectSpec,
    size: tuple[int, int],
    references: dict[str, Tensor],
    reference_masks: dict[str, Tensor] | None,
    regions: dict[str, Tensor] | None,
) -> tuple[Subject, list[str]]:
    """A subject with what its sockets give, and what the node should say of it."""
    socket = f"reference_{number}"
    images, alpha = read_references(references[socket], socket)
    mask = (reference_masks or {}).get(f"reference_mask_{number}")
    masks = read_reference_masks(mask, alpha, images, number)
    region = read_region((regions or {}).get(f"region_{number}"), f"region_{number}")
    box = spec.box if region is None else mask_box(region)
    if region is None and spec.polygon:
        width, height = size
        region = polygon_mask(spec.polygon, height, width)
        if region.max() < 1 / 255:
            raise ValueError(f"layout, subject {number}: polygon has no area.")
    subject = Subject(
        phrase=(spec.phrase or "").strip(),
        box=box,
        weight=spec.weight,
        references=images,
        reference_masks=masks,
        region=region,
    )
    return subject, inversion_warnings(masks, number, connected=mask is not None)


def _in_words(phrases: Iterable[str]) -> str:
    """Phrases as a prompt lists them: "a cat, an apple and a cup"."""
    *first, last = [_with_article(phrase) for phrase in phrases if phrase] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _with_article(phrase: str) -> str:
    """An English noun with its article; names, plurals, other languages and what has a determiner
    of its own stay as they are."""
    first, *_ = words = phrase.split()
    plural = words[-1].endswith("s") and not words[-1].endswith(("ss", "us", "is"))
    if plural or first.lower() in _DETERMINERS or not re.match("[a-z]", first):
        return phrase
    return f"{'an' if re.match('(?!eu|uni|use)[aeiou]', first) else 'a'} {phrase}"


def _subject_count(
    references: dict[str, Tensor], specs: Sequence[SubjectSpec], linked: int | None
) -> int:
    """How many subjects there are up to the last one with a reference, once references, layout and
    linked boxes agree."""
    if not references:
        raise ValueError("reference_1: no reference is connected. Connect a picture.")
    count = max(int(name.removeprefix("reference_")) for name in references)
    # The layout's last ones may have a box and no reference.
    if linked is not None and linked != count and not count < linked == len(specs):
        raise ValueError(f"boxes: got {linked} for {count} references. There must be one for each.")
    return count


def _merge(
    specs: Sequence[SubjectSpec],
    linked: Sequence[SubjectSpec] | None,
    count: int,
    given: dict[str, Tensor],
) -> list[SubjectSpec]:
    """What is known of each subject: from the layout, with linked boxes in place of its own.

    Args:
        given: references and regions by the names of their sockets.
    """
    merged = []
    for index in range(count):
        spec = specs[index] if index < len(specs) else None
        if linked is not None:
            own, box = spec or linked[index], linked[index]
            spec = replace(own, box=box.box, polygon=(), phrase=own.phrase or box.phrase)
        elif spec is None:
            number = index + 1
            if f"reference_{number}" in given and given.get(f"region_{number}") is None:
                raise ValueError(
                    f"layout: subject {number} has a reference, but nothing says where it goes. "
                    f"Give it a box in the layout, or connect boxes or region_{number}."
                )
            spec = SubjectSpec(None, NO_BOX)
        merged.append(spec)
    return merged
