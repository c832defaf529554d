"""DreamBench's samples, from a folder laid out as DreamBooth's repository."""

import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from lab.evaluation.dreambench import TABLE, read_samples

SUBJECTS = {
    **{f"thing_{number}": "stuffed animal" for number in range(21)},
    **{f"dog{number}": "dog" for number in range(7)},
    **{f"cat{number}": "cat" for number in range(2)},
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A table and photos of our own, in the form of theirs."""
    path = tmp_path / TABLE
    for name in SUBJECTS:
        (path.parent / name).mkdir(parents=True)
        for number in ("02", "01"):
            Image.new("RGB", (8, 8)).save(path.parent / name / f"{number}.jpg")
    classes = "\n".join(f"{name},{phrase}" for name, phrase in SUBJECTS.items())
    lists = [
        "\n".join(
            f"'a {{0}} {{1}} in place {kind}{number}'.format(unique_token, class_token),"
            for number in range(25)
        )
        for kind in ("o", "l")
    ]
    path.write_text(
        f"Classes\n\nsubject_name,class\n{classes}\n\nPrompts\n\nObject Prompts\n\n"
        f"prompt_list = [\n{lists[0]}\n]\n\n"
        f"Live Subject Prompts\n\nprompt_list = [\n{lists[1]}\n]\n"
    )
    return tmp_path


def test_the_published_numbers(checkout: Path) -> None:
    samples = read_samples(checkout)
    assert len(samples) == 3000
    assert set(Counter((s.kind, s.prompt) for s in samples).values()) == {4}
    assert {sample.kind: sample.phrases[0] for sample in samples} == SUBJECTS
    first, last = samples[0], samples[-1]
    assert first.prompt == "a stuffed animal in place o0" and last.prompt == "a cat in place l24"
    assert first.combination == "thing_0/01" and first.photos[0].is_file()
    assert first.boxes == ([0.25, 0.25, 0.75, 0.75],)


@pytest.mark.skipif("DREAMBENCH" not in os.environ, reason="DREAMBENCH names no checkout")
def test_the_real_checkout() -> None:
    samples = read_samples(Path(os.environ["DREAMBENCH"]))
    assert len(samples) == 3000 and len({sample.kind for sample in samples}) == 30
    live = {sample.kind for sample in samples if sample.prompt.endswith("wearing a red hat")}
    assert len(live) == 9 and samples[0].prompt == "a backpack in the jungle"


def test_another_folder_is_refused(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="isn't a checkout of DreamBooth's data"):
        read_samples(tmp_path / "lost")
    for photo in (checkout / TABLE).parent.glob("dog3/*"):
        photo.unlink()
    with pytest.raises(FileNotFoundError, match="has no photos of dog3"):
        read_samples(checkout)
    table = (checkout / TABLE).read_text()
    (checkout / TABLE).write_text(table.replace("dog3,dog\n", ""))
    with pytest.raises(ValueError, match="has 29 subjects, and 25 and 25 prompts; DreamBench has"):
        read_samples(checkout)
