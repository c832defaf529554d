"""MIP-Adapter's merge by names and its files, against the outputs of the research code
(tests/data/golden_mip/README.md)."""

import pytest
import torch
import torch.nn.functional as F
from golden import Golden, recipe
from safetensors.torch import save_file
from test_ip_adapter import FILES, KINDS, LAYERS, shapes_of, small

from msd_core.adapters.family import Needs
from msd_core.adapters.mip_adapter import MIPAdapter
from msd_core.attention import merge
from msd_core.attention.subjects import split_heads
from msd_core.checkpoint import load_adapter

B = Golden("b_attention", folder="golden_mip")
CASES = [name for name, case in B.manifest["cases"].items() if case["kind"] == "mip"]


def layer_weights(case):
    weights = {}
    for key, (shape, _) in B.manifest["params"].items():
        gain = B.manifest["text_to_weight_gain"] if "text_to_weight" in key else 1.0
        name = B.manifest["attn_param_prefix"] + key
        weights[key.split(".")[-2]] = torch.from_numpy(recipe.param(B.seed, name, shape, gain))
    if case.get("no_text_weight"):
        weights["text_to_weight"] = weights["text_to_weight"] * 0
    return weights


def names_of(case, x, prompt):
    """The tokens of a prompt's names, and how they share in the maps."""
    given = x["entity_text"][prompt]
    if case.get("same_name"):
        given = given[:1].expand_as(given)
    lengths = case["name_lengths"][prompt]
    each = [text[1 : 1 + length] for text, length in zip(given, lengths, strict=True)]
    columns = [torch.full((len(tokens), 1), 1 / len(tokens)) for tokens in each]
    return torch.cat(each)[None], torch.block_diag(*columns)


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_merge(name):
    case = B.manifest["cases"][name]
    weight, heads = layer_weights(case), B.manifest["dims"]["heads"]
    x = {key: B.tensor(entry) for key, entry in case["inputs"].items()}
    query = x["hidden"] @ weight["to_q"].T
    key, value = (x["text"] @ weight[kind].T for kind in ("to_k", "to_v"))
    text = F.scaled_dot_product_attention(*(split_heads(y, heads) for y in (query, key, value)))
    text = text.transpose(1, 2).flatten(2)
    strength = merge.text_strength(text, weight["text_to_weight"][0])
    stored = B.outputs(f"{name}/")
    half, out = len(query) // 2, text.clone()
    each = half // len(case["name_lengths"])
    found = []
    for rows, prompt in [(slice(0, half), None)] + [
        (slice(half + n * each, half + (n + 1) * each), n) for n in range(half // each)
    ]:
        q = query[rows]
        if prompt is None:
            tokens, merged = x["ip_uncond"][None], q.new_ones(1, q.shape[1], 1)
        else:
            tokens = x["ip_cond"][prompt].flatten(0, 1)[None]
            names, shares = names_of(case, x, prompt)
            merged = merge.name_weights(q, names @ weight["to_k"].T, heads, shares)
            found.append(merged)
        k, v = (split_heads(tokens @ weight[f"to_{kind}_ip"].T, heads) for kind in "kv")
        image = merge.merged_attention(q, k, v * case["scale"], merged)
        out[rows] += image * strength[rows]
    torch.testing.assert_close(out, stored["pre_to_out"], atol=2e-5, rtol=0)
    if "weights" in stored:
        torch.testing.assert_close(
            torch.cat(found).transpose(1, 2), stored["weights"][half:], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(strength[..., 0], stored["text_weight"], atol=1e-5, rtol=0)


right_weights, right_strength = merge.name_weights, merge.text_strength
right_merged = merge.merged_attention


def softmax_over_tokens(query, name_key, heads, shares):
    q, k = (split_heads(x, heads) for x in (query, name_key))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    maps = scores.softmax(-1).mean(1) @ shares
    return maps / maps.sum(-1, keepdim=True)


def tokens_added_not_averaged(query, name_key, heads, shares):
    return right_weights(query, name_key, heads, (shares > 0).float())


def weights_not_normalised(query, name_key, heads, shares):
    return right_weights(query, name_key, heads, shares) * 0.9


def begin_token_counted(query, name_key, heads, shares):
    return right_weights(query, name_key.roll(1, 1), heads, shares)


def one_softmax_over_all(query, key, value, weights):
    return right_merged(query, key, value, torch.ones_like(weights[..., :1]))


def even_parts(query, key, value, weights):
    return right_merged(query, key, value, torch.ones_like(weights) / weights.shape[-1])


def strength_not_divided(text, text_weight):
    return (text @ text_weight).sigmoid()[..., None]


def strength_left_out(text, text_weight):
    return torch.ones_like(text[..., :1])


MISTAKES = {
    softmax_over_tokens: "name_weights",
    tokens_added_not_averaged: "name_weights",
    weights_not_normalised: "name_weights",
    begin_token_counted: "name_weights",
    one_softmax_over_all: "merged_attention",
    even_parts: "merged_attention",
    strength_not_divided: "text_strength",
    strength_left_out: "text_strength",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: each.__name__.replace("_", " "))
def test_mistake_is_caught(mistake, monkeypatch):
    monkeypatch.setattr(merge, MISTAKES[mistake], mistake)
    with pytest.raises(AssertionError):
        test_merge.__wrapped__("three_8x8")


def test_a_subject_without_a_name_gets_an_even_map():
    torch.manual_seed(0)
    query, names = torch.randn(1, 12, 16), torch.randn(1, 2, 16)
    shares = torch.tensor([[0.5, 0.0], [0.5, 0.0]])
    weights = merge.name_weights(query, names, 2, shares)
    named = merge.name_weights(query, names, 2, torch.tensor([[0.5], [0.5]]))
    assert torch.equal(named, torch.ones(1, 12, 1)) and weights.isfinite().all()
    maps = (
        split_heads(query, 2) @ split_heads(names, 2).transpose(-1, -2) * 8**-0.5
    ).softmax(2).mean((1, 3))  # fmt: skip
    torch.testing.assert_close(weights[..., 0], maps / (maps + 1 / 12))
    none = merge.name_weights(query, names[:, :0], 2, torch.zeros(0, 2))
    torch.testing.assert_close(none, torch.full((1, 12, 2), 0.5))


def test_peaked_maps_in_half_precision():
    """Where scores are far apart, all maps would be zeros at once."""
    torch.manual_seed(0)
    query, names = (torch.randn(1, n, 16).half() * 12 for n in (4096, 2))
    weights = merge.name_weights(query, names, 2, torch.eye(2))
    assert weights.dtype == torch.float32 and weights.isfinite().all()


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("model_sdxl")])
def test_released_files(file):
    facts, shapes = FILES[file], shapes_of(file)
    adapter = MIPAdapter.from_shapes(shapes)
    assert {k: list(v.shape) for k, v in adapter.state_dict().items()} == shapes
    assert isinstance(adapter.image_proj, KINDS[facts["image_proj"]])
    assert sum(p.numel() for p in adapter.parameters()) == facts["parameters"]
    widths = [each["width"] for each in LAYERS["sdxl"]]
    assert [len(each) for each in adapter.text_weights] == widths
    kind = "hidden_states" if facts["image_proj"] == "plus" else "pooled"
    encoder = facts["encoder"].split()[0]
    assert adapter.needs == Needs(kind, facts["encoder_width"], encoder, "tokens", 2048, False)


def test_files(tmp_path):
    flat = small()
    for number, width in ((1, 32), (3, 64), (5, 64)):
        flat[f"ip_adapter.{number}.text_to_weight.weight"] = torch.randn(1, width)
    save_file(flat, tmp_path / "a.safetensors")
    adapter = load_adapter(tmp_path / "a.safetensors")
    assert isinstance(adapter, MIPAdapter)
    two = torch.randn(2, 20)
    both = adapter.image_tokens(two, torch.empty(0), torch.empty(0), True)
    one = [adapter.image_tokens(x[None], torch.empty(0), torch.empty(0), True) for x in two]
    torch.testing.assert_close(both, torch.stack(one).mean(0))
    del flat["ip_adapter.3.text_to_weight.weight"]
    save_file(flat, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"MIP-Adapter adapter: key 'ip_adapter.3.text_to_weight"):
        load_adapter(tmp_path / "a.safetensors")
