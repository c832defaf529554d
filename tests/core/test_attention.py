"""The image branch against plain loops, and its invariants."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_core.attention.covered import covered_queries
from msd_core.attention.phrase_maps import AutoLayout, phrase_maps, restore_boxes
from msd_core.attention.subjects import (
    split_heads,
    subject_attention,
    subject_mask,
    weighted_values,
)
from msd_core.phrases import token_weights

HEADS = 2


def slow_attention(query, key, value, coverage, scales=None):
    """docs/method.md, section 4, query by query: one softmax over all covering subjects' tokens."""
    batch, queries, channels = query.shape
    subjects = coverage.shape[1]
    tokens, width = key.shape[1] // subjects, channels // HEADS
    out = torch.zeros_like(query)
    for b in range(batch):
        for n in range(queries):
            weights = coverage[b, :, n].float().repeat_interleave(tokens)
            if not weights.any():
                continue
            for h in range(HEADS):
                part = slice(h * width, (h + 1) * width)
                scores = (key[b, :, part] @ query[b, n, part]) / width**0.5
                exponentials = weights * (scores - scores.max()).exp()
                probabilities = exponentials / exponentials.sum()
                if scales is not None:
                    probabilities = probabilities * scales.repeat_interleave(tokens)
                out[b, n, part] = weights.max() * (probabilities @ value[b, :, part])
    return out


def attend(query, key, value, coverage, scales=None):
    """What a layer does with queries that it is given: weights, mask and heads included."""
    if scales is not None:
        value = weighted_values(value, scales)
    mask = subject_mask(coverage, key.shape[1] // coverage.shape[1], query.dtype)
    return subject_attention(query, split_heads(key, HEADS), split_heads(value, HEADS), mask)


def random_inputs(seed, batch=2, subjects=3, queries=12, tokens=4, soft=False):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, queries, 8 * HEADS, generator=generator)
    key, value = torch.randn(2, batch, subjects * tokens, 8 * HEADS, generator=generator)
    coverage = torch.rand(batch, subjects, queries, generator=generator)
    if soft:
        return query, key, value, coverage.where(coverage > 0.3, 0.0)
    return query, key, value, coverage > 0.6


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 2), st.integers(1, 5), st.booleans(), st.booleans())
def test_equals_plain_loops(seed, batch, subjects, soft, scaled):
    inputs = random_inputs(seed, batch, subjects, soft=soft)
    scales = torch.linspace(0.3, 1.2, subjects) if scaled else None
    result = attend(*inputs, scales)
    torch.testing.assert_close(result, slow_attention(*inputs, scales), atol=1e-6, rtol=1e-5)


def test_full_coverage_is_plain_attention():
    query, key, value, coverage = random_inputs(1)
    split = [x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (query, key, value)]
    plain = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    for everywhere in (torch.ones_like(coverage), torch.ones(coverage.shape)):
        result = attend(query, key, value, everywhere)
        torch.testing.assert_close(result, plain, atol=1e-6, rtol=1e-6)


def test_no_coverage_is_exactly_zero():
    query, key, value, coverage = random_inputs(2)
    for nowhere in (torch.zeros_like(coverage), torch.zeros(coverage.shape)):
        assert not attend(query, key, value, nowhere).any()


