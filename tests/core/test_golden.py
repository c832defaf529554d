"""The core against the outputs of the research code (tests/data/golden/README.md)."""

import pytest
import torch
import torch.nn.functional as F
from golden import Golden, recipe

from msd_core import MSAdapter
from msd_core.adapters.resampler import GroundingResampler, ResamplerSizes, box_fourier
from msd_core.attention.covered import EVERY_QUERY, covered_queries
from msd_core.attention.phrase_maps import AutoLayout, phrase_maps
from msd_core.attention.subjects import (
    split_heads,
    subject_attention,
    subject_mask,
    weighted_values,
)
from msd_core.coverage import box_coverage
from msd_core.phrases import token_weights

A_SMALL, A_REAL = Golden("a_resampler", "small"), Golden("a_resampler", "real")
B = Golden("b_attention")


def resampler_inputs(golden, case):
    x = {name: golden.tensor(entry) for name, entry in case["inputs"].items()}
    boxes = torch.tensor(case["boxes"])
    drop = torch.tensor(case["drop_grounding_tokens"], dtype=torch.bool)
    drop = drop.repeat_interleave(len(boxes) // len(drop))
    return x["image_embeds"], x["phrase_embeds"], boxes, drop


def build_resampler(golden):
    config = {k: v for k, v in golden.manifest["config"].items() if k != "latent_init_mode"}
    resampler = GroundingResampler(ResamplerSizes(**config))
    prefix = golden.manifest["param_prefix"]
    assert list(resampler.state_dict()) == golden.manifest["state_dict_keys_in_order"]
    recipe.fill_torch(resampler, golden.seed, prefix)
    return resampler


@pytest.fixture(scope="module")
def small_resampler():
    return build_resampler(A_SMALL)


@pytest.mark.parametrize("name", A_SMALL.manifest["cases"])
@torch.inference_mode()
def test_small_resampler(small_resampler, name):
    case = A_SMALL.manifest["cases"][name]
    features, phrases, boxes, drop = resampler_inputs(A_SMALL, case)
    stored = A_SMALL.outputs(f"{name}/")
    torch.testing.assert_close(box_fourier(boxes), stored["fourier"], atol=2e-5, rtol=0)
    before_drop = small_resampler.latents(phrases, boxes, torch.zeros_like(drop))
    expected = stored["grounding_latents_before_drop"]
    torch.testing.assert_close(before_drop, expected, atol=2e-5, rtol=0)
    tokens = small_resampler(features, phrases, boxes, drop)
    torch.testing.assert_close(tokens, stored["out"], atol=2e-5, rtol=0)


@torch.inference_mode()
def test_real_size_resampler():
    resampler = build_resampler(A_REAL)
    for name, case in A_REAL.manifest["cases"].items():
        tokens = resampler(*resampler_inputs(A_REAL, case))
        ends = torch.cat((tokens[..., :8], tokens[..., -8:]), dim=-1)
        expected = A_REAL.outputs(f"{name}/")["out_first8_last8"]
        torch.testing.assert_close(ends, expected, atol=2e-5, rtol=0)
        sums = torch.tensor(case["out_rowsum_first_subject"])
        torch.testing.assert_close(tokens[0].sum(-1), sums, atol=2e-3, rtol=0)


class Attention:
    """The one attention of set b, with torch alone."""

    def __init__(self):
        prefix = {"to_k_ip": "processor.to_k_ip", "to_v_ip": "processor.to_v_ip"}
        self.heads = B.manifest["dims"]["heads"]
        self.weight = {
            name: torch.from_numpy(
                recipe.param(
                    B.seed,
                    B.manifest["attn_param_prefix"] + f"{prefix.get(name, name)}.weight",
                    B.manifest["params"][f"{prefix.get(name, name)}.weight"]["shape"],
                )
            )
            for name in ("to_q", "to_k", "to_v", "to_k_ip", "to_v_ip")
        }

    def text(self, hidden, text):
        q, k, v = (hidden @ self.weight["to_q"].T, text @ self.weight["to_k"].T,
                   text @ self.weight["to_v"].T)  # fmt: skip
        split = [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v)]
        return q, k, F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    def add_image(self, case, out, query, tokens, coverage, added_scores=0.0):
        """Add the image branch to out, by the product's own functions. coverage: [S, N], or
        [B, S, N], one a picture. added_scores: for a test that injects a mistake."""
        subjects = coverage.shape[-2]
        key, value = self.keys_and_values(case, tokens, subjects)
        queries = EVERY_QUERY
        if coverage.ndim == 2:
            queries = covered_queries(coverage)
            coverage = coverage[None, :, queries.index]
        mask = subject_mask(coverage, tokens.shape[1] // subjects, query.dtype)
        mask = mask._replace(scores=mask.scores + added_scores)
        key, value = split_heads(key, self.heads), split_heads(value, self.heads)
        queries.add(out, subject_attention(queries.take(query), key, value, mask))

    def project(self, tokens):
        return tokens @ self.weight["to_k_ip"].T, tokens @ self.weight["to_v_ip"].T

    def keys_and_values(self, case, tokens, subjects):
        key, value = self.project(tokens)
        return key, weighted_values(value, self.weights(case, subjects))

    def weights(self, case, subjects):
        return torch.tensor(case["subject_scales"] or [case["scale"]] * subjects)


@pytest.mark.parametrize("name", B.manifest["cases"])
@torch.inference_mode()
def test_attention(name):
    case, attention = B.manifest["cases"][name], Attention()
    x = {key: B.tensor(entry) for key, entry in case["inputs"].items()}
    cond = case["rows"] // 2
    query, _, text = attention.text(x["hidden"][cond:], x["text"][cond:])
    coverage = box_coverage(torch.tensor(case["boxes"]), case["side"], case["side"])
    assert coverage.sum(-1).tolist() == case["mask_patches_per_subject"]
    assert (~coverage.any(0)).sum() == case["background_patches"]
    for cells, rectangle in zip(coverage, case["mask_xyxy_patch"], strict=True):
        if rectangle is not None:
            x0, y0, x1, y1 = rectangle
            drawn = torch.zeros(case["side"], case["side"], dtype=torch.bool)
            drawn[y0:y1, x0:x1] = True
            assert torch.equal(cells, drawn.flatten())
    attention.add_image(case, text, query, x["ip_cond"], coverage)
    expected = B.outputs(f"{name}/")["pre_to_out"]
    torch.testing.assert_close(text, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", B.manifest["pseudo"])
@torch.inference_mode()
def test_auto_layout(name):
    case, attention = B.manifest["pseudo"][name], Attention()
    side, subjects = case["side"], len(case["boxes"])
    spans = token_weights([range(*span) for span in case["phrase_idxes"]], 77, 77)
    width = B.manifest["dims"]["query_dim"]
    context = B.manifest["dims"]["context_dim"]
    text = B.array(case["text_input"], (2, 77, context))[1:]
    tokens = B.array(case["ip_input"], (1, 16 * subjects, context))
    boxes = box_coverage(torch.tensor(case["boxes"]), side, side)
    layout = AutoLayout(case["mask_threshold"])
    for step, facts in enumerate(case["steps"]):
        hidden = B.array(case["hidden_input"].replace("<k>", str(step)), (2, side * side, width))
        query, key, result = attention.text(hidden[1:], text)
        layout.add(phrase_maps(query, key, attention.heads, spans))
        assert layout.steps == facts["maps_accumulated"]
        coverage = layout.coverage() if facts["pseudo_active"] else boxes
        stored = B.outputs(f"{name}/step{step}/")
        if facts["pseudo_active"]:
            assert torch.equal(coverage[0].reshape(-1, side, side), stored["mask"].bool())
        attention.add_image(case, result, query, tokens, coverage)
        torch.testing.assert_close(result, stored["pre_to_out"], atol=1e-5, rtol=0)


def test_released_keys_and_shapes():
    released = Golden("e_sdxl_manifest").manifest
    shapes = {key: row["shape"] for key, row in released["keys"].items()}
    adapter = MSAdapter.from_shapes(shapes)
    assert adapter.state_dict().keys() == released["keys"].keys()
    order = [k for k in adapter.state_dict() if k.startswith("ms_adapter.")]
    assert order == [k for k in released["keys"] if k.startswith("ms_adapter.")]
    assert adapter.resampler.sizes.num_queries == 16 and len(adapter.layers) == 70
    assert sum(p.numel() for p in adapter.parameters()) == sum(released["params"].values())
