"""Figures of the micro world: what its judge sees in pictures of held-out scenes, against their
references and boxes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from scipy.ndimage import find_objects, label
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from lab.evaluation.cases import HeldOut, draw_held_out, held_out_hash, read_line_name
from lab.evaluation.made import Made, open_picture
from lab.jobs.hashes import Hashes
from lab.microworld.judge import NOTHING, Judge, load_judge
from lab.microworld.scenes import BACKGROUND_COLOURS, SIZE, SMALL_SIZE

COLUMNS = {
    "iou": "IoU",
    "miss": "missed",
    "outside": "outside",
    "shape": "shape",
    "texture": "texture",
    "colour": "colour",
    "confused_colour": "confused, by mean colour",
    "confused": "confused, by the judge",
    "anywhere": "shape and hue anywhere",
    "background": "background",
}
MISSED = 0.15  # a subject is missed if less of its box than this is sprite
MIN_PIXELS = 160  # of a sprite that counts
RIM = 2  # pixels of a sprite's outline
BRIGHT = 0.45  # inside its outline, every sprite's brightest channel is brighter
NEAR = 6  # cells around a box in which a sprite is still the box's

Row = dict[str, list[float]]  # of one scene, a value a subject or one alone, by column
Cells = tuple[int, int, int, int]  # a box in cells of the judge's foreground


@dataclass
class Found:
    """A picture of scene `i`, and where the judge finds sprites in it."""

    held_out: HeldOut
    i: int
    picture: Tensor  # [3, H, W] in 0..1
    small: Tensor  # [3, h, w], the same at half the size
    sprites: Tensor  # [h, w] bool

    @property
    def subjects(self) -> int:
        return self.held_out.subjects

    def boxes(self) -> list[Cells]:
        """The subjects' boxes in cells of `sprites`."""
        height, width = self.sprites.shape
        boxes = self.held_out.scenes.boxes[self.i, : self.subjects]
        cells = (boxes * torch.tensor([width, height, width, height])).round().long()
        return [(x0, y0, x1, y1) for x0, y0, x1, y1 in cells.tolist()]


