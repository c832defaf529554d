"""The micro world's evaluation: job lines of held-out scenes, for the workflow microworld.json."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.evaluation.cases import (
    CASES,
    MANY,
    OF_FLUX,
    PROMPT,
    Case,
    HeldOut,
    draw_held_out,
    drawn_cases,
    line_name,
    shifted,
)
from lab.evaluation.samples import Line
from lab.host.workflows import CFG, NEGATIVE, STEPS
from lab.microworld.scenes import SHAPES, caption, to_pil

WORKFLOW = Path(__file__).with_name("microworld.json")
SCENES = "scenes"  # folder beside the lines


def choose_cases(models: Path, names: Sequence[str] | None, count: int | None) -> list[Case]:
    """The cases that can be sampled, each after what is drawn of its scenes.

    Args:
        models: folder of the family, laid out as the host's models folder.
        names: of CASES; None for all. Of these all adapters must be there.
        count: of the scenes of each; None for as many as the case has.
    Raises:
        FileNotFoundError: an adapter isn't there, or none.
        ValueError: there is no such case, or not so many scenes.
    """
    if count is not None and not 1 <= count <= MANY:
        raise ValueError(f"--count: expected 1 to {MANY}, got {count}.")
    known = [case.name for case in CASES]
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"--only: there is no case {unknown[0]!r}; there are {'; '.join(known)}.")
    there = {path.name for path in models.glob("*/*")}
    chosen = [case for case in CASES if (case.name in names if names else case.adapter in there)]
    for case in chosen:
        if case.adapter not in there:
            raise FileNotFoundError(
                f"--models: {case.name}: no folder of {models} has {case.adapter}."
            )
    if not chosen:
        raise FileNotFoundError(
            f"--models: no folder of {models} has an adapter of the micro family."
        )
    chosen = [replace(case, count=count or case.count) for case in chosen]
    cases, drawn = [], set()
    for case in chosen:
        if case.scenes not in drawn:
            drawn.add(case.scenes)
            most = max(c.count for c in chosen if c.scenes == case.scenes)
            cases += drawn_cases(case.scenes, most)
        cases.append(case)
    return cases


def case_lines(case: Case) -> Iterator[Line]:
    """A job line for each scene; its pictures are those of `save_scenes`."""
    held_out = draw_held_out(case.scenes)
    for i in range(case.count):
        more = _sampled(case, held_out, i) if case.sampled else {"inputs": _scene(case, i)}
        yield {"name": line_name(case, i), **more}


def save_scenes(cases: Sequence[Case], folder: Path) -> None:
    """Write the scenes and references of cases beside their lines."""
    (folder / SCENES).mkdir(parents=True, exist_ok=True)
    for name in {case.scenes for case in cases}:
        held_out = draw_held_out(name)
        for i in range(max(case.count for case in cases if case.scenes == name)):
            to_pil(held_out.scenes.picture[i]).save(folder / _file(name, i))
            for j in range(held_out.subjects):
                to_pil(held_out.references[i, j]).save(folder / _file(name, i, j))


def _file(scenes: str, i: int, subject: int | None = None) -> str:
    """The name of a scene's picture, or of a subject's reference."""
    return f"{SCENES}/{scenes}_{i:03}{'' if subject is None else f'_{subject + 1}'}.png"


def _scene(case: Case, i: int) -> dict[str, dict[str, Any]]:
    return {**case.inputs, "Scene": {"image": _file(case.scenes, i)}}


def _sampled(case: Case, held_out: HeldOut, i: int) -> dict[str, Any]:
    scenes, n, of_flux = held_out.scenes, held_out.subjects, case.scenes == OF_FLUX
    height, width = scenes.picture.shape[-2:]
    boxes = scenes.boxes[i, :n]
    if case.shift:
        boxes = shifted(boxes, case.shift, i)
    text = caption(scenes.looks[i], scenes.boxes[i], int(scenes.background[i]), case.full_caption)
    prompt = text if of_flux else f"a photo of {text}"
    names = [SHAPES[int(shape)] for shape in scenes.looks.shape[i, :n]]
    subjects = [
        {
            "phrase": f"a {name}" if of_flux else name,
            "box": box,
            "weight": case.weight if of_flux else 1.0,
            "reference": _file(case.scenes, i, j),
        }
        for j, (name, box) in enumerate(zip(names, boxes.tolist(), strict=True))
    ]
    inputs = {
        title: {name: prompt if value == PROMPT else value for name, value in values.items()}
        for title, values in case.inputs.items()
    }
    return {
        "prompt": prompt,
        "negative": "" if of_flux else NEGATIVE,
        "width": width,
        "height": height,
        "seed": i,
        "steps": STEPS,
        "cfg": CFG,
        "weight": 1.0 if of_flux else case.weight,
        "subjects": subjects,
        "inputs": {"MSD Load Adapter": {"adapter": case.adapter}, **inputs},
    }
