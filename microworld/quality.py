"""How good the family is: held-out scenes sampled in the real host through the product's nodes,
scored by the judge, written as a table with 95 % bootstrap intervals to docs/quality.md.

    python -m microworld.quality sample [--only NAME ...]   pictures to the work folder, resumable
    python -m microworld.quality report                     scores them, writes docs/
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from microworld.evaluation import CASES, Evaluation, draw_evaluation, sample
from microworld.host import GUIDANCE, STEPS, Sampler, load_host
from microworld.scoring import Scores, difference, load_judge, mean_and_interval, score, share

ROOT = Path(__file__).parents[1]
MODELS, DOCS = ROOT / "microworld" / "models", ROOT / "docs"

COLUMNS = {
    "iou": "IoU",
    "miss": "missed",
    "outside": "outside",
    "shape": "shape",
    "texture": "texture",
    "colour": "colour",
    "confused_colour": "confused, by mean colour",
    "confused": "confused, by the judge",
    "anywhere": "shape and hue anywhere",
    "background": "background",
}


def table(rows: dict[str, tuple[int, Scores]]) -> str:
    """Markdown: a line a case, percent with its interval."""
    lines = [
        f"| | scenes | {' | '.join(COLUMNS.values())} |",
        f"| --- | --- |{' --- |' * len(COLUMNS)}",
    ]
    for name, (count, scores) in rows.items():
        cells = []
        for column in COLUMNS:
            mean, low, high = (100 * v for v in mean_and_interval(getattr(scores, column)))
            cells.append(f"{mean:.1f} [{low:.1f}, {high:.1f}]")
        lines.append(f"| {name} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def round_trip(vae: Any, pictures: Tensor) -> Tensor:
    """Through the family's VAE in the host and back: the ceiling of every figure."""
    with torch.no_grad():
        there_and_back = [vae.decode(vae.encode(p[None].movedim(1, -1))) for p in pictures]
    return torch.cat(there_and_back).movedim(-1, 1).clamp(0, 1)


def tiles(rows: list[Tensor], path: Path, height: int = 128) -> None:
    """Rows of pictures [n, 3, H, W] as one picture."""
    strips = [
        torch.cat(list(F.interpolate(row, (height, height * row.shape[-1] // row.shape[-2]))), -1)
        for row in rows
    ]
    width = max(strip.shape[-1] for strip in strips)
    sheet = torch.cat([F.pad(s, (0, width - s.shape[-1]), value=1.0) for s in strips], -2)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet * 255).round().byte().movedim(0, -1).numpy()).save(path)


def with_boxes(pictures: Tensor, boxes: Tensor) -> Tensor:
    """Pictures [n, 3, H, W] with the outlines of their boxes [n, S, 4] drawn in."""
    pictures = pictures.clone()
    height, width = pictures.shape[-2:]
    colours = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.9, 1.0], [1.0, 0.3, 0.9]])[:, :, None]
    for i, places in enumerate(boxes):
        picture = pictures[i]
        for box, colour in zip(places, colours, strict=False):
            if not box.any():
                continue
            x0, x1 = (round(float(x) * (width - 1)) for x in (box[0], box[2]))
            y0, y1 = (round(float(y) * (height - 1)) for y in (box[1], box[3]))
            picture[:, [y0, y1], x0 : x1 + 1] = colour[..., None]
            picture[:, y0 : y1 + 1, [x0, x1]] = colour[..., None]
    return pictures


def percent(values: tuple[float, float, float]) -> str:
    mean, low, high = (100 * v for v in values)
    return f"{mean:.1f} % [{low:.1f}, {high:.1f}]"


