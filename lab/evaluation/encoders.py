"""The networks that scores come from, by transformers. They are read from a folder or from the
hub's cache, never from the network; what they give is checked, never replaced."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torchvision.ops import batched_nms
from torchvision.transforms import (
    CenterCrop,
    Compose,
    InterpolationMode,
    Normalize,
    Resize,
    ToTensor,
)
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPModel,
    Dinov2Model,
    Owlv2ForObjectDetection,
    Owlv2Processor,
    ViTModel,
)
from transformers.utils import logging
from transformers.utils.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

logging.disable_progress_bar()
SIZE, LARGER = 224, 256  # pixels: what the encoders see, and what DINO's see the middle of
MIN_SCORE = 0.1  # of a detection, OWLv2's own default
MAX_OVERLAP = 0.5  # IoU of detections of a phrase, of which only the best stays
QUERY = "a photo of a {}"  # what OWLv2 is asked for


class Clip:
    """CLIP's features of pictures and texts, of length 1.

    Args:
        name: a folder as transformers saves models, or a name on the hub whose files are there.
    Raises:
        FileNotFoundError: there is no such model here.
        ValueError: it is another model.
    """

    def __init__(self, name: str, device: str) -> None:
        self.model, self.hash = load_model(CLIPModel, "--clip", name, device)
        self.tokenizer = _load_text(AutoTokenizer, "--clip", name, self.model.config.text_config)
        _check_size("--clip", name, self.model.config.vision_config.image_size)
        self.prepare = _preprocessing(SIZE, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)

    def pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[n, d]"""
        pixels = torch.stack([self.prepare(picture) for picture in pictures])
        with torch.no_grad():
            seen = self.model.vision_model(pixel_values=pixels.to(self.model.device))
            return _unit(self.model.visual_projection(seen.pooler_output))

    def text(self, text: str) -> Tensor:
        """[d]

        Raises ValueError: the text is too long.
        """
        tokens = _tokens(self.tokenizer, text, self.model.config.text_config)
        with torch.no_grad():
            read = self.model.text_model(**tokens.to(self.model.device))
            return _unit(self.model.text_projection(read.pooler_output))[0]


