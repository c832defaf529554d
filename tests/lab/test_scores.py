"""Scores of made pictures, by tiny encoders with random weights, against plain second
implementations."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import job_lines
import numpy as np
import pytest
import torch
from made_pictures import draw, line, save_lines, save_pictures
from PIL import Image
from tiny_encoders import save_encoders
from torch import Tensor
from transformers import (
    CLIPModel,
    CLIPTokenizer,
    Dinov2Model,
    Owlv2ForObjectDetection,
    Owlv2Processor,
    ViTModel,
)

from lab import ROOT
from lab.evaluation.detected import Detected, assign, shown_subjects
from lab.evaluation.encoders import Clip, Detector, Dino
from lab.evaluation.made import read_made
from lab.evaluation.paper import Paper, product
from lab.evaluation.report import report
from lab.evaluation.score_files import ScoreFiles, read_scores
from lab.evaluation.scoring import score

CLIP_VALUES = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_VALUES = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def paper(encoders: dict[str, Path]) -> Paper:
    return Paper(Clip(str(encoders["clip"]), "cpu"), Dino(str(encoders["dino"]), "cpu"))


@pytest.fixture(scope="module")
def detected(encoders: dict[str, Path]) -> Detected:
    dino = Dino(str(encoders["dinov2"]), "cpu", second=True)
    return Detected(Detector(str(encoders["owlv2"]), "cpu"), dino)


def pixels(picture: Image.Image, shorter: int, values: tuple[Any, Any]) -> Tensor:
    """[1, 3, 224, 224], prepared by Pillow and NumPy."""
    width, height = picture.size
    scale = shorter / min(width, height)
    size = (int(width * scale), int(height * scale))
    resized = picture.resize(size, Image.Resampling.BICUBIC)
    x, y = (round((edge - 224) / 2) for edge in size)
    array = np.asarray(resized.crop((x, y, x + 224, y + 224)), dtype=np.float64) / 255
    array = (array - np.array(values[0])) / np.array(values[1])
    return torch.tensor(array.transpose(2, 0, 1)[None], dtype=torch.float32)


def cosine(a: Tensor, b: Tensor) -> float:
    x, y = a.double().numpy().ravel(), b.double().numpy().ravel()
    return float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))


def dino_features(model: Any, picture: Image.Image) -> Tensor:
    with torch.no_grad():
        return model(pixels(picture, 256, IMAGENET_VALUES)).last_hidden_state[0, 0]


def test_the_paper_set(tmp_path: Path, encoders: dict[str, Path], paper: Paper) -> None:
    lines = save_lines(tmp_path, [line(1), line(2, ("cat", "dog", "cup"))])
    clip = CLIPModel.from_pretrained(encoders["clip"])
    dino = ViTModel.from_pretrained(encoders["dino"], add_pooling_layer=False)
    tokenizer = CLIPTokenizer.from_pretrained(encoders["clip"])
    for made in read_made(lines, save_pictures(tmp_path, lines)):
        found = paper.score(made)
        references = [Image.open(subject.reference) for subject in made.subjects]
        with torch.no_grad():
            text = clip.get_text_features(**tokenizer(made.prompt, return_tensors="pt"))
            seen, *own = (
                clip.get_image_features(pixels(picture, 224, CLIP_VALUES)).pooler_output
                for picture in (draw(made.number), *references)
            )
        dinos = [
            cosine(dino_features(dino, draw(made.number)), dino_features(dino, reference))
            for reference in references
        ]
        assert found["clip_t"] == pytest.approx([cosine(seen, text.pooler_output)], abs=1e-4)
        assert found["clip_i"] == pytest.approx([cosine(seen, each) for each in own], abs=1e-4)
        assert found["dino"] == pytest.approx(dinos, abs=1e-4)
        assert len(set(dinos)) == len(dinos)
        expected = 1.0
        for value in dinos:
            expected *= value if value > 0 else 0.0
        assert found["m_dino"] == pytest.approx([expected], abs=1e-4)


def test_two_that_are_unlike_make_nothing_alike() -> None:
    assert product([-0.5, -0.5]) == 0.0 and product([0.5, 0.5]) == 0.25


def found_by_hand(
    encoders: dict[str, Path], picture: Image.Image, phrases: list[str]
) -> list[tuple[list[float], float, str]]:
    """OWLv2's detections: corners, clipped to the picture, best first, none over another."""
    processor = Owlv2Processor.from_pretrained(encoders["owlv2"])
    model = Owlv2ForObjectDetection.from_pretrained(encoders["owlv2"])
    queries = [[f"a photo of a {phrase}" for phrase in phrases]]
    with torch.no_grad():
        out = model(**processor(text=queries, images=picture, return_tensors="pt"))
    found = []
    for logits, (cx, cy, w, h) in zip(out.logits[0], out.pred_boxes[0].tolist(), strict=True):
        best = int(logits.argmax())
        certainty = 1 / (1 + math.exp(-float(logits[best])))
        edge = max(picture.size)
        corners = [(cx - w / 2) * edge, (cy - h / 2) * edge, (cx + w / 2) * edge]
        corners.append((cy + h / 2) * edge)
        box = [min(max(v, 0.0), picture.size[i % 2]) for i, v in enumerate(corners)]
        if certainty > 0.1 and box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
            share = [v / picture.size[i % 2] for i, v in enumerate(box)]
            found.append((share, certainty, phrases[best]))
    kept: list[tuple[list[float], float, str]] = []
    for each in sorted(found, key=lambda row: -row[1]):
        if all(each[2] != other[2] or overlap(each[0], other[0]) <= 0.5 for other in kept):
            kept.append(each)
    return kept


