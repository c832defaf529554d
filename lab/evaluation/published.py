"""Figures that others published, as their sources give them."""

from dataclasses import dataclass

PAPER = "MS-Diffusion's paper, arXiv 2406.07209"
REVIEWED = f"{PAPER}, as its reviews quote it"
COPIED = f"{PAPER}, as table 1 of TFCustom copies it"
STORY = "StoryTailor"
CONSIST = "ConsistCompose's README; its DINO is another"


@dataclass(frozen=True)
class Published:
    """A row of a table; columns that it hasn't are empty."""

    name: str
    source: str
    clip_i: float | None = None
    dino: float | None = None
    m_dino: float | None = None
    clip_t: float | None = None
    iou: float | None = None
    ap: float | None = None


WHOLE_PICTURES = {
    "msbench": (
        Published("lambda-ECLIPSE", REVIEWED, 0.724, 0.419, 0.094, 0.316),
        Published("SSR-Encoder", REVIEWED, 0.725, 0.425, 0.107, 0.303),
        Published("MS-Diffusion", REVIEWED, 0.698, 0.425, 0.108, 0.341),
        Published("without grounding resampler", REVIEWED, dino=0.389),
        Published("without multi-subject attention", REVIEWED, m_dino=0.100, clip_t=0.309),
        Published("implicit attention losses instead", REVIEWED, m_dino=0.093, clip_t=0.316),
        Published("MS-Diffusion, measured again", STORY, 0.692, None, 0.108, 0.340),
        Published("MS-Diffusion, measured again", CONSIST, clip_t=0.336),
        Published("the same, boxes moved at random", CONSIST, clip_t=0.334),
    ),
    "dreambench": (
        Published("BLIP-Diffusion", COPIED, 0.779, 0.594, None, 0.300),
        Published("IP-Adapter", COPIED, 0.810, 0.613, None, 0.292),
        Published("Emu2", COPIED, 0.765, 0.563, None, 0.273),
        Published("Kosmos-G", COPIED, 0.822, 0.618, None, 0.250),
        Published("lambda-ECLIPSE", COPIED, 0.783, 0.613, None, 0.307),
        Published("SSR-Encoder", COPIED, 0.821, 0.612, None, 0.308),
        Published("MS-Diffusion", COPIED, 0.792, 0.671, None, 0.321),
    ),
}
FOUND = {
    "msbench": (
        Published("MS-Diffusion, measured again", CONSIST, dino=0.555, iou=0.466, ap=0.108),
        Published("the same, boxes moved at random", CONSIST, dino=0.544, iou=0.464, ap=0.105),
    ),
    "dreambench": (),
}
