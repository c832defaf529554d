"""IP-Adapter files and image tokens, against the outputs of the research code and the keys and
shapes of the real files (tests/data/golden_mip/README.md)."""

import re

import pytest
import torch
import torch.nn.functional as F
from golden import Golden, recipe
from safetensors.torch import save_file

from msd_core.adapters import perceiver
from msd_core.adapters.family import Needs
from msd_core.adapters.ip_adapter import FullImageProj, IPAdapter, LinearImageProj, PlusImageProj
from msd_core.adapters.perceiver import PerceiverSizes
from msd_core.attention.subjects import split_heads, subject_attention, subject_mask
from msd_core.checkpoint import load_adapter
from msd_core.convert import convert

A, B = (Golden(name, folder="golden_mip") for name in ("a_projection", "b_attention"))
LAYERS, FILES = (Golden("e_manifest", folder="golden_mip").manifest[k] for k in ("layers", "files"))


def build_image_proj(kind):
    if kind == "linear":
        config = A.manifest["linear_config"]
        built = LinearImageProj(
            config["clip_embeddings_dim"], config["clip_extra_context_tokens"],
            config["cross_attention_dim"],
        )  # fmt: skip
    else:
        built = PlusImageProj(PerceiverSizes(**A.manifest["plus_config"]))
    given = recipe.fill_torch(built, A.seed, A.manifest["prefixes"][kind])
    assert {k: [row["shape"], row["sha"]] for k, row in given.items()} == A.manifest["params"][kind]
    return built


@pytest.mark.parametrize("name", A.manifest["cases"])
@torch.inference_mode()
def test_image_tokens(name):
    case = A.manifest["cases"][name]
    image_proj = build_image_proj(case["kind"])
    adapter = IPAdapter(image_proj, {})
    expected = A.outputs(f"{name}/")["out"]
    if case["inputs"]:
        ((_, entry),) = case["inputs"].items()
        tokens = adapter.image_tokens(A.tensor(entry), torch.empty(0), torch.empty(0), True)
    else:
        tokens = adapter.blank_image_tokens(torch.zeros(image_proj.feature_width))[None]
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_blank_tokens_of_plus():
    """They come from what the encoder gives for no image; that is an image like any other."""
    adapter = IPAdapter(build_image_proj("plus"), {})
    features = A.tensor(A.manifest["cases"]["plus_1"]["inputs"]["features"])
    expected = A.outputs("plus_1/")["out"]
    torch.testing.assert_close(
        adapter.blank_image_tokens(features[0])[None], expected, atol=1e-5, rtol=0
    )


IPA = [name for name, case in B.manifest["cases"].items() if case["kind"] == "ip_adapter"]


@pytest.mark.parametrize("name", IPA)
@torch.inference_mode()
def test_one_subject_everywhere_is_the_published_method(name):
    """In the rows of both conditionings."""
    case, prefix = B.manifest["cases"][name], B.manifest["attn_param_prefix"]
    weight = {
        key.split(".")[-2]: torch.from_numpy(recipe.param(B.seed, prefix + key, shape))
        for key, (shape, _) in B.manifest["params"].items()
        if "to_out" not in key and "text_to_weight" not in key
    }
    x = {key: B.tensor(entry) for key, entry in case["inputs"].items()}
    heads, queries = B.manifest["dims"]["heads"], case["height"] * case["width"]
    query = x["hidden"] @ weight["to_q"].T
    text = (x["text"] @ weight[key].T for key in ("to_k", "to_v"))
    out = F.scaled_dot_product_attention(*(split_heads(y, heads) for y in (query, *text)))
    out = out.transpose(1, 2).flatten(2)
    mask = subject_mask(torch.ones(1, 1, queries, dtype=torch.bool), case["tokens"], query.dtype)
    for row, tokens in enumerate((x["ip_uncond"], x["ip_cond"])):
        key, value = (
            split_heads(tokens[None] @ weight[k].T, heads) for k in ("to_k_ip", "to_v_ip")
        )
        out[row] += subject_attention(query[row : row + 1], key, value * case["scale"], mask)[0]
    expected = B.outputs(f"{name}/")["pre_to_out"]
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=0)


right_layers = perceiver.PerceiverLayers.forward
right_attention = perceiver.PerceiverAttention.forward


def norms_swapped(self, features, latents):
    self.norm1, self.norm2 = self.norm2, self.norm1
    try:
        return right_attention(self, features, latents)
    finally:
        self.norm1, self.norm2 = self.norm2, self.norm1