def test_empty_inputs_give_empty_or_zero_results():
    query, key, value, coverage = random_inputs(2)
    result = attend(query[:, :0], key, value, coverage[:, :, :0])
    assert result.shape == query[:, :0].shape
    assert not attend(query, key[:, :0], value[:, :0], coverage).any()


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 3))
def test_only_the_covered_queries_are_computed(covered, subjects):
    """To take them, compute and add back equals computing all queries, whatever the pattern."""
    query, key, value, _ = random_inputs(9, 2, subjects, queries=len(covered))
    coverage = torch.zeros(subjects, len(covered), dtype=torch.bool)
    coverage[subjects // 2] = torch.tensor(covered)
    queries = covered_queries(coverage)
    own = attend(
        queries.take(query), key, value, coverage[None, :, coverage.any(0)].expand(2, -1, -1)
    )
    out = query.clone()
    queries.add(out, own)
    whole = attend(query, key, value, coverage.expand(2, -1, -1))
    torch.testing.assert_close(out, query + whole, atol=1e-6, rtol=1e-6)


def test_order_of_the_subjects_does_not_matter():
    query, key, value, coverage = random_inputs(3)
    order = torch.tensor([2, 0, 1])
    scales = torch.tensor([0.5, 1.0, 1.5])
    tokens = (order[:, None] * 4 + torch.arange(4)).flatten()
    swapped = attend(query, key[:, tokens], value[:, tokens], coverage[:, order], scales[order])
    result = attend(query, key, value, coverage, scales)
    torch.testing.assert_close(swapped, result, atol=1e-6, rtol=1e-6)


def test_a_fading_subject_fades_to_nothing():
    query, key, value, _ = random_inputs(4, subjects=2)
    coverage = torch.ones(2, 2, 12)
    coverage[:, 1] = 1e-6
    nearly = attend(query, key, value, coverage)
    coverage[:, 1] = 0
    without = attend(query, key, value, coverage)
    torch.testing.assert_close(nearly, without, atol=1e-4, rtol=0)
    assert torch.allclose(attend(query, key, value, coverage * 0.5), without * 0.5, atol=1e-6)


def test_equal_subject_scales_are_a_scale_and_unequal_ones_don_t_renormalise():
    query, key, value, coverage = random_inputs(5)
    plain = attend(query, key, value, coverage)
    scaled = attend(query, key, value, coverage, torch.full((3,), 0.6))
    torch.testing.assert_close(scaled, 0.6 * plain, atol=1e-6, rtol=1e-6)


def test_tokens_that_don_t_divide_are_refused():
    _, _, value, _ = random_inputs(6)
    with pytest.raises(ValueError, match="11 image tokens don't divide among 3 subjects"):
        weighted_values(value[:, :11], torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_good_as_plain_attention_in_it(dtype):
    query, key, value, coverage = random_inputs(7)
    exact = attend(query, key, value, coverage)
    halves = [x.to(dtype) for x in (query, key, value)]
    result = attend(*halves, coverage)
    assert result.dtype == dtype
    error = (result.float() - exact).abs().max()
    full = torch.ones_like(coverage)
    plain_exact = attend(query, key, value, full)
    plain_error = (attend(*halves, full).float() - plain_exact).abs().max()
    assert error < 4 * plain_error


def test_phrase_maps_equal_plain_loops():
    generator = torch.Generator().manual_seed(8)
    query, key = torch.randn(2, 5, 16, generator=generator), torch.randn(2, 7, 16)
    maps = phrase_maps(query, key, HEADS, token_weights([(1, 2), (4,)], 7, 7))
    for b in range(2):
        for n in range(5):
            probabilities = torch.zeros(7)
            for part in (slice(0, 8), slice(8, 16)):
                probabilities += (key[b, :, part] @ query[b, n, part] / 8**0.5).softmax(0) / HEADS
            expected = torch.stack((probabilities[1:3].mean(), probabilities[4]))
            torch.testing.assert_close(maps[b, :, n], expected)


def test_auto_layout_is_the_mean_of_all_steps():
    maps = torch.rand(3, 2, 1, 10)
    layout = AutoLayout(0.5)
    with pytest.raises(ValueError, match="no maps"):
        layout.coverage()
    for step in maps:
        layout.add(step)
    mean = maps.mean(0)
    low, high = mean.amin(-1, keepdim=True), mean.amax(-1, keepdim=True)
    assert torch.equal(layout.coverage(), (mean - low) / (high - low + 1e-5) > 0.5)
    assert layout.steps == 3
    reused, buffer = AutoLayout(0.5), maps[0].clone()
    reused.add(buffer)
    before = reused.coverage()
    buffer.zero_()
    assert torch.equal(reused.coverage(), before)
    nothing = AutoLayout(0.5)
    nothing.add(torch.zeros(1, 1, 10))
    assert not nothing.coverage().any()


def test_token_weights_repeat_with_the_text():
    """A text of 3 tokens that the host has repeated to 6; a phrase that isn't in it."""
    weights = token_weights([(0, 2), ()], 6, 3)
    assert weights[:, 0].tolist() == [0.5, 0, 0.5, 0.5, 0, 0.5]
    assert not weights[:, 1].any()


def test_subjects_without_a_phrase_get_their_boxes_back():
    boxes = torch.tensor([[False, True, False, True], [False, False, True, True]])
    queries = covered_queries(boxes)
    coverage = torch.ones(2, 2, 4, dtype=torch.bool)
    restore_boxes(coverage, boxes[None, :, 1:], queries, [1])
    assert coverage[:, 0].all()
    assert torch.equal(coverage[:, 1], boxes[1].expand(2, -1))
