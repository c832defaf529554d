"""The family as one trainable module: text encoders, UNet and vision tower of the host's classes,
and the product's own adapter, with the product's own coverage and attention."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from microworld import family  # isort: skip  # before anything of the host looks for a GPU
import comfy.clip_model
import comfy.ldm.modules.attention as host_attention
import torch
from comfy.sdxl_clip import SDXLTokenizer
from torch import Tensor, nn

from microworld.scenes import BACKGROUNDS, COLOURS, MOST, SHAPES, SIZES, TEXTURES
from msd_core import MSAdapter
from msd_core.adapters.resampler import FOURIER_WIDTH, GroundingResampler
from msd_core.attention.phrase_maps import AutoLayout
from msd_core.attention.subjects import split_heads, subject_attention, subject_mask
from msd_core.coverage import box_coverage
from msd_core.models.unet import cross_attentions

PREFIXES = ("", "", "a photo of ", "best quality, high quality, ")
NEGATIVES = ("", "", "monochrome, lowres, bad anatomy, worst quality, low quality, blurry")
BEGIN, END, LENGTH = 49406, 49407, 77
CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_DEVIATION = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
# Noise schedule of SDXL: share of the picture that is left at each of 1000 times.
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
KEPT = (1 - BETAS).cumprod(0).float()
# Cells of the finest attention along the edges of the pictures there are.
CELLS = torch.tensor(sorted({edge / 8 for size in SIZES.values() for edge in size}))
LOOK = 0.3  # share of the text attention that a subject's phrase gets inside its box
# Of one layer: the text attention's probabilities [n, heads, cells, 77], coverage [n, MOST, cells].
Map = tuple[Tensor, Tensor]
EDGE_NUMBERS = 4 + 8 * len(CELLS)  # see edges_in_cells


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **kwargs: Any
) -> Tensor:
    """The host's attention, [n, length, width] each, written out: on a CPU the fused ones are slow
    to train."""
    return attention_and_probabilities(q, k, v, heads, mask)[0]


def attention_and_probabilities(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same, and the probabilities [n, heads, queries, keys]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    seen = scores.softmax(-1)
    return (seen @ v).transpose(1, 2).flatten(2), seen


def make_host_trainable() -> None:
    """Give the host's classes a backward pass (their CLIP layers add in place), a fast one."""

    def forward(self, x, mask=None, optimized_attention=None):
        x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
        return x + self.mlp(self.layer_norm2(x))

    comfy.clip_model.CLIPLayer.forward = forward
    host_attention.optimized_attention = plain_attention
    host_attention.optimized_attention_masked = plain_attention
    comfy.clip_model.optimized_attention_for_device = lambda *args, **kwargs: plain_attention


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
        """Rows [n, 77] for the first text encoder, for the second, and how many are no padding."""
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

    def places(self, texts: Sequence[str], words: Sequence[str]) -> Tensor:
        """Bool [n, 77], where the texts hold one of the words, each of which is one token."""
        return torch.isin(self.encode(texts)[0], self.word_rows(words))


@dataclass
class Guidance:
    """What the adapter gets for a batch of n scenes."""

    references: Tensor  # [m, 3, 64, 64], of the m subjects there are
    phrases: list[str]  # m
    boxes: Tensor  # [n, MOST, 4]; zeros where no subject is, or none is to be drawn
    drop_grounding: Tensor  # [n] bool
    without_masks: Tensor  # [n] bool: every query sees every subject
    auto_layout: Tensor  # [n] bool: each layer's queries see the subjects whose phrase they look at

    @property
    def present(self) -> Tensor:
        """[n, MOST] bool, m of them true."""
        return self.boxes.any(-1)

    def to(self, device: torch.device) -> "Guidance":
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def coverage(self, height: int, width: int) -> Tensor:
        """[n, MOST, height * width] bool."""
        everywhere = self.without_masks[:, None] & self.present
        return box_coverage(self.boxes, height, width) | everywhere[..., None]


