"""The golden tests catch the mistakes that are easily made: each is made once, and seen to fail.

A test that passes with the mistake in place would mean that the golden data can't tell.
"""

import re

import pytest
import test_golden
import torch
from einops import rearrange
from test_golden import A_SMALL, B

from msd_core import attention, layout, resampler


def run_attention():
    for name in B.manifest["cases"]:
        test_golden.test_attention.__wrapped__(name)


def run_auto_layout():
    for name in B.manifest["pseudo"]:
        test_golden.test_auto_layout.__wrapped__(name)


def run_resampler():
    built = test_golden.build_resampler(A_SMALL)
    for name in A_SMALL.manifest["cases"]:
        test_golden.test_small_resampler.__wrapped__(built, name)


right_coverage = layout.box_coverage
right_attention = attention.subject_attention
right_fourier = resampler.box_fourier
right_maps = attention.phrase_maps


def edges_rounded(boxes, height, width):
    edge = torch.tensor([width, height, width, height])
    return right_coverage((boxes * edge).round() / edge, height, width)


def edges_inside_only(boxes, height, width):
    edge = torch.tensor([width, height, width, height])
    inner = torch.cat(((boxes * edge)[..., :2].ceil(), (boxes * edge)[..., 2:].floor()), -1)
    return right_coverage(inner / edge, height, width)


def x_and_y_swapped(boxes, height, width):
    return right_coverage(boxes[..., [1, 0, 3, 2]], height, width)


def whole_picture(boxes, height, width):
    return torch.ones_like(right_coverage(boxes, height, width))


def softmax_per_subject(query, key, value, coverage, heads, scales=None):
    subjects = coverage.shape[1]
    parts = zip(key.chunk(subjects, 1), value.chunk(subjects, 1), strict=True)
    return sum(
        right_attention(
            query,
            k,
            v,
            coverage[:, n : n + 1],
            heads,
            None if scales is None else scales[n : n + 1],
        )
        for n, (k, v) in enumerate(parts)
    )


def scales_renormalised(query, key, value, coverage, heads, scales=None):
    out = right_attention(query, key, value, coverage, heads, scales)
    if scales is None:
        return out
    ones = torch.ones_like(value)
    total = right_attention(query, key, ones, coverage, heads, scales)
    return out / total.clamp_min(1e-9)


