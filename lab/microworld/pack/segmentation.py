"""Stand-ins for BiRefNet and SAM3, whose networks come in one size, too large for tests.

The host's own loaders read their files, and its own nodes run them. They have no weights:
BiRefNet's knows a subject by not having the colour of the upper left corner, SAM3's by a colour for
each word.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.supported_models
import comfy.supported_models_base
import torch
from torch import Tensor, nn

SIZE = 64  # pixels of the pictures that BiRefNet's sees
# What the example workflows' subjects look like where sprites stand in for them, as RGB, by the
# word's token: "cat" the star, "cup" the heart.
WORDS = {2368: (0.14, 0.95, 0.95), 1937: (0.95, 0.14, 0.77)}
FAR = 0.4  # difference of a channel from the background's
NEAR = 0.25  # and from a word's colour
AROUND = 0.1  # how far a subject may reach beyond its colour, in the picture's height and width
CERTAIN = 10.0  # a logit


def figures(pictures: Tensor) -> Tensor:
    """Where pictures [n, 3, H, W] aren't of the upper left corner's colour, or what isn't lies on
    all four sides, [n, 1, H, W] of 0 and 1."""
    found = ((pictures - pictures[:, :, :1, :1]).abs().amax(1, keepdim=True) > FAR).float()
    sides = [found.cummax(axis).values for axis in (2, 3)]
    sides += [found.flip(axis).cummax(axis).values.flip(axis) for axis in (2, 3)]
    return torch.stack(sides).amin(0)


def bounds(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest row and column [2] of a mask [H, W] that isn't empty."""
    where = mask.nonzero()
    return where.amin(0), where.amax(0) + 1


class NotTheCorner(nn.Module):
    """In place of BiRefNet."""

    def __init__(self, config: Any, dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return (2 * figures(pixel_values) - 1) * CERTAIN


class WordColours(nn.Module):
    """In place of SAM3's text encoder: the colour of each token, zeros for those that it doesn't
    know."""

    def __init__(self, **options: Any) -> None:
        super().__init__()

    def set_clip_options(self, options: Any) -> None: ...

    def reset_clip_options(self) -> None: ...

    def encode_token_weights(self, batches: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        nothing = (0.0, 0.0, 0.0)
        colours = torch.tensor([[WORDS.get(t, nothing) for t, _ in batch] for batch in batches])
        return colours, colours[:, 0], {"attention_mask": torch.ones(colours.shape[:2])}


class ColourDetector(nn.Module):
    """In place of SAM3: finds one subject at most, what has the text's colour."""

    def __init__(self, dtype: Any = None, **options: Any) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(
        self, images: Tensor, text_embeddings: Tensor, orig_size: tuple[int, int], **options: Any
    ) -> dict[str, Tensor]:
        height, width = images.shape[2:]
        size = torch.tensor([height, width])
        masks, box = torch.zeros(1, 1, height, width), torch.zeros(4)
        colour = text_embeddings.float().sum(1)[0]
        near = (images[0].float() - colour[:, None, None]).abs().amax(0) < NEAR
        if found := bool(colour.any() and near.any()):
            (low, high), margin = bounds(near), (AROUND * size).long()
            (y0, x0), (y1, x1) = (low - margin).clamp(min=0).tolist(), (high + margin).tolist()
            masks[..., y0:y1, x0:x1] = figures(images.float())[..., y0:y1, x0:x1]
            low, high = (corner / size * torch.tensor(orig_size) for corner in bounds(masks[0, 0]))
            box = torch.cat([low.flip(0), high.flip(0)])
        score = CERTAIN if found else -CERTAIN
        return {
            "boxes": box[None, None],
            "scores": torch.tensor([[score]]),
            "masks": (2 * masks - 1) * CERTAIN,
        }

    def forward_segment(self, images: Tensor, mask_inputs: Tensor) -> Tensor:
        return mask_inputs


def install(mark: str) -> None:
    """Let the host's loaders take files that hold a tensor of this name. Older hosts have neither
    model."""
    if not hasattr(comfy.supported_models, "SAM31"):
        return
    import comfy.bg_removal_model as host
    from comfy.text_encoders.sam3_clip import SAM3ClipModelWrapper, SAM3TokenizerWrapper

    class MicroClip(SAM3ClipModelWrapper):
        def __init__(self, device="cpu", dtype=None, model_options={}) -> None:  # noqa: B006
            options = {**model_options, "sam3_clip_class": WordColours}
            super().__init__(device, dtype, options)

    class MicroSAM3(comfy.supported_models.SAM31):
        @classmethod
        def matches(
            cls, unet_config: Any, state_dict: Any = None, unet_key_prefix: str = ""
        ) -> bool:
            return super().matches(unet_config) and any(k.endswith(mark) for k in state_dict or ())

        def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> Any:
            network: Any = ColourDetector
            kind = comfy.model_base.ModelType.FLOW
            return comfy.model_base.BaseModel(self, kind, device, network)

        def clip_target(self, state_dict: dict[str, Tensor] = {}) -> Any:  # noqa: B006
            return comfy.supported_models_base.ClipTarget(SAM3TokenizerWrapper, MicroClip)

    comfy.supported_models.models.insert(0, MicroSAM3)

    load = host.load_background_removal_model

    def load_background_removal_model(sd: dict[str, Tensor]) -> Any:
        if mark not in sd:
            return load(sd)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.json"
            path.write_text(json.dumps({"model_type": mark, "image_size": SIZE}))
            return host.BackgroundRemovalModel(str(path))

    networks: dict[str, Any] = host.BG_REMOVAL_MODELS
    networks[mark] = NotTheCorner
    host.load_background_removal_model = load_background_removal_model
