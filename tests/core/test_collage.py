"""The collage of a layout's references."""

import pytest
import torch

from msd_core.collage import GREY, collage


def flat(level: float, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.full((height, width, 3), level)


def test_each_reference_stands_in_the_middle_of_its_box() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 0.5]])
    picture, shown = collage([flat(0.0), flat(1.0, 4, 8)], [None, None], boxes, [0, 0], 40, 80)
    assert picture.shape == (40, 80, 3) and shown.shape == (40, 80)
    # A square in a box of 40 x 40 fills it; one twice as wide as high fills a box of 40 x 20.
    assert (picture[:, :40] == 0).all() and (shown[:, :40] == 1).all()
    assert (picture[:20, 40:] == 1).all() and (shown[:20, 40:] == 1).all()
    assert (picture[20:, 40:] == GREY).all() and (shown[20:, 40:] == 0).all()


@pytest.mark.parametrize(("height", "width"), [(8, 4), (4, 8), (5, 5)])
def test_the_aspect_ratio_is_kept(height: int, width: int) -> None:
    boxes = torch.tensor([[0.1, 0.2, 0.9, 0.8]])
    _, shown = collage([flat(0.0, height, width)], [None], boxes, [0], 100, 100)
    rows, columns = shown.amax(1).nonzero().flatten(), shown.amax(0).nonzero().flatten()
    assert len(rows) / len(columns) == pytest.approx(height / width, rel=0.03)
    assert len(rows) == 60 or len(columns) == 80
    assert abs(int(rows[0] + rows[-1]) - 99) <= 1 and abs(int(columns[0] + columns[-1]) - 99) <= 1


def test_a_mask_cuts_out_without_its_background() -> None:
    reference, mask = flat(1.0, 16, 16), torch.zeros(16, 16)
    reference[4:12, 4:12], mask[4:12, 4:12] = 0.0, 1.0
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    picture, shown = collage([reference], [mask], whole, [0], 48, 48)
    assert picture.max() <= GREY + 1e-6  # none of the white around the subject
    assert shown.mean() == pytest.approx(0.25, abs=0.02)


def test_smaller_boxes_stand_in_front() -> None:
    whole, inner = [0.0, 0.0, 1.0, 1.0], [0.25, 0.25, 0.75, 0.75]
    for order in ((0, 1), (1, 0)):
        references = [(flat(0.0), whole), (flat(1.0), inner)]
        references = [references[n] for n in order]
        boxes = torch.tensor([box for _, box in references])
        picture, _ = collage([r for r, _ in references], [None, None], boxes, [0, 0], 40, 40)
        assert (picture[10:30, 10:30] == 1).all() and picture.mean() == pytest.approx(0.25)


def test_what_was_brought_to_the_front_stands_before_smaller_boxes() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 1.0, 1.0]])
    references, masks = [flat(0.0), flat(1.0), flat(0.75)], [None] * 3

    def corner_and_middle(*fronts: int) -> tuple[float, float]:
        picture, _ = collage(references, masks, boxes, fronts, 40, 40)
        return float(picture[0, 0, 0]), float(picture[15, 15, 0])

    assert corner_and_middle(0, 0, 0) == corner_and_middle(2, 2, 2) == (1.0, 1.0)
    assert corner_and_middle(0, 0, 1) == (1.0, 0.75)
    assert corner_and_middle(2, 0, 1) == (0.0, 0.0)


def test_a_box_of_no_area_shows_nothing() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    picture, shown = collage([flat(0.0)], [None], boxes, [0], 6, 9)
    assert (picture == GREY).all() and not shown.any()