def latents_normed_as_msdiffusion_does(self, features, latents):
    latents = right_layers(self, features, latents)
    return F.layer_norm(latents, latents.shape[-1:])


def not_normed(self, features):
    return self.proj(features).unflatten(-1, (-1, self.output_dim))


def tokens_and_channels_swapped(self, features):
    split = self.proj(features).unflatten(-1, (self.output_dim, -1))
    return self.norm(split.transpose(1, 2))


def blank_from_the_encoder(self, hidden_states):
    return self.image_proj(hidden_states.new_ones(1, self.needs.feature_width))[0]


MISTAKES = {
    norms_swapped: (perceiver.PerceiverAttention, "forward", "plus_3"),
    latents_normed_as_msdiffusion_does: (perceiver.PerceiverLayers, "forward", "plus_3"),
    not_normed: (LinearImageProj, "forward", "linear_3"),
    tokens_and_channels_swapped: (LinearImageProj, "forward", "linear_3"),
    blank_from_the_encoder: (IPAdapter, "blank_image_tokens", "linear_uncond"),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: re.sub(r"_", " ", m.__name__))
@torch.inference_mode()
def test_mistake_is_caught(mistake, monkeypatch):
    owner, name, case = MISTAKES[mistake]
    test_image_tokens.__wrapped__(case)
    monkeypatch.setattr(owner, name, mistake)
    with pytest.raises(AssertionError):
        test_image_tokens.__wrapped__(case)


def shapes_of(file):
    """The keys and shapes of a real file."""
    facts = FILES[file]
    shapes = dict(facts["image_proj_shapes"])
    for layer in LAYERS[facts["unet"]]:
        for key, shape in facts["ip_adapter_shapes"].items():
            sizes = [layer["width"] if size == "width" else size for size in shape]
            shapes[key.replace("<index>", str(layer["index"]))] = sizes
    assert len(shapes) == facts["keys"]
    return shapes


OURS = [file for file in FILES if not file.startswith("model_sdxl")]
KINDS = {"linear": LinearImageProj, "plus": PlusImageProj, "full": FullImageProj}


@pytest.mark.parametrize("file", OURS)
def test_real_files(file):
    facts, shapes = FILES[file], shapes_of(file)
    adapter = IPAdapter.from_shapes(shapes)
    assert {k: list(v.shape) for k, v in adapter.state_dict().items()} == shapes
    assert isinstance(adapter.image_proj, KINDS[facts["image_proj"]])
    assert sum(p.numel() for p in adapter.parameters()) == facts["parameters"]
    assert [width for width, _ in adapter.layers] == [e["width"] for e in LAYERS[facts["unet"]]]
    assert {context for _, context in adapter.layers} == {facts["cross_attention_width"]}
    kind = "hidden_states" if facts["image_proj"] != "linear" else "pooled"
    encoder = facts["encoder"].split()[0]
    assert adapter.needs == Needs(kind, facts["encoder_width"], encoder, None, 0, False)
    if facts["image_proj"] == "plus":
        assert adapter.image_proj.sizes.dim_head == 64


def small(kind="linear"):
    """A whole adapter's weights, flat."""
    torch.manual_seed(0)
    shapes = {
        f"image_proj.{k}": shape for k, (shape, _) in A.manifest["params"].get(kind, {}).items()
    }
    if kind == "full":
        three = (("0", [20, 20]), ("2", [24, 20]))
        shapes = {f"image_proj.proj.{n}.weight": shape for n, shape in three}
        shapes |= {f"image_proj.proj.{n}.bias": shape[:1] for n, shape in three}
        shapes |= {"image_proj.proj.3.weight": [24], "image_proj.proj.3.bias": [24]}
    for number, width in ((1, 32), (3, 64), (5, 64)):
        shapes |= {f"ip_adapter.{number}.to_{x}_ip.weight": [width, 24] for x in "kv"}
    return {key: torch.randn(shape) for key, shape in shapes.items()}


def nested(flat):
    parts = {"image_proj": {}, "ip_adapter": {}}
    for key, value in flat.items():
        part, _, rest = key.partition(".")
        parts[part][rest] = value
    return parts


