"""The sprites that stand in for the example workflows' references, and the words for them."""

from importlib import resources
from pathlib import Path

import torch
from PIL import Image

from lab.microworld.scenes import (
    BACKGROUNDS,
    COLOURS,
    HUES,
    SHAPES,
    SIZE,
    TEXTURES,
    WHITE,
    Looks,
    draw_background,
    draw_references,
    paint,
    rgb,
    to_pil,
)

SPRITES = (("striped", "cyan", "star"), ("checked", "pink", "heart"), ("split", "red", "circle"))
BACKGROUND = "grass"
# Where the first two of SPRITES are in the scene: x0, y0, x1, y1 in 0..1.
SCENE = ((0.55, 0.1, 0.95, 0.5), (0.05, 0.45, 0.5, 0.9))


def sprite_looks() -> Looks:
    """[n] of SPRITES."""
    texture, colour, shape = (
        torch.tensor([kinds.index(sprite[n]) for sprite in SPRITES])
        for n, kinds in enumerate((TEXTURES, COLOURS, SHAPES))
    )
    count = len(SPRITES)
    first = rgb(HUES[colour], torch.full((count,), 0.85), torch.full((count,), 0.95))
    return Looks(shape, texture, colour, first, torch.full((count, 3), WHITE))


def draw_sprites() -> list[Image.Image]:
    """A reference of each of SPRITES."""
    references = draw_references(sprite_looks(), torch.Generator().manual_seed(4))
    return [to_pil(pixels) for pixels in references]


def draw_scene() -> Image.Image:
    """The first two of SPRITES where SCENE says."""
    kind = torch.tensor([BACKGROUNDS.index(BACKGROUND)])
    picture = draw_background(kind, SIZE, SIZE, torch.Generator().manual_seed(4))
    for number, box in enumerate(SCENE):
        looks = sprite_looks()[number : number + 1]
        picture, _ = paint(picture, torch.tensor([box]), torch.zeros(1), looks)
    return to_pil(picture[0])


def save_sprites(folder: Path) -> list[Image.Image]:
    """Write the sprites as reference_1.png and so on, two of them as scene.png, and an example.png
    as ComfyUI's own input folder has one; returns the sprites."""
    folder.mkdir(parents=True, exist_ok=True)
    example = (resources.files("skimage") / "data" / "chelsea.png").read_bytes()
    (folder / "example.png").write_bytes(example)
    draw_scene().save(folder / "scene.png")
    sprites = draw_sprites()
    for number, sprite in enumerate(sprites, 1):
        sprite.save(folder / f"reference_{number}.png")
    return sprites
