"""The micro family as one trainable module: text encoders, UNet and vision tower of the host's
classes, and the product's own adapter, coverage and attention."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lab.microworld import networks
from lab.microworld.scenes import MAX_SUBJECTS
from lab.training.attention import attention_and_probabilities
from lab.training.draws import scatter
from lab.training.edges import EDGE_NUMBERS, edges_in_cells, separate_coordinates
from lab.training.vocabulary import LENGTH, Vocabulary
from msd_core import MSAdapter
from msd_core.attention.phrase_maps import AutoLayout
from msd_core.attention.subjects import split_heads, subject_attention, subject_mask
from msd_core.coverage import box_coverage
from msd_core.models.unet import cross_attentions, text_keys

CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
LOOK = 0.3  # how much of the text attention a subject's phrase should get inside its box
# Of one layer: the text attention's probabilities [n, heads, queries, 77], and the coverage
# [n, MAX_SUBJECTS, queries].
Map = tuple[Tensor, Tensor]


class TextAttention(NamedTuple):
    """A layer's text cross-attention."""

    out: Tensor  # [n, queries, width]
    probabilities: Tensor  # [n, heads, queries, 77]


# Number of the layer in released order, query [n, queries, width], heads and text attention -> what
# is added to the latter's output.
ImageBranch = Callable[[int, Tensor, int, TextAttention], Tensor]


