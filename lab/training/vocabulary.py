"""The texts that training reads, and the few tokens that they hold."""

from collections.abc import Sequence

from lab.microworld import networks  # noqa: F401  # isort: skip  # before the host looks for a GPU
import torch
from comfy.sdxl_clip import SDXLTokenizer
from torch import Tensor

from lab.microworld.scenes import BACKGROUNDS, COLOURS, SHAPES, TEXTURES

PREFIXES = ("", "", "a photo of ", "best quality, high quality, ")
NEGATIVES = ("", "", "monochrome, lowres, bad anatomy, worst quality, low quality, blurry")
BEGIN, END, LENGTH = 49406, 49407, 77


class Vocabulary:
    """The host's tokenizer, and the rows of the few tokens that the micro world's texts hold."""

    def __init__(self) -> None:
        tokenizer = SDXLTokenizer().clip_l.tokenizer
        texts = [*PREFIXES, *NEGATIVES, *SHAPES, *TEXTURES, *COLOURS, *BACKGROUNDS]
        texts += ["a an and on of the in with at , ."]
        words = {word for text in texts for word in text.split()}
        self.tokens: dict[str, list[int]] = {
            word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in words
        }
        known = {0, BEGIN, END} | {token for tokens in self.tokens.values() for token in tokens}
        self.ids = torch.tensor(sorted(known))
        self.rows = {int(token): row for row, token in enumerate(self.ids)}

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, list[int]]:
        """Rows [n, 77] for the first text encoder and the second, and lengths without padding."""
        first, second, lengths = [], [], []
        for text in texts:
            tokens = [token for word in text.split() for token in self.tokens[word]]
            tokens = [BEGIN, *tokens, END]
            padding = LENGTH - len(tokens)
            first.append([self.rows[t] for t in tokens + [END] * padding])
            second.append([self.rows[t] for t in tokens + [0] * padding])
            lengths.append(len(tokens))
        return torch.tensor(first), torch.tensor(second), lengths

    def word_rows(self, words: Sequence[str]) -> Tensor:
        """[m] rows of words, each of which is one token."""
        return torch.tensor([self.rows[self.tokens[word][0]] for word in words], dtype=torch.long)

    def positions(self, texts: Sequence[str], words: Sequence[str]) -> Tensor:
        """Bool [n, 77], where the texts hold any of the words, each of which is one token."""
        return torch.isin(self.encode(texts)[0], self.word_rows(words))
