"""A training set of clips, as the paper made its own: a subject cut out of one frame is the
reference for another frame's box. OWLv2 finds the subjects and SAM2 cuts them out, both of
transformers, from a folder or the hub's cache.

A clip is a video or a folder of frames, with its caption beside it:

    walk.mp4    or walk/ with two or more pictures, in the order of their names
    walk.txt    a cat beside a dog
"""

import argparse
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import torch
from av.error import FFmpegError
from PIL import Image, ImageStat
from torch import Tensor
from torchvision.ops import box_iou
from transformers import Owlv2Processor, Sam2Model, Sam2Processor

from lab.evaluation.detected import crop
from lab.evaluation.encoders import MAX_OVERLAP, MIN_SCORE, Detection, Detector, load_model, read
from lab.jobs.engines import work
from lab.progress import Progress
from lab.training.real.training_set import (
    MAX_SUBJECTS,
    MIN_AREA,
    PICTURES,
    CutOut,
    cut_out,
    is_in,
    open_picture,
    save_sample,
)

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
VIDEO_MODEL = "sam2_video"  # whose files have the image model's weights, and more
MIN_FILLED = 0.1  # of a subject's box that its mask must take
Frames = tuple[Image.Image, Image.Image]  # where the references are cut out, and what is trained
Result = tuple[str, bool, list[str]]  # a clip's name, whether it became a sample, and what is wrong


class Segmenter:
    """SAM2, of the image or the video model's files.

    Args:
        name: as that of `Detector`, and with the same errors.
    """

    def __init__(self, name: str, device: str) -> None:
        self.model, _ = load_model(Sam2Model, "--segmenter", name, device, VIDEO_MODEL)
        self.processor = read(Sam2Processor, "--segmenter", name)

    def masks(self, picture: Image.Image, boxes: Sequence[Sequence[float]]) -> Tensor:
        """[n, H, W] bool, of what is in each of n boxes in 0..1.

        Raises ValueError: the network gives no numbers.
        """
        pixels = torch.tensor(boxes) * torch.tensor([picture.width, picture.height] * 2)
        inputs = self.processor(
            images=picture, input_boxes=[pixels.tolist()], return_tensors="pt"
        ).to(self.model.device)
        with torch.no_grad():
            outputs = self.model(**inputs, multimask_output=False)
        if not outputs.pred_masks.isfinite().all():
            raise ValueError("SAM2 gave values that aren't finite.")
        (masks,) = self.processor.post_process_masks(
            outputs.pred_masks.cpu(), [(picture.height, picture.width)]
        )
        return masks[:, 0]


def main(options: argparse.Namespace) -> None:
    """Do `import frames`.

    Raises:
        FileNotFoundError: there are no clips, or no such networks here.
        ValueError: an option is wrong.
    """
    if not MIN_SCORE <= options.min_score <= 1:
        raise ValueError(f"--min-score: expected {MIN_SCORE} to 1, got {options.min_score}.")
    phrases = list(dict.fromkeys(phrase.strip() for phrase in options.phrases))
    if not all(phrases):
        raise ValueError("--phrases: a phrase is empty.")
    if options.device == "cuda" and not (options.address or torch.cuda.is_available()):
        raise ValueError("--device is cuda, and PyTorch sees none.")
    shard, shards = options.shard
    clips = find_clips(options.source)[shard - 1 :: shards]
    left = [clip for clip in clips if not (options.out / f"{sample_name(clip)}.json").exists()]
    read(Owlv2Processor, "--detector", options.detector)  # here, where an error is a sentence
    read(Sam2Processor, "--segmenter", options.segmenter)
    if options.dry_run:
        print(f"{len(clips)} clips, {len(left)} of them to do. Nothing was written.")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    make_worker = MakeClipWorker(
        phrases, options.out.resolve(), options.min_score,
        options.detector, options.segmenter, options.device,
    )  # fmt: skip
    clips = [clip.resolve() for clip in left]
    count = show(work(clips, make_worker, options.workers, options.address), len(left))
    print(f"Wrote {count} samples to {options.out}, of {len(left)} clips.")


