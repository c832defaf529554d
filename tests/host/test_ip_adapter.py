"""IP-Adapter files in the real host, on tiny UNets of SDXL's and SD1.5's shape: against the
research code's outputs, and with several subjects against the rule written plainly in float64."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_golden_host
import torch
from comfy.ldm.modules.attention import optimized_attention
from golden import recipe
from golden_mip import PATCHES, WIDTH, D, F, build_unets, features_of, load_adapters, weights_of
from models import build_sd15_clip, build_vision, fill
from sampling import (
    EVERYWHERE,
    LEFT,
    NEGATIVE,
    POSITIVE,
    assert_same,
    cond,
    differ,
    guide,
    noise,
    patch_of,
    sample,
)

from msd_core.models.unet import cross_attentions

OVERLAPPING, WEIGHT, WEIGHTS = ((0.0, 0.0, 0.6, 1.0), (0.4, 0.25, 1.0, 0.75)), 0.8, (1.0, 0.4)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return build_unets()


@pytest.fixture(scope="module")
def ip_adapters(pack: Any, models: dict[str, Any], tmp_path_factory: Any) -> dict[str, Any]:
    return load_adapters(pack, models, tmp_path_factory.mktemp("ipadapter"))


class Case(test_golden_host.Case):
    """One case of set d with a plain IP-Adapter, through Ground References and Apply."""

    def __init__(self, pack: Any, models: Any, ip_adapters: Any, name: str) -> None:
        self.name = name
        self.facts = facts = D.manifest["cases"][name]
        self.x = {key: D.tensor(entry) for key, entry in facts["inputs"].items()}
        self.plain, adapter = models[facts["unet"]], ip_adapters[facts["adapter"]]
        kinds = pack.module("nodes.subjects")
        features = features_of(pack, self.x["features"], self.x.get("blank_features"))
        subject = kinds.Subject("", EVERYWHERE, 1.0, torch.zeros(1, 8, 8, 3), features=features)
        grounded = pack.MSDGroundReferences.execute(adapter, None, kinds.Subjects((subject,)))[0]
        self.patched = pack.MSDApply.execute(self.plain, adapter, grounded, facts["scale"])[0]

    def conditioning(self, text: str, pooled: str) -> Any:
        more = {"pooled_output": self.x[pooled]} if pooled in self.x else {}
        return [[self.x[text], more]]

    def check(self) -> None:
        (timestep,), sample = self.facts["timesteps"], self.x["sample"]
        expected = D.outputs(f"{self.name}/t{timestep}/")["eps"]
        (eps,) = self.eps(self.patched, [sample])
        torch.testing.assert_close(eps, expected, atol=5e-5, rtol=0)


IPA = [name for name, facts in D.manifest["cases"].items() if facts["kind"] == "ip_adapter"]


@pytest.mark.parametrize("name", IPA)
@torch.inference_mode()
def test_one_subject_everywhere_is_ip_adapter(
    pack: Any, models: Any, ip_adapters: Any, name: str
) -> None:
    """The UNet's outputs in the rows of both conditionings, all layers, the middle one too."""
    case = Case(pack, models, ip_adapters, name)
    assert len(patch_of(case.patched).branch.keys_values) == (17 if "sdxl" in name else 16)
    case.check()


def middle_block_left_out(pack: Any, monkeypatch: Any) -> None:
    branch = pack.module("nodes.sampling.image_branch").ImageBranch
    right = branch.add
    left_out = lambda self, run, part, layer, *rest: (  # noqa: E731
        right(self, run, part, layer, *rest) if layer.block[0] != "middle" else None
    )
    monkeypatch.setattr(branch, "add", left_out)


def negative_rows_left_alone(pack: Any, monkeypatch: Any) -> None:
    branch = pack.module("nodes.sampling.image_branch").ImageBranch
    monkeypatch.setattr(branch, "acts_on_all", False)


def zeros_for_the_blank(pack: Any, monkeypatch: Any) -> None:
    adapter = pack.module("msd_core.adapters.ip_adapter").IPAdapter
    right = adapter.blank_image_tokens
    monkeypatch.setattr(adapter, "blank_image_tokens", lambda self, x: right(self, x * 0))
    node = pack.module("nodes.ground_references")
    monkeypatch.setattr(node, "_tokens", pack.module("nodes.memo").Memo())


def two_layers_swapped(pack: Any, monkeypatch: Any) -> None:
    adapter = pack.module("msd_core.adapters.ip_adapter").IPAdapter
    right = adapter.keys_and_values

    def swapped(self: Any, tokens: Any) -> Any:
        pairs = right(self, tokens)
        (first, value), (second, other) = pairs[:2]
        return [(second, value), (first, other), *pairs[2:]]

    monkeypatch.setattr(adapter, "keys_and_values", swapped)