def overlap(a: Any, b: Any) -> float:
    """IoU."""
    common = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(
        0.0, min(a[3], b[3]) - max(a[1], b[1])
    )
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return common / (areas - common)


def best_pairs(scores: list[list[float]], allowed: list[list[bool]]) -> list[int | None]:
    """As `assign`, by trying all."""
    columns = len(scores[0]) if scores else 0
    best: tuple[tuple[int, float], list[int | None]] = ((-1, 0.0), [None] * len(scores))
    for chosen in itertools.product((None, *range(columns)), repeat=len(scores)):
        used = [column for column in chosen if column is not None]
        if len(set(used)) < len(used):
            continue
        pairs = [(row, column) for row, column in enumerate(chosen) if column is not None]
        if all(allowed[row][column] for row, column in pairs):
            value = len(pairs), sum(scores[row][column] for row, column in pairs)
            best = max(best, (value, list(chosen)), key=lambda each: each[0])
    return best[1]


@pytest.mark.parametrize("phrases", [("cat", "dog"), ("cat", "cat")])
def test_the_detected_set(
    tmp_path: Path, encoders: dict[str, Path], detected: Detected, phrases: tuple[str, ...]
) -> None:
    lines = save_lines(tmp_path, [line(n, phrases) for n in (1, 2, 3)])
    dino = Dinov2Model.from_pretrained(encoders["dinov2"])
    for made in read_made(lines, save_pictures(tmp_path, lines)):
        scores = detected.score(made)
        picture = draw(made.number)
        found = found_by_hand(encoders, picture, list(dict.fromkeys(phrases)))
        assert found and scores["found_phrases"] == [phrase for _, _, phrase in found]
        assert np.allclose(scores["found_boxes"], [box for box, _, _ in found], atol=1e-4)
        assert scores["found_scores"] == pytest.approx([s for _, s, _ in found], abs=1e-4)
        crops = []
        for x0, y0, x1, y1 in scores["found_boxes"]:
            edges = [math.floor(x0 * 320), math.floor(y0 * 256)]
            edges += [math.ceil(x1 * 320), math.ceil(y1 * 256)]
            crops.append(dino_features(dino, picture.crop(edges)))
        references = [dino_features(dino, Image.open(s.reference)) for s in made.subjects]
        alike = [[cosine(reference, crop) for crop in crops] for reference in references]
        named = [[phrase == own for _, _, phrase in found] for own in phrases]
        own = best_pairs(alike, named)
        assert None not in own
        assert scores["missed"] == [0.0, 0.0]
        expected = [alike[j][n] for j, n in enumerate(own)]
        assert scores["dino"] == pytest.approx(expected, abs=1e-4)
        assert scores["m_dino"] == pytest.approx(
            [max(0, expected[0]) * max(0, expected[1])], abs=1e-4
        )
        overlaps = [[overlap(s.box, box) for box, _, _ in found] for s in made.subjects]
        assert scores["iou"] == pytest.approx([overlaps[j][n] for j, n in enumerate(own)], abs=1e-4)
        in_slots = best_pairs(overlaps, [[value > 0 for value in row] for row in overlaps])
        straight = alike[0][in_slots[0]] + alike[1][in_slots[1]]
        crossed = alike[0][in_slots[1]] + alike[1][in_slots[0]]
        assert scores["shown"] == ([1, 2] if straight > crossed else [2, 1])
        assert scores["confused"] == [float(crossed > straight)] * 2


