"""Where in a prompt's tokens a phrase stands."""

import re
from typing import Any

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
    phrase_words, words = phrase.split(), prompt.split()
    if not phrase_words:
        return 0, 0

    def token_count(word: str) -> int:
        return len(tokenizer(word, add_special_tokens=False)["input_ids"])

    def matches(word: str, phrase_word: str) -> bool:
        return f"-{phrase_word}" in word or phrase_word == _TRAILING_MARK.sub("", word)

    start = 1
    for i in range(len(words) - len(phrase_words) + 1):
        found = words[i : i + len(phrase_words)]
        if all(map(matches, found, phrase_words)):
            if occurrence == 0:
                found[-1] = _TRAILING_MARK.sub("", found[-1])
                return start, start + sum(map(token_count, found))
            occurrence -= 1
        start += token_count(words[i])
    return 0, 0
