"""The generator of the micro world: seeded, and honest about what it holds out."""

import pytest
import torch

from lab.microworld.scenes import (
    BACKGROUND_COLOURS,
    COLOURS,
    MAX_SUBJECTS,
    SHAPES,
    SIZES,
    TEXTURES,
    caption,
    draw_looks,
    draw_references,
    draw_scenes,
    held_out,
    overlap,
    paint,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_draws_the_same_scenes() -> None:
    first, again = draw_scenes(8, seeded(1)), draw_scenes(8, seeded(1))
    other = draw_scenes(8, seeded(2))
    assert torch.equal(first.picture, again.picture)
    assert not torch.equal(first.picture, other.picture)


def test_training_never_shows_what_the_evaluation_holds_out() -> None:
    looks = draw_looks(2000, seeded(3))
    words = (looks.shape, looks.texture, looks.colour)
    assert not held_out(*words).any()
    kinds = (looks.shape * len(TEXTURES) + looks.texture) * len(COLOURS) + looks.colour
    shown = len(SHAPES) * len(TEXTURES) * (len(COLOURS) - 1)
    assert len(kinds.unique()) == shown  # one colour of each shape and texture is missing


def test_evaluation_shows_only_what_is_held_out_and_subjects_that_differ() -> None:
    looks = draw_looks(300, seeded(4), evaluation=True)
    assert held_out(looks.shape, looks.texture, looks.colour).all()
    for words in (looks.shape, looks.texture, looks.colour):
        assert (words.sort(1).values.diff(dim=1) > 0).all()


@pytest.mark.parametrize("name", SIZES)
def test_boxes_lie_in_the_picture_and_hold_their_sprites(name: str) -> None:
    scenes = draw_scenes(64, seeded(5), SIZES[name], 2, overlapping=0, evaluation=True)
    height, width = SIZES[name]
    assert scenes.picture.shape == (64, 3, height, width)
    assert scenes.boxes.min() >= 0 and scenes.boxes.max() <= 1
    assert (overlap(scenes.boxes) < 0.02).all()
    inside = torch.zeros(64, height, width, dtype=torch.bool)
    for i, boxes in enumerate(scenes.boxes[:, :2]):
        for x0, y0, x1, y1 in (boxes * torch.tensor([width, height, width, height])).tolist():
            inside[i, int(y0 - 2) : int(y1 + 3), int(x0 - 2) : int(x1 + 3)] = True
    sprites = scenes.sprites > 0.5
    assert (sprites & ~inside).sum() < 0.01 * sprites.sum()
    assert scenes.sprites.flatten(1).sum(1).min() > 0.02 * height * width


def test_overlapping_pairs_overlap() -> None:
    scenes = draw_scenes(64, seeded(6), count=2, overlapping=1)
    assert (overlap(scenes.boxes) > 0.05).all() and (overlap(scenes.boxes) < 0.3).all()


def test_counts_are_as_asked() -> None:
    for count in (1, 2, 3):
        present = draw_scenes(16, seeded(7), count=count).boxes.any(-1)
        assert (present.sum(1) == count).all() and present[:, :count].all()


def test_captions_name_shapes_and_on_request_looks() -> None:
    scenes = draw_scenes(1, seeded(8), count=2)
    looks, boxes, background = scenes.looks[0], scenes.boxes[0], int(scenes.background[0])
    shapes = [SHAPES[int(s)] for s in looks.shape[:2]]
    assert caption(looks, boxes, background).startswith(f"a {shapes[0]} and a {shapes[1]} on ")
    full = caption(looks, boxes, background, full=True)
    assert TEXTURES[int(looks.texture[0])] in full and COLOURS[int(looks.colour[1])] in full


def test_backgrounds_are_recognised_by_their_mean_colour() -> None:
    scenes = draw_scenes(64, seeded(9))
    for picture, sprites, kind in zip(
        scenes.picture, scenes.sprites, scenes.background, strict=True
    ):
        mean = picture[:, sprites < 0.05].mean(1)
        assert (BACKGROUND_COLOURS - mean).norm(dim=1).argmin() == kind


def test_references_depend_on_the_seed() -> None:
    looks = draw_looks(8, seeded(10)).flat()
    references = draw_references(looks, seeded(11))
    assert references.shape == (8 * MAX_SUBJECTS, 3, 64, 64)
    assert references.min() >= 0 and references.max() <= 1
    assert not torch.equal(references, draw_references(looks, seeded(12)))


def test_no_box_paints_nothing() -> None:
    looks = draw_looks(1, seeded(13)).flat()[:1]
    blank = torch.full((1, 3, 32, 32), 0.5)
    painted, sprite = paint(blank, torch.zeros(1, 4), torch.zeros(1), looks)
    assert torch.equal(painted, blank) and not sprite.any()
