"""MSDPlaceReferences: a MODEL that takes reference latents puts each of them where its subject
is."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

import comfy.sd1_clip
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy_api.latest import io, ui

from ..msd_core.models.reference_transformers import REFERENCE_TRANSFORMERS, ReferenceTransformer
from ..msd_core.phrases import find_phrase
from .node_text import SHOWS_OUTPUT, show_text
from .sampling.placed_layout import Layout, PromptTokens
from .sampling.placed_references import PlacedReferencesPatch
from .subjects import MSDSubjects, Subject, Subjects


class MSDPlaceReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDPlaceReferences",
            display_name="MSD Place References",
            category="MS-Diffusion",
            description="Draw each reference where its subject's box is, with a model that takes "
            "reference latents (Flux Kontext, Flux.2, Qwen-Image-Edit and others).",
            search_aliases=["kontext", "flux 2", "qwen image edit", "reference latent", "regional"],
            **SHOWS_OUTPUT,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Model that takes reference latents; LoRAs and other patches stay.",
                ),
                MSDSubjects.Input(
                    "subjects",
                    tooltip="Subjects from MSD Layout. Reference latent 1 of the prompt is that "
                    "of subject 1, and so on.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder that encodes the prompt. With it and the prompt, "
                    "each subject's phrase speaks of that subject alone.",
                ),
                io.String.Input(
                    "prompt",
                    optional=True,
                    multiline=True,
                    default="",
                    tooltip="The positive prompt, as it is encoded, for clip. Without both, all "
                    "subjects share all text.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling the references begin to be placed. Raising it "
                    "leaves the composition to the model.",
                    advanced=True,
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling the references stop being placed. Lowering it "
                    "leaves the details to the model.",
                    advanced=True,
                ),
                io.Float.Input(
                    "first_stage",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the steps, from the first on, in which each subject sees "
                    "neither the others nor what the prompt says besides its phrase. Raising it "
                    "parts the subjects more, and ties them together less. It needs clip and "
                    "prompt.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Model that places the references.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        subjects: Subjects,
        clip: CLIP | None = None,
        prompt: str = "",
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        first_stage: float = 0.1,
    ) -> io.NodeOutput:
        transformer = _transformer(model)
        tokens, notes = find_phrases(clip, prompt, [s.phrase for s in subjects.subjects])
        report = "\n".join(
            f"Subject {number}: {_where(subject)}; {note}."
            for number, (subject, note) in enumerate(zip(subjects.subjects, notes, strict=True), 1)
        )
        unique_id = cls.hidden.unique_id if cls.hidden else None
        show_text(report, unique_id)
        layout = Layout(
            replace(subjects, subjects=tuple(s.without_references() for s in subjects.subjects)),
            tuple(len(subject.references) for subject in subjects.subjects),
            tokens,
            first_stage,
        )
        patched = model.clone()
        patch = PlacedReferencesPatch(layout, transformer, start_percent, end_percent, unique_id)
        patch.put_on(patched.model_options)
        return io.NodeOutput(patched, ui=ui.PreviewText(report))


def _transformer(model: ModelPatcher) -> ReferenceTransformer:
    """The architecture of a MODEL, if references can be placed in it."""
    name = model.model.model_config.unet_config.get("image_model")
    if name in REFERENCE_TRANSFORMERS:
        return REFERENCE_TRANSFORMERS[name]
    kind = type(model.model).__name__
    if name is None:
        raise ValueError(
            f"model: expected a model that takes reference latents, got {kind}. For a Stable "
            "Diffusion model use MSD Apply, with an adapter."
        )
    raise ValueError(
        f"model: references can't be placed in {kind} ({name}). Models that they can be placed in: "
        f"{', '.join(REFERENCE_TRANSFORMERS)}."
    )


def _where(subject: Subject) -> str:
    if subject.weight == 0:
        return "not seen, its weight is 0"
    if subject.region is not None:
        return "in its region"
    return "in its box" if subject.is_placed else "no box, so anywhere in the picture"


def find_phrases(
    clip: CLIP | None, prompt: str, phrases: Sequence[str]
) -> tuple[PromptTokens | None, list[str]]:
    """Where each phrase's tokens are in a prompt's encoded text, and of each phrase a remark; None
    where all text is shared.

    The phrase is found by words (`find_phrase`), its tokens by the host's own tokenizer: those of
    the prompt up to the phrase, and up to its end, begin like those of the whole prompt.

    Raises:
        ValueError: clip or prompt is missing.
    """
    if clip is None and not prompt.strip():
        return None, ["shares all text"] * len(phrases)
    if clip is None or not prompt.strip():
        missing, given = ("clip", "prompt") if clip is None else ("prompt", "clip")
        raise ValueError(
            f"{missing}: got a {given} without it. Give the prompt and connect the CLIP that "
            "encodes it, so that the phrases can be found there, or neither of them."
        )
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    texts = tuple(text[0].float().cpu() for text, _ in encoded)
    tokenizer = _PromptTokenizer(clip, prompt, len(texts[0]))
    seen: Counter[str] = Counter()
    own: list[tuple[int, ...]] = []
    notes: list[str] = []
    for phrase in phrases:
        try:
            own.append(tokenizer.positions(phrase, seen[phrase]))
            notes.append(f"{phrase!r} in the prompt is its own text")
        except LookupError as reason:
            own.append(())
            notes.append(f"{reason.args[0]}, so it shares all text")
        seen[phrase] += 1
    return PromptTokens(texts, tuple(own), tokenizer.padding()), notes


class _PromptTokenizer:
    """A prompt's tokens as the host's tokenizer gives them, templates and padding included.

    Args:
        length: tokens of the encoded text. Some encoders leave out the template's beginning.
    """

    def __init__(self, clip: CLIP, prompt: str, length: int) -> None:
        self.clip = clip
        whole = self._tokenize(prompt)
        # Several encoders: the text is made of the tokens that are as many, or few more.
        fitting = {name: found for name, found in whole.items() if len(found) >= length}
        if not fitting:
            raise ValueError(
                f"clip: it encodes the prompt to {length} tokens, fewer than its tokenizer's "
                f"{max(map(len, whole.values()))}. Connect the CLIP that belongs to the model."
            )
        self.name = min(fitting, key=lambda name: len(fitting[name]))
        self.tokens = fitting[self.name]
        self.left_out = len(self.tokens) - length
        self.words = _words(self.tokens)
        self.plain = self._plain(prompt)

    def positions(self, phrase: str, occurrence: int) -> tuple[int, ...]:
        """Positions of a phrase's tokens in the encoded text.

        Raises:
            LookupError: they can't be found; says why.
        """
        if not phrase:
            raise LookupError("it has no phrase")
        if self.plain is None:
            raise LookupError("the prompt has weights inside a word")
        found = find_phrase(phrase, self.plain, occurrence)
        if found is None:
            raise LookupError(f"{phrase!r} is not in the prompt")
        empty = self._words_of("")
        after = len(empty) - _common(empty, self.words)  # of the template, behind the prompt
        first, last = 0, 0
        for at in found:
            tokens = self._words_of(self.plain[:at].rstrip())
            first, last = last, len(tokens) - after
            if _common(tokens, self.words) < last:
                raise LookupError(f"the tokens of {phrase!r} can't be told from their neighbours'")
        positions = [n for n, (_, word) in enumerate(self.tokens) if word != 0]
        return tuple(n - self.left_out for n in positions[first:last])

    def padding(self) -> tuple[int, ...]:
        """Positions of the padding in the encoded text: tokens alike, at its beginning or end."""
        found: list[int] = []
        count = len(self.tokens)
        for order in (range(count), range(count - 1, -1, -1)):
            edge = self.tokens[order[0]]
            run = list(takewhile(lambda n, edge=edge: self.tokens[n] == edge, order))
            if edge[1] == 0 and len(run) > 1:  # one alone begins or ends the text
                found += [n - self.left_out for n in run if n >= self.left_out]
        return tuple(sorted(set(found)))

    def _plain(self, prompt: str) -> str | None:
        """The prompt as its tokens have it: without its weights, where the tokenizer reads
        these."""
        escaped = comfy.sd1_clip.escape_important(prompt)
        without = "".join(text for text, _ in comfy.sd1_clip.token_weights(escaped, 1.0))
        for text in (escaped, without):
            plain = comfy.sd1_clip.unescape_important(text)
            if self._words_of(plain) == self.words:
                return plain
        return None

    def _words_of(self, plain: str) -> list[int]:
        return _words(self._tokenize(re.sub(r"([()])", r"\\\1", plain))[self.name])

    def _tokenize(self, text: str) -> dict[str, list[tuple[int, int]]]:
        """Of each encoder, token (-1 for an embedding's) and number of the word (0 for what isn't
        text) over all chunks."""
        return {
            name: [
                (token if isinstance(token, int) else -1, word)
                for chunk in chunks
                for token, _, word in chunk
            ]
            for name, chunks in self.clip.tokenize(text, return_word_ids=True).items()
        }


def _words(tokens: Sequence[tuple[int, int]]) -> list[int]:
    return [token for token, word in tokens if word != 0]


def _common(tokens: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(tokens, others, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