def scales_before_softmax(query, key, value, coverage, heads, scales=None):
    if scales is not None:
        key = key * scales.repeat_interleave(key.shape[1] // len(scales))[None, :, None]
    return right_attention(query, key, value, coverage, heads)


def dummy_tokens_attended(query, key, value, coverage, heads, scales=None):
    """Four more tokens, seen by every query."""
    tokens = key.shape[1] // coverage.shape[1]
    pad = torch.zeros(key.shape[0], tokens, key.shape[2])
    everywhere = torch.ones_like(coverage[:, :1])
    if scales is not None:
        scales = torch.cat((torch.ones(1), scales))
    out = right_attention(
        query, torch.cat((pad, key), 1), torch.cat((pad, value), 1),
        torch.cat((everywhere, coverage), 1), heads, scales,
    )  # fmt: skip
    return out * coverage.any(1)[..., None]


def background_not_zeroed(query, key, value, coverage, heads, scales=None):
    return right_attention(
        query, key, value, coverage | ~coverage.any(1, keepdim=True), heads, scales
    )


def heads_interleaved(query, key, value, coverage, heads, scales=None):
    mixed = [rearrange(x, "b n (d h) -> b n (h d)", h=heads) for x in (query, key, value)]
    out = right_attention(*mixed, coverage, heads, scales)
    return rearrange(out, "b n (h d) -> b n (d h)", h=heads)


def fourier_by_coordinate(boxes):
    return right_fourier(boxes).unflatten(-1, (16, 4)).transpose(-1, -2).flatten(-2)


def fourier_cosine_first(boxes):
    return right_fourier(boxes).unflatten(-1, (8, 2, 4)).flip(-2).flatten(-3)


def fourier_with_two_pi(boxes):
    return right_fourier(boxes * 2 * torch.pi)


def drop_ignored(self, phrase_embeds, boxes, drop_grounding):
    return right_latents(self, phrase_embeds, boxes, torch.zeros_like(drop_grounding))


def dropped_latents_normed(self, phrase_embeds, boxes, drop_grounding):
    latents = right_latents(self, phrase_embeds, boxes, drop_grounding)
    return torch.where(drop_grounding[:, None, None], self.latent_norm(latents), latents)


right_latents = resampler.GroundingResampler.latents


right_perceiver = resampler.PerceiverAttention.forward


def norms_swapped(self, features, latents):
    self.norm1, self.norm2 = self.norm2, self.norm1
    try:
        return right_perceiver(self, features, latents)
    finally:
        self.norm1, self.norm2 = self.norm2, self.norm1


def maps_without_softmax(query, key, heads, weights):
    return (query @ key.transpose(1, 2) @ weights).transpose(1, 2)


def span_starts_late(query, key, heads, weights):
    return right_maps(query, key, heads, weights.roll(1, 0))


class OnlyLastMap(test_golden.AutoLayout):
    def add(self, maps):
        self._sum, steps = None, self.steps
        super().add(maps)
        self._sum, self.steps = maps * (steps + 1), steps + 1


class NotNormalised(test_golden.AutoLayout):
    def coverage(self):
        return self._sum / self.steps > self.threshold


class MissingPhraseEverywhere(test_golden.AutoLayout):
    def coverage(self):
        return super().coverage() | (self._sum.amax(-1, keepdim=True) == 0)


def scale_and_subject_scales(self, case, query, tokens, coverage):
    scales = case["subject_scales"] and torch.tensor(case["subject_scales"])
    return case["scale"] * self.image(query, tokens, coverage, scales)


MISTAKES = {
    edges_rounded: (test_golden, "box_coverage", run_attention),
    edges_inside_only: (test_golden, "box_coverage", run_attention),
    x_and_y_swapped: (test_golden, "box_coverage", run_attention),
    whole_picture: (test_golden, "box_coverage", run_attention),
    softmax_per_subject: (test_golden, "subject_attention", run_attention),
    scales_renormalised: (test_golden, "subject_attention", run_attention),
    scales_before_softmax: (test_golden, "subject_attention", run_attention),
    dummy_tokens_attended: (test_golden, "subject_attention", run_attention),
    background_not_zeroed: (test_golden, "subject_attention", run_attention),
    heads_interleaved: (test_golden, "subject_attention", run_attention),
    scale_and_subject_scales: (test_golden.Attention, "scaled_image", run_attention),
    fourier_by_coordinate: (resampler, "box_fourier", run_resampler),
    fourier_cosine_first: (resampler, "box_fourier", run_resampler),
    fourier_with_two_pi: (resampler, "box_fourier", run_resampler),
    drop_ignored: (resampler.GroundingResampler, "latents", run_resampler),
    dropped_latents_normed: (resampler.GroundingResampler, "latents", run_resampler),
    norms_swapped: (resampler.PerceiverAttention, "forward", run_resampler),
    maps_without_softmax: (test_golden, "phrase_maps", run_auto_layout),
    span_starts_late: (test_golden, "phrase_maps", run_auto_layout),
    OnlyLastMap: (test_golden, "AutoLayout", run_auto_layout),
    NotNormalised: (test_golden, "AutoLayout", run_auto_layout),
    MissingPhraseEverywhere: (test_golden, "AutoLayout", run_auto_layout),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: re.sub(r"_", " ", m.__name__))
@torch.inference_mode()
def test_mistake_is_caught(mistake, monkeypatch):
    place, name, golden_test = MISTAKES[mistake]
    golden_test()
    monkeypatch.setattr(place, name, mistake)
    with pytest.raises(AssertionError):
        golden_test()
