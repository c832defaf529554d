"""Phrases of the subjects in the prompt, with the host's own tokenizers and tiny text encoders."""

from collections.abc import Callable
from typing import Any

import comfy.sd
import comfy.supported_models_base
import comfy.text_encoders.flux as flux_text
import comfy.text_encoders.qwen_image as qwen_text
import pytest
import torch
from placed import LEFT, RIGHT, guide, references, sample

LLAMA = {
    "hidden_size": 40,
    "intermediate_size": 16,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}
# Tokenizer, text encoder, settings that make it small
ENCODERS: dict[str, tuple[Any, Callable[[], Any], dict[str, Any]]] = {
    "t5xxl": (
        flux_text.FluxTokenizer,
        flux_text.flux_clip,
        {"d_model": 40, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 2},
    ),
    "qwen25_7b": (
        qwen_text.QwenImageTokenizer,
        qwen_text.te,
        {**LLAMA, "num_hidden_layers": 2},
    ),
    "qwen3_4b": (
        flux_text.KleinTokenizer,
        flux_text.klein_te,
        {**LLAMA, "num_hidden_layers": 28},
    ),
}


@pytest.fixture(scope="module")
def clips() -> Callable[[str], Any]:
    built: dict[str, Any] = {}

    def clip(name: str) -> Any:
        if name not in built:
            tokenizer, encoder, config = ENCODERS[name]
            target = comfy.supported_models_base.ClipTarget(tokenizer, encoder())
            small = {"num_hidden_layers": 1, "intermediate_size": 16}
            options = {
                "dtype": torch.float32,
                f"{name}_model_config": dict(config),
                "clip_l_model_config": small,
            }
            built[name] = comfy.sd.CLIP(target, model_options=options)
            if name == "qwen25_7b":  # a vision tower of one layer instead of 32
                del built[name].cond_stage_model.qwen25_7b.transformer.visual.blocks[1:]
            generator = torch.Generator().manual_seed(0)
            for parameter in built[name].cond_stage_model.parameters():
                values = torch.randn(parameter.shape, generator=generator)
                parameter.data = values * (parameter.shape[-1] if parameter.ndim else 1) ** -0.5
        return built[name]

    return clip


def words(clip: Any, name: str, prompt: str, positions: Any) -> list[str]:
    """The text of some tokens of the encoded prompt."""
    [chunk] = clip.tokenize(prompt)[name]
    length = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0][0].shape[1]
    tokens = [token for token, _ in chunk[len(chunk) - length :]]
    tokenizer = getattr(clip.tokenizer, name).tokenizer
    return tokenizer.decode([tokens[n] for n in positions]).strip()


PROMPTS = [
    ("a photo of a red dog and a blue cat, outside", ["red dog", "blue cat"]),
    ("red dog. A toy (it is old) beside a red dog!", ["red dog", "toy", "red dog"]),
    ("a teddy-bear reading\n\na newspaper", ["bear", "newspaper"]),
    ("ein Brötchen, ein Straßenköter und 北京烤鸭", ["Brötchen", "Straßenköter", "北京烤鸭"]),
]


@pytest.mark.parametrize("name", ENCODERS)
class TestTokens:
    @pytest.mark.parametrize(("prompt", "phrases"), PROMPTS)
    def test_phrases_are_found(
        self, pack: Any, clips: Any, name: str, prompt: str, phrases: list[str]
    ) -> None:
        clip = clips(name)
        found, notes = pack.module("nodes.place_references").find_phrases(clip, prompt, phrases)
        for phrase, own, note in zip(phrases, found.own, notes, strict=True):
            if name == "t5xxl" and phrase == "北京烤鸭":
                continue  # its tokenizer has no tokens for them
            text = words(clip, name, prompt, own)
            assert text == {"bear": "teddy-bear"}.get(phrase, phrase)
            assert note == f"{phrase!r} in the prompt is its own text"
        seen = [n for own in found.own for n in own]
        assert len(seen) == len(set(seen))  # a repeated phrase is found where it stands next

    def test_missing_phrases(self, pack: Any, clips: Any, name: str) -> None:
        found, notes = pack.module("nodes.place_references").find_phrases(
            clips(name), "a dog", ["cat", "", "dog", "dog"]
        )
        assert [bool(own) for own in found.own] == [False, False, True, False]
        assert notes[0] == "'cat' is not in the prompt, so it shares all text"
        assert notes[1] == "it has no phrase, so it shares all text"

    def test_padding(self, pack: Any, clips: Any, name: str) -> None:
        clip = clips(name)
        found, _ = pack.module("nodes.place_references").find_phrases(clip, "a dog", ["dog"])
        [chunk] = clip.tokenize("a dog")[name]
        [text] = found.texts
        padding = {"t5xxl": 0, "qwen25_7b": None, "qwen3_4b": 151643}[name]
        shown = [token for token, _ in chunk[len(chunk) - len(text) :]]
        expected = [n for n, token in enumerate(shown) if token == padding]
        assert list(found.padding) == expected
        assert len(expected) == {"t5xxl": 252, "qwen25_7b": 0}.get(name, len(expected))


