"""What is measured beside the image branch: IPAdapter_plus in the same host, and the research code
on the same UNet in diffusers."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from other_packs import TOKEN, apply_ipadapter
from sampling import noise
from torch import Tensor

Box = tuple[float, float, float, float]
Step = Callable[..., Tensor]  # clock, executor, inputs of the host's model -> its output
TOKENS, TEXT = 16, 77  # image tokens of a subject, text tokens
MASK_EDGE = 512


def ipadapters(registry: dict[str, Any], model: Any, boxes: Sequence[Box]) -> Step:
    """As many masked IPAdapters as there are boxes, with 16 image tokens each, as its larger
    adapters have."""
    patched = model
    for n, box in enumerate(boxes):
        x0, y0, x1, y1 = (int(edge * MASK_EDGE) for edge in box)
        mask = torch.zeros(1, MASK_EDGE, MASK_EDGE)
        mask[:, y0:y1, x0:x1] = 1
        patched = apply_ipadapter(registry, patched, n, mask)
    slots = patched.model_options["transformer_options"]["patches_replace"]["attn2"]
    for slot in slots.values():
        for n, given in enumerate(slot.kwargs):
            tokens = noise(n, 1, TOKENS, TOKEN).to(given["cond"])
            given |= {"cond": tokens, "uncond": torch.zeros_like(tokens)}
    module = importlib.import_module(type(next(iter(slots.values()))).__module__)
    text = module.optimized_attention

    def step(clock: Any, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        def first(*given: Any, **named: Any) -> Tensor:  # of a slot's calls: the text's
            module.optimized_attention = text
            return clock.timed("text", text)(*given, **named)

        def timed(slot: Any) -> Callable[..., Tensor]:
            def attend(*given: Any, **named: Any) -> Tensor:
                module.optimized_attention = first
                return clock.timed("attend", slot)(*given, **named)

            return attend

        *inputs, options = args
        attn2 = {key: timed(slot) for key, slot in slots.items()}
        return executor(*inputs, {**options, "patches_replace": {"attn2": attn2}}, **kwargs)

    return step


@dataclass
class Processor:
    """diffusers' own processor, or the research code's while there is a clock. To time what the
    latter adds, diffusers' runs first on the same text."""

    plain: Any
    theirs: Any
    clock: ClassVar[Any] = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Any = None,
        temb: Any = None,
        boxes: Any = None,
    ) -> Tensor:
        given = (attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if self.clock is None:
            return self.plain(*given)
        if encoder_hidden_states is None:
            return self.theirs(*given)
        if "aside" in self.clock.parts:
            text = self.clock.timed("text", self.plain)
            aside = self.clock.timed("aside", text)
            aside(attn, hidden_states, encoder_hidden_states[:, :TEXT])
        return self.clock.timed("attend", self.theirs)(*given, boxes)


class Research:
    """The research code's processors on a UNet of diffusers, with random weights.

    Args:
        folder: checkout of the research code. widths: of the UNet's three levels.
    """

    def __init__(self, folder: Path, widths: Sequence[int], kind: torch.dtype, device: str) -> None:
        from diffusers import UNet2DConditionModel
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.kind, self.device = kind, device
        self.unet = UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=tuple(widths),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=tuple(width // 64 for width in widths),
            cross_attention_dim=TOKEN,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            use_linear_projection=True,
        ).to(device, kind)
        spec = importlib.util.spec_from_file_location(
            "research", folder / "msdiffusion" / "models" / "attention_processor.py"
        )
        assert spec and spec.loader
        spec.loader.exec_module(code := importlib.util.module_from_spec(spec))
        processors = {}
        for name, module in self.unet.named_modules():
            if name.endswith("attn1"):
                theirs = code.AttnProcessor2_0()
            elif name.endswith("attn2"):
                theirs = code.MaskedIPAttnProcessor2_0(
                    module.to_q.out_features, TOKEN, scale=0.6, num_tokens=TOKENS
                ).to(device, kind)
                self.dummy_tokens = theirs.num_dummy_tokens
            else:
                continue
            processors[f"{name}.processor"] = Processor(AttnProcessor2_0(), theirs)
        assert len(processors) == 140
        self.unet.set_attn_processor(processors)

    def step(self, boxes: Sequence[Box]) -> Step:
        """For so many subjects; for none, diffusers' own processors."""
        tokens = TEXT + (self.dummy_tokens + TOKENS * len(boxes) if boxes else 0)
        given: dict[str, Any] = {
            "encoder_hidden_states": noise(1, 2, tokens, TOKEN).to(self.device, self.kind),
            "added_cond_kwargs": {
                "text_embeds": noise(2, 2, 1280).to(self.device, self.kind),
                "time_ids": torch.ones(2, 6).to(self.device, self.kind),
            },
        }
        if boxes:  # the negative prompt's are zeros, as the research code gives them
            both = torch.tensor([[(0.0,) * 4] * len(boxes), list(boxes)])
            given["cross_attention_kwargs"] = {"boxes": both.to(self.device, self.kind)}

        def step(clock: Any, executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            Processor.clock = clock if boxes else None
            out = self.unet(x.to(self.kind), torch.tensor(500.0), **given).sample
            return out.to(x) * 0  # the sampling run goes on with the host's

        return step
