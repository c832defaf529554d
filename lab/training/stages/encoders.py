"""Stage encoders: the vision tower and the resampler learn to read the sprites' attributes from
references, the text encoders from captions. That is what CLIP brings to SDXL."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lab.microworld.networks import RESAMPLER
from lab.microworld.scenes import (
    BACKGROUNDS,
    COLOURS,
    MAX_SUBJECTS,
    SHAPES,
    TEXTURES,
    Looks,
    caption,
    draw_looks,
    draw_references,
    uniform,
)
from lab.training.config import StageSettings
from lab.training.edges import EDGE_NUMBERS, edges_in_cells
from lab.training.family import Family, SubjectBatch
from lab.training.task import Losses, Task
from lab.training.vocabulary import PREFIXES, Vocabulary

GROUNDINGS = 128  # boxes and phrases of a micro batch, apart from its references


@dataclass
class AttributeSamples:
    """A micro batch: references, captions, and boxes with phrases."""

    looks: Looks  # [n, MAX_SUBJECTS]
    subjects: SubjectBatch  # one a reference, of n * MAX_SUBJECTS
    texts: list[str]  # n
    boxes: Tensor  # [GROUNDINGS, 4]
    shapes: Tensor  # [GROUNDINGS] index into SHAPES


class EncodersTask(Task):
    """The family's encoders, and linear layers that read a sprite's attributes from them. A sample
    is a reference, of MAX_SUBJECTS to a caption."""

    unused_parameters = True

    def __init__(self, settings: StageSettings, device: torch.device) -> None:
        super().__init__()
        torch.manual_seed(settings.seed)
        if settings.micro_batch % MAX_SUBJECTS:
            raise ValueError(f"encoders: micro_batch must be a multiple of {MAX_SUBJECTS}.")
        self.n = settings.micro_batch // MAX_SUBJECTS
        self.family = Family(Vocabulary())
        self.family.unet.requires_grad_(False)
        self.sizes = (len(SHAPES), len(TEXTURES), len(COLOURS), 3)  # the last is red, green, blue
        self.read_image = nn.Linear(self.family.context_width, sum(self.sizes))
        self.read_text = nn.Linear(self.family.context_width, sum(self.sizes[:3]))
        self.read_latents = nn.Linear(RESAMPLER["dim"], EDGE_NUMBERS)
        self.to(device)

    @property
    def trained(self) -> nn.Module:
        return self

    def draw(self, g: Generator, step: int) -> AttributeSamples:
        looks = draw_looks(self.n, g)
        return AttributeSamples(
            looks,
            draw_half_grounded(looks.flat(), g),
            draw_captions(looks, g),
            draw_boxes(GROUNDINGS, g),
            torch.randint(0, len(SHAPES), (GROUNDINGS,), generator=g),
        )

    def forward(self, micro_batch: AttributeSamples) -> Losses:
        losses = self.image_losses(micro_batch.looks.flat(), micro_batch.subjects)
        losses["text"] = self.text_loss(micro_batch.looks, micro_batch.texts)
        losses["latents"] = 3 * self.latents_loss(micro_batch.boxes, micro_batch.shapes)
        loss = torch.stack(list(losses.values())).sum()
        return {"loss": loss} | {name: value.detach() for name, value in losses.items()}

    def image_losses(self, looks: Looks, subjects: SubjectBatch) -> Losses:
        """Of what the image tokens of references of looks [n] show."""
        subjects = subjects.to(self.family.device)
        tokens = self.family.image_tokens(subjects)
        shape, texture, colour, first = self.read_image(tokens.mean(1)).split(self.sizes, 1)
        device = tokens.device
        return {
            "shape": F.cross_entropy(shape, looks.shape.to(device)),
            "texture": F.cross_entropy(texture, looks.texture.to(device)),
            "colour": F.cross_entropy(colour, looks.colour.to(device))
            + 3 * (first - looks.first.to(device)).abs().mean(),
            "edges": 3 * self.family.edge_error(tokens, subjects),
        }

    def text_loss(self, looks: Looks, texts: list[str]) -> Tensor:
        """Of what the context shows where full captions of looks [n, MAX_SUBJECTS] name shapes."""
        at_shapes = self.family.vocabulary.positions(texts, SHAPES).to(self.family.device)
        logits = self.read_text(self.family.text(texts)[0][at_shapes]).split(self.sizes[:3], 1)
        expected = (looks.shape, looks.texture, looks.colour)
        losses = [
            F.cross_entropy(a, b.flatten().to(a.device))
            for a, b in zip(logits, expected, strict=True)
        ]
        return torch.stack(losses).sum()

    def latents_loss(self, boxes: Tensor, shapes: Tensor) -> Tensor:
        """Of what the latents that the resampler starts from show of boxes [n, 4]."""
        resampler, boxes = self.family.adapter.resampler, boxes.to(self.family.device)
        phrases = self.family.phrase_embeds(SHAPES)[shapes]
        dropped = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        latents = resampler.latents(phrases, boxes, dropped)
        return (self.read_latents(latents.mean(1)) - edges_in_cells(boxes)).square().mean()


def draw_half_grounded(looks: Looks, g: Generator) -> SubjectBatch:
    """A subject of each of looks [n], half of them without grounding."""
    n = len(looks.shape)
    boxes = draw_boxes(n, g)[:, None]
    without, no = torch.rand(n, generator=g) < 0.5, torch.zeros(n, dtype=torch.bool)
    phrases = [SHAPES[int(shape)] for shape in looks.shape]
    return SubjectBatch(draw_references(looks, g), phrases, boxes, without, no, no)


def draw_captions(looks: Looks, g: Generator) -> list[str]:
    """Full captions of looks [n, MAX_SUBJECTS]."""
    n = len(looks.shape)
    everywhere = torch.ones(MAX_SUBJECTS, 4)
    backgrounds = torch.randint(0, len(BACKGROUNDS), (n,), generator=g)
    prefixes = torch.randint(0, len(PREFIXES), (n,), generator=g)
    return [
        PREFIXES[prefixes[i]] + caption(looks[i], everywhere, int(backgrounds[i]), full=True)
        for i in range(n)
    ]


def draw_boxes(n: int, g: Generator) -> Tensor:
    """[n, 4]"""
    size = uniform((n, 2), 0.25, 0.65, g)
    corner = torch.rand(n, 2, generator=g) * (1 - size)
    return torch.cat([corner, corner + size], -1)