def goals(scores: dict[str, Scores]) -> str:
    """The goals, each beside what was measured, as a Markdown table."""
    masks, ceiling = scores["masks"], scores["VAE round trip, two"]
    rows = [
        ("IoU, share of the VAE round trip's", ">= 97 %", share(masks.iou, ceiling.iou)),
        ("subjects missed", "0", mean_and_interval(masks.miss)),
        ("shape kept, share of the round trip's", ">= 95 %", share(masks.shape, ceiling.shape)),
        (
            "texture kept, share of the round trip's",
            ">= 85 %",
            share(masks.texture, ceiling.texture),
        ),
        (
            "confused with the other subject, by mean colour",
            "<= 2 %",
            mean_and_interval(masks.confused_colour),
        ),
        (
            "confused with the other subject, by the judge",
            "<= 3 %",
            mean_and_interval(masks.confused),
        ),
        ("sprite pixels outside the boxes", "<= 0.5 %", mean_and_interval(masks.outside)),
    ]
    for case, words, against in (
        ("without masks", "adapter trained and used without masks", "the adapter with masks"),
        ("masks switched off", "same adapter, masks switched off", "masks"),
    ):
        if case in scores:
            other = scores[case]
            rows += [
                (
                    f"confused, {words}, by mean colour",
                    "reported",
                    mean_and_interval(other.confused_colour),
                ),
                ("the same, by the judge", "reported", mean_and_interval(other.confused)),
                (
                    f"gap to {against}, by the judge",
                    "reported",
                    difference(other.confused, masks.confused),
                ),
            ]
    if "no grounding" in scores:
        dropped = scores["no grounding"].shape
        rows += [
            (
                "named shape in its own box, grounding dropped",
                "reported",
                mean_and_interval(dropped),
            ),
            ("gap to grounding kept", "reported", difference(masks.shape, dropped)),
        ]
    if "text only" in scores:
        text = scores["text only"].anywhere
        rows.append(
            ("text alone: named shape and hue anywhere", ">= 80 %", mean_and_interval(text))
        )
    for name, kind in (
        ("three subjects", "three"),
        ("overlapping", "overlapping"),
        ("upright 2:3", "upright"),
        ("wide 3:2", "wide"),
    ):
        if name in scores:
            own = scores[f"VAE round trip, {kind}"]
            for word in ("iou", "shape", "texture"):
                a, b = (
                    share(getattr(scores[name], word), getattr(own, word)),
                    share(getattr(masks, word), getattr(ceiling, word)),
                )
                rows.append(
                    (
                        f"{name}: {COLUMNS[word]}, share of round trip, against two on square",
                        ">= -5 points",
                        (a[0] - b[0], a[1] - b[0], a[2] - b[0]),
                    )
                )
    for name in ("weight 0", "weight 0.3", "weight 0.6", "weight 1.2"):
        if name in scores:
            rows += [
                (f"{name}: {word}", "rises with weight", mean_and_interval(values))
                for word, values in (
                    ("shape", scores[name].shape),
                    ("texture", scores[name].texture),
                    ("colour", scores[name].colour),
                )
            ]
            rows.append(
                (f"{name}: background word", ">= 95 %", mean_and_interval(scores[name].background))
            )
    rows.append(("weight 1: background word", ">= 95 %", mean_and_interval(masks.background)))
    name = "shifted boxes, auto layout"
    if name in scores:
        rows.append(
            (
                "auto layout, boxes shifted by 15 %: shape and hue anywhere, against true boxes",
                ">= -5 points",
                difference(scores[name].anywhere, masks.anywhere),
            )
        )
    lines = ["| | goal | measured |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| {a} | {b} | {percent(c)} |" for a, b, c in rows])