def heads_of_64(pack: Any, monkeypatch: Any) -> None:
    """SD1.5 has 8 in every layer; here as with heads of a fixed width."""
    layer = pack.module("nodes.sampling.compiled").Layer
    fixed = lambda block, heads, *rest: layer(block, 2, *rest)  # noqa: E731
    monkeypatch.setattr(pack.module("nodes.sampling.unet_patch"), "Layer", fixed)


MISTAKES = {
    middle_block_left_out: ("ipa_sdxl", "ipa_sd15_plus"),
    negative_rows_left_alone: ("ipa_sdxl_plus", "ipa_sd15"),
    zeros_for_the_blank: ("ipa_sdxl_plus", "ipa_sd15_plus"),
    two_layers_swapped: ("ipa_sdxl", "ipa_sd15"),
    heads_of_64: ("ipa_sd15",),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: each.__name__.replace("_", " "))
@torch.inference_mode()
def test_mistake_is_caught(
    pack: Any, models: Any, ip_adapters: Any, mistake: Any, monkeypatch: Any
) -> None:
    mistake(pack, monkeypatch)
    for name in MISTAKES[mistake]:
        with pytest.raises(AssertionError):
            Case(pack, models, ip_adapters, name).check()


PICTURES = ("wide", "square", "tall")


@pytest.mark.parametrize("name", PICTURES)
def test_pixels_of_the_research_code(pack: Any, name: str) -> None:
    prepare = pack.module("nodes.encode_references").prepare_reference
    given = test_golden_host.stored_reference(name, F)
    prepared = prepare(given, None, "clip", "keep", 224)
    pixels = (prepared * 255).round().byte().movedim(-1, 0)
    assert torch.equal(pixels[:, ::4, ::4], F.outputs("picture/")[name])
    assert pixels.sum().item() == F.manifest["cases"][f"picture/{name}"]["output_sum"]
    by_way_of_512 = (prepare(given, None, "crop", "keep", 224) * 255).round().byte().movedim(-1, 0)
    assert not torch.equal(by_way_of_512, pixels)


@torch.inference_mode()
def test_features_of_the_research_code(pack: Any, tmp_path: Path) -> None:
    """Through MSD Encode References and the host's own vision encoder; the blank ones too."""
    vision = build_vision(tmp_path, **F.manifest["vision"])
    own = vision.model.state_dict()
    for key, (shape, gain) in F.manifest["params"]["vision"].items():
        values = recipe.param(F.seed, F.manifest["prefixes"]["vision"] + key, shape, gain)
        own[key].copy_(torch.from_numpy(values).half().float())
    kinds = pack.module("nodes.subjects")
    subjects = tuple(
        kinds.Subject("", EVERYWHERE, 1.0, test_golden_host.stored_reference(name, F)[None])
        for name in PICTURES
    )
    encoded = pack.MSDEncodeReferences.execute(vision, kinds.Subjects(subjects), "clip", "keep")[0]
    features = [subject.features for subject in encoded.subjects]
    hidden = [each.hidden_states[0] for each in features] + [features[0].blank_hidden_states]
    expected = F.outputs("vision/")["penultimate_first_middle_last_token"]
    torch.testing.assert_close(torch.stack(hidden)[:, [0, 128, 256]], expected, atol=1e-5, rtol=0)
    pooled = torch.cat([each.pooled for each in features])
    torch.testing.assert_close(pooled, F.outputs("vision/")["image_embeds"][:3], atol=1e-5, rtol=0)


def conds(context: int) -> tuple[Any, Any]:
    """A positive and a negative text as wide as a model takes it."""
    pairs = [cond(POSITIVE)[0], cond(NEGATIVE)[0]]
    return tuple([[text[..., :context], more]] for text, more in pairs)


def covered(box: Any, height: int, width: int) -> torch.Tensor:
    """Which cells [height * width] a box touches."""
    x0, y0, x1, y1 = box
    across, down = torch.arange(width), torch.arange(height)
    columns = (across + 1 > x0 * width) & (across < x1 * width)
    rows = (down + 1 > y0 * height) & (down < y1 * height)
    return (rows[:, None] & columns).flatten()


