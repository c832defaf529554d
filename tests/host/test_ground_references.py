"""MSD Ground References: image tokens, phrases, what is grounded again; each refusal."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from layouts import CAT, CUP, layout, noise_image
from models import build_clip


@pytest.fixture
def encoded(pack: Any, lay_out: Any) -> Any:
    subjects = lay_out(layout(CAT, CUP), noise_image(1), noise_image(2))[0]
    features = pack.module("nodes.subjects").Features
    return replace(
        subjects,
        subjects=tuple(
            replace(
                s,
                features=features(
                    torch.randn(n, 10, 48), torch.randn(n, 16), torch.zeros(10, 48), torch.zeros(16)
                ),
            )
            for n, s in enumerate(subjects.subjects, 1)
        ),
    )


@torch.inference_mode()
def test_tokens_are_the_resampler_s(pack: Any, adapters: Any, clip: Any, encoded: Any) -> None:
    adapter = adapters["tiny"]
    grounded = pack.MSDGroundReferences.execute(adapter, clip, encoded)[0].subjects
    assert [s.image_tokens.shape for s in grounded] == [(1, 16, 64), (2, 16, 64)]
    assert {s.adapter_digest for s in grounded} == {adapter.model.digest} != {None}
    embeds = pack.module("nodes.ground_references").phrase_embeds(clip, ["cup"])
    expected = adapter.model.resampler(
        encoded.subjects[1].features.hidden_states, embeds.expand(2, -1),
        torch.tensor([CUP["box"]] * 2), torch.zeros(2, dtype=torch.bool),
    )  # fmt: skip
    torch.testing.assert_close(grounded[1].image_tokens, expected, atol=1e-5, rtol=0)
    dropped = pack.MSDGroundReferences.execute(adapter, clip, encoded, False)[0].subjects
    assert not torch.allclose(dropped[1].image_tokens, expected, atol=1e-2)


@torch.inference_mode()
def test_only_a_new_phrase_is_encoded(
    pack: Any, adapters: Any, clip: Any, encoded: Any, monkeypatch: Any
) -> None:
    """No phrase when a box moves, and not the other subject's when one phrase changes."""
    seen, tokenize = [], clip.tokenize

    def count(text: str, **options: Any) -> Any:
        seen.append(text)
        return tokenize(text, **options)

    monkeypatch.setattr(clip, "tokenize", count)
    hat, mug = (
        replace(s, phrase=p) for s, p in zip(encoded.subjects, ("a hat", "a mug"), strict=True)
    )
    for subject in (hat, replace(hat, box=(0.0, 0.0, 0.3, 1.0)), replace(hat, phrase="a lamp")):
        changed = replace(encoded, subjects=(subject, mug))
        pack.MSDGroundReferences.execute(adapters["tiny"], clip, changed)
    assert seen == ["a hat", "a mug", "a lamp"]


@torch.inference_mode()
def test_a_lora_on_clip(pack: Any, clip: Any) -> None:
    """The phrases are encoded with it, and without it as before."""
    from comfy.weight_adapter import LoRAAdapter

    embed, patched = pack.module("nodes.ground_references").phrase_embeds, clip.clone()
    patches = {}
    for key, weight in clip.cond_stage_model.state_dict().items():
        if key.startswith("clip_l.") and key.endswith("v_proj.weight"):
            up, down = torch.randn(len(weight), 2), torch.randn(2, weight.shape[1])
            patches[key] = LoRAAdapter(set(), (up, down, 2.0, None, None, None))
    assert len(patched.add_patches(patches, 1.0)) == len(patches) > 0
    without, with_it = embed(clip, ["cup"]), embed(patched, ["cup"])
    assert not torch.allclose(with_it, without, atol=1e-2)
    assert torch.equal(embed(clip.clone(), ["cup"]), without)