@pytest.mark.parametrize("kind", KINDS)
def test_both_forms_of_a_file(kind, tmp_path):
    """The released pickle of plus has its projection in float32 and the rest in float16."""
    flat = {k: v.half() if k.startswith("ip_") else v for k, v in small(kind).items()}
    torch.save(nested(flat), tmp_path / "a.bin")
    save_file(flat, tmp_path / "b.safetensors")
    convert(tmp_path / "a.bin", tmp_path / "c.safetensors")
    first, *others = (
        load_adapter(tmp_path / n) for n in ("a.bin", "b.safetensors", "c.safetensors")
    )
    assert isinstance(first, IPAdapter) and isinstance(first.image_proj, KINDS[kind])
    for key, value in first.state_dict().items():
        assert torch.equal(value, flat[key]) and value.dtype == flat[key].dtype
    assert first.layers == [(32, 24), (64, 24), (64, 24)]
    for other in others:
        assert other.digest == first.digest
    features = torch.randn(2, 20) if kind == "linear" else torch.randn(2, 10, 20)
    tokens = first.image_tokens(features, torch.empty(0), torch.empty(0), True)
    assert tokens.shape == (2, {"linear": 4, "plus": 16, "full": 10}[kind], 24)
    assert first.blank_image_tokens(features[0]).shape == tokens.shape[1:]


FAULTS = {
    "image_proj.proj.weight": ("image_proj.proj.weight", "'image_proj.proj.weight' is missing"),
    "image_proj.norm.weight": ("image_proj.norm.weight", "'image_proj.norm.weight' is missing"),
    "a layer": ("ip_adapter.3.to_k_ip.weight", "'ip_adapter.3.to_k_ip.weight' is missing"),
    "a value": ("ip_adapter.5.to_v_ip.weight", "'ip_adapter.5.to_v_ip.weight' is missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_missing_keys(tmp_path, fault):
    flat, (key, message) = small(), FAULTS[fault]
    del flat[key]
    save_file(flat, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=f"not a whole IP-Adapter adapter: key {message}"):
        load_adapter(tmp_path / "a.safetensors")


def test_wrong_shapes(tmp_path):
    for key, shape in (
        ("image_proj.proj.weight", [97, 20]),
        ("image_proj.norm.weight", [25]),
        ("ip_adapter.1.to_v_ip.weight", [32, 25]),
    ):
        save_file({**small(), key: torch.ones(shape)}, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=r"not a whole IP-Adapter adapter: .*has shape"):
            load_adapter(tmp_path / "a.safetensors")
    save_file({**small(), "ip_adapter.2.to_k_ip.weight": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"'ip_adapter.2.to_k_ip.weight' is none of an IP-Adapter"):
        load_adapter(tmp_path / "a.safetensors")


def without_projection(**more):
    flat = {key: value for key, value in small().items() if key.startswith("ip_")}
    return {**flat, **{key.replace("__", "."): torch.ones(shape) for key, shape in more.items()}}


OTHERS = {
    "a FaceID adapter, which takes InsightFace's embedding of a face": (
        without_projection(
            image_proj__norm__weight=[24], ip_adapter__0__to_q_lora__down__weight=[8, 32]
        ),
        without_projection(
            image_proj__proj__0__weight=[8, 512], image_proj__proj__2__weight=[8, 8],
            image_proj__norm__weight=[24],
        ),
        without_projection(image_proj__perceiver_resampler__latents=[1, 4, 24]),
    ),
    "InstantID, which takes InsightFace's embedding of a face": (
        without_projection(image_proj__latents=[1, 16, 24], image_proj__proj_in__weight=[24, 512]),
    ),
    "an IP-Adapter for Kolors": (
        without_projection(image_proj__layers__0__0__to_out__weight=[2048, 8]),
    ),
    "an IP-Adapter for SD3": (
        {"ip_adapter.0.norm_ip.linear.weight": torch.ones(4, 4), **small("plus")},
    ),
    "an IP-Adapter for Flux": (
        {"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": torch.ones(4, 4)},
        {"ip_adapter.0.to_k_ip.weight": torch.ones(4, 4)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_relatives_are_named(tmp_path, name):
    for flat in OTHERS[name]:
        save_file(flat, tmp_path / "x.safetensors")
        with pytest.raises(ValueError) as caught:
            load_adapter(tmp_path / "x.safetensors")
        assert str(caught.value) == (
            f"{tmp_path / 'x.safetensors'} is not an adapter of MS-Diffusion, nor of IP-Adapter "
            f"or MIP-Adapter for SDXL or SD1.5: it looks like {name}."
        )