@dataclass
class SubjectBatch:
    """What the adapter gets for a batch of n scenes."""

    references: Tensor  # [m, 3, 64, 64], of all m subjects
    phrases: list[str]  # m
    boxes: Tensor  # [n, MAX_SUBJECTS, 4]; zeros where there is no subject
    drop_grounding: Tensor  # [n] bool
    without_masks: Tensor  # [n] bool: every query sees every subject
    auto_layout: Tensor  # [n] bool: each layer's queries see the subjects whose phrase they look at

    @property
    def present(self) -> Tensor:
        """[n, MAX_SUBJECTS] bool, m of them true."""
        return self.boxes.any(-1)

    def to(self, device: torch.device) -> "SubjectBatch":
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def coverage(self, height: int, width: int) -> Tensor:
        """[n, MAX_SUBJECTS, height * width] bool."""
        everywhere = self.without_masks[:, None] & self.present
        return box_coverage(self.boxes, height, width) | everywhere[..., None]

    def coverages(self, latents: Tensor) -> dict[int, Tensor]:
        """The coverage of each grid of the UNet's attentions, by its number of queries, for latents
        [n, 4, h, w]."""
        height, width = latents.shape[-2:]
        grids = [(height // edge, width // edge) for edge in (1, 2)]
        return {h * w: self.coverage(h, w) for h, w in grids}


class Family(nn.Module):
    """The whole family, of the vocabulary's tokens only."""

    unet: Any
    text_l: Any
    text_g: Any
    vision: Any
    adapter: MSAdapter

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.unet = networks.unet()
        self.text_l, self.text_g = networks.text_encoder(), networks.text_encoder()
        self.vision = networks.vision_tower()
        self.adapter = networks.adapter(self.unet)
        self.context_width = 2 * networks.TEXT_WIDTH
        self.blocks = [a.block for a in cross_attentions(_shapes(self.unet))]
        keys = text_keys(self.unet)
        self.text_keys = [keys[block] for block in self.blocks]
        for encoder in (self.text_l, self.text_g):
            embeddings = encoder.text_model.embeddings
            rows = networks.Operations.Embedding(len(vocabulary.ids), networks.TEXT_WIDTH)
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
        separate_coordinates(self.adapter.resampler)
        self.read_edges = nn.Linear(self.context_width, EDGE_NUMBERS)  # for training alone

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
        """References [m, 3, 64, 64] in 0..1 -> features [m, 65, 64] of the last layer but one."""
        mean, std = CLIP_MEAN.to(self.device), CLIP_STD.to(self.device)
        return self.hidden_states((references - mean) / std)

    def hidden_states(self, pixel_values: Tensor) -> Tensor:
        """Pixel values [m, 3, 64, 64] -> the tower's last hidden states but one [m, 65, 64]."""
        return self.vision(pixel_values, intermediate_output=-2)[1]

    def phrase_embeds(self, phrases: Sequence[str]) -> Tensor:
        """[n, 64]"""
        rows, _, lengths = self.vocabulary.encode(phrases)
        return self._encode(self.text_l, rows, lengths)[2]

    def image_tokens(self, subjects: SubjectBatch) -> Tensor:
        """[n, MAX_SUBJECTS * T, C]; zeros where there is no subject."""
        present, resampler = subjects.present, self.adapter.resampler
        if not subjects.phrases:
            count = MAX_SUBJECTS * self.adapter.resampler.sizes.num_queries
            return torch.zeros(len(present), count, self.context_width, device=self.device)
        words = sorted(set(subjects.phrases))
        tokens = resampler(
            self.features(subjects.references),
            self.phrase_embeds(words)[[words.index(p) for p in subjects.phrases]],
            subjects.boxes[present],
            subjects.drop_grounding[:, None].expand_as(present)[present],
        )
        return scatter(tokens, present)

    def phrase_positions(self, texts: Sequence[str], subjects: SubjectBatch) -> Tensor:
        """Bool [n, MAX_SUBJECTS, 77], where each text holds each subject's phrase."""
        rows = self.vocabulary.encode(texts)[0][subjects.present.cpu().nonzero()[:, 0]]
        found = rows == self.vocabulary.word_rows(subjects.phrases)[:, None]
        positions = torch.zeros(
            *subjects.present.shape, LENGTH, dtype=torch.bool, device=self.device
        )
        positions[subjects.present] = found.to(self.device)
        return positions

    def edge_error(self, tokens: Tensor, subjects: SubjectBatch) -> Tensor:
        """Error of the edges that can be read from the grounded subjects' `image_tokens`."""
        grounded = subjects.present & ~subjects.drop_grounding[:, None]
        if not grounded.any():
            return tokens.new_zeros(())
        means = tokens.unflatten(1, (grounded.shape[1], -1))[grounded].mean(1)
        expected = edges_in_cells(subjects.boxes[grounded])
        return (self.read_edges(means) - expected).square().mean()

    def map_error(self, maps: list[Map], texts: Sequence[str], subjects: SubjectBatch) -> Tensor:
        """How far the text attention is from looking at each subject's phrase inside its box and
        nowhere else, as SDXL's learns to do by itself."""
        positions = self.phrase_positions(texts, subjects)
        counted = positions.any(-1) & ~subjects.without_masks[:, None]
        errors = [
            (attention_to(probabilities, positions) - LOOK * coverage)[counted]
            for probabilities, coverage in maps
        ]
        flat = torch.cat([error.flatten() for error in errors]).square()
        return flat.sum() / max(1, flat.numel())

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        texts: Sequence[str],
        subjects: SubjectBatch,
        tokens: Tensor,
    ) -> tuple[Tensor, list[Map]]:
        """Predicted noise, and where each layer looked.

        Args:
            noisy: [n, 4, h, w] latents of unit variance. timesteps: [n] in 0..999.
            tokens: `image_tokens` of the subjects.
        """
        keys_values = self.adapter.keys_and_values(tokens)
        coverages = subjects.coverages(noisy)
        # Where any of these positions is, a subject covers the queries that look at it instead.
        followed = subjects.auto_layout[:, None, None] & self.phrase_positions(texts, subjects)
        maps: list[Map] = []

        def image_branch(layer: int, q: Tensor, heads: int, text: TextAttention) -> Tensor:
            key, value = (split_heads(x, heads) for x in keys_values[layer])
            coverage = coverages[q.shape[1]]
            maps.append((text.probabilities, coverage))
            layout = AutoLayout(threshold=0.5)
            layout.add(attention_to(text.probabilities.detach(), followed))
            coverage = torch.where(followed.any(-1, True), layout.coverage(), coverage)
            mask = subject_mask(coverage, key.shape[2] // coverage.shape[1], q.dtype)
            return subject_attention(q, key, value, mask)

        return self.denoise(noisy, timesteps, texts, image_branch), maps

    def denoise(
        self, noisy: Tensor, timesteps: Tensor, texts: Sequence[str], image_branch: ImageBranch
    ) -> Tensor:
        """The UNet's noise, with an image branch beside each text cross-attention; arguments as
        those of `forward`."""
        context, pooled = self.text(texts)
        height, width = (8 * edge for edge in noisy.shape[-2:])
        numbers = torch.tensor([height, width, 0, 0, height, width])
        sizes = timestep_embedding(numbers, 256).flatten().expand(len(texts), -1).to(self.device)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
            heads = options["n_heads"]
            text = TextAttention(*attention_and_probabilities(q, k, v, heads))
            return text.out + image_branch(layer, q, heads, text)

        patches = {block: partial(attend, layer) for layer, block in enumerate(self.blocks)}
        options = {"patches_replace": {"attn2": patches}}
        y = torch.cat([pooled, sizes], -1)
        return self.unet(noisy, timesteps.float(), context, y, transformer_options=options)

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


def attention_to(probabilities: Tensor, positions: Tensor) -> Tensor:
    """How much each query looks at each subject's positions: probabilities [n, heads, queries, 77]
    and bool [n, MAX_SUBJECTS, 77] -> [n, MAX_SUBJECTS, queries]."""
    return positions.to(probabilities) @ probabilities.mean(1).transpose(1, 2)


def timestep_embedding(numbers: Tensor, width: int) -> Tensor:
    """[n] -> [n, width], cosines then sines, as the host's."""
    half = width // 2
    frequencies = (-math.log(10000) * torch.arange(half) / half).exp()
    angles = numbers[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}
