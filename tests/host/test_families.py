"""A minimal family of adapters that needs other things than MS-Diffusion, from the references to a
sampling run, and against the rule written plainly."""

from dataclasses import replace
from typing import Any

import comfy.model_patcher
import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from models import build_clip, build_vision, fill
from sampling import (
    LEFT,
    NEGATIVE,
    POSITIVE,
    RIGHT,
    SIGMAS,
    assert_only_positive_rows_changed,
    assert_same,
    cond,
    differ,
    guide,
    noise,
    patch_of,
    sample,
    with_watch,
)
from test_windows import Tiles, with_function

from msd_core.attention.subjects import subject_attention
from msd_core.models.unet import cross_attentions

WIDTH, TOKENS, CONTEXT, WEIGHT = 32, 4, 64, 0.8
OVERLAPPING = (0.0, 0.0, 0.6, 1.0), (0.4, 0.25, 1.0, 0.75)


class LinearFamily(torch.nn.Module):
    """An `Adapter`: a linear projection of the features. It keeps what it is given."""

    name, digest, rule = "Linear", None, staticmethod(subject_attention)
    text_weights = None

    def __init__(self, needs: Any, attentions: Any, has_blank: bool = True) -> None:
        super().__init__()
        self.needs, self.has_blank = needs, has_blank
        self.layers = [(each.width, each.context) for each in attentions]
        self.proj = torch.nn.Linear(needs.feature_width, TOKENS * CONTEXT)
        self.norm = torch.nn.LayerNorm(CONTEXT)
        layers = ([torch.nn.Linear(c, d, bias=False) for d, c in self.layers] for _ in range(2))
        self.keys, self.values = map(torch.nn.ModuleList, layers)
        self.given: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        fill(self, 0.3)

    def image_tokens(self, features: Any, phrases: Any, boxes: Any, use_grounding: Any) -> Any:
        self.given.append((features, phrases, boxes))
        pooled = features.mean(1) if self.needs.features == "hidden_states" else features
        return self.norm(self.proj(pooled).view(-1, TOKENS, CONTEXT))

    def blank_image_tokens(self, features: Any) -> Any:
        if not self.has_blank:
            return None
        return self.norm(self.proj(features.view(-1, WIDTH).mean(0)).view(TOKENS, CONTEXT))

    def keys_and_values(self, image_tokens: Any) -> Any:
        pairs = zip(self.keys, self.values, strict=True)
        return [(key(image_tokens), value(image_tokens)) for key, value in pairs]


@pytest.fixture
def make_family(pack: Any, plain: Any) -> Any:
    """As Load MS-Diffusion Adapter gives an adapter: make_family(has_blank, **other needs)."""
    attentions = cross_attentions(
        {key: value.shape for key, value in plain.model.diffusion_model.state_dict().items()}
    )
    needs = pack.module("msd_core.adapters.family").Needs(
        features="pooled", feature_width=WIDTH, image_encoder="the tiny encoder",
        phrase=None, phrase_width=0, box=False,
    )  # fmt: skip
    cpu = torch.device("cpu")

    def make(has_blank: bool = True, **others: Any) -> Any:
        family = LinearFamily(replace(needs, **others), attentions, has_blank)
        return comfy.model_patcher.CoreModelPatcher(family, load_device=cpu, offload_device=cpu)

    return make


@pytest.fixture
def vision(tmp_path: Any) -> Any:
    """A CLIP vision encoder whose two outputs are equally wide."""
    vision = build_vision(tmp_path, hidden_size=WIDTH, projection_dim=WIDTH)
    fill(vision.model, 0.2)
    return vision


@pytest.fixture(scope="module")
def clip() -> Any:
    """The host's SDXL CLIP, 40 and 64 wide."""
    built = build_clip({"hidden_size": 40, "num_attention_heads": 4, "intermediate_size": 40,
                        "num_hidden_layers": 3})  # fmt: skip
    fill(built.cond_stage_model, 0.1)
    return built


@pytest.fixture
def encoded(pack: Any, vision: Any) -> Any:
    """Two subjects, the first with two references, by MSD Encode References."""
    kinds = pack.module("nodes.subjects")
    subjects = [
        kinds.Subject(phrase, box, weight, noise(seed, count, 32, 32, 3).sigmoid())
        for seed, (phrase, box, weight, count) in enumerate(
            (("a cat", OVERLAPPING[0], 1.0, 2), ("", OVERLAPPING[1], 0.4, 1))
        )
    ]
    return pack.MSDEncodeReferences.execute(vision, kinds.Subjects(tuple(subjects)))[0]


