"""Placed references against the masks of LAMIC's own code, and against the rule written plainly."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from placed_rule import masked_scores
from safetensors.torch import load_file

from msd_core.attention import placed_references
from msd_core.attention.placed_references import (
    Placement,
    attend_in_groups,
    dense_mask,
    placed_groups,
)
from msd_core.coverage import box_coverage
from msd_core.models.reference_transformers import (
    REFERENCE_TRANSFORMERS,
    Part,
    token_count,
    token_grid,
)

GOLDEN = Path(__file__).parents[1] / "data" / "golden_lamic"
CASES = {c["name"]: c for c in json.loads((GOLDEN / "masks.json").read_text())["cases"]}
MASKS = load_file(GOLDEN / "masks.safetensors")
ORDERS = sorted({t.order for t in REFERENCE_TRANSFORMERS.values()}, key=str)
LAMIC = (Part.TEXT, Part.PICTURE, Part.REFERENCES)


def golden_placement(case, first_stage):
    coverage = torch.zeros(len(case["boxes"]), case["h"], case["w"], dtype=torch.bool)
    for n, (x0, y0, x1, y1) in enumerate(case["boxes"]):
        coverage[n, y0:y1, x0:x1] = True
    owners = [n for n, count in enumerate(case["text"]) for _ in range(count)]
    text = len(owners) + case["shared"] + case["pad"]
    own = torch.zeros(len(case["boxes"]), text, dtype=torch.bool)
    own[owners, range(len(owners))] = True
    return Placement(
        coverage.flatten(1),
        list(enumerate(case["refs"])),
        [1.0] * len(case["boxes"]),
        own,
        torch.arange(text) >= text - case["pad"],
        first_stage,
        [(int(n) - 1, [m - 1 for m in front]) for n, front in case.get("deoverlap", {}).items()],
    )


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_masks_of_the_research_code(name, stage):
    groups = placed_groups(golden_placement(CASES[name], stage == 1), LAMIC)
    expected = MASKS[f"{name}.stage{stage}"]
    assert torch.equal(dense_mask(groups, *expected.shape, torch.float32) == 0, expected)
    # The groups themselves: each query in one of them, with exactly its keys.
    everything, seen = torch.arange(len(expected)), torch.zeros(len(expected), dtype=torch.int64)
    for group in groups:
        assert group.bias is None
        seen[group.queries] += 1
        for query in everything[group.queries].tolist():
            assert everything[group.keys].tolist() == expected[query].nonzero().flatten().tolist()
    assert (seen == 1).all()


def attention(query, key, value, mask):
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return torch.softmax(scores if mask is None else scores + mask, -1) @ value


def length(placement, order):
    counts = {
        Part.TEXT: placement.own_text.shape[1],
        Part.PICTURE: placement.coverage.shape[1],
        Part.REFERENCES: sum(count for _, count in placement.references),
    }
    return sum(counts[part] for part in order)


def operands(count, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 1, 2, count, 8, generator=generator, dtype=torch.float64).to(dtype)


@st.composite
def placements(draw, soft=True):
    count = draw(st.integers(1, 4))
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    edge = st.floats(0, 1, width=32)
    boxes = []
    for _ in range(count):
        (x0, x1), (y0, y1) = (sorted(draw(st.tuples(edge, edge))) for _ in range(2))
        boxes.append((x0, y0, x1, y1))
    coverage = box_coverage(torch.tensor(boxes), height, width)
    if soft and draw(st.booleans()):
        levels = st.sampled_from([0.0, 0.25, 0.5, 1.0])
        values = [draw(levels) for _ in range(coverage.numel())]
        coverage = coverage * torch.tensor(values).view(coverage.shape)
    text = draw(st.integers(1, 7))
    kinds = st.integers(-2, count - 1)  # padding, shared, or a subject's own
    owners = [draw(kinds) for _ in range(text)]
    own = torch.tensor([[owner == n for owner in owners] for n in range(count)])
    references = [
        (n, draw(st.integers(1, 4))) for n in range(count) for _ in range(draw(st.integers(1, 2)))
    ]
    weights = [draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])) for _ in range(count)]
    padding = torch.tensor([owner == -2 for owner in owners])
    first = draw(st.booleans()) and bool(own.any())
    return Placement(coverage, references, weights, own, padding, first)


@settings(max_examples=40, deadline=None)
@given(placements(), st.sampled_from(ORDERS))
def test_groups_and_mask_follow_the_rule(placement, order):
    count = length(placement, order)
    query, key, value = operands(count)
    groups = placed_groups(placement, order)
    base = query @ key.transpose(-1, -2) * 8**-0.5
    whole = attention(query, key, value, None)
    expected = whole
    if not placement.parts_nothing:
        expected = torch.softmax(masked_scores(placement, order, base), -1) @ value
    found = attend_in_groups(attention, query, key, value, groups)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)  # a bias is float32
    if groups:
        mask = dense_mask(groups, count, count, torch.float64)
        found = attention(query, key, value, mask)
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    single = attend_in_groups(attention, *operands(count, dtype=torch.float32), groups)
    assert (single - expected).abs().max() <= 5e-6


@settings(max_examples=30, deadline=None)
@given(placements(), st.permutations(range(4)))
def test_the_order_of_subjects_does_not_matter(placement, order):
    order = [n for n in order if n < len(placement.weights)]
    new = {n: at for at, n in enumerate(order)}
    swapped = Placement(
        placement.coverage[order],
        [(new[n], count) for n, count in placement.references],
        [placement.weights[n] for n in order],
        placement.own_text[order],
        placement.padding,
        placement.first_stage,
    )
    query, key, value = operands(length(placement, LAMIC))
    first, second = (
        attend_in_groups(attention, query, key, value, placed_groups(p, LAMIC))
        for p in (placement, swapped)
    )
    torch.testing.assert_close(first, second, atol=1e-12, rtol=0)


def halves(weights=(1.0, 1.0), grid=(4, 6), boxes=((0, 0, 0.5, 1), (0.5, 0, 1, 1))):
    coverage = box_coverage(torch.tensor(boxes, dtype=torch.float32), *grid)
    references = [(n, 5 + n) for n in range(len(boxes))]
    text = torch.zeros(len(boxes), 3, dtype=torch.bool)
    return Placement(coverage, references, weights, text, torch.zeros(3, dtype=torch.bool))


@pytest.mark.parametrize("order", ORDERS)
def test_full_boxes_leave_the_attention_as_it_is(order):
    assert placed_groups(halves(boxes=((0, 0, 1, 1),) * 3, weights=(1.0,) * 3), order) == []


def test_another_reference_changes_nothing_outside_its_box():
    placement = halves()
    query, key, value = operands(3 + 24 + 11, dtype=torch.float32)
    groups = placed_groups(placement, LAMIC)
    before = attend_in_groups(attention, query, key, value, groups)
    key, value = key.clone(), value.clone()
    key[..., 27:32, :] += 1
    value[..., 27:32, :] -= 1
    after = attend_in_groups(attention, query, key, value, groups)
    outside = (~placement.coverage[0]).nonzero().flatten() + 3
    assert torch.equal(before[..., outside, :], after[..., outside, :])
    inside = placement.coverage[0].nonzero().flatten() + 3
    assert not torch.isclose(before[..., inside, :], after[..., inside, :]).any()
    assert torch.equal(before[..., 32:, :], after[..., 32:, :])  # the other reference


def test_a_weight_of_0_is_the_pairs_left_out():
    query, key, value = operands(3 + 24 + 11)
    found = attend_in_groups(attention, query, key, value, placed_groups(halves((0.0, 1.0)), LAMIC))
    without = [n for n in range(38) if not 27 <= n < 32]
    # The same with nothing in place of the first reference
    groups = placed_groups(halves((1.0, 1.0)), LAMIC)
    rows = slice(0, 27)
    mask = dense_mask(groups, 38, 38, torch.float64)[rows][:, without]
    expected = attention(query[..., rows, :], key[..., without, :], value[..., without, :], mask)
    torch.testing.assert_close(found[..., rows, :], expected, atol=1e-12, rtol=0)


def test_a_mask_of_the_model_holds_in_groups():
    query, key, value = operands(3 + 24 + 11)
    mask = torch.zeros(1, 1, 1, 38, dtype=torch.float64)
    mask[..., 1] = -math.inf  # as for a text's padding
    groups = placed_groups(halves((2.0, 1.0)), LAMIC)
    found = attend_in_groups(attention, query, key, value, groups, mask)
    whole = dense_mask(groups, 38, 38, torch.float64) + mask
    expected = attention(query, key, value, whole)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    of_each = mask.expand(-1, -1, 38, -1)
    torch.testing.assert_close(
        attend_in_groups(attention, query, key, value, groups, of_each), expected
    )


def test_queries_without_the_references():
    """As Flux KV Cache asks for them after its first step."""
    query, key, value = operands(3 + 24 + 11)
    whole = attend_in_groups(attention, query, key, value, placed_groups(halves(), LAMIC))
    groups = placed_groups(halves(), LAMIC, queries=27)
    part = attend_in_groups(attention, query[..., :27, :], key, value, groups)
    torch.testing.assert_close(part, whole[..., :27, :], atol=1e-12, rtol=0)


# Of all pairs of tokens, what is computed; docs/placed_references.md has the table.
PAIRS = {
    "a scene and a subject": (((0, 0, 1, 1), (0.25, 0.25, 0.75, 0.75)), 0.64),
    "halves": (((0, 0, 0.5, 1), (0.5, 0, 1, 1)), 0.59),
    "two boxes": (((0, 0.25, 0.4, 0.75), (0.6, 0.25, 1, 0.75)), 0.47),
    "quarters": (
        ((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), (0, 0.5, 0.5, 1), (0.5, 0.5, 1, 1)),
        0.31,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_hidden_pairs_are_not_computed(name):
    """At a real size: 512 tokens of text, the picture and each reference 64 x 64."""
    boxes, kept = PAIRS[name]
    subjects = range(len(boxes))
    placement = Placement(
        box_coverage(torch.tensor(boxes, dtype=torch.float32), 64, 64),
        [(n, 4096) for n in subjects],
        [1.0] * len(boxes),
        torch.zeros(len(boxes), 512, dtype=torch.bool),
        torch.zeros(512, dtype=torch.bool),
    )
    count = 512 + 4096 * (1 + len(boxes))
    everything = torch.arange(count)
    pairs = sum(
        len(everything[group.queries]) * len(everything[group.keys])
        for group in placed_groups(placement, LAMIC)
    )
    cells = [int(placement.coverage[n].sum()) for n in subjects]
    of_text, of_picture = 512 * count, 4096 * (512 + 4096) + sum(cells) * 4096
    of_references = sum(4096 * (512 + own + 4096) for own in cells)
    assert pairs == of_text + of_picture + of_references
    assert round(pairs / count**2, 2) == kept


def test_boxes_over_whole_rows_are_views():
    groups = placed_groups(halves(boxes=((0, 0, 1, 0.5), (0, 0.5, 1, 1))), LAMIC)
    assert all(isinstance(group.queries, slice) for group in groups)


def test_token_grids():
    assert token_grid((1, 16, 9, 13), 2) == (1, 5, 7)
    assert token_grid((1, 16, 3, 9, 13), 2) == (3, 5, 7)
    assert token_grid((1, 16, 3, 9, 13), [1, 2, 2]) == (3, 5, 7)
    assert token_count((1, 128, 9, 13), 1) == 9 * 13


def text_masked_too(tokens, query, first_stage):
    visible = right_visible(tokens, query, first_stage)
    if tokens.kinds[query] == placed_references._PICTURE:
        visible &= tokens.kinds != placed_references._SHARED_TEXT
    return visible


def references_see_each_other(tokens, query, first_stage):
    visible = right_visible(tokens, query, first_stage)
    if tokens.kinds[query] == placed_references._REFERENCE:
        visible |= tokens.kinds == placed_references._REFERENCE
    return visible


def references_hidden_inside(tokens, query, first_stage):
    visible = right_visible(tokens, query, first_stage)
    if tokens.kinds[query] == placed_references._PICTURE:
        visible ^= tokens.kinds == placed_references._REFERENCE
    return visible


def one_stage_for_all(tokens, query, first_stage):
    return right_visible(tokens, query, False)


right_visible = placed_references._visible


@pytest.mark.parametrize(
    "mistake",
    [text_masked_too, references_see_each_other, references_hidden_inside, one_stage_for_all],
)
def test_mistakes_are_caught(mistake, monkeypatch):
    monkeypatch.setattr(placed_references, "_visible", mistake)
    with pytest.raises(AssertionError):
        for name in CASES:
            for stage in (1, 2):
                test_masks_of_the_research_code(name, stage)
