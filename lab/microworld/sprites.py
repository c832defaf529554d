"""The sprites that stand in for the example workflows' references, and the words for them."""

from importlib import resources
from pathlib import Path

import torch
from PIL import Image

from lab.microworld.scenes import (
    COLOURS,
    HUES,
    SHAPES,
    TEXTURES,
    WHITE,
    Looks,
    draw_references,
    rgb,
    to_pil,
)

SPRITES = (("striped", "cyan", "star"), ("checked", "pink", "heart"), ("split", "red", "circle"))
BACKGROUND = "grass"


def draw_sprites() -> list[Image.Image]:
    """A reference of each of SPRITES."""
    texture, colour, shape = (
        torch.tensor([kinds.index(sprite[n]) for sprite in SPRITES])
        for n, kinds in enumerate((TEXTURES, COLOURS, SHAPES))
    )
    count = len(SPRITES)
    first = rgb(HUES[colour], torch.full((count,), 0.85), torch.full((count,), 0.95))
    looks = Looks(shape, texture, colour, first, torch.full((count, 3), WHITE))
    references = draw_references(looks, torch.Generator().manual_seed(4))
    return [to_pil(pixels) for pixels in references]


def save_sprites(folder: Path) -> list[Image.Image]:
    """Write the sprites as reference_1.png and so on, and an example.png as ComfyUI's own input
    folder has one; returns the sprites."""
    folder.mkdir(parents=True, exist_ok=True)
    example = (resources.files("skimage") / "data" / "chelsea.png").read_bytes()
    (folder / "example.png").write_bytes(example)
    sprites = draw_sprites()
    for number, sprite in enumerate(sprites, 1):
        sprite.save(folder / f"reference_{number}.png")
    return sprites
