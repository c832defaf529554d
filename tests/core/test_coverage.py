"""Coverage against plain loops, and its rules one by one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_core.coverage import Window, box_coverage, mask_box, mask_coverage, polygon_mask

sides = st.integers(1, 24)
coordinates = st.floats(-0.5, 1.5, width=32) | st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
boxes = st.lists(st.tuples(*[coordinates] * 4), min_size=1, max_size=4)


def slow_box_coverage(box, height, width):
    """The rule of docs/method.md, section 4: in float32, cell by cell."""
    x0, y0, x1, y1 = (torch.tensor(value, dtype=torch.float32) for value in box)
    cells = torch.zeros(height, width, dtype=torch.bool)
    for row in range(height):
        for column in range(width):
            cells[row, column] = math.floor(x0 * width) <= column < math.ceil(
                x1 * width
            ) and math.floor(y0 * height) <= row < math.ceil(y1 * height)
    return cells.flatten()


@given(boxes, sides, sides)
def test_boxes_equal_plain_loops(boxes, height, width):
    slow = torch.stack([slow_box_coverage(box, height, width) for box in boxes])
    assert torch.equal(box_coverage(torch.tensor(boxes), height, width), slow)


def cells(box, height=4, width=4):
    return box_coverage(torch.tensor([box]), height, width)[0].view(height, width)


@pytest.mark.parametrize(
    "box, rows, columns",
    [
        ((0, 0, 1, 1), range(4), range(4)),
        ((0.25, 0.5, 0.75, 1.0), (2, 3), (1, 2)),
        ((0.3, 0.3, 0.3, 0.3), (1,), (1,)),  # zero area off the edge: one cell
        ((0.5, 0.5, 0.5, 0.5), (), ()),  # on the edge: none
        ((-1.0, 0.0, 0.1, 0.1), (0,), (0,)),  # what lies outside is cut off
        ((0.75, 0.0, 0.25, 1.0), (), ()),  # inverted
        ((0, 0, 0, 0), (), ()),
        ((float("nan"), 0, 1, 1), (), ()),
    ],
)
def test_box_rules(box, rows, columns):
    expected = torch.zeros(4, 4, dtype=torch.bool)
    for row in rows:
        for column in columns:
            expected[row, column] = True
    assert torch.equal(cells(box), expected)


def test_touching_boxes_share_the_cell_their_edge_is_in():
    left, right = cells((0, 0, 0.53, 1)), cells((0.53, 0, 1, 1))
    assert (left & right).any(0).tolist() == [False, False, True, False]
    assert not (cells((0, 0, 0.5, 1)) & cells((0.5, 0, 1, 1))).any()


def test_width_and_height_are_not_swapped():
    wide = cells((0, 0, 0.5, 1), height=2, width=8)
    assert wide.sum(0).tolist() == [2, 2, 2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("columns", [26, 96, 104, 152])
def test_edges_on_cells_stay_there_in_a_window(columns):
    """The window of the whole picture's coverage is the coverage of the window."""
    edges = torch.arange(columns + 1, dtype=torch.float64) / columns
    for start in range(0, columns - 8, 7):
        for end in (start + 8, columns):
            window = Window(range(1), range(start, end), (1, columns))
            for left in range(0, columns, 5):
                box = torch.tensor([[edges[left], 0.0, edges[left + 1], 1.0]], dtype=torch.float64)
                part = box_coverage(box, 1, end - start, window)[0]
                expected = torch.zeros(columns, dtype=torch.bool)
                expected[left] = True
                assert torch.equal(part, expected[start:end])


sixteenths = st.tuples(*[st.integers(-8, 24).map(lambda n: n / 16)] * 4)