class Family(nn.Module):
    unet: Any
    text_l: Any
    text_g: Any
    vision: Any
    adapter: MSAdapter

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.unet = family.unet()
        self.text_l, self.text_g = family.text_encoder(), family.text_encoder()
        self.vision = family.vision_tower()
        self.adapter = family.adapter(self.unet)
        self.context_width = 2 * family.TEXT_WIDTH
        self.blocks = [a.block for a in cross_attentions(_shapes(self.unet))]
        for encoder in (self.text_l, self.text_g):
            embeddings = encoder.text_model.embeddings
            rows = family.Operations.Embedding(len(vocabulary.ids), family.TEXT_WIDTH)
            nn.init.normal_(rows.weight, std=0.5)
            embeddings.token_embedding = rows
            nn.init.normal_(embeddings.position_embedding.weight, std=0.1)
            nn.init.eye_(encoder.text_projection.weight)
        for module in self.unet.modules():  # residual branches start at zero, as SDXL's did
            if module.__class__.__name__ == "ResBlock":
                nn.init.zeros_(module.out_layers[-1].weight)
                nn.init.zeros_(module.out_layers[-1].bias)
        nn.init.zeros_(self.unet.out[2].weight)
        nn.init.zeros_(self.unet.out[2].bias)
        for projection in self.adapter.projections:
            nn.init.normal_(projection.to_v_ip.weight, std=0.02)
        _tell_coordinates_apart(self.adapter.resampler)
        # For training alone: tokens that say where in its cell an edge lies let the UNet draw it
        # there. The error of the noise finds that out only after very many samples.
        self.read_edges = nn.Linear(self.context_width, EDGE_NUMBERS)

    @property
    def device(self) -> torch.device:
        return self.adapter.dummy_image_tokens.device

    def text(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Context [n, 77, 128] and pooled [n, 64], as the host's SDXL conditioning."""
        rows_l, rows_g, lengths = self.vocabulary.encode(texts)
        hidden_l, _, _ = self._encode(self.text_l, rows_l, lengths)
        hidden_g, projected, _ = self._encode(self.text_g, rows_g, lengths)
        return torch.cat([hidden_l, hidden_g], -1), projected

    def features(self, references: Tensor) -> Tensor:
        """Pictures [m, 3, 64, 64] in 0..1 -> features [m, 65, 64] of the last layer but one."""
        mean, deviation = CLIP_MEAN.to(self.device), CLIP_DEVIATION.to(self.device)
        return self.vision((references - mean) / deviation, intermediate_output=-2)[1]

    def phrase_embeds(self, phrases: Sequence[str]) -> Tensor:
        """[n, 64]"""
        rows, _, lengths = self.vocabulary.encode(phrases)
        return self._encode(self.text_l, rows, lengths)[2]

    def image_tokens(self, guidance: Guidance) -> Tensor:
        """[n, MOST * T, C]; zeros for subjects that are not there."""
        present, resampler = guidance.present, self.adapter.resampler
        if not guidance.phrases:
            count = MOST * resampler.sizes.num_queries
            return torch.zeros(len(present), count, self.context_width, device=self.device)
        words = sorted(set(guidance.phrases))
        tokens = resampler(
            self.features(guidance.references),
            self.phrase_embeds(words)[[words.index(p) for p in guidance.phrases]],
            guidance.boxes[present],
            guidance.drop_grounding[:, None].expand_as(present)[present],
        )
        # Scattered rather than padded: the tower and the resampler see only who is there.
        all_tokens = tokens.new_zeros(*present.shape, *tokens.shape[1:])
        return all_tokens.index_put((present,), tokens).flatten(1, 2)

    def phrase_places(self, texts: Sequence[str], guidance: Guidance) -> Tensor:
        """Bool [n, MOST, 77], where each text holds each subject's phrase."""
        rows = self.vocabulary.encode(texts)[0][guidance.present.cpu().nonzero()[:, 0]]
        found = rows == self.vocabulary.word_rows(guidance.phrases)[:, None]
        places = torch.zeros(*guidance.present.shape, LENGTH, dtype=torch.bool, device=self.device)
        places[guidance.present] = found.to(self.device)
        return places

    def edge_error(self, tokens: Tensor, guidance: Guidance) -> Tensor:
        """How badly the grounded subjects' `image_tokens` tell the edges of their boxes."""
        grounded = guidance.present & ~guidance.drop_grounding[:, None]
        if not grounded.any():
            return tokens.new_zeros(())
        means = tokens.unflatten(1, (grounded.shape[1], -1))[grounded].mean(1)
        wanted = edges_in_cells(guidance.boxes[grounded])
        return (self.read_edges(means) - wanted).square().mean()

    def map_error(self, maps: list[Map], texts: Sequence[str], guidance: Guidance) -> Tensor:
        """How far the text attention is from looking at each subject's phrase inside its box and
        nowhere else, as SDXL's comes to do by itself."""
        places = self.phrase_places(texts, guidance)
        counted = places.any(-1) & ~guidance.without_masks[:, None]
        errors = [(look_at(seen, places) - LOOK * coverage)[counted] for seen, coverage in maps]
        flat = torch.cat([error.flatten() for error in errors]).square()
        return flat.sum() / max(1, flat.numel())

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        texts: Sequence[str],
        guidance: Guidance,
        tokens: Tensor,
    ) -> tuple[Tensor, list[Map]]:
        """Predicted noise, and where each layer looked.

        Args:
            noisy: [n, 4, h, w] latents of unit variance. time: [n] in 0..999.
            tokens: `image_tokens` of the guidance.
        """
        context, pooled = self.text(texts)
        height, width = (8 * edge for edge in noisy.shape[-2:])
        numbers = torch.tensor([height, width, 0, 0, height, width])
        sizes = timestep_embedding(numbers, 256).flatten().expand(len(texts), -1).to(self.device)
        keys_values = self.adapter.keys_and_values(tokens)
        coverages = [guidance.coverage(height // edge, width // edge) for edge in (8, 16)]
        y = torch.cat([pooled, sizes], -1)
        followed = guidance.auto_layout[:, None, None] & self.phrase_places(texts, guidance)
        return self.denoise(noisy, time.float(), context, y, keys_values, coverages, followed)

    def denoise(
        self,
        noisy: Tensor,
        time: Tensor,
        context: Tensor,
        y: Tensor,
        keys_values: list[tuple[Tensor, Tensor]],
        coverages: list[Tensor],
        followed: Tensor,
    ) -> tuple[Tensor, list[Map]]:
        """The UNet, with the image branch beside each text cross-attention. `coverages` are
        [n, MOST, cells] of the levels, the largest first; subjects with a place in `followed`, bool
        [n, MOST, 77], are where the layer looks at those places instead."""
        maps: list[Map] = []

        def image_branch(key: Tensor, value: Tensor) -> Any:
            def attend(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
                heads = options["n_heads"]
                (coverage,) = (c for c in coverages if c.shape[-1] == q.shape[1])
                text, seen = attention_and_probabilities(q, k, v, heads)
                maps.append((seen, coverage))
                layout = AutoLayout(threshold=0.5)
                layout.add(look_at(seen.detach(), followed))
                coverage = torch.where(followed.any(-1, True), layout.coverage(), coverage)
                mask = subject_mask(coverage, key.shape[1] // coverage.shape[1], q.dtype)
                keys_values = split_heads(key, heads), split_heads(value, heads)
                return text + subject_attention(q, *keys_values, mask)

            return attend

        patches = {
            block: image_branch(key, value)
            for block, (key, value) in zip(self.blocks, keys_values, strict=True)
        }
        options = {"patches_replace": {"attn2": patches}}
        return self.unet(noisy, time, context, y, transformer_options=options), maps

    def _encode(
        self, encoder: Any, rows: Tensor, lengths: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states of the last layer but one, projected pooled, pooled."""
        embeds = encoder.text_model.embeddings.token_embedding(rows.to(self.device))
        _, hidden, projected, pooled = encoder(
            embeds=embeds,
            num_tokens=lengths,
            intermediate_output=-2,
            final_layer_norm_intermediate=False,
        )
        return hidden, projected, pooled


def look_at(seen: Tensor, places: Tensor) -> Tensor:
    """Probabilities [n, heads, cells, 77] and bool [n, MOST, 77] -> [n, MOST, cells], how much each
    cell looks at each subject's places."""
    return places.to(seen) @ seen.mean(1).transpose(1, 2)


def edges_in_cells(boxes: Tensor) -> Tensor:
    """[m, 4] -> [m, EDGE_NUMBERS]: edges, and sine and cosine of their places in their cells."""
    turns = 2 * math.pi * (boxes[:, None] * CELLS.to(boxes)[:, None]).flatten(1)
    return torch.cat([3 * boxes, turns.sin(), turns.cos()], 1)


def _tell_coordinates_apart(resampler: GroundingResampler) -> None:
    """Let three quarters of the hidden units of the grounding start on one coordinate of the box
    each. Functions of one edge are then learned in minutes, from mixed units not in an hour."""
    first = resampler.latent_proj[0]
    assert isinstance(first, nn.Linear)
    width, units = FOURIER_WIDTH // 4, first.out_features * 3 // 4
    own = torch.arange(units)[:, None] % 4 == torch.arange(FOURIER_WIDTH) % 4
    with torch.no_grad():
        first.weight[:units, -FOURIER_WIDTH:] = torch.randn(own.shape) * own * 3 / width**0.5
        first.weight[:units, :-FOURIER_WIDTH] *= 0.3
        first.bias[:units].uniform_(-1, 1)


def timestep_embedding(numbers: Tensor, width: int) -> Tensor:
    """[n] -> [n, width], cosines then sines, as the host's."""
    half = width // 2
    frequencies = (-math.log(10000) * torch.arange(half) / half).exp()
    angles = numbers[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}