def find_clips(folder: Path) -> list[Path]:
    """The clips of a folder, by name.

    Raises:
        FileNotFoundError: there are none.
        ValueError: two of them would be the same sample.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder.")
    clips = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in VIDEOS or _pictures(p)]
    if not clips:
        raise FileNotFoundError(
            f"{folder} has no clips: no folders of pictures, nor {', '.join(VIDEOS)} files."
        )
    names: dict[str, Path] = {}
    for clip in clips:
        other = names.setdefault(sample_name(clip), clip)
        if other != clip:
            raise ValueError(f"{other.name} and {clip.name} would be the same sample.")
    return clips


def sample_name(clip: Path) -> str:
    return clip.name if clip.is_dir() else clip.stem


@dataclass
class ClipWorker:
    """Makes samples of clips for `lab.jobs.engines`."""

    phrases: Sequence[str]
    out: Path  # is there
    min_score: float
    detector: Detector
    segmenter: Segmenter

    def make(self, job: Path) -> Result:
        """Write a sample of a clip, if a subject is found in it."""
        subjects: list[CutOut] = []
        try:
            caption = read_caption(job)
            frames = read_frames(job)
            named = [phrase for phrase in self.phrases if is_in(phrase, caption)]
            if not named:
                raise ValueError("its caption has none of the phrases")
            subjects, problems = find_subjects(
                frames, named, self.detector, self.segmenter, self.min_score
            )
            if subjects:
                picture = io.BytesIO()
                frames[1].save(picture, "jpeg", quality=95)
                name = sample_name(job)
                save_sample(self.out, name, picture.getvalue(), ".jpg", caption, subjects)
        except (OSError, ValueError) as error:
            problems = [str(error)]
        return job.name, bool(subjects), problems


@dataclass(frozen=True)
class MakeClipWorker:
    """What makes such a worker, wherever that is."""

    phrases: Sequence[str]
    out: Path
    min_score: float
    detector: str
    segmenter: str
    device: str | None  # None: a GPU if there is one

    def __call__(self, name: str) -> ClipWorker:
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        detector = Detector(self.detector, device, "--detector")
        segmenter = Segmenter(self.segmenter, device)
        return ClipWorker(self.phrases, self.out, self.min_score, detector, segmenter)


def show(results: Iterable[Result], clips: int) -> int:
    """Print how far it is, and what is wrong; returns how many samples there are."""
    progress, count = Progress(clips), 0
    for done, (name, is_sample, problems) in enumerate(results, 1):
        for problem in problems:
            print(f"{name}: {problem}", flush=True)
        count += is_sample
        progress.show(done, f"{count} samples")
    return count


def read_caption(clip: Path) -> str:
    """Raises ValueError: there is none."""
    path = clip.with_name(f"{sample_name(clip)}.txt")
    text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    if not text:
        raise ValueError(f"it has no caption in {path.name}")
    return text


def read_frames(clip: Path) -> Frames:
    """The frames at a quarter and at three quarters of a clip.

    Raises OSError or ValueError: they can't be read.
    """
    pictures = _pictures(clip)
    count = len(pictures) if pictures else sum(1 for _ in _decode(clip))
    if count < 2:
        raise ValueError(f"expected two frames or more, got {count}")
    first, second = count // 4, count - 1 - count // 4
    if pictures:
        one, other = (
            open_picture(pictures[n].read_bytes(), pictures[n].name).convert("RGB")
            for n in (first, second)
        )
    else:
        frames = enumerate(_decode(clip))
        one, other = (
            frame.to_image().rotate(frame.rotation, expand=True)  # as a player shows it
            for n, frame in frames
            if n in (first, second)
        )
    return one, other


def _pictures(clip: Path) -> list[Path]:
    if not clip.is_dir():
        return []
    return [path for path in sorted(clip.iterdir()) if path.suffix.lower() in PICTURES]


def _decode(video: Path) -> Iterator[Any]:
    """Its frames. Raises ValueError: it has none."""
    try:
        with av.open(video) as container:
            if not container.streams.video:
                raise ValueError("there is no video in it")
            yield from container.decode(container.streams.video[0])
    except FFmpegError as error:
        raise ValueError(f"it can't be decoded: {error.strerror}") from None


def find_subjects(
    frames: Frames,
    phrases: Sequence[str],
    detector: Detector,
    segmenter: Segmenter,
    min_score: float,
) -> tuple[list[CutOut], list[str]]:
    """The subjects that are in both frames, and a sentence for each phrase that can't be told to
    be."""
    found: list[dict[str, Detection]] = []
    problems: list[str] = []
    for frame, where in zip(frames, ("in its first frame", "in its second frame"), strict=True):
        detections = [d for d in detector.find(frame, phrases) if d.score >= min_score]
        alone, unclear = _each_alone(detections, phrases)
        found.append(alone)
        problems += [f"{problem} {where}" for problem in unclear]
    first, second = found
    both = sorted(first.keys() & second.keys(), key=lambda phrase: -_area(second[phrase]))
    both = both[:MAX_SUBJECTS]
    if not both:
        return [], problems
    masks = segmenter.masks(frames[0], [first[phrase].box for phrase in both])
    subjects = []
    for phrase, mask in zip(both, masks, strict=True):
        grey = Image.fromarray(mask.numpy()).convert("L")
        if ImageStat.Stat(crop(grey, first[phrase])).mean[0] < 255 * MIN_FILLED:
            problems.append(f"the mask of {phrase!r} takes too little of its box")
            continue
        reference = cut_out(frames[0], grey)
        subjects.append(CutOut(phrase, second[phrase].box, reference))
    return subjects, problems


def _each_alone(
    detections: Sequence[Detection], phrases: Sequence[str]
) -> tuple[dict[str, Detection], list[str]]:
    """The detection of each phrase that has one, large enough and in a place of its own, and what
    is wrong with the other phrases."""
    alone: dict[str, Detection] = {}
    problems: list[str] = []
    shared: set[str] = set()
    for phrase in phrases:
        own = [detection for detection in detections if detection.phrase == phrase]
        if not own:
            problems.append(f"there is no {phrase!r}")
        elif own[1:]:
            problems.append(f"{len(own)} of {phrase!r} can't be told apart")
        elif _area(own[0]) < MIN_AREA:
            problems.append(f"{phrase!r} is too small")
        else:
            alone[phrase] = own[0]
    for one, other in combinations(list(alone), 2):
        a, b = (torch.tensor([alone[phrase].box]) for phrase in (one, other))
        if box_iou(a, b).item() > MAX_OVERLAP:
            shared |= {one, other}
            problems.append(f"{one!r} and {other!r} have the same place")
    return {phrase: alone[phrase] for phrase in alone if phrase not in shared}, problems


def _area(detection: Detection) -> float:
    x0, y0, x1, y1 = detection.box
    return (x1 - x0) * (y1 - y0)
