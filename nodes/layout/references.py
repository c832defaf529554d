"""References and masks of sockets, and what can be wrong with them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def read_references(image: Any, socket: str) -> tuple[Tensor, Tensor | None]:
    """An IMAGE as RGB [n, H, W, 3] in 0..1, grey repeated, and its alpha [n, H, W] if any of it is
    transparent.

    Raises:
        ValueError: names the socket and what is wrong.
    """
    if not isinstance(image, Tensor) or image.ndim != 4:
        raise ValueError(
            f"{socket}: expected a picture of shape [batch, height, width, channels], got "
            f"{_shape(image)}. Put a node before it that gives ComfyUI's IMAGE."
        )
    _check_size(image, socket, "picture")
    channels = image.shape[3]
    if channels not in (1, 3, 4):
        raise ValueError(
            f"{socket}: expected 1 (grey), 3 (RGB) or 4 (RGBA) channels, got {channels}. Convert "
            "it to RGB."
        )
    if not image.is_floating_point():
        raise ValueError(
            f"{socket}: expected pixels in 0..1, got whole numbers ({image.dtype}). Divide it by "
            "255."
        )
    image = image.float()
    if not image.isfinite().all():
        raise ValueError(f"{socket} holds pixels that are not numbers (NaN or infinity).")
    if image.mean() > 2:  # of a picture in 0..1 even the glare of an HDR one averages to less
        raise ValueError(
            f"{socket}: expected pixels in 0..1, got values up to {image.max():g}. Divide it by "
            "255."
        )
    image = image.clamp(0, 1)
    references = image[..., :3].expand(-1, -1, -1, 3)
    if channels < 4:
        return references, None
    alpha = image[..., 3].cpu()
    return references, None if _in_8_bits(alpha).min() == 255 else alpha


def read_mask(mask: Any, socket: str) -> Tensor:
    """A MASK as [n, H, W] in 0..1, on the CPU like all that says where a subject is.

    Raises:
        ValueError: names the socket and what is wrong.
    """
    # With four dimensions it's [n, 1, H, W], as segmentation packs give it, or else a picture.
    is_picture = isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[3] <= 4
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3, 4) or is_picture:
        raise ValueError(
            f"{socket}: expected a mask of shape [batch, height, width], got {_shape(mask)}. "
            "Convert Image to Mask makes one of a picture."
        )
    _check_size(mask[None] if mask.ndim == 2 else mask, socket, "mask")
    mask = mask.reshape(-1, *mask.shape[-2:])
    if not mask.is_floating_point() and mask.max() > 1:
        raise ValueError(
            f"{socket}: expected a mask in 0..1, got whole numbers up to {int(mask.max())}. Divide "
            "it by 255."
        )
    mask = mask.float().cpu()
    if not mask.isfinite().all():
        raise ValueError(f"{socket} holds values that are not numbers (NaN or infinity).")
    return mask.clamp(0, 1)


def read_region(mask: Any, socket: str) -> Tensor | None:
    """A region's MASK as [H, W] in 0..1, None if there is none.

    Raises:
        ValueError: names the socket and what is wrong.
    """
    if mask is None:
        return None
    masks = read_mask(mask, socket)
    if len(masks) != 1:
        raise ValueError(f"{socket}: got {len(masks)} masks for one region.")
    return masks[0]


def region_warnings(region: Tensor | None, number: int) -> list[str]:
    """What to say of subject `number` if its region [H, W] is empty."""
    if region is None or region.max() >= 1 / 255:
        return []
    return [
        f"Subject {number} is nowhere in the picture: region_{number} is all black. Paint it, or "
        "disconnect it."
    ]


def read_reference_masks(
    given: Any, alpha: Tensor | None, references: Tensor, number: int
) -> Tensor | None:
    """Where in its references [n, H, W, 3] subject `number` is, [n, H, W]: by the mask given on its
    socket, else by the references' alpha, else anywhere (None).

    Raises:
        ValueError: names the socket and what is wrong.
    """
    socket = f"reference_mask_{number}"
    if given is None:
        if alpha is not None and (empty := _first_empty(alpha)) is not None:
            raise ValueError(
                f"reference_{number}{_of_several('picture', empty, alpha)} is wholly transparent: "
                "nothing of it would be left. Connect the picture without its alpha, or another "
                "one."
            )
        return alpha
    mask = read_mask(given, socket)
    if len(mask) not in (1, len(references)):
        raise ValueError(
            f"{socket}: got {len(mask)} masks for a batch of {len(references)}. There must be one "
            "for all references, or one for each."
        )
    if (empty := _first_empty(mask)) is not None:
        raise ValueError(
            f"{socket}{_of_several('mask', empty, mask)} is all black: nothing of reference_"
            f"{number} would be left. Load Image gives such a mask for pictures without "
            "transparency; disconnect it."
        )
    mask = mask.expand(len(references), -1, -1)
    return F.interpolate(mask[:, None], references.shape[1:3], mode="bilinear")[:, 0]


def inversion_warnings(masks: Tensor | None, number: int, connected: bool) -> list[str]:
    """What to say of subject `number` if a mask [n, H, W] of its references looks inverted;
    connected: to its socket, otherwise it is the references' alpha."""
    if masks is None or not any(map(looks_inverted, masks)):
        return []
    if connected:
        return [
            f"Subject {number}: is reference_mask_{number} inverted? It keeps the border of "
            f"reference_{number} and leaves out the middle, as Load Image's mask of a cut-out "
            "does. Put Invert Mask before it."
        ]
    return [
        f"Subject {number}: is the alpha of reference_{number} inverted? It keeps the border and "
        "leaves out the middle. Put Invert Mask before Join Image with Alpha."
    ]


def looks_inverted(mask: Tensor) -> bool:
    """Whether a reference's mask [H, W] keeps most of the border and hardly anything of the
    middle, as that of a subject the wrong way round does.

    A subject that fills its reference up to the edges keeps the middle too.
    """
    kept = mask > 0.5
    height, width = kept.shape
    edge = max(1, round(min(height, width) * 0.03))
    border = torch.ones_like(kept)
    border[edge:-edge, edge:-edge] = False
    third = kept[height // 3 : height - height // 3, width // 3 : width - width // 3]
    return bool(kept[border].float().mean() > 0.6 and third.float().mean() < 0.4)


def _check_size(tensor: Tensor, socket: str, kind: str) -> None:
    """Check that a tensor [n, H, W, ...] holds something."""
    if len(tensor) == 0:
        raise ValueError(
            f"{socket} holds no {kind}: its batch is empty, as from a detector that found nothing. "
            "Connect one that isn't, or disconnect it."
        )
    if tensor.numel() == 0:
        raise ValueError(
            f"{socket}: its {kind} has no pixels, its shape is {_shape(tensor)}. Look at the crop "
            "or resize that it comes from."
        )


def _first_empty(masks: Tensor) -> int | None:
    """Number, from 1, of the first mask that keeps nothing."""
    empty = (_in_8_bits(masks).flatten(1) == 0).all(1).nonzero()
    return int(empty[0]) + 1 if len(empty) else None


def _of_several(kind: str, number: int, batch: Tensor) -> str:
    return f", {kind} {number}," if len(batch) > 1 else ""


def _in_8_bits(values: Tensor) -> Tensor:
    """As the reference is cut out."""
    return (values * 255).round()


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