def report(work: Path, models: Path) -> None:
    """Score the sampled pictures, and write docs/quality.md and its pictures."""
    torch.set_num_threads(1)
    judge, vae = load_judge(models), Sampler(load_host(), models).vae
    evaluations: dict[str, Evaluation] = {}
    scores: dict[str, Scores] = {}
    pictures: dict[str, Tensor] = {}
    cases = [case for case in CASES if (work / f"{case.name}.pt").exists()]
    for case in cases:
        if case.scenes not in evaluations:
            evaluation = evaluations[case.scenes] = draw_evaluation(case.scenes)
            count = max(c.count for c in cases if c.scenes == case.scenes)
            drawn = evaluation.scenes.picture[:count]
            scores[f"as drawn, {case.scenes}"] = score(judge, evaluation, drawn)
            back = round_trip(vae, drawn)
            pictures[f"VAE round trip, {case.scenes}"] = back
            scores[f"VAE round trip, {case.scenes}"] = score(judge, evaluation, back)
        pictures[case.name] = torch.load(work / f"{case.name}.pt").float().div(255)
        scores[case.name] = score(judge, evaluations[case.scenes], pictures[case.name])
    two = evaluations["two"]
    shown = slice(0, 10)
    places = two.scenes.boxes[shown]
    sampled = [name for name in ROWS if name in pictures]
    tiles(
        [
            two.references[shown, 0],
            two.references[shown, 1],
            with_boxes(two.scenes.picture[shown], places),
            *(with_boxes(pictures[name][shown], places) for name in sampled),
        ],
        DOCS / "quality.png",
    )
    (DOCS / "quality.md").write_text(
        PAGE.format(
            goals=goals(scores),
            table=table({name: (len(s.iou), s) for name, s in scores.items()}),
            rows=", ".join(sampled),
            steps=STEPS,
            guidance=GUIDANCE,
        ),
        encoding="utf-8",
    )
    print(goals(scores))


ROWS = ("VAE round trip, two", "masks", "without masks", "masks switched off", "text only")
PAGE = """# What the micro world measures

Written by `python -m microworld.quality report`. Two subjects a scene unless said otherwise,
{steps} Euler steps, guidance {guidance}, weight 1, sampled in the real host through the pack's
nodes. The scenes' seeds are never drawn in training, and every sprite is a combination of shape,
texture and colour that no training scene shows. Captions name shapes and background only; the
looks come from the references. Percentages are means over subjects with 95 % bootstrap intervals
over scenes. The judge saw only pictures of the generator; what it gets wrong shows in the rows
"as drawn" and "VAE round trip", and the latter is the ceiling of every figure below it.

{goals}

![Contact sheet of ten scenes; its rows are named below](quality.png)

Rows: the two references, the scene as drawn with its boxes, then: {rows}.
"Without masks" is an adapter of its own, trained as long and from the same start on the same frozen
base, but with every reference seen everywhere, and used in the same way: the fair ablation. "Masks
switched off" is the adapter with masks, used without.

## All figures

{table}

IoU: of the tight box around the found sprite with the asked box. Missed: less than 15 % of the box
is sprite. Outside: sprite pixels outside all boxes. Shape, texture, colour: as the judge names what
it sees in the box. Confused: nearer to another subject's reference than to its own. Anywhere: a
sprite of the named shape and hue wherever it is.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m microworld.quality", description=__doc__)
    parser.add_argument("command", choices=("sample", "report"))
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--work", type=Path, default=ROOT / ".microworld" / "quality")
    parser.add_argument("--count", type=int, help="scenes of each case")
    options = parser.parse_args()
    if options.command == "report":
        report(options.work, options.models)
        return
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    nodes = load_host()
    for case in CASES:
        path = options.work / f"{case.name}.pt"
        if path.exists() or (options.only and case.name not in options.only):
            continue
        if not (options.models / "ms_diffusion" / case.adapter).exists():
            print(f"{case.name}: there is no {case.adapter}")
            continue
        begin = time.monotonic()
        sampler = Sampler(nodes, options.models, case.adapter)
        pictures = sample(case, sampler, options.count or case.count)
        torch.save((pictures * 255).round().byte(), path)
        seconds = time.monotonic() - begin
        print(
            f"{case.name}: {len(pictures)} pictures, {seconds / len(pictures):.2f} s each",
            flush=True,
        )


if __name__ == "__main__":
    main()
