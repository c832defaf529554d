"""The training of an adapter of any family on the encoded samples of a set, as a task of the one
trainer: a frozen checkpoint, and the family's own rule in each of its cross-attentions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from lab.training.draws import scatter
from lab.training.real.batches import Batch, draw_batch
from lab.training.real.cache import Cache
from lab.training.real.frozen import Frozen, ImageBranch
from lab.training.real.pictures import Pictures
from lab.training.real.settings import RunSettings
from lab.training.task import Losses, Task
from msd_core.attention.merge import merged_attention, name_weights, text_strength
from msd_core.attention.subjects import split_heads, subject_attention, subject_mask
from msd_core.coverage import box_coverage

RESULT = "adapter.safetensors"


def too_few(samples: int, settings: RunSettings) -> str:
    """What to say of a set with nothing to train on."""
    return (
        f"Of {samples} samples {settings.validation} are held out for the validation, and no other "
        "has a subject. Take a larger set, or lower `validation`."
    )


class AdapterOnSet(Task):
    """An adapter, on the samples of these keys.

    Args:
        adapter: what is trained, in float32.
        folder: for the result.
    Raises:
        ValueError: there is nothing to train on.
    """

    unused_parameters = True  # a micro batch may have no references
    pictures: Pictures | None = None  # of held-out samples, at each validation

    def __init__(
        self, settings: RunSettings, frozen: Frozen, adapter: Any, cache: Cache, keys: list[str],
        folder: Path,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings, self.frozen, self.cache, self.folder = settings, frozen, cache, folder
        keys = sorted(keys)
        self.held_out = cache.buckets(keys[: settings.validation])
        self.buckets = cache.buckets(keys[settings.validation :])
        if not self.buckets:
            raise ValueError(too_few(len(keys), settings))
        self.validate_steps = settings.validate if self.held_out else 0
        self.blank = cache.load(cache.key(None))
        self.adapter = adapter.to(frozen.device).requires_grad_(True)
        if hasattr(adapter, "dummy_image_tokens"):  # as in the release: they act on nothing
            adapter.dummy_image_tokens.requires_grad_(False)

    @property
    def trained(self) -> nn.Module:
        return self.adapter

    def draw(self, g: Generator, step: int) -> Batch:
        sizes = torch.tensor([float(len(keys)) for keys in self.buckets])
        keys = self.buckets[int(torch.multinomial(sizes, 1, generator=g))]
        rows = torch.randint(0, len(keys), (self.settings.micro_batch,), generator=g)
        samples = [self.cache.load(keys[row]) for row in rows]
        return draw_batch(samples, self.blank, self.settings, g)

    def forward(self, micro_batch: Batch) -> Losses:
        error, snr = self.error(micro_batch.to(self.frozen.device))
        weight = snr.clamp(max=self.settings.min_snr or float("inf")) / snr
        return {"loss": (error * weight).mean(), "error": error.detach().mean()}

    def error(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `Frozen.error`, with the references of the batch."""
        blank = self.adapter.blank_image_tokens(self.blank["features"].float().to(batch.boxes))
        tokens = self._image_tokens(batch)
        boxes = batch.boxes
        if blank is None:
            boxes = boxes * ~batch.without_image[:, None, None]
        else:  # as in the rows of negative conditionings
            dropped = batch.of_subjects(batch.without_image)
            tokens = torch.where(dropped[:, None, None], blank, tokens)
        if self.adapter.text_weights is None:
            return self.frozen.error(batch, self._covered(scatter(tokens, batch.present), boxes))
        return self.frozen.error(batch, self._merged(tokens, batch))

    def _image_tokens(self, batch: Batch) -> Tensor:
        """[m, T, C]"""
        needs = self.adapter.needs
        if not needs.box:
            return self.adapter.image_proj(batch.features)
        return self.adapter.resampler(
            batch.features,
            torch.stack(batch.phrases),
            batch.boxes[batch.present],
            batch.of_subjects(batch.without_grounding),
        )

    def _covered(self, tokens: Tensor, boxes: Tensor) -> list[ImageBranch]:
        """References in boxes [n, S, 4]; tokens [n, S * T, C]."""
        count = tokens.shape[1] // boxes.shape[1]
        masks: dict[tuple[int, int], Any] = {}

        def branch(key: Tensor, value: Tensor) -> ImageBranch:
            def add(query: Tensor, heads: int, grid: tuple[int, int], text: Tensor) -> Tensor:
                if grid not in masks:
                    masks[grid] = subject_mask(box_coverage(boxes, *grid), count, query.dtype)
                k, v = (split_heads(x.to(query), heads) for x in (key, value))
                return subject_attention(query, k, v, masks[grid])

            return add

        return [branch(*pair) for pair in self.adapter.keys_and_values(tokens)]

    def _merged(self, tokens: Tensor, batch: Batch) -> list[ImageBranch]:
        """References that follow their names; tokens [m, T, C]."""
        samples = batch.present.nonzero()[:, 0]
        own = [(samples == n).nonzero()[:, 0].tolist() for n in range(len(batch.boxes))]

        def branch(key: Tensor, value: Tensor, weight: Tensor, text_key: nn.Module) -> ImageBranch:
            def add(query: Tensor, heads: int, grid: tuple[int, int], text: Tensor) -> Tensor:
                outs = []
                for q, rows in zip(query.split(1), own, strict=True):
                    names = [batch.phrases[row].to(q) for row in rows]
                    shares = [q.new_full((len(name), 1), 1 / len(name)).float() for name in names]
                    weights = name_weights(
                        q, text_key(torch.cat(names)[None]), heads, torch.block_diag(*shares)
                    )
                    k, v = (
                        split_heads(x[rows].flatten(0, 1)[None].to(q), heads) for x in (key, value)
                    )
                    outs.append(merged_attention(q, k, v, weights))
                return torch.cat(outs) * text_strength(text, weight).to(query)

            return add

        pairs, weights = self.adapter.keys_and_values(tokens), self.adapter.text_weights
        return [
            branch(key, value, weight, text_key)
            for (key, value), weight, text_key in zip(
                pairs, weights, self.frozen.text_keys, strict=True
            )
        ]

    @torch.no_grad()
    def validate(self, step: int) -> Losses:
        """Errors of the held-out samples, with their references and without."""
        if self.pictures is not None:
            self._save_pictures(self.pictures, str(step))
        settings = replace(self.settings, text=0.0, image=0.0, both=0.0, grounding=0.0)
        errors: dict[str, list[Tensor]] = {"validation": [], "without references": []}
        g = torch.Generator().manual_seed(0)
        for keys in self.held_out:
            for start in range(0, len(keys), settings.micro_batch):
                part = keys[start : start + settings.micro_batch]
                samples = [self.cache.load(key) for key in part]
                batch = draw_batch(samples, self.blank, settings, g).to(self.frozen.device)
                errors["validation"].append(self.error(batch)[0])
                errors["without references"].append(self.frozen.error(batch)[0])
        return {name: torch.cat(each).mean() for name, each in errors.items()}

    def _save_pictures(self, pictures: Pictures, name: str) -> None:
        pictures.folder.mkdir(parents=True, exist_ok=True)
        path = pictures.folder / RESULT
        self._save_adapter(path)
        pictures.save(path, name)
        path.unlink()
        self.frozen.load()

    def _save_adapter(self, path: Path) -> None:
        """As MSD Load Adapter reads it."""
        weights = {k: v.detach().cpu().half() for k, v in self.adapter.state_dict().items()}
        save_file(weights, path, self.adapter.metadata())

    def check(self) -> None:
        """Write the adapter."""
        path = self.folder / RESULT
        self._save_adapter(path)
        print(f"Wrote {path}.", flush=True)
