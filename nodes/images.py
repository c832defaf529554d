"""Between the host's tensors and Pillow's images, in 8-bit steps."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pil(pixels: Tensor) -> Image.Image:
    """An image [H, W, 3] or a mask [H, W] in 0..1."""
    return Image.fromarray((pixels * 255).round().byte().cpu().numpy())


def to_tensor(image: Image.Image) -> Tensor:
    """[H, W, 3], or [H, W] of a grey one, in 0..1."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