class Dino:
    """DINO's class tokens of pictures, of length 1: DINO of 2021, or DINOv2.

    Args and errors as those of Clip.
    """

    def __init__(self, name: str, device: str, second: bool = False) -> None:
        option, kind = ("--dinov2", Dinov2Model) if second else ("--dino", ViTModel)
        settings: dict[str, Any] = {} if second else {"add_pooling_layer": False}
        self.model, self.hash = load_model(kind, option, name, device, **settings)
        if not second:  # which interpolates its positions
            _check_size(option, name, self.model.config.image_size)
        self.prepare = _preprocessing(LARGER, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

    def pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[n, d]"""
        pixels = torch.stack([self.prepare(picture) for picture in pictures])
        with torch.no_grad():
            seen = self.model(pixel_values=pixels.to(self.model.device))
            return _unit(seen.last_hidden_state[:, 0])


@dataclass(frozen=True)
class Detection:
    """Where a phrase was found."""

    box: tuple[float, ...]  # x0, y0, x1, y1 in 0..1, within the picture
    score: float
    phrase: str


class Detector:
    """OWLv2. Args and errors as those of Clip.

    Args:
        option: that it's given by.
    """

    def __init__(self, name: str, device: str, option: str = "--owlv2") -> None:
        self.model, self.hash = load_model(Owlv2ForObjectDetection, option, name, device)
        self.processor = _load_text(Owlv2Processor, option, name, self.model.config.text_config)

    def find(self, picture: Image.Image, phrases: Sequence[str]) -> list[Detection]:
        """What is found of any of the phrases, the surest first.

        Raises ValueError: a phrase is too long, or the network gives no numbers.
        """
        queries = [QUERY.format(phrase) for phrase in phrases]
        for query in queries:
            _tokens(self.processor.tokenizer, query, self.model.config.text_config)
        inputs = self.processor(text=[queries], images=picture, return_tensors="pt")
        with torch.no_grad():
            outputs = self.model(**inputs.to(self.model.device))
        if not (outputs.logits.isfinite().all() and outputs.pred_boxes.isfinite().all()):
            raise ValueError("OWLv2 gave values that aren't finite.")
        size = (picture.height, picture.width)
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs, threshold=MIN_SCORE, target_sizes=[size]
        )
        boxes = found["boxes"].clamp(min=0)  # [n, 4] in pixels; some may lie in the padding
        boxes = torch.minimum(boxes, boxes.new_tensor([picture.width, picture.height] * 2))
        seen = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
        boxes, scores, labels = boxes[seen], found["scores"][seen], found["labels"][seen]
        kept = batched_nms(boxes, scores, labels, MAX_OVERLAP)  # sorted by score
        shares = boxes / boxes.new_tensor([picture.width, picture.height] * 2)
        return [
            Detection(tuple(shares[i].tolist()), scores[i].item(), phrases[int(labels[i])])
            for i in kept.tolist()
        ]


def load_model(
    kind: Any, option: str, name: str, device: str, also: str = "", **settings: Any
) -> tuple[Any, str]:
    """A model of a class of transformers, and the hash of its weights; arguments and errors as
    those of Clip.

    Args:
        also: type of models that this class reads besides its own.
    """
    expected, found = kind.config_class.model_type, read(AutoConfig, option, name).model_type
    if found not in (expected, also):
        raise ValueError(f"{option}: {name} is a {found}; expected a {expected}.")
    more = {"output_loading_info": True, "dtype": torch.float32, **settings}
    model, loaded = read(kind, option, name, **more)
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"{option}: {name} lacks {len(missing)} weights, {missing[0]} among them.")
    content = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        content.update(key.encode())
        content.update(value.contiguous().numpy().tobytes())
    return model.eval().to(device), content.hexdigest()[:16]


def _load_text(kind: Any, option: str, name: str, config: Any) -> Any:
    """A tokenizer or a processor. Where its files are missing, transformers may make an empty
    one."""
    loaded = read(kind, option, name)
    count = len(getattr(loaded, "tokenizer", loaded))
    if count != config.vocab_size:
        raise ValueError(
            f"{option}: the tokenizer of {name} has {count} tokens; its model has "
            f"{config.vocab_size}."
        )
    return loaded


def read(kind: Any, option: str, name: str, **settings: Any) -> Any:
    """What a class of transformers reads from a folder, which may be given by the model's file in
    it, or from the hub's cache; errors as those of Clip."""
    folder = str(Path(name).parent) if Path(name).is_file() else name
    try:
        return kind.from_pretrained(folder, local_files_only=True, **settings)
    except OSError:
        raise FileNotFoundError(
            f"{option}: {name} is neither a folder with a whole model of transformers nor in the "
            f"hub's cache. Get it by: hf download {name}"
        ) from None
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{option}: {name} can't be read: {str(error).splitlines()[0]}") from None


def _check_size(option: str, name: str, size: int) -> None:
    if size != SIZE:
        raise ValueError(f"{option}: {name} is for {size} pixels; expected {SIZE}.")


def _preprocessing(shorter: int, mean: list[float], std: list[float]) -> Any:
    """Resize the shorter side, and take the middle."""
    resize = Resize(shorter, InterpolationMode.BICUBIC)
    return Compose([resize, CenterCrop(SIZE), ToTensor(), Normalize(mean, std)])


def _tokens(tokenizer: Any, text: str, config: Any) -> Any:
    tokens = tokenizer(text, return_tensors="pt")
    count = tokens["input_ids"].shape[1]
    if count > config.max_position_embeddings:
        raise ValueError(
            f"{text!r} has {count} tokens, of {config.max_position_embeddings} at most."
        )
    return tokens


def _unit(features: Tensor) -> Tensor:
    """Raises ValueError: they aren't finite, or 0."""
    lengths = features.norm(dim=-1)
    if not (lengths.isfinite().all() and (lengths > 0).all()):
        raise ValueError("An encoder gave values that aren't finite, or only zeros.")
    return F.normalize(features.float(), dim=-1).cpu()
