"""A minimal family of adapters that needs other things than MS-Diffusion, from the references to
its image tokens."""

import json
from dataclasses import replace
from typing import Any

import comfy.clip_vision
import comfy.model_patcher
import comfy.samplers
import pytest
import torch
from models import build_clip
from sampling import (
    LEFT,
    noise,
)

from msd_core.attention.subjects import subject_attention
from msd_core.models.unet import cross_attentions

WIDTH, TOKENS, CONTEXT = 32, 4, 64
OVERLAPPING = (0.0, 0.0, 0.6, 1.0), (0.4, 0.25, 1.0, 0.75)


def fill(module: torch.nn.Module, scale: float) -> None:
    module.requires_grad_(False)
    for number, parameter in enumerate(module.parameters()):
        if parameter.ndim:
            parameter.copy_(noise(number, *parameter.shape) * scale)


class LinearFamily(torch.nn.Module):
    """An `Adapter`: a linear projection of the features. It keeps what it is given."""

    name, digest, rule = "Linear", None, staticmethod(subject_attention)

    def __init__(self, needs: Any, attentions: Any) -> None:
        super().__init__()
        self.needs = needs
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

    def keys_and_values(self, image_tokens: Any) -> Any:
        pairs = zip(self.keys, self.values, strict=True)
        return [(key(image_tokens), value(image_tokens)) for key, value in pairs]


@pytest.fixture
def make_family(pack: Any, plain: Any) -> Any:
    """As Load MS-Diffusion Adapter gives an adapter: make_family(**other needs)."""
    attentions = cross_attentions(
        {key: value.shape for key, value in plain.model.diffusion_model.state_dict().items()}
    )
    needs = pack.module("msd_core.adapters.family").Needs(
        features="pooled", feature_width=WIDTH, image_encoder="the tiny encoder",
        phrase=None, phrase_width=0, box=False,
    )  # fmt: skip
    cpu = torch.device("cpu")

    def make(**others: Any) -> Any:
        family = LinearFamily(replace(needs, **others), attentions)
        return comfy.model_patcher.CoreModelPatcher(family, load_device=cpu, offload_device=cpu)

    return make


@pytest.fixture
def vision(tmp_path: Any) -> Any:
    """A CLIP vision encoder whose two outputs are equally wide."""
    config = {
        "model_type": "clip_vision_model", "hidden_size": WIDTH, "num_channels": 3,
        "patch_size": 8, "image_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3,
        "intermediate_size": 32, "hidden_act": "gelu", "projection_dim": WIDTH,
    }  # fmt: skip
    (tmp_path / "vision.json").write_text(json.dumps(config))
    vision = comfy.clip_vision.ClipVisionModel(str(tmp_path / "vision.json"))
    vision.model.float()
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
        big = kinds.Features(torch.zeros(1, 257, 1664), torch.zeros(1, 1280))
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
