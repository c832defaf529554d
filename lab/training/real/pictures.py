"""Validation pictures: held-out samples as the pack's own nodes sample them, on the model that is
trained with. No other copy of the checkpoint is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lab.host.in_process import run_node
from lab.host.sampler import lay_out, sample_picture
from lab.microworld.scenes import to_pil
from lab.training.real.encoders import (
    PREPARED,
    Encoders,
    add_folder,
    bucket,
    fit_picture,
    picture_size,
    to_pixels,
)
from lab.training.real.training_set import Sample, references, save_sheet, with_boxes

STEPS, CFG = 30, 7.5  # as lab.jobs samples
SHEET_EDGE = 512  # of each picture on the sheet


@dataclass(frozen=True)
class Prepared:
    """A sample for the nodes, which needs the image encoder no more."""

    size: tuple[int, int]
    target: Image.Image  # with its boxes
    subjects: Any  # of MSDEncodeReferences
    positive: Any  # of CLIPTextEncode


@dataclass
class Pictures:
    """Pictures of some samples, always from the same noise.

    Args:
        folder: for the contact sheets.
    """

    encoders: Encoders
    samples: Sequence[Sample]
    folder: Path

    @torch.no_grad()
    def save(self, adapter: Path, name: str) -> None:
        """Write a contact sheet <name>.png: a row for each sample, with its picture and boxes, what
        is sampled with its caption, layout and references, and these.

        Args:
            adapter: file of the adapter.
        """
        gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(gpus):  # the host seeds everybody's
            sampled = self._sample(adapter)
        rows = [
            [prepared.target, to_pil(picture), *references(sample)]
            for sample, prepared, picture in zip(self.samples, self._prepared, sampled, strict=True)
        ]
        save_sheet(rows, self.folder / f"{name}.png", SHEET_EDGE)

    def _sample(self, path: Path) -> list[Tensor]:
        """A picture [3, H, W] for each sample."""
        encoders, nodes = self.encoders, self.encoders.nodes
        model, clip, vae = encoders.loaded
        add_folder("ms_diffusion", path)
        (adapter,) = run_node(nodes, "MSDLoadAdapter", path.name)
        (negative,) = run_node(nodes, "CLIPTextEncode", clip=clip, text="")
        sampled = []
        for seed, prepared in enumerate(self._prepared):
            (subjects,) = run_node(nodes, "MSDGroundReferences", adapter, clip, prepared.subjects)
            (patched,) = run_node(nodes, "MSDApply", model, adapter, subjects, weight=1.0)
            texts = prepared.positive, negative
            picture = sample_picture(
                nodes, patched, *texts, vae, prepared.size, seed, steps=STEPS, cfg=CFG
            )
            sampled.append(picture.cpu())
        return sampled

    @cached_property
    def _prepared(self) -> list[Prepared]:
        prepared = [self._prepare(each) for each in self.samples]
        self.encoders.forget_vision()
        return prepared

    def _prepare(self, sample: Sample) -> Prepared:
        encoders, nodes = self.encoders, self.encoders.nodes
        size = bucket(picture_size(sample.picture), encoders.edge)
        target, boxes = fit_picture(sample, size)
        shown = [n for n, box in enumerate(boxes) if any(box)]
        subjects = lay_out(
            nodes,
            [
                to_pixels(sample.subjects[n].reference.open().convert("RGBA")).movedim(-1, 0)
                for n in shown
            ],
            [sample.subjects[n].phrase for n in shown],
            torch.tensor(boxes)[shown],
            size,
        )
        fit = PREPARED[encoders.family]
        (subjects,) = run_node(nodes, "MSDEncodeReferences", encoders.vision, subjects, *fit)
        (positive,) = run_node(
            nodes, "CLIPTextEncode", clip=encoders.loaded[1], text=sample.caption
        )
        drawn = with_boxes(sample, to_pil(target.movedim(-1, 0)), boxes)
        return Prepared(size, drawn, subjects, positive)