def test_nothing_found_is_zero_and_missed(
    tmp_path: Path, encoders: dict[str, Path], detected: Detected
) -> None:
    """A detector that is sure of nothing: the same one, with its logits far below."""
    model = Owlv2ForObjectDetection.from_pretrained(encoders["owlv2"])
    with torch.no_grad():
        model.class_head.logit_shift.weight.zero_()
        model.class_head.logit_shift.bias.fill_(-1e3)
        model.class_head.logit_scale.weight.zero_()
        model.class_head.logit_scale.bias.zero_()
    model.save_pretrained(tmp_path / "blind")
    Owlv2Processor.from_pretrained(encoders["owlv2"]).save_pretrained(tmp_path / "blind")
    blind = Detected(Detector(str(tmp_path / "blind"), "cpu"), detected.dino)
    lines = save_lines(tmp_path, [line(1)])
    (made,) = read_made(lines, save_pictures(tmp_path, lines))
    scores = blind.score(made)
    assert scores["dino"] == scores["iou"] == [0.0, 0.0] and scores["m_dino"] == [0.0]
    assert scores["missed"] == [1.0, 1.0] and scores["shown"] == [0, 0]
    assert all(map(math.isnan, scores["confused"])) and scores["found_boxes"] == []


def test_assignments() -> None:
    g = torch.Generator().manual_seed(0)
    for rows, columns in ((2, 3), (3, 2), (3, 4), (1, 1)):
        for _ in range(20):
            scores = torch.randn(rows, columns, generator=g)
            allowed = torch.rand(rows, columns, generator=g) > 0.4
            assert assign(scores, allowed) == best_pairs(scores.tolist(), allowed.tolist())
    assert assign(torch.zeros(2, 0), torch.zeros(2, 0)) == [None, None]


def test_what_slots_show() -> None:
    overlaps = torch.tensor([[0.8, 0.0, 0.1], [0.1, 0.7, 0.0]])
    own = torch.tensor([[0.9, 0.2, 0.0], [0.3, 0.8, 0.0]])  # of references and crops
    assert shown_subjects(own, overlaps) == [1, 2]
    assert shown_subjects(own.flip(0), overlaps) == [2, 1]
    # Both crops look like the first subject: the one that does so more is it.
    assert shown_subjects(torch.tensor([[0.7, 0.9, 0.0], [0.1, 0.5, 0.0]]), overlaps) == [1, 2]
    assert shown_subjects(own, overlaps * torch.tensor([[1.0], [0.0]])) == [1, 0]