@torch.inference_mode()
def test_only_what_changed_is_grounded_again(
    pack: Any, adapters: Any, clip: Any, encoded: Any, monkeypatch: Any
) -> None:
    adapter, grounded = adapters["tiny"], []
    handle = adapter.model.resampler.register_forward_hook(lambda *_: grounded.append(1))
    run = pack.MSDGroundReferences.execute
    cat, cup = encoded.subjects
    first = run(adapter, clip, encoded)[0].subjects
    moved = replace(encoded, subjects=(cat, replace(cup, box=(0.1, 0.1, 0.3, 0.9))))
    second = run(adapter, clip, moved)[0].subjects
    named = replace(encoded, subjects=(replace(cat, phrase="dog"), cup))
    run(adapter, clip, named)
    handle.remove()
    assert len(grounded) == 4
    assert torch.equal(first[0].image_tokens, second[0].image_tokens)
    assert not torch.equal(first[1].image_tokens, second[1].image_tokens)


def test_refusals(pack: Any, adapters: Any, clip: Any, encoded: Any, lay_out: Any) -> None:
    node, adapter = pack.MSDGroundReferences, adapters["tiny"]
    with pytest.raises(ValueError, match="subject 1 has no image features"):
        node.execute(adapter, clip, lay_out(layout(CAT), noise_image(1))[0])
    huge = pack.module("nodes.subjects").Features(
        torch.zeros(1, 257, 1280), torch.zeros(1, 1024), torch.zeros(257, 1280), torch.zeros(1024)
    )
    wide = replace(encoded.subjects[0], features=huge)
    message = r"needs image features of another encoder \(48 wide\), got those of CLIP-ViT-H-14"
    with pytest.raises(ValueError, match=message):
        node.execute(adapter, clip, replace(encoded, subjects=(wide,)))
    narrow = build_clip({"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 40,
                         "num_hidden_layers": 3})  # fmt: skip
    with pytest.raises(ValueError, match="text encoder is 64 wide, the adapter needs 40"):
        node.execute(adapter, narrow, encoded)

    class NoClipL:
        cond_stage_model = torch.nn.Module()

    with pytest.raises(ValueError, match="clip: it has no CLIP-L"):
        node.execute(adapter, NoClipL(), encoded)


def test_wrong_encoder_is_named_for_the_release(pack: Any) -> None:
    check = pack.module("nodes.ground_references")._checked_features
    needs = pack.module("msd_core.adapters.family").Needs
    with pytest.raises(ValueError) as caught:
        features = pack.module("nodes.subjects").Features
        check(
            features(
                torch.zeros(1, 257, 1280),
                torch.zeros(1, 1024),
                torch.zeros(257, 1280),
                torch.zeros(1024),
            ),
            needs("hidden_states", 1664, "CLIP-ViT-bigG-14", "pooled", 768, True),
            2,
        )
    assert str(caught.value) == (
        "subjects: the adapter needs image features of CLIP-ViT-bigG-14 (1664 wide), got those "
        "of CLIP-ViT-H-14 (1280 wide). Load CLIP-ViT-bigG-14 in Load CLIP Vision."
    )


@torch.inference_mode()
def test_phrases_are_bare_and_options_are_put_back(pack: Any, clip: Any) -> None:
    embeds = pack.module("nodes.ground_references").phrase_embeds
    before = clip.cond_stage_model.clip_l.return_projected_pooled
    weighted = embeds(clip, ["(dog:1.2)"])
    assert not torch.allclose(weighted, embeds(clip, ["dog"])), "syntax is text to the encoder"
    assert clip.cond_stage_model.clip_l.return_projected_pooled == before


@torch.inference_mode()
def test_clip_patched_in_place(pack: Any, clip: Any) -> None:
    """Its embeddings are computed again; those of the CLIP that it was cloned from stay."""
    embeds = pack.module("nodes.ground_references").phrase_embeds
    changed = clip.clone()
    plain, before = embeds(clip, ["dog"]), embeds(changed, ["dog"])
    torch.testing.assert_close(before, plain)
    key = "clip_l.transformer.text_model.encoder.layers.1.mlp.fc1.weight"
    weight = clip.patcher.model.state_dict()[key]
    assert changed.add_patches({key: ("diff", (torch.ones_like(weight),))}, 1.0)
    assert not torch.allclose(embeds(changed, ["dog"]), plain, atol=1e-3)
    torch.testing.assert_close(embeds(clip.clone(), ["dog"]), plain)