@pytest.fixture
def apply_family(pack: Any, plain: Any, encoded: Any) -> Any:
    """apply_family(family, boxes or their defaults, model): grounded, and applied to a model."""

    def run(family: Any, *boxes: Any, model: Any = plain, auto: Any = None) -> Any:
        grounded = pack.MSDGroundReferences.execute(family, None, encoded)[0]
        each = zip(grounded.subjects, boxes or OVERLAPPING, strict=True)
        moved = tuple(replace(s, box=box, token_positions=(3,)) for s, box in each)
        grounded = replace(grounded, subjects=moved, auto_layout=auto)
        return pack.MSDApply.execute(model, family, grounded, WEIGHT)[0]

    return run


def covered(box: Any, row: int, column: int, height: int, width: int) -> bool:
    x0, y0, x1, y1 = box
    return column + 1 > x0 * width and column < x1 * width and (
        row + 1 > y0 * height and row < y1 * height
    )  # fmt: skip


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
    """One query [C] to tokens [K, C]."""
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (query, key, value))
    scores = torch.einsum("hd,khd->hk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hk,khd->hd", scores.softmax(-1), v).flatten()


def by_the_rule(pack: Any, plain: Any, vision: Any, family: LinearFamily, encoded: Any) -> Any:
    """A model with the rule on each row and query of one picture: the tokens of the subjects that
    cover it in the positive row, one set of blank tokens in the negative one."""
    prepare, tokens = pack.module("nodes.encode_references").prepare_reference, []
    for subject in encoded.subjects:
        prepared = [prepare(each, None, "stretch", "black", 32) for each in subject.references]
        embeds = vision.encode_image(torch.stack(prepared), crop=False)["image_embeds"].mean(0)
        tokens.append(family.norm(family.proj(embeds).view(TOKENS, CONTEXT)))
    weights = [WEIGHT * subject.weight for subject in encoded.subjects]
    blank = family.norm(family.proj(torch.zeros(WIDTH)).view(TOKENS, CONTEXT))
    patched = plain.clone()

    def patch(to_k: Any, to_v: Any) -> Any:
        def text_and_image(q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
            heads, (height, width) = extra["n_heads"], extra["activations_shape"][-2:]
            out = optimized_attention(q, k, v, heads)
            for row, index in enumerate(extra["cond_or_uncond"]):
                for n in range(height * width):
                    covering = [
                        s for s, box in enumerate(OVERLAPPING)
                        if covered(box, *divmod(n, width), height, width)
                    ]  # fmt: skip
                    if covering and index == 0:
                        keys = torch.cat([to_k(tokens[s]) for s in covering])
                        values = torch.cat([weights[s] * to_v(tokens[s]) for s in covering])
                    elif covering:
                        mean = sum(weights[s] for s in covering) / len(covering)
                        keys, values = to_k(blank), mean * to_v(blank)
                    else:
                        continue
                    out[row, n] += attend(q[row, n], keys, values, heads)
            return out

        return text_and_image

    shapes = {k: w.shape for k, w in plain.model.diffusion_model.state_dict().items()}
    for attention, *layer in zip(cross_attentions(shapes), family.keys, family.values, strict=True):
        block, number, depth = attention.block
        patched.set_model_attn2_replace(patch(*layer), block, number, depth)
    return patched


def hidden_states_for_pooled(pack: Any, monkeypatch: Any) -> None:
    node = pack.module("nodes.ground_references")
    first = lambda features, *_: (features.hidden_states[:, 0], torch.zeros(WIDTH))  # noqa: E731
    monkeypatch.setattr(node, "_checked_features", first)


def negative_rows_left_out(pack: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        pack.module("nodes.sampling.image_branch").ImageBranch, "acts_on_all", False
    )


def positive_tokens_in_negative_rows(pack: Any, monkeypatch: Any) -> None:
    node = pack.module("nodes.apply")
    right = node.ImageBranch
    swapped = lambda keys_values, *rest: right(keys_values, *rest[:-1], keys_values)  # noqa: E731
    monkeypatch.setattr(node, "ImageBranch", swapped)


MISTAKES = hidden_states_for_pooled, negative_rows_left_out, positive_tokens_in_negative_rows


def test_the_rule(
    pack: Any, plain: Any, vision: Any, encoded: Any, make_family: Any, apply_family: Any
) -> None:
    """From the references to the picture, and each of the easy mistakes; no CLIP is asked."""
    family = make_family()
    expected = sample(guide(by_the_rule(pack, plain, vision, family.model, encoded)))
    assert differ(expected, sample(guide(plain)))
    assert_same(sample(guide(apply_family(family))), expected)
    for mistake in MISTAKES:
        with pytest.MonkeyPatch.context() as monkeypatch:
            mistake(pack, monkeypatch)
            made = sample(guide(apply_family(family)))
        with pytest.raises(AssertionError):
            assert_same(made, expected)


class TestRows:
    def test_positive_ones_only(self, make_family: Any, apply_family: Any) -> None:
        """Without blank tokens the other rows are the plain model's, bit for bit."""
        watched, calls = with_watch(apply_family(make_family(has_blank=False)), POSITIVE)
        sample(guide(watched), batch=2)
        assert_only_positive_rows_changed(calls)

    def test_all(self, registry: Any, make_family: Any, apply_family: Any) -> None:
        """Also in a guider with more conditionings than two."""
        watched, calls = with_watch(apply_family(make_family()), POSITIVE)
        sample(guide(watched), batch=2)
        guider = registry["DualCFGGuider"].execute(
            watched, cond(POSITIVE), cond(30), cond(NEGATIVE), 5.0, 3.0, "regular"
        )[0]
        sample(guider)
        assert [len(changed) for changed, _ in calls] == [4] * 3 + [3] * 3
        assert all(all(changed) for changed, _ in calls)

    def test_one_row_at_a_time(self, make_family: Any, apply_family: Any, monkeypatch: Any) -> None:
        model = apply_family(make_family())
        at_once = sample(guide(model))
        monkeypatch.setattr(model.model, "memory_required", lambda *_, **__: 1e30)
        watched, calls = with_watch(model, POSITIVE)
        assert_same(sample(guide(watched)), at_once)
        assert [changed for changed, _ in calls] == [[True]] * 6

    @pytest.mark.parametrize("beside", [False, True])
    def test_tiles(
        self, plain: Any, apply: Any, subjects: Any, make_family: Any, apply_family: Any,
        beside: bool,
    ) -> None:  # fmt: skip
        """A tile that no subject covers is the plain model's in all rows; also where another MSD
        Apply, whose family leaves the negative rows alone, has read the rows before."""
        model = apply(plain, subjects(LEFT)) if beside else plain
        model = with_function(model, Tiles(16, 8, together=1))
        watched, calls = with_watch(apply_family(make_family(), LEFT, LEFT, model=model), POSITIVE)
        sample(guide(watched))
        assert [changed for changed, _ in calls] == [[True, True], [False, False]] * 3

    def test_a_call_of_someone_else_inside_a_run_is_left_alone(
        self, make_family: Any, apply_family: Any
    ) -> None:
        import comfy_extras.nodes_custom_sampler as samplers

        if not hasattr(samplers, "Guider_DualModel"):
            pytest.skip("This host has no dual model guider yet.")
        watched, calls = with_watch(apply_family(make_family()), POSITIVE)
        guider = samplers.Guider_DualModel(watched, watched.clone())
        guider.set_conds(cond(POSITIVE), cond(NEGATIVE))
        guider.set_cfg(5.0)
        sample(guider)
        assert_only_positive_rows_changed(calls)

    def test_outside_a_sampling_run(self, make_family: Any, apply_family: Any) -> None:
        model, calls = with_watch(apply_family(make_family()), POSITIVE)
        inner = model.model
        inner.current_patcher = model
        x = noise(1, 1, 4, 16, 16)
        conds = {"positive": cond(POSITIVE), "negative": cond(NEGATIVE)}
        conds = {k: comfy.sampler_helpers.convert_cond(v) for k, v in conds.items()}
        conds = comfy.samplers.process_conds(inner, x, conds, x.device)
        options = comfy.model_patcher.create_model_options_clone(model.model_options)
        comfy.samplers.calc_cond_batch(
            inner, [conds["positive"], conds["negative"]], x, SIGMAS[:1], options
        )
        assert [changed for changed, _ in calls] == [[True, True]]

    @pytest.fixture
    def masks(self, pack: Any, make_family: Any, apply_family: Any) -> Any:
        """Run with auto layout: whether it is for all queries, and the mask, of each call of the
        rule; by step, then whether for the positive row, then by layer."""

        def run(start: int, negative_first: bool = False, batch: int = 1) -> Any:
            auto = pack.module("nodes.subjects").AutoLayoutSettings(0.5, start)
            model = apply_family(make_family(), LEFT, RIGHT, auto=auto)
            branch, seen = patch_of(model).branch, []
            right = branch.rule

            def rule(query: Any, key: Any, value: Any, mask: Any) -> Any:
                seen.append((query.shape[1] in (16, 64), mask.scores))
                return right(query, key, value, mask)

            branch.rule = rule
            sample(guide(model), batch=batch)
            layers = len(branch.keys_values)
            steps = [seen[n : n + 2 * layers] for n in range(0, len(seen), 2 * layers)]
            if negative_first:
                return [(step[layers:], step[:layers]) for step in steps]
            return [(step[::2], step[1::2]) for step in steps]

        return run

    @pytest.mark.parametrize("start", [1, 2])
    def test_auto_layout(self, masks: Any, start: int) -> None:
        """The negative rows go where the positive ones go, in each layer and step."""
        for number, step in enumerate(masks(start, batch=2), 1):
            for positive, negative in zip(*step, strict=True):
                assert positive[0] == negative[0] == (number >= start)
                assert torch.equal(positive[1], negative[1])

    def test_auto_layout_with_the_negative_first(
        self, plain: Any, masks: Any, monkeypatch: Any
    ) -> None:
        """In a call before the positive's: it goes where those went in the step before."""
        monkeypatch.setattr(plain.model, "memory_required", lambda *_, **__: 1e30)
        first, *later = masks(1, negative_first=True)
        assert not any(is_all for is_all, _ in first[1])
        for (before, _), (_, negative) in zip([first, *later], later, strict=False):
            for mine, its in zip(before, negative, strict=True):
                assert torch.equal(mine[1], its[1])


class TestNeeds:
    def test_tokens_of_the_phrase(
        self, pack: Any, clip: Any, encoded: Any, make_family: Any
    ) -> None:
        """Of a prompt's text those of the phrase's own places, whatever CLIP skip is set."""
        family = make_family(
            features="hidden_states", phrase="tokens", phrase_width=40 + 64, box=True
        )
        pack.MSDGroundReferences.execute(family, clip, encoded)
        skipping = clip.clone()
        skipping.clip_layer(-1)
        long = " ".join(["cat"] * 80)
        named = replace(encoded, subjects=(replace(encoded.subjects[0], phrase=long),))
        pack.MSDGroundReferences.execute(family, skipping, named)
        for (features, phrases, boxes), text, subject in zip(
            family.model.given, ("a cat", "", long), (*encoded.subjects, encoded.subjects[0]),
            strict=True,
        ):  # fmt: skip
            whole = clip.encode_from_tokens(clip.tokenize(text))
            end = min(1 + len(text.split()), 77)
            torch.testing.assert_close(phrases, whole[:, 1:end], atol=1e-5, rtol=0)
            assert torch.equal(features, subject.features.hidden_states)
            assert boxes.tolist() == [pytest.approx(list(subject.box))]

    def test_what_is_not_needed_is_not_given(
        self, pack: Any, encoded: Any, make_family: Any, caplog: Any
    ) -> None:
        """So nothing warns of a phrase, nor grounds again where a box moves."""
        family = make_family()
        pack.MSDGroundReferences.execute(family, None, encoded)
        first, second = encoded.subjects
        moved = replace(encoded, subjects=(first, replace(second, box=LEFT)))
        pack.MSDGroundReferences.execute(family, None, moved)
        assert len(family.model.given) == 2 and not caplog.records
        for features, phrases, boxes in family.model.given:
            assert features.shape == (1, WIDTH) and phrases.shape == boxes.shape == (1, 0)

    def test_several_references(self, pack: Any, vision: Any, encoded: Any) -> None:
        run = pack.MSDEncodeReferences.execute
        apart = run(vision, encoded, several_photos="concatenate")[0].subjects[0].features
        mean = encoded.subjects[0].features
        assert apart.pooled.shape == (2, WIDTH) and mean.pooled.shape == (1, WIDTH)
        torch.testing.assert_close(mean.pooled[0], apart.pooled.mean(0))

    def test_another_encoder(self, pack: Any, clip: Any, encoded: Any, make_family: Any) -> None:
        """Names encoders by which of their outputs it is: 1280 stands for two."""
        node, kinds = pack.MSDGroundReferences, pack.module("nodes.subjects")
        big = kinds.Features(
            torch.zeros(1, 257, 1664),
            torch.zeros(1, 1280),
            torch.zeros(257, 1664),
            torch.zeros(1280),
        )
        other = replace(encoded, subjects=(replace(encoded.subjects[0], features=big),))
        needs = {"feature_width": 1024, "image_encoder": "CLIP-ViT-H-14"}
        with pytest.raises(ValueError) as caught:
            node.execute(make_family(**needs), None, other)
        assert str(caught.value) == (
            "subjects: the adapter needs image features of CLIP-ViT-H-14 (1024 wide), got those of "
            "CLIP-ViT-bigG-14 (1280 wide). Load CLIP-ViT-H-14 in Load CLIP Vision."
        )
        wide = make_family(phrase="tokens", phrase_width=2048)
        with pytest.raises(ValueError) as caught:
            node.execute(wide, clip, encoded)
        assert str(caught.value) == (
            "clip: its text encoders are 104 wide, the adapter needs 2048. Connect the CLIP of an "
            "SDXL checkpoint."
        )