def test_slots_of_the_same_box_are_not_judged(tmp_path: Path, detected: Detected) -> None:
    given = line(1, ("cat", "dog", "cup"))
    given["subjects"][1]["box"] = given["subjects"][0]["box"]
    lines = save_lines(tmp_path, [given])
    (made,) = read_made(lines, save_pictures(tmp_path, lines))
    scores = detected.score(made)
    assert scores["shown"][:2] == [0, 0] and scores["shown"][2] > 0
    assert [math.isnan(value) for value in scores["confused"]] == [True, True, False]


def options(folder: Path, encoders: dict[str, Path], **changed: Any) -> Namespace:
    given = {
        "lines": folder / "lines.jsonl",
        "pictures": folder / "pictures",
        "out": folder / "scores",
        "sets": ("paper", "detected"),
        "device": "cpu",
        "dry_run": False,
        **{name: str(path) for name, path in encoders.items()},
    }
    return Namespace(**{**given, **changed})


def test_the_command_scores_what_is_missing(
    tmp_path: Path, encoders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = save_lines(tmp_path, [line(n) for n in range(1, 5)])
    save_pictures(tmp_path, lines, without=(3,))
    given = options(tmp_path, encoders)
    assert score(options(tmp_path, encoders, dry_run=True))
    assert not given.out.exists()
    assert "paper: 4 lines, 0 are scored, 1 have no picture, 3 to score." in capsys.readouterr().out
    assert not score(given)
    assert "line 3 (cat+dog) has no scores: It has no picture." in capsys.readouterr().out
    before = {name: read_scores(given.out / name) for name in given.sets}
    for made_by, rows in before.values():
        assert made_by["version"] == "1" and [*rows] == [1, 2, 3, 4]
        assert rows[3]["dino"] is None and len(rows[4]["dino"]) == 2
    save_pictures(tmp_path, lines)
    assert score(given)
    assert "paper: 4 lines, 3 are scored, 0 have no picture, 1 to score." in capsys.readouterr().out
    for name, (made_by, rows) in before.items():
        now_by, now = read_scores(given.out / name)
        assert now_by == made_by and now[3]["error"] is None
        assert all(str(now[number]) == str(rows[number]) for number in (1, 2, 4))  # NaN as text


def test_a_stopped_run_goes_on(tmp_path: Path, encoders: dict[str, Path]) -> None:
    """Stopped while it waits for the second picture, a pipe that nobody writes to."""
    lines = save_lines(tmp_path, [line(n) for n in (1, 2, 3)])
    second = save_pictures(tmp_path, lines) / "00" / f"{2:016}.png"
    picture = second.read_bytes()
    second.unlink()
    os.mkfifo(second)
    given = options(tmp_path, encoders, sets=("paper",))
    command = [sys.executable, "-m", "lab.evaluation", "score", str(lines), "--sets", "paper"]
    for name in ("pictures", "out", "clip", "dino"):
        command += [f"--{name}", str(getattr(given, name))]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline().startswith("paper: 3 lines, 0 are scored")
    assert process.stdout.readline().startswith("1 of 3: 0 failed")
    process.send_signal(signal.SIGINT)
    while process.poll() is None:  # a signal that came just before the wait doesn't end it
        with suppress(OSError):  # nobody waits
            os.close(os.open(second, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.01)
    _, said = process.communicate()
    assert (process.returncode, said) == (1, "Stopped. The same command goes on.\n")
    _, rows = read_scores(given.out / "paper")
    assert [*rows] == [1]
    second.unlink()
    second.write_bytes(picture)
    assert score(given)
    _, after = read_scores(given.out / "paper")
    assert [*after] == [1, 2, 3] and after[1] == rows[1]


def test_a_model_that_fails_leaves_no_score(
    tmp_path: Path, encoders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A prompt too long for CLIP, a picture that can't be read, weights that aren't numbers."""
    lines = save_lines(tmp_path, [line(1), line(2, prompt="a cat " * 80), line(3)])
    pictures = save_pictures(tmp_path, lines)
    (pictures / "00" / f"{3:016}.png").write_bytes(b"no picture")
    assert not score(options(tmp_path, encoders, sets=("paper",)))
    _, rows = read_scores(tmp_path / "scores" / "paper")
    assert rows[1]["error"] is None and rows[1]["dino"]
    assert "has 162 tokens, of 77 at most." in rows[2]["error"]
    assert "cannot identify image file" in rows[3]["error"]
    assert rows[2]["clip_t"] is None and rows[3]["clip_t"] is None
    broken = ViTModel.from_pretrained(encoders["dino"], add_pooling_layer=False)
    with torch.no_grad():
        broken.layernorm.weight.fill_(math.nan)
    broken.save_pretrained(tmp_path / "broken")
    changed = {"sets": ("paper",), "dino": str(tmp_path / "broken"), "out": tmp_path / "other"}
    assert not score(options(tmp_path, encoders, **changed))
    assert "An encoder gave values that aren't finite" in capsys.readouterr().out
    _, rows = read_scores(tmp_path / "other" / "paper")
    assert all(row["dino"] is None for row in rows.values())


def test_scores_of_another_version_are_refused(tmp_path: Path, encoders: dict[str, Path]) -> None:
    lines = save_lines(tmp_path, [line(1)])
    save_pictures(tmp_path, lines)
    assert score(options(tmp_path, encoders, sets=("paper",)))
    lines.write_text(f"{lines.read_text()}\n")
    with pytest.raises(ValueError, match=r"has scores of another version: lines was .*, is"):
        score(options(tmp_path, encoders, sets=("paper",)))
    with pytest.raises(ValueError, match=r"lost isn't a folder of scores of lab.evaluation"):
        (tmp_path / "lost").mkdir()
        ScoreFiles(tmp_path / "lost", "paper", {})
    (tmp_path / "lost" / "000000.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"000000.parquet isn't a file of scores"):
        read_scores(tmp_path / "lost")


def test_lines_that_cannot_be_scored(tmp_path: Path) -> None:
    lines = save_lines(tmp_path, [line(1)])
    pictures = save_pictures(tmp_path, lines)
    mistakes = {
        "unknown field 'promt'": {"promt": ""},
        "subject 1: box must be x0, y0, x1, y1 within 0..1": {
            "subjects": [{"phrase": "cat", "box": [0, 0, 2, 1], "reference": "cat_0.png"}]
        },
    }
    for said, changed in mistakes.items():
        lines.write_text(json.dumps({**line(1), **changed}))
        with pytest.raises(ValueError, match=said) as caught:
            read_made(lines, pictures)
        assert str(caught.value).startswith("lines.jsonl, line 1: ")
    lines.write_text(json.dumps(line(1)))
    with pytest.raises(ValueError, match=r"isn't a folder of pictures of lab.jobs"):
        read_made(lines, tmp_path)
    for content in ("{}", "[]", '{"id": "1", "line": {}, "files": null}'):
        (pictures / "00" / "other.json").write_text(content)
        with pytest.raises(ValueError, match=r"00/other.json isn't a manifest of lab.jobs"):
            read_made(lines, pictures)
    (pictures / "00" / "other.json").unlink()
    draw(5).save(tmp_path / "cat_0.png")
    with pytest.raises(ValueError, match=r"cat_0.png isn't the file that picture 0+1 was made"):
        read_made(lines, pictures)
    (tmp_path / "cat_0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"line 1: the picture .*cat_0.png doesn't exist"):
        read_made(lines, pictures)


@pytest.mark.parametrize(
    ("said", "changed"),
    [
        (
            "subject 1 has no phrase to look for",
            {"subjects": [{"box": [0, 0, 1, 1], "reference": "cat_0.png"}]},
        ),
        ("a line needs prompt and subjects to be scored by", {"prompt": ""}),
    ],
)
def test_lines_without_what_a_set_needs(
    tmp_path: Path, encoders: dict[str, Path], said: str, changed: dict[str, Any]
) -> None:
    save_pictures(tmp_path, save_lines(tmp_path, [{**line(1), **changed}]))
    for name in ("paper", "detected"):
        with pytest.raises(ValueError, match=f"^lines.jsonl, line 1: {said}"):
            score(options(tmp_path, encoders, sets=(name,)))
    assert not (tmp_path / "scores").exists()


def test_a_line_with_two_pictures_is_refused(tmp_path: Path) -> None:
    """Of two workflows, say."""
    lines = save_lines(tmp_path, [line(1)])
    pictures = save_pictures(tmp_path, lines)
    manifest = json.loads((pictures / "00" / f"{1:016}.json").read_text())
    (pictures / "00" / f"{2:016}.json").write_text(json.dumps({**manifest, "id": f"{2:016}"}))
    with pytest.raises(ValueError, match=r"has several pictures of it, 0+1 and 0+2. Use a folder"):
        read_made(lines, pictures)


def test_encoders_that_are_none(tmp_path: Path, encoders: dict[str, Path]) -> None:
    lost = "--clip: some/lost is neither a folder with a whole model of transformers nor in"
    with pytest.raises(FileNotFoundError, match=lost):
        Clip("some/lost", "cpu")
    with pytest.raises(ValueError, match=r"--dino: .* is a dinov2; expected a vit"):
        Dino(str(encoders["dinov2"]), "cpu")
    small = ViTModel.from_pretrained(encoders["dino"], add_pooling_layer=False).config
    small.image_size = 64
    ViTModel(small, add_pooling_layer=False).save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match=r"--dino: .*small is for 64 pixels; expected 224"):
        Dino(str(tmp_path / "small"), "cpu")
    model = ViTModel.from_pretrained(encoders["dino"], add_pooling_layer=False)
    weights = {k: v for k, v in model.state_dict().items() if "layernorm" not in k}
    model.save_pretrained(tmp_path / "partial", state_dict=weights)
    with pytest.raises(ValueError, match=r"partial lacks \d+ weights, .*layernorm.* among them"):
        Dino(str(tmp_path / "partial"), "cpu")
    (tmp_path / "partial" / "model.safetensors").write_bytes(b"no weights" * 10)
    with pytest.raises(ValueError, match=r"--dino: .*partial can't be read: "):
        Dino(str(tmp_path / "partial"), "cpu")
    CLIPModel.from_pretrained(encoders["clip"]).save_pretrained(tmp_path / "mute")
    with pytest.raises(
        ValueError, match=r"--clip: the tokenizer of .*mute has \d+ tokens; its mod"
    ):
        Clip(str(tmp_path / "mute"), "cpu")


def test_a_model_may_be_named_by_its_file(encoders: dict[str, Path]) -> None:
    by_file = Dino(str(encoders["dino"] / "model.safetensors"), "cpu")
    assert by_file.hash == Dino(str(encoders["dino"]), "cpu").hash


def test_pictures_of_the_real_host(tmp_path: Path, encoders: dict[str, Path]) -> None:
    """From job lines to the page, with pictures that lab.jobs makes."""
    lines = [job_lines.line(seed, name="star+heart") for seed in (1, 2)]
    command = job_lines.save_lines(tmp_path, lines)
    job_lines.finish(job_lines.start(command, tmp_path / "pictures"))
    out = tmp_path / "scores" / "msbench"
    assert score(options(tmp_path, encoders, lines=tmp_path / "jobs.jsonl", out=out))
    made_by, rows = read_scores(out / "detected")
    assert {"comfyui", "pack", "owlv2", "dinov2"} <= made_by.keys()
    assert [row["phrases"] for row in rows.values()] == [["star", "heart"]] * 2
    report(tmp_path / "scores", None, tmp_path)
    assert (tmp_path / "published.md").read_text().count("| two subjects | 2 | ") == 2
