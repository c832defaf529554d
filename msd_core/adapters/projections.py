"""Image tokens -> the keys and values of every text cross-attention of a UNet."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class Projection(nn.Module):
    """The key and value projections of one cross-attention. Parameters have their released names.

    Args:
        context: width of the image tokens, C. width: of the attention.
        operations: namespace with `Linear`; a host passes its own.
    """

    def __init__(self, context: int, width: int, operations: Any, device: Any) -> None:
        super().__init__()
        self.to_k_ip = operations.Linear(context, width, bias=False, device=device)
        self.to_v_ip = operations.Linear(context, width, bias=False, device=device)

    def forward(self, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """image_tokens [..., K, C] -> key and value [..., K, width]."""
        return self.to_k_ip(image_tokens), self.to_v_ip(image_tokens)


def build_projections(
    shapes: Mapping[str, Sequence[int]],
    prefix: str,
    context: int,
    operations: Any,
    kind: type[Projection] = Projection,
) -> dict[str, Projection]:
    """The projections of a file, without weights (device meta), by their numbers in released order:
    1, 3, 5, ... diffusers numbers all attentions, and the odd ones are the cross-attentions.

    Args:
        shapes: released key -> shape.
        prefix: what stands before the number, for example "ms_adapter.".
        context: width of the image tokens.
        kind: what each of them is.
    Raises:
        ValueError: a key is missing or has no two sizes.
    """
    numbers = [int(n) for k in shapes if (n := k.partition(prefix)[2].split(".")[0]).isdigit()]
    projections: dict[str, Projection] = {}
    for number in range(1, max(numbers, default=1) + 1, 2):
        key = f"{prefix}{number}.to_k_ip.weight"
        if key not in shapes:
            raise ValueError(f"key {key!r} is missing")
        if len(shapes[key]) != 2:
            raise ValueError(f"{key!r} has shape {tuple(shapes[key])}, expected 2 sizes")
        projections[str(number)] = kind(context, shapes[key][0], operations, "meta")
    return projections
