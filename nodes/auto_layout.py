"""MSDAutoLayout: from a step on, subjects go where the text attention looks at their phrase."""

import logging
import re
from collections import Counter
from dataclasses import replace

import comfy.sd1_clip
from comfy.sd import CLIP
from comfy_api.latest import io, ui
from torch import Tensor

from ..msd_core.phrases import phrase_span
from .node_text import SHOWS_OUTPUT, show_text
from .subjects import AutoLayoutSettings, MSDSubjects, Subjects

logger = logging.getLogger(__name__)

_EMBEDDING = re.compile(r"(?<!\S)embedding:[^\s,]+")


class MSDAutoLayout(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDAutoLayout",
            display_name="MSD Auto Layout",
            category="MS-Diffusion",
            description="After some steps, let each subject follow its phrase in the prompt "
            "instead of its box.",
            search_aliases=["ms diffusion", "auto layout", "pseudo mask"],
            **SHOWS_OUTPUT,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that encodes the prompt."),
                MSDSubjects.Input("subjects", tooltip="Subjects from MSD Ground References."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    tooltip="The positive prompt, as it is encoded. It must contain each subject's "
                    "phrase, and one that two subjects share twice.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How strongly a part of the picture must respond to the phrase to be "
                    "the subject's. Raising it makes the subjects smaller.",
                ),
                io.Int.Input(
                    "start_step",
                    default=5,
                    min=1,
                    max=1000,
                    tooltip="First step without the boxes, counted from 1. Raising it lets the "
                    "boxes shape the picture for longer.",
                ),
            ],
            outputs=[
                MSDSubjects.Output(
                    display_name="subjects", tooltip="Subjects that follow their phrases."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: CLIP,
        subjects: Subjects,
        prompt: str,
        threshold: float = 0.5,
        start_step: int = 5,
    ) -> io.NodeOutput:
        seen: Counter[str] = Counter()
        found, report = [], []
        for number, subject in enumerate(subjects.subjects, 1):
            positions: tuple[int, ...] = ()
            try:
                positions = token_positions(clip, subject.phrase, prompt, seen[subject.phrase])
                report.append(f"Subject {number}: follows {subject.phrase!r}.")
            except LookupError as reason:
                report.append(f"Subject {number}: {reason.args[0]}; keeps its box.")
                logger.warning("MSD Auto Layout: %s", report[-1])
            seen[subject.phrase] += 1
            found.append(replace(subject, token_positions=positions))
        if start_step > 1:
            report.append(
                f"From step {start_step} of each sampler on; one with fewer steps keeps the boxes."
            )
        texts = encode_prompt(clip, prompt) if any(s.token_positions for s in found) else None
        settings, text = AutoLayoutSettings(threshold, start_step, texts), "\n".join(report)
        show_text(text, cls.hidden.unique_id if cls.hidden else None)
        subjects = replace(subjects, subjects=tuple(found), auto_layout=settings)
        return io.NodeOutput(subjects, ui=ui.PreviewText(text))


def encode_prompt(clip: CLIP, prompt: str) -> tuple[Tensor, ...]:
    """[P, C] of the encoded prompt, the channels of the first text encoder, whose tokens
    `token_positions` counts; several where hooks schedule the encoder's weights."""
    width = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight.shape[1]
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    return tuple(text[0, :, :width].float().cpu() for text, _ in encoded)


def token_positions(clip: CLIP, phrase: str, prompt: str, occurrence: int) -> tuple[int, ...]:
    """Positions of a phrase's tokens in the encoded prompt, over all its chunks.

    The prompt's weights "(dog:1.2)" and embeddings don't count as words of it. `occurrence` as in
    `phrase_span`.

    Raises:
        LookupError: the phrase isn't in it; says why.
    """
    if not phrase:
        raise LookupError("it has no phrase")
    escaped = comfy.sd1_clip.escape_important(prompt)
    segments = comfy.sd1_clip.token_weights(escaped, 1.0)
    plain = comfy.sd1_clip.unescape_important("".join(text for text, _ in segments))
    host_tokenizer = getattr(clip.tokenizer, "clip_l", None)
    if host_tokenizer is None:
        raise ValueError(
            "clip: it has no CLIP-L. Connect the CLIP of the checkpoint that is sampled."
        )
    if host_tokenizer.embedding_directory is not None:  # else the host takes them for words
        plain = _EMBEDDING.sub("", plain)
    tokenizer = host_tokenizer.tokenizer
    start, end = phrase_span(tokenizer, phrase, plain, occurrence)
    if end == 0:
        raise LookupError(f"{phrase!r} is not in the prompt")
    positions, tokens, offset = [], [], 0
    for chunk in clip.tokenize(prompt, return_word_ids=True)["l"]:
        for position, (token, _, word) in enumerate(chunk, offset):
            if word and isinstance(token, int):  # 0: begin, end and padding; embeddings: tensors
                positions.append(position)
                tokens.append(token)
        offset += len(chunk)
    if tokens != tokenizer(plain, add_special_tokens=False)["input_ids"]:
        # Weights inside a word: the encoder saw other tokens than the text has.
        raise LookupError("the prompt has weights inside a word, so its tokens can't be counted")
    return tuple(positions[start - 1 : end - 1])
