"""The loss curve of a stage of training, as a picture."""

import math
from pathlib import Path

from PIL import Image, ImageDraw

from lab.training.state import Curve


def draw_curve(curve: Curve, path: Path) -> None:
    """Draw the losses over the samples, on a logarithmic axis."""
    if len(curve) < 2:
        return
    width, height, margin = 720, 360, 40
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    logs = [{k: math.log10(max(v, 1e-6)) for k, v in losses.items()} for _, losses in curve]
    values = [value for losses in logs for value in losses.values()]
    low, high = min(values), max(values) + 1e-3
    for index, (name, last) in enumerate(logs[-1].items()):
        colour = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e")[index % 5]
        points = [
            (
                margin + (width - 2 * margin) * samples / curve[-1][0],
                margin + (height - 2 * margin) * (high - losses[name]) / (high - low),
            )
            for (samples, _), losses in zip(curve, logs, strict=True)
        ]
        pen.line(points, fill=colour, width=2)
        pen.text(
            (width - 2 * margin - 40, 10 + 14 * index),
            f"{name} {10**last:.4f}",
            colour,
        )
    pen.rectangle((margin, margin, width - margin, height - margin), outline="grey")
    pen.text((4, margin), f"{10**high:.3f}", "black")
    pen.text((4, height - margin - 10), f"{10**low:.3f}", "black")
    pen.text((margin, height - margin + 8), f"0 to {curve[-1][0]} samples", "black")
    picture.save(path)
