"""Where in a prompt's tokens a phrase stands."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CHUNK = 77  # tokens that CLIP reads at once; longer texts are several in a row
SAME_TOKEN = 0.005  # of a token's length, how far its copies may be from each other

_TRAILING_MARK = re.compile(r"[.!?,:]$")


def phrase_span(tokenizer: Any, phrase: str, prompt: str, occurrence: int = 0) -> tuple[int, int]:
    """Token span of a phrase in a prompt, by whole words as the research code matches them.

    Prompt and phrase are split on white space. Consecutive words match when each equals its
    phrase word, one trailing mark of `. ! ? , :` aside, or contains it after a hyphen
    ("teddy-bear" matches "bear"). The span is counted over words tokenised one by one. The
    research code loses count of the tokens of skipped occurrences; this returns true positions.

    Args:
        tokenizer: a CLIP tokenizer, called as `tokenizer(word, add_special_tokens=False)`.
        phrase, prompt: plain text.
        occurrence: 0 for the first match, 1 for the second, ...
    Returns:
        (start, end), start counted from 1 (0 is the begin token), end exclusive; (0, 0) if the
        phrase isn't found.
    """
    found = find_phrase(phrase, prompt, occurrence)
    if found is None:
        return 0, 0

    def token_count(text: str) -> int:
        return sum(len(tokenizer(w, add_special_tokens=False)["input_ids"]) for w in text.split())

    start = 1 + token_count(prompt[: found[0]])
    return start, start + token_count(prompt[slice(*found)])


def find_phrase(phrase: str, prompt: str, occurrence: int = 0) -> tuple[int, int] | None:
    """Where a phrase stands in a prompt, in characters, its last mark left out; None if it doesn't.

    Words match and occurrences count as in `phrase_span`.
    """
    phrase_words, words = phrase.split(), list(re.finditer(r"\S+", prompt))
    if not phrase_words:
        return None

    def matches(word: re.Match[str], phrase_word: str) -> bool:
        return f"-{phrase_word}" in word[0] or phrase_word == _TRAILING_MARK.sub("", word[0])

    for i in range(len(words) - len(phrase_words) + 1):
        found = words[i : i + len(phrase_words)]
        if all(map(matches, found, phrase_words)):
            if occurrence == 0:
                last = found[-1]
                return found[0].start(), last.start() + len(_TRAILING_MARK.sub("", last[0]))
            occurrence -= 1
    return None


def phrase_positions(
    positions: Sequence[int], prompts: Sequence[Tensor], text: Tensor
) -> tuple[int, ...]:
    """Where a phrase that was found in a prompt stands in an encoded text, which may be the prompt,
    hold it among others (concatenated conditionings), or be another.

    CLIP reads from left to right, so that a token's embedding tells all that stands before it:
    where the phrase's embeddings come again, so does the prompt up to them.

    Args:
        positions: the phrase's tokens in the prompt, over all its chunks.
        prompts: [P, C], the encoded prompt; several ways to encode it.
        text: [K, >= C], the encoded text.
    Returns:
        positions in the text of all places where it stands, () for none.
    """
    found: list[int] = []
    first = positions[0] // CHUNK * CHUNK
    for start in range(0, text.shape[0], CHUNK):
        moved = [position - first + start for position in positions]
        if moved[-1] < text.shape[0] and any(
            same_tokens(prompt[list(positions)], text[moved, : prompt.shape[1]])
            for prompt in prompts
        ):
            found += moved
    return tuple(found)


def token_weights(positions: Sequence[Sequence[int]], length: int, own_length: int) -> Tensor:
    """What `phrase_maps` multiplies the text's probabilities by to get each phrase's mean.

    Args:
        positions: those of each phrase in the text, () for one that isn't in it.
        length: K, tokens of the text as the attention sees it: a host may repeat a text to the
            length of its neighbours in the batch.
        own_length: tokens of the text itself.
    Returns:
        [K, S]: 1 / (the phrase's tokens) at each of its tokens in each copy, 0 elsewhere.
    """
    weights = torch.zeros(length, len(positions))
    for n, of_phrase in enumerate(positions):
        for position in of_phrase:
            weights[position::own_length, n] = 1 / len(of_phrase)
    return weights


def same_tokens(tokens: Tensor, others: Tensor) -> bool:
    """Whether encoded tokens [T, C] are others' copies, up to the encoder's rounding."""
    difference = (tokens - others).square().sum(-1)
    return bool((difference <= SAME_TOKEN**2 * tokens.square().sum(-1)).all())
