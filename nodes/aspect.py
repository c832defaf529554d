"""Whether the layout and the sampled latent have the same aspect ratio."""

from .node_text import show_warnings

# Latents are rounded to 8 pixels, by some nodes to 64 or to a usual size of SDXL. That boxes are
# stretched by less than this is hardly seen.
MAX_STRETCH = 1.1


def warn_of_aspect(
    node: str,
    size: tuple[int, int] | None,
    latent_size: tuple[int, int],
    pixels: int,
    unique_id: str | None,
) -> None:
    """Say on a node (its name and id, None outside a prompt) if the layout is stretched.

    Args:
        size: width and height of the layout in pixels, None if it isn't known.
        latent_size: height and width of the whole latent of a sampling run.
        pixels: of the picture's edges, to a cell of the latent.
    """
    if size is None:
        return
    (width, height), (h, w) = size, latent_size
    stretch = width * h / (height * w)
    warnings = []
    if not 1 / MAX_STRETCH < stretch < MAX_STRETCH:
        warnings.append(
            f"the layout is {width} x {height} pixels, the sampled latent {w * pixels} x "
            f"{h * pixels}, so the boxes are stretched. Set width and height of MSD "
            "Layout to the latent's, or, where it is a crop, crop the subjects with MSD Crop "
            "Subjects."
        )
    show_warnings(node, unique_id, warnings)
