"""DreamBench, the set of one subject that MS-Diffusion's paper reports too, from a checkout of the
DreamBooth authors' repository.

Each subject has 25 prompts, and each prompt 4 pictures: 3000, as DreamBooth's paper has them. The
method needs no token for the subject, so prompts go without. Where nothing is published, a
subject's reference is its first photo by name, its box that of one subject in MS-Diffusion's own
example, and the sample's number is its seed.
"""

import re
from pathlib import Path

from lab.evaluation.samples import Sample

TABLE = "dataset/prompts_and_classes.txt"
LIVE = ("cat", "dog")  # classes of the 9 live subjects, which have prompts of their own
BOX = [0.25, 0.25, 0.75, 0.75]
SUBJECTS, PROMPTS, PICTURES = 30, 25, 4  # pictures a prompt
PROMPT = re.compile(r"^'(.*)'\.format\(unique_token, class_token\),?$", re.M)


def read_samples(checkout: Path) -> list[Sample]:
    """All samples, in the table's order of subjects.

    Raises:
        FileNotFoundError: it isn't such a checkout, or a subject has no photos.
        ValueError: it has other numbers than published.
    """
    path = checkout / TABLE
    if not path.is_file():
        raise FileNotFoundError(
            f"{checkout} isn't a checkout of DreamBooth's data: it has no {TABLE}."
        )
    classes, _, prompts = path.read_text(encoding="utf-8").partition("Object Prompts")
    subjects = dict(re.findall(r"^(\w+),([\w ]+)$", classes, re.M))
    subjects.pop("subject_name", None)  # the heading
    of_objects, of_live = (PROMPT.findall(text) for text in prompts.partition("Live Subject")[::2])
    found = len(subjects), len(of_objects), len(of_live)
    if found != (SUBJECTS, PROMPTS, PROMPTS):
        raise ValueError(
            f"{path} has {found[0]} subjects, and {found[1]} and {found[2]} prompts; DreamBench "
            f"has {SUBJECTS}, and {PROMPTS} and {PROMPTS}."
        )
    samples = []
    for name, phrase in subjects.items():
        photos = sorted((path.parent / name).glob("*.jpg"))
        if not photos:
            raise FileNotFoundError(f"{path.parent} has no photos of {name}.")
        for template in of_live if phrase in LIVE else of_objects:
            prompt = template.replace("{0} {1}", phrase)
            samples += [Sample(name, (photos[0],), (phrase,), (BOX,), prompt)] * PICTURES
    return samples
