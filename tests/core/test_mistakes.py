"""The golden tests catch the mistakes that are easy to make: each is injected once and must fail.

If a test passed with the mistake in place, the golden data couldn't detect it.
"""

import re

import pytest
import test_golden
import torch
import torch.nn.functional as F
from einops import rearrange
from test_golden import A_SMALL, B

from msd_core import coverage as boxes_and_masks
from msd_core.adapters import perceiver, resampler
from msd_core.attention import covered, phrase_maps
from msd_core.attention import subjects as attention

TOKENS = 16  # image tokens a subject in set b


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


right_coverage = boxes_and_masks.box_coverage
right_attention = attention.subject_attention
right_add = covered.CoveredQueries.add
right_add_image = test_golden.Attention.add_image
right_fourier = resampler.box_fourier
right_maps = phrase_maps.phrase_maps


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


def softmax_per_subject(query, key, value, mask):
    out = 0
    for first in range(0, key.shape[2], TOKENS):
        own = slice(first, first + TOKENS)
        scores = mask.scores[..., own]
        sees = scores[:, 0, :, :1] == 0  # [B, N, 1]
        alone = attention.SubjectMask(torch.zeros_like(scores), sees.to(query))
        out = out + right_attention(query, key[:, :, own], value[:, :, own], alone)
    return out


def scales_renormalised(self, case, out, query, tokens, coverage):
    if case["subject_scales"] is None:
        return right_add_image(self, case, out, query, tokens, coverage)
    even = {**case, "subject_scales": None, "scale": 1.0}
    log_scales = torch.tensor(case["subject_scales"]).log().repeat_interleave(TOKENS)
    return right_add_image(self, even, out, query, tokens, coverage, log_scales)


def scales_before_softmax(self, case, tokens, subjects):
    key, value = self.project(tokens)
    weights = self.weights(case, subjects).repeat_interleave(TOKENS)
    return key * weights[:, None], value


def dummy_tokens_attended(query, key, value, mask):
    """As many tokens again, all zeros, that every query sees."""
    pad = torch.zeros_like(key[:, :, :TOKENS])
    scores = F.pad(mask.scores, (TOKENS, 0))
    key, value = torch.cat((pad, key), 2), torch.cat((pad, value), 2)
    return right_attention(query, key, value, mask._replace(scores=scores))


def background_not_zeroed(self, case, out, query, tokens, coverage):
    everywhere = coverage | ~coverage.any(-2, keepdim=True)
    right_add_image(self, case, out, query, tokens, everywhere)


def added_to_the_next_queries(self, out, x):
    moved = out.roll(-1, 1)
    right_add(self, moved, x)
    out.copy_(moved.roll(1, 1))


def heads_interleaved(query, key, value, mask):
    heads = key.shape[1]
    query = rearrange(query, "b n (d h) -> b n (h d)", h=heads)
    key, value = (
        rearrange(rearrange(x, "b h k d -> b k (h d)"), "b k (d h) -> b h k d", h=heads)
        for x in (key, value)
    )
    out = right_attention(query, key, value, mask)
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


right_perceiver = perceiver.PerceiverAttention.forward


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


def scale_and_subject_scales(self, case, subjects):
    return case["scale"] * torch.tensor(case["subject_scales"] or [1.0] * subjects)


MISTAKES = {
    edges_rounded: (test_golden, "box_coverage", run_attention),
    edges_inside_only: (test_golden, "box_coverage", run_attention),
    x_and_y_swapped: (test_golden, "box_coverage", run_attention),
    whole_picture: (test_golden, "box_coverage", run_attention),
    softmax_per_subject: (test_golden, "subject_attention", run_attention),
    scales_renormalised: (test_golden.Attention, "add_image", run_attention),
    scales_before_softmax: (test_golden.Attention, "keys_and_values", run_attention),
    dummy_tokens_attended: (test_golden, "subject_attention", run_attention),
    background_not_zeroed: (test_golden.Attention, "add_image", run_attention),
    added_to_the_next_queries: (covered.CoveredQueries, "add", run_attention),
    heads_interleaved: (test_golden, "subject_attention", run_attention),
    scale_and_subject_scales: (test_golden.Attention, "weights", run_attention),
    fourier_by_coordinate: (resampler, "box_fourier", run_resampler),
    fourier_cosine_first: (resampler, "box_fourier", run_resampler),
    fourier_with_two_pi: (resampler, "box_fourier", run_resampler),
    drop_ignored: (resampler.GroundingResampler, "latents", run_resampler),
    dropped_latents_normed: (resampler.GroundingResampler, "latents", run_resampler),
    norms_swapped: (perceiver.PerceiverAttention, "forward", run_resampler),
    maps_without_softmax: (test_golden, "phrase_maps", run_auto_layout),
    span_starts_late: (test_golden, "phrase_maps", run_auto_layout),
    OnlyLastMap: (test_golden, "AutoLayout", run_auto_layout),
    NotNormalised: (test_golden, "AutoLayout", run_auto_layout),
    MissingPhraseEverywhere: (test_golden, "AutoLayout", run_auto_layout),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: re.sub(r"_", " ", m.__name__))
@torch.inference_mode()
def test_mistake_is_caught(mistake, monkeypatch):
    owner, name, golden_test = MISTAKES[mistake]
    golden_test()
    monkeypatch.setattr(owner, name, mistake)
    with pytest.raises(AssertionError):
        golden_test()
