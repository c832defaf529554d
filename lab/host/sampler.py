"""A picture by the pack's nodes and the host's, in a ComfyUI in this process."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lab.host.in_process import run_node
from lab.host.workflows import CFG, STEPS


@torch.no_grad()
def sample_picture(
    nodes: dict[str, Any],
    model: Any,
    positive: Any,
    negative: Any,
    vae: Any,
    size: tuple[int, int],
    seed: int,
    steps: int = STEPS,
    cfg: float = CFG,
    scheduler: str = "normal",
) -> Tensor:
    """A picture [3, height, width] in 0..1, by EmptyLatentImage, KSampler and VAEDecode."""
    (latent,) = run_node(nodes, "EmptyLatentImage", width=size[1], height=size[0])
    (latent,) = run_node(
        nodes,
        "KSampler",
        model=model,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name="euler",
        scheduler=scheduler,
        positive=positive,
        negative=negative,
        latent_image=latent,
    )
    (image,) = run_node(nodes, "VAEDecode", vae=vae, samples=latent)
    return image[0].movedim(-1, 0).clamp(0, 1)


def lay_out(
    nodes: dict[str, Any],
    references: Tensor | Sequence[Tensor],
    phrases: Sequence[str],
    boxes: Tensor,
    size: tuple[int, int],
) -> Any:
    """Subjects from MSDLayout.

    Args:
        references: S of [3 or 4, H, W] in 0..1. phrases: S. boxes: [S, 4].
        size: height and width of the picture in pixels.
    """
    specs = [
        {"phrase": phrase, "box": box, "weight": 1.0}
        for phrase, box in zip(phrases, boxes.tolist(), strict=True)
    ]
    sockets = {
        f"reference_{number}": reference.movedim(0, -1)[None]
        for number, reference in enumerate(references, 1)
    }
    return run_node(
        nodes,
        "MSDLayout",
        references=sockets,
        width=size[1],
        height=size[0],
        layout={"version": 1, "subjects": specs},
    )[0]
