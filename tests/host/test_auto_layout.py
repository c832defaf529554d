"""MSD Auto Layout: where a phrase is in the prompt, and the prompt among a run's texts."""

from typing import Any

import pytest
import torch
from layouts import CAT, CUP, layout, noise_image

from lab.host.in_process import run_node


def words(clip: Any, prompt: str, positions: tuple[int, ...]) -> list[str]:
    """The tokens at positions of the encoded prompt, all chunks in a row."""
    tokens = [token for chunk in clip.tokenize(prompt)["l"] for token, _ in chunk]
    vocabulary = clip.tokenizer.clip_l.inv_vocab
    return [vocabulary[tokens[position]] for position in positions]


@pytest.mark.parametrize(
    "prompt, phrase, occurrence, expected",
    [
        ("a dog and a cat", "cat", 0, ["cat</w>"]),
        (
            "a (red backpack:1.3), and a (((dog)))",
            "red backpack",
            0,
            ["red</w>", "backpack</w>"],
        ),
        ("a (red backpack:1.3), and a (((dog)))", "dog", 0, ["dog</w>"]),
        (r"a \(dog\) and a dog", "dog", 0, ["dog</w>"]),
        ("a dog, a dog", "dog", 1, ["dog</w>"]),
        (", ".join(["best quality photo"] * 40) + ", a dog on grass", "dog", 0, ["dog</w>"]),
        ("embedding:missing, a dog", "dog", 0, ["dog</w>"]),
        ("(embedding:two:0.9) a dog", "dog", 0, ["dog</w>"]),
        ("a cat, embedding:two, and a dog", "dog", 0, ["dog</w>"]),
        ("a cat", "dog", 0, []),
        ("a (teddy)bear and a dog", "dog", 0, []),  # the encoder saw other words than the text
    ],
)
def test_token_positions(
    pack: Any, clip: Any, prompt: str, phrase: str, occurrence: int, expected: list[str]
) -> None:
    find = pack.module("nodes.auto_layout").token_positions
    if expected:
        assert words(clip, prompt, find(clip, phrase, prompt, occurrence)) == expected
    else:
        with pytest.raises(LookupError, match=r"not in the prompt|weights inside a word"):
            find(clip, phrase, prompt, occurrence)


def test_occurrences_have_different_positions(pack: Any, clip: Any) -> None:
    find = pack.module("nodes.auto_layout").token_positions
    first, second = (find(clip, "dog", "a dog and a dog", n) for n in (0, 1))
    assert (first, second) == ((2,), (5,))


@torch.inference_mode()
def test_the_prompt_is_recognised(pack: Any, clip: Any, registry: Any) -> None:
    """By its encoding, whatever text is joined to it; other texts aren't taken for it."""
    node = pack.module("nodes.auto_layout")
    prompt = "a (photo:1.2) of a cat on a red table"
    positions = node.token_positions(clip, "red table", prompt, 0)
    known = node.encode_prompt(clip, prompt)

    def found(conditioning: Any) -> tuple[int, ...]:
        find = pack.module("msd_core.phrases").phrase_positions
        return find(positions, known, conditioning[0][0][0])

    def text(words: str) -> Any:
        return run_node(registry, "CLIPTextEncode", clip, words)[0]

    (sized,) = run_node(
        registry, "CLIPTextEncodeSDXL",
        clip=clip, width=1024, height=1024, crop_w=0, crop_h=0, target_width=1024,
        target_height=1024, text_g="something else", text_l=prompt,
    )  # fmt: skip
    behind, before = (
        run_node(registry, "ConditioningConcat", *pair)[0]
        for pair in ((text("a dog"), text(prompt)), (text(prompt), text("a dog " * 80)))
    )
    assert found(text(prompt)) == found(sized) == found(before) == positions
    assert found(behind) == tuple(position + 77 for position in positions)
    assert found(text(f"{prompt}, and a dog")) == positions  # as far as it is read
    for other in ("a dog", "a photo of a dog on a red table", "a red table", ""):
        assert found(text(other)) == ()


def test_node(pack: Any, clip: Any, lay_out: Any, caplog: Any) -> None:
    subjects = lay_out(layout(CAT, CUP), noise_image(1), noise_image(2))[0]
    out = pack.MSDAutoLayout.execute(clip, subjects, "a cat on a table", 0.4, 3)
    cat, cup = out[0].subjects
    assert cat.token_positions == (2,) and cup.token_positions == ()
    assert out[0].size == subjects.size == (64, 32)
    assert (out[0].auto_layout.threshold, out[0].auto_layout.start_step) == (0.4, 3)
    text = out.ui.as_dict()["text"][0]
    assert "Subject 2: 'cup' is not in the prompt; keeps its box." in text
    assert "'cup' is not in the prompt" in caplog.text