def test_weights_of_the_prompt(pack: Any, clips: Any) -> None:
    """T5's tokenizer reads them, Qwen's takes them for text."""
    find = pack.module("nodes.place_references").find_phrases
    prompt = "a (red dog:1.2) on (grass)"
    found, _ = find(clips("t5xxl"), prompt, ["red dog", "grass"])
    assert [words(clips("t5xxl"), "t5xxl", prompt, own) for own in found.own] == [
        "red dog",
        "grass",
    ]
    found, notes = find(clips("qwen25_7b"), prompt, ["red dog", "on"])
    assert found.own[0] == () and "is not in the prompt" in notes[0]
    assert words(clips("qwen25_7b"), "qwen25_7b", prompt, found.own[1]) == "on"


def test_clip_and_prompt_belong_together(pack: Any, clips: Any) -> None:
    find = pack.module("nodes.place_references").find_phrases
    with pytest.raises(ValueError, match="clip: got a prompt without it"):
        find(None, "a dog", ["dog"])
    with pytest.raises(ValueError, match="prompt: got a clip without it"):
        find(clips("t5xxl"), " ", ["dog"])
    assert find(None, "", ["dog"]) == (None, ["shares all text"])


@pytest.mark.parametrize(("name", "encoder"), [("flux", "t5xxl"), ("qwen_image", "qwen25_7b")])
class TestSampling:
    PROMPT = "a red dog and a blue cat"

    @pytest.fixture
    def placed(self, pack: Any, models: Any, clips: Any, name: str, encoder: str) -> Any:
        kinds = pack.module("nodes.subjects")
        made = [
            kinds.Subject(phrase, box, 1.0, torch.zeros(1, 8, 8, 3))
            for phrase, box in (("red dog", LEFT), ("blue cat", RIGHT))
        ]

        def place(prompt: str = self.PROMPT, **more: Any) -> Any:
            clip = clips(encoder) if prompt else None
            return pack.MSDPlaceReferences.execute(
                models(name), kinds.Subjects(tuple(made)), clip, prompt, **more
            )[0]

        return place

    @pytest.fixture
    def encode(self, registry: Any, clips: Any, name: str, encoder: str) -> Any:
        from lab.host.in_process import run_node

        def encoded(prompt: str) -> Any:
            [[text, more]] = run_node(registry, "CLIPTextEncode", clips(encoder), prompt)[0]
            given = references(name)
            return [[text, {**more, "reference_latents": given}]]

        return encoded

    def test_own_texts_and_the_first_stage(
        self,
        placed: Any,
        encode: Any,
        attentions: Any,
        name: str,
        encoder: str,
    ) -> None:
        positive, negative = encode(self.PROMPT), encode("blurred")
        sample(guide(placed(first_stage=0.5), positive, negative), name, steps=2)
        joint = [a for a in attentions if len(a.order) == 3]
        assert [a.call.first_stage for a in joint].count(True) == len(joint) // 2
        seen = set()
        for attention in joint:
            for row in range(len(attention.out)):
                assert attention.error(row) <= 5e-6
                of_row = attention.call.rows[row]
                seen.add((of_row.conditioning.positive, attention.call._prompt_start(of_row)))
        assert seen == {(0, 0), (None, None)}

    @pytest.mark.parametrize("first_stage", [0.0, 0.2])
    def test_no_first_stage(
        self, placed: Any, encode: Any, attentions: Any, name: str, encoder: str,
        first_stage: float, caplog: Any,
    ) -> None:  # fmt: skip
        """Where it is off, or less than half a step."""
        sample(guide(placed(first_stage=first_stage), encode(self.PROMPT)), name, steps=2)
        assert attentions and not any(a.call.first_stage for a in attentions)
        assert ("so there is no first stage" in caplog.text) == (first_stage > 0)

    def test_another_text_is_shared(
        self, placed: Any, encode: Any, name: str, encoder: str, caplog: Any
    ) -> None:
        positive = encode("a green bird")
        first, second = (
            sample(guide(model, positive), name) for model in (placed(), placed(prompt=""))
        )
        assert torch.equal(first, second)
        assert caplog.text.count("one of the positive texts isn't the prompt") == 1

    def test_pictures_in_the_text(
        self, placed: Any, clips: Any, registry: Any, name: str, encoder: str, caplog: Any
    ) -> None:
        """An edit encoder that lets the text encoder see the references too: the prompt stands
        among other tokens there, so all text is shared, and the references are placed."""
        if name != "qwen_image":
            pytest.skip("Flux has no such encoder.")
        from lab.host.in_process import run_node

        pictures = [torch.rand(1, 64, 64, 3) for _ in range(2)]
        [[text, more]] = run_node(
            registry, "TextEncodeQwenImageEditPlus", clips(encoder), self.PROMPT,
            image1=pictures[0], image2=pictures[1],
        )[0]  # fmt: skip
        positive = [[text, {**more, "reference_latents": references(name)}]]
        first, second = (
            sample(guide(model, positive), name) for model in (placed(), placed(prompt=""))
        )
        assert torch.equal(first, second)
        assert caplog.text.count("one of the positive texts isn't the prompt") == 1
