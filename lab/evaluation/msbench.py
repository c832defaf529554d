"""MS-Bench, the evaluation of MS-Diffusion's paper, from a checkout of the research repository,
which has its photos and tables but not the code that combines them.

The combinations are all unordered ones within a class, and all of one photo each across classes;
this gives the published numbers. Where nothing is published, each sample has one picture, the
sample's number is its seed, and size, weight, steps and guidance are as in the workflow.
"""

import ast
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

from lab.evaluation.samples import Sample

TABLES = "msdiffusion/dataset/prompts/msbench.py"
PHOTOS = "msbench"
COMBINATIONS, SAMPLES = 1148, 4488  # as published, in the research repository's README


def read_samples(checkout: Path) -> list[Sample]:
    """All samples, in the tables' order of types and the photos' order of names.

    Raises:
        FileNotFoundError: it isn't such a checkout.
        ValueError: its tables can't be read, or it has other numbers than published.
    """
    path = checkout / TABLES
    if not path.is_file() or not (checkout / PHOTOS).is_dir():
        raise FileNotFoundError(
            f"{checkout} isn't a checkout of MS-Diffusion's research repository: it must have "
            f"{TABLES} and {PHOTOS}."
        )
    tables = _read_tables(path)
    try:
        samples = _combine(tables, checkout / PHOTOS)
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path} has no {error.args[0]!r}.") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} has other tables than MS-Bench's: {error}.") from None
    found = len({sample.combination for sample in samples}), len(samples)
    if found != (COMBINATIONS, SAMPLES):
        raise ValueError(
            f"{checkout} gives {found[0]} combinations and {found[1]} samples; MS-Bench has "
            f"{COMBINATIONS} and {SAMPLES}."
        )
    return samples


def _combine(tables: dict[str, Any], photos: Path) -> list[Sample]:
    """The samples of all types."""
    samples = []
    kinds = (*tables["two_subject_combinations"], *tables["three_subject_combinations"])
    for kind in kinds:
        drawn = [
            itertools.combinations(sorted((photos / name).iterdir()), count)
            for name, count in Counter(kind.split("_")).items()
        ]
        for groups in itertools.product(*drawn):
            chosen = tuple(itertools.chain(*groups))
            phrases = tuple(tables["data_class_dict"][photo.stem] for photo in chosen)
            boxes = tuple(tables["subject_combination_boxes"][kind])
            samples += [
                Sample(kind, chosen, phrases, boxes, template.format(*phrases))
                for template in tables["subject_combination_prompts"][kind]
            ]
    return samples


def _read_tables(path: Path) -> dict[str, Any]:
    """The values that a module assigns to names, without running it."""
    tables: dict[str, Any] = {}
    try:
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                tables[statement.targets[0].id] = _value(statement.value, tables)
    except (SyntaxError, ValueError, KeyError) as error:
        raise ValueError(f"{path} can't be read: {error}") from None
    return tables


def _value(node: ast.expr, tables: dict[str, Any]) -> Any:
    """A literal, which may name tables before it."""
    if isinstance(node, ast.Name):
        return tables[node.id]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {ast.literal_eval(key): _value(v, tables) for key, v in pairs if key is not None}
    return ast.literal_eval(node)