@given(
    st.lists(sixteenths, min_size=1, max_size=3),
    st.lists(st.integers(0, 11), min_size=1),
    st.data(),
)
def test_a_window_that_leaves_cells_out_or_begins_again(boxes, columns, data):
    """Each of its cells is covered as the whole picture's cell that it shows."""
    rows = tuple(data.draw(st.lists(st.integers(0, 8), min_size=1)))
    shown = box_coverage(torch.tensor(boxes), len(rows), len(columns),
                         Window(rows, tuple(columns), (9, 12)))  # fmt: skip
    whole = box_coverage(torch.tensor(boxes).double(), 9, 12).view(-1, 9, 12)
    assert torch.equal(shown.view(-1, len(rows), len(columns)), whole[:, list(rows)][..., columns])


def test_leading_dimensions_are_kept():
    assert box_coverage(torch.rand(2, 3, 5, 4), 6, 7).shape == (2, 3, 5, 42)


@given(st.integers(1, 3), sides, sides, st.integers(1, 4))
def test_masks_equal_the_mean_over_each_cell(subjects, height, width, factor):
    masks = torch.rand(subjects, height * factor, width * factor)
    slow = torch.empty(subjects, height, width)
    for row in range(height):
        for column in range(width):
            part = masks[
                :, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor
            ]
            slow[:, row, column] = part.mean((1, 2))
    torch.testing.assert_close(mask_coverage(masks, height, width), slow.flatten(1))


def test_grey_masks_stay_soft_and_binary_ones_equal_boxes():
    assert torch.equal(mask_coverage(torch.full((1, 9, 5), 0.5), 4, 4), torch.full((1, 16), 0.5))
    mask = torch.zeros(1, 32, 32)
    mask[0, 8:16, 16:32] = 1
    box = box_coverage(torch.tensor([[0.5, 0.25, 1.0, 0.5]]), 8, 8)
    assert torch.equal(mask_coverage(mask, 8, 8), box.float())


def test_box_of_a_mask():
    mask = torch.zeros(10, 20)
    assert mask_box(mask) == (0, 0, 0, 0)
    mask[2:5, 4:10] = 0.3
    mask[9, 19] = 0.01  # a stray pixel
    assert mask_box(mask) == (0.2, 0.2, 0.5, 0.5)


def slow_polygon_mask(points, height, width, lines=4, columns=64):
    """Winding number at points of each pixel, edge by edge."""
    mask = torch.zeros(height, width)
    for row in range(height * lines):
        y = (row + 0.5) / lines / height
        for column in range(width * columns):
            x, winding = (column + 0.5) / columns / width, 0
            for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
                if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x:
                    winding += 1 if y1 > y0 else -1
            mask[row // lines, column // columns] += (winding != 0) / (lines * columns)
    return mask


normalised = st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.25, 0.5, 1.0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(normalised, normalised), min_size=3, max_size=3), sides, sides)
def test_triangles_equal_plain_loops(points, height, width):
    height, width = min(height, 5), min(width, 5)
    difference = polygon_mask(points, height, width) - slow_polygon_mask(points, height, width)
    assert difference.abs().max() <= 2 / 64  # a column at each edge


def test_a_polygon_is_the_mask_of_its_inside():
    square = [(0.25, 0.5), (0.75, 0.5), (0.75, 1.0), (0.25, 1.0)]
    mask = torch.zeros(8, 8)
    mask[4:, 2:6] = 1
    for points in (square, square[::-1], square + square):  # any way around, and twice
        assert torch.equal(polygon_mask(points, 8, 8), mask)
    half = [(0.0, 0.0), (0.125, 0.0), (0.125, 1.0), (0.0, 1.0)]
    assert torch.equal(polygon_mask(half, 1, 4), torch.tensor([[0.5, 0, 0, 0]]))
    triangle = polygon_mask([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)], 64, 64)
    assert triangle.mean() == pytest.approx(0.5, abs=1e-6)
    assert polygon_mask([(0.1, 0.1), (0.9, 0.9), (0.5, 0.5)], 16, 16).max() < 1e-6


def test_a_polygon_that_crosses_itself_is_filled():
    bow = polygon_mask([(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)], 64, 64)
    assert bow.mean() == pytest.approx(0.5, abs=0.02)
    assert bow[32, 2] == 1 and bow[32, 61] == 1 and bow[2, 32] == 0