class Judged:
    """Scores by the micro world's judge.

    Args:
        path: of the judge's weights.
    Raises:
        FileNotFoundError: they aren't there. ValueError: they are another network's.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.judge = load_judge(path)
        except FileNotFoundError:
            raise FileNotFoundError(f"--judge: {path} doesn't exist.") from None
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0].rstrip(".:")
            raise ValueError(
                f"--judge: {path} can't be read as the micro world's judge: {reason}."
            ) from None
        self.made_by = {"judge": Hashes(None).of(path)[:16], "scenes": held_out_hash()}

    def score(self, made: Made) -> Row:
        """Scores by column, one for each subject or one alone.

        Raises OSError or ValueError: the picture can't be read, or has another size.
        """
        _, name, i = read_line_name(made.name)
        held_out = draw_held_out(name)
        picture = to_tensor(open_picture(made.picture))
        size = held_out.scenes.picture.shape[-2:]
        if picture.shape[-2:] != size:
            raise ValueError(
                f"The picture has {picture.shape[-1]} x {picture.shape[-2]} pixels; its scene has "
                f"{size[1]} x {size[0]}."
            )
        return score_picture(self.judge, held_out, i, picture)


@torch.no_grad()
def score_picture(judge: Judge, held_out: HeldOut, i: int, picture: Tensor) -> Row:
    """Scores of a picture [3, H, W] of a held-out scene by the columns."""
    if picture.shape[-1] == SMALL_SIZE == picture.shape[-2]:  # enlarged to what the judge knows
        picture = F.interpolate(picture[None], (SIZE, SIZE), mode="bicubic", antialias=True)[0]
        picture = picture.clamp(0, 1)
    sprites = judge.sprites(picture[None])[0]
    found = Found(held_out, i, picture, F.avg_pool2d(picture, 2), sprites)
    rows = score_boxes(found)
    rows |= score_looks(judge, found, rows["miss"])
    rows |= score_whole(judge, found)
    return rows


def score_boxes(found: Found) -> Row:
    """Whether sprites fill their boxes and nothing else, each in its own mean colour."""
    sprites, boxes = found.sprites, found.boxes()
    rows: Row = {"iou": [], "miss": [], "confused_colour": []}
    allowed = torch.zeros_like(sprites)
    for j, (x0, y0, x1, y1) in enumerate(boxes):
        allowed[max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1] = True
        missed = sprites[y0:y1, x0:x1].float().mean().item() < MISSED
        own = sprites & _near(boxes, j, sprites)
        rows["miss"].append(float(missed))
        rows["iou"].append(0.0 if missed else _tight_iou(own, boxes[j]))
        if own.any():
            mean = found.small[:, own].mean(1)
            means = found.held_out.means[found.i, : found.subjects]
            nearest = (means - mean).norm(dim=1).argmin().item()
            rows["confused_colour"].append(float(nearest != j))
        else:
            rows["confused_colour"].append(float("nan"))
    total = sprites.sum().item()
    outside = (sprites & ~allowed).sum().item() / total if total else float("nan")
    return {**rows, "outside": [outside]}


def score_looks(judge: Judge, found: Found, missed: list[float]) -> Row:
    """Whether each box shows its reference's look, and no other's."""
    scenes, i, n = found.held_out.scenes, found.i, found.subjects
    looks = scenes.looks[i, :n]
    verdict = judge.look(found.picture.expand(n, -1, -1, -1), scenes.boxes[i, :n])
    whole = torch.tensor([[0.1, 0.1, 0.9, 0.9]]).expand(n, 4)
    references = judge.look(found.held_out.references[i, :n], whole)
    distances = torch.cdist(verdict.look, references.look)  # [S, S], box by reference
    rows: Row = {"confused": (distances.argmin(1) != torch.arange(n)).float().tolist()}
    for name in ("shape", "texture", "colour"):
        right = getattr(verdict, name) == getattr(looks, name)
        rows[name] = [
            float(same and not miss) for same, miss in zip(right.tolist(), missed, strict=True)
        ]
    return rows


def score_whole(judge: Judge, found: Found) -> Row:
    """What the whole picture shows, wherever it shows it."""
    scenes, i = found.held_out.scenes, found.i
    free = found.small[:, ~found.sprites]
    mean = free.mean(1) if free.numel() else torch.zeros(3)
    nearest = (BACKGROUND_COLOURS - mean).norm(dim=1).argmin()
    looks = scenes.looks[i, : found.subjects]
    named = zip(looks.shape.tolist(), looks.colour.tolist(), strict=True)
    seen = _sprites_anywhere(judge, found)
    return {
        "background": [float(nearest == scenes.background[i])],
        "anywhere": [float(words in seen) for words in named],
    }


def _near(boxes: list[Cells], j: int, sprites: Tensor) -> Tensor:
    """Bool [h, w], where a sprite belongs to box j: around it, but not in a neighbour's box."""
    near = torch.zeros_like(sprites)
    x0, y0, x1, y1 = boxes[j]
    near[max(0, y0 - NEAR) : y1 + NEAR, max(0, x0 - NEAR) : x1 + NEAR] = True
    for k, (a0, b0, a1, b1) in enumerate(boxes):
        if k != j:
            near[b0:b1, a0:a1] = False
    near[y0:y1, x0:x1] = True
    return near


def _tight_iou(sprite: Tensor, box: Cells) -> float:
    """Of the tight box around a sprite with a box."""
    rows, columns = sprite.any(1).nonzero(), sprite.any(0).nonzero()
    x0, x1 = columns[0].item(), columns[-1].item() + 1
    y0, y1 = rows[0].item(), rows[-1].item() + 1
    common = max(0, min(x1, box[2]) - max(x0, box[0])) * max(0, min(y1, box[3]) - max(y0, box[1]))
    areas = (x1 - x0) * (y1 - y0) + (box[2] - box[0]) * (box[3] - box[1])
    return common / (areas - common)


def _sprites_anywhere(judge: Judge, found: Found) -> set[tuple[int, int]]:
    """Shape and colour of every sprite. Dark outlines part those that touch."""
    picture = found.picture
    height, width = picture.shape[1:]
    sprite = F.interpolate(found.sprites[None, None].float(), (height, width))[0, 0] > 0
    inside = sprite & (picture.amax(0) > BRIGHT)
    boxes = []
    for where, rim in ((sprite.numpy(), 0), (inside.numpy(), RIM)):
        regions = np.empty(where.shape, np.int32)
        label(where, output=regions)
        for number, (rows, columns) in enumerate(find_objects(regions), 1):
            if (regions == number).sum() >= MIN_PIXELS:
                edges = columns.start - rim, rows.start - rim, columns.stop + rim, rows.stop + rim
                boxes.append([edge / (width, height)[i % 2] for i, edge in enumerate(edges)])
    if not boxes:
        return set()
    verdict = judge.look(picture.expand(len(boxes), -1, -1, -1), torch.tensor(boxes))
    words = zip(verdict.shape.tolist(), verdict.colour.tolist(), strict=True)
    return {(shape, colour) for shape, colour in words if shape != NOTHING}