def attend(query: Any, key: Any, value: Any, heads: int) -> torch.Tensor:
    """Queries [n, C] to tokens [K, C]."""
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (query, key, value))
    scores = torch.einsum("nhd,khd->nhk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("nhk,khd->nhd", scores.softmax(-1), v).flatten(-2)


def by_the_rule(
    model: Any, sd: dict[str, torch.Tensor], tokens: list[torch.Tensor], blank: torch.Tensor,
    boxes: Any, sigmas: tuple[float, float],
) -> Any:  # fmt: skip
    """A model with the rule in each row, in float64: one softmax over the tokens of all subjects
    that cover a query in the positive one, the blank tokens in the negative one."""
    patched, weights = model.clone(), [WEIGHT * weight for weight in WEIGHTS]

    def patch(to_k: Any, to_v: Any) -> Any:
        def text_and_image(q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
            heads, (height, width) = extra["n_heads"], extra["activations_shape"][-2:]
            out = optimized_attention(q, k, v, heads)
            if not sigmas[1] <= float(extra["sigmas"][0]) <= sigmas[0]:
                return out
            coverage = torch.stack([covered(box, height, width) for box in boxes])
            for row, index in enumerate(extra["cond_or_uncond"]):
                for of_query in coverage.T.unique(dim=0):
                    which = of_query.nonzero().flatten().tolist()
                    queries = (of_query == coverage.T).all(-1)
                    if not which:
                        continue
                    if index == 0:
                        keys = torch.cat([tokens[s] @ to_k.T for s in which])
                        values = torch.cat([weights[s] * (tokens[s] @ to_v.T) for s in which])
                    else:
                        mean = sum(weights[s] for s in which) / len(which)
                        keys, values = blank @ to_k.T, mean * (blank @ to_v.T)
                    image = attend(q[row, queries].double(), keys, values, heads)
                    out[row, queries] += image.float()
            return out

        return text_and_image

    shapes = {k: w.shape for k, w in model.model.diffusion_model.state_dict().items()}
    for attention in cross_attentions(shapes):
        key = f"ip_adapter.{attention.key_index}."
        layer = (sd[f"{key}to_{kind}_ip.weight"].double() for kind in "kv")
        block, number, depth = attention.block
        patched.set_model_attn2_replace(patch(*layer), block, number, depth)
    return patched


@pytest.fixture(params=["sdxl_plus", "sdxl70_linear", "sd15_linear", "sd15_plus"])
def family(request: Any, pack: Any, models: Any, ip_adapters: Any) -> Any:
    """One adapter, its model, the width of its text, and two subjects with features."""
    name, kinds = request.param, pack.module("nodes.subjects")
    unet = D.manifest["adapters"][name]["unet"]
    subjects = []
    for seed, (box, weight) in enumerate(zip(OVERLAPPING, WEIGHTS, strict=True), 10):
        given = noise(seed, 1, WIDTH) if "linear" in name else noise(seed, 1, PATCHES, WIDTH)
        features = features_of(pack, given, noise(4, PATCHES, WIDTH))
        subject = kinds.Subject(f"thing {seed}", box, weight, torch.zeros(1, 8, 8, 3))
        subjects.append(replace(subject, features=features))
    grounded = pack.MSDGroundReferences.execute(
        ip_adapters[name], None, kinds.Subjects(tuple(subjects))
    )[0]
    context = 48 if unet == "sd15" else 64
    return name, models[unet], ip_adapters[name], grounded, conds(context)


def with_negative(pack: Any, adapter: Any, subjects: Any) -> Any:
    """Grounded again, with a negative reference's features in the blank's place."""
    blank = {"blank_hidden_states": noise(6, PATCHES, WIDTH), "blank_pooled": noise(7, WIDTH)}
    changed = [replace(s, features=replace(s.features, **blank)) for s in subjects.subjects]
    changed = replace(subjects, subjects=tuple(changed))
    return pack.MSDGroundReferences.execute(adapter, None, changed)[0]


class TestSeveralSubjects:
    @pytest.mark.parametrize("percents", [(0.0, 1.0), (0.3, 0.8)])
    @pytest.mark.parametrize("negative", [False, True])
    @torch.inference_mode()
    def test_the_rule(self, pack: Any, family: Any, percents: Any, negative: bool) -> None:
        """Also with a negative reference, whose tokens stand in the blank ones' place."""
        name, model, adapter, grounded, texts = family
        if negative:
            grounded = with_negative(pack, adapter, grounded)
        model_sampling = model.model.model_sampling
        sigmas = tuple(float(model_sampling.percent_to_sigma(each)) for each in percents)
        core, tokens = adapter.model.double(), []
        for subject in grounded.subjects:
            features = subject.features
            given, blank = features.hidden_states, features.blank_hidden_states
            if "linear" in name:
                given, blank = features.pooled, features.blank_pooled
            tokens.append(core.image_proj(given.double())[0])
        blank = core.image_proj(blank.double()[None])[0]
        adapter.model.float()
        sd = weights_of(name, model)
        expected = sample(guide(by_the_rule(model, sd, tokens, blank, OVERLAPPING, sigmas), *texts))
        patched = pack.MSDApply.execute(model, adapter, grounded, WEIGHT, *percents)[0]
        assert differ(expected, sample(guide(model, *texts)))
        assert_same(sample(guide(patched, *texts)), expected)

    def test_a_negative_reference_leaves_the_positive_rows(self, pack: Any, family: Any) -> None:
        """So that without guidance it does nothing."""
        _, model, adapter, grounded, texts = family
        without, with_it = (
            pack.MSDApply.execute(model, adapter, each, WEIGHT)[0]
            for each in (grounded, with_negative(pack, adapter, grounded))
        )
        for block, pair in patch_of(without).branch.keys_values.items():
            assert all(map(torch.equal, pair, patch_of(with_it).branch.keys_values[block]))
        first, second = (sample(guide(each, *texts, cfg=1.0)) for each in (without, with_it))
        assert torch.equal(first, second)
        first, second = (sample(guide(each, *texts)) for each in (without, with_it))
        assert differ(first, second)

    def test_weight_0_leaves_every_row_as_it_is(self, pack: Any, family: Any) -> None:
        _, model, adapter, grounded, texts = family
        patched = pack.MSDApply.execute(model, adapter, grounded, 0.0)[0]
        assert torch.equal(sample(guide(patched, *texts)), sample(guide(model, *texts)))

    def test_their_order_does_not_matter(self, pack: Any, family: Any) -> None:
        _, model, adapter, grounded, texts = family
        turned = replace(grounded, subjects=grounded.subjects[::-1])
        first, second = (
            sample(guide(pack.MSDApply.execute(model, adapter, each, WEIGHT)[0], *texts))
            for each in (grounded, turned)
        )
        assert_same(first, second)

    def test_several_references_of_one(self, pack: Any, family: Any, ip_adapters: Any) -> None:
        """Each has tokens of its own in the one softmax: as that many subjects in one place."""
        _, model, adapter, grounded, texts = family
        one, two = (replace(subject, box=LEFT, weight=1.0) for subject in grounded.subjects)
        both = replace(one, image_tokens=torch.cat((one.image_tokens, two.image_tokens)))
        first, second = (
            sample(guide(pack.MSDApply.execute(
                model, adapter, replace(grounded, subjects=subjects), WEIGHT
            )[0], *texts))
            for subjects in ((both,), (one, two))
        )  # fmt: skip
        assert_same(first, second)


@torch.inference_mode()
def test_auto_layout_with_sd15_s_clip(pack: Any, models: Any, ip_adapters: Any) -> None:
    """The phrases are found with SD1.5's CLIP, and the subjects follow them."""
    clip = build_sd15_clip(
        {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 48,
         "num_hidden_layers": 3}
    )  # fmt: skip
    fill(clip.cond_stage_model, 0.1)
    kinds, adapter, model = (
        pack.module("nodes.subjects"),
        ip_adapters["sd15_linear"],
        models["sd15"],
    )
    features = features_of(pack, noise(5, 1, WIDTH), None)
    subject = kinds.Subject("cat", LEFT, 1.0, torch.zeros(1, 8, 8, 3), features=features)
    grounded = pack.MSDGroundReferences.execute(adapter, clip, kinds.Subjects((subject,)))[0]
    prompt = "a photo of a cat on a chair"
    followed = pack.MSDAutoLayout.execute(clip, grounded, prompt, 0.5, 1)[0]
    assert followed.subjects[0].token_positions == (5,)
    text = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    in_box, in_phrase = (
        sample(guide(pack.MSDApply.execute(model, adapter, each, WEIGHT)[0], text, conds(48)[1]))
        for each in (grounded, followed)
    )
    assert differ(in_box, in_phrase)


def test_wrong_pairs_are_named(pack: Any, models: Any, ip_adapters: Any) -> None:
    kinds = pack.module("nodes.subjects")
    features = features_of(pack, noise(5, 1, WIDTH), None)
    subject = kinds.Subject("", LEFT, 1.0, torch.zeros(1, 8, 8, 3), features=features)
    one = kinds.Subjects((subject,))
    grounded = pack.MSDGroundReferences.execute(ip_adapters["sdxl_linear"], None, one)[0]
    with pytest.raises(ValueError, match=r"adapter: .*a text 64 wide.*the model is .*48.*Load a"):
        pack.MSDApply.execute(models["sd15"], ip_adapters["sdxl_linear"], grounded)
    with pytest.raises(ValueError, match="subject 1 was grounded with another adapter"):
        pack.MSDApply.execute(models["sd15"], ip_adapters["sd15_linear"], grounded)
