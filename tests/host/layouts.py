"""Layout values and noise as references, as MSD Layout takes them."""

from typing import Any

import torch

CAT = {"phrase": "cat", "box": [0.0, 0.25, 0.4, 0.75], "weight": 0.5}
CUP = {"phrase": "cup", "box": [0.6, 0.25, 1.0, 0.75], "weight": 1.0}


def layout(*subjects: Any) -> dict[str, Any]:
    return {"version": 1, "subjects": list(subjects)}


def noise_image(seed: int, height: int = 20, width: int = 30, count: int = 1) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))
