"""The image branch inside a running host: which rows of a batch it acts on, with which coverage,
beside whatever other packs have put on the same attentions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import comfy.conds
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ..msd_core.attention import phrase_maps, subject_attention
from ..msd_core.auto_layout import AutoLayout
from .subjects import WHOLE_PICTURE, Box, Subjects

_ROWS = "ms_diffusion_rows"  # model cond, and keyword of the UNet's forward
_RUNS = "ms_diffusion_runs"  # transformer option

Block = tuple[str, int, int]
KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Rows:
    """What a batch's rows of one conditioning are."""

    positive: int | None  # which of the positive conditionings; None for any other
    text_tokens: int | None = None  # length of its own text, which the host may repeat
    picture: tuple[int, int] = (1, 1)  # height and width of the whole latent
    area: tuple[int, int, int, int] | None = None  # height, width, top, left of the shown part

    @property
    def crop(self) -> Box:
        """The shown part, as shares of the picture: left, top, right, bottom."""
        if self.area is None:
            return WHOLE_PICTURE
        (height, width), (h, w, y, x) = self.picture, self.area
        return x / width, y / height, (x + w) / width, (y + h) / height


class RowsCond(comfy.conds.CONDRegular):
    """Carries `Rows` with a conditioning to the UNet, through whatever batching the host does.

    Neither the host's `cond_or_uncond` nor its `uuids` tell the positive rows: some guiders count
    the negative as 0, and an area's uncond twin shares the positive's uuid.
    """

    cond: tuple[Rows, ...]

    def process_cond(
        self, batch_size: int, area: Sequence[int] | None = None, **kwargs: Any
    ) -> "RowsCond":
        if area is None:
            return self
        return RowsCond((replace(self.cond[0], area=tuple(area)),))

    def can_concat(self, other: "RowsCond") -> bool:
        return True

    def concat(self, others: Sequence["RowsCond"]) -> tuple[Rows, ...]:
        return sum((other.cond for other in others), self.cond)

    def size(self) -> list[int]:
        return [1]


@dataclass
class Run:
    """State of one sampling run."""

    sigmas: list[float]  # the schedule; empty outside a sampling run
    keys_values: dict[Any, dict[Block, KeyValue]] = field(default_factory=dict)
    coverages: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)
    auto_layouts: dict[Any, "StepLayout"] = field(default_factory=dict)
    step: int = 0
    last_sigma: float = float("inf")

    def enter(self, sigma: float) -> None:
        """Find the step, counted from 1, that a call at this sigma belongs to. Samplers may call
        the model more than once a step, also between the sigmas of the schedule; a call that
        looks ahead to the next sigma, as heun's second, counts for the next step."""
        if self.sigmas:
            self.step = max(1, sum(s >= sigma * (1 - 1e-5) for s in self.sigmas))
        elif sigma > self.last_sigma:  # outside a run, a rising sigma is a new one
            self.keys_values.clear()
            self.coverages.clear()
            self.auto_layouts.clear()
            self.step = 1
        elif sigma != self.last_sigma:
            self.step += 1
        self.last_sigma = sigma


@dataclass
class StepLayout:
    """Auto layout of one attention and one conditioning, fed once a step."""

    layout: AutoLayout
    step: int = 0


class SubjectAttentionPatch:
    """What MSDApply puts on a model: two wrappers. State lives in a run; only auto layout outside
    of any sampling run has a place here.

    Args:
        keys_values: block -> key and value [K, width] of all image tokens, weights included.
        subjects: who goes where.
        owners: index of the subject that each set of image tokens belongs to; several photos of
            one subject are several sets under the same coverage.
        sigma_start, sigma_end: acts from the one down to the other.
    """

    def __init__(
        self,
        keys_values: Mapping[Block, KeyValue],
        subjects: Subjects,
        owners: Sequence[int],
        sigma_start: float,
        sigma_end: float,
    ) -> None:
        self.keys_values = keys_values
        self.subjects = subjects
        self.sigma_start = sigma_start
        self.sigma_end = sigma_end
        self.owners = list(owners)
        self.outside = Run([])

    def start_run(
        self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *args: Any
    ) -> Tensor:
        """SAMPLER_SAMPLE wrapper: a fresh state, and a mark on every conditioning."""
        noise = args[1]
        picture = tuple(noise.shape[-2:])
        for name, conds in guider.conds.items():
            guider.conds[name] = [
                _marked(cond, number if name == "positive" else None, picture)
                for number, cond in enumerate(conds)
            ]
        options = extra_args["model_options"].setdefault("transformer_options", {})
        options[_RUNS] = {**options.get(_RUNS, {}), self: Run(sigmas[:-1].tolist())}
        return executor(guider, sigmas, extra_args, *args)

    def forward(
        self,
        executor: Any,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor,
        control: Any,
        transformer_options: dict[str, Any],
        **kwargs: Any,
    ) -> Tensor:
        """DIFFUSION_MODEL wrapper: put the image branch over what is on each block right now."""
        rows: tuple[Rows, ...] = kwargs.get(_ROWS) or _guess_rows(transformer_options)
        if any(row.positive is not None for row in rows):
            run = transformer_options.get(_RUNS, {}).get(self)
            if run is None:
                run = Run([]) if self.subjects.auto_layout is None else self.outside
            acts = self._acts(run, transformer_options)
            # Auto layout looks on from the first step, also while the subjects don't act yet.
            if acts or self.subjects.auto_layout is not None:
                transformer_options = self._patched(run, rows, acts, transformer_options, x)
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    def _acts(self, run: Run, transformer_options: dict[str, Any]) -> bool:
        always = self.sigma_start > 1e8 and self.sigma_end <= 0
        if always and self.subjects.auto_layout is None:
            return True
        sigma = float(transformer_options["sigmas"][0])
        run.enter(sigma)
        return self.sigma_end <= sigma <= self.sigma_start

    def _patched(
        self,
        run: Run,
        rows: tuple[Rows, ...],
        acts: bool,
        transformer_options: dict[str, Any],
        x: Tensor,
    ) -> dict[str, Any]:
        replaced = transformer_options.get("patches_replace", {})
        attn2 = dict(replaced.get("attn2", {}))
        for block in self.keys_values:
            # The host looks for the block's own patch first, then for its room's.
            previous = attn2.get(block, attn2.get(block[:2]))
            attn2[block] = partial(self._attend, run, rows, acts, x.shape[0], block, previous)
        return {**transformer_options, "patches_replace": {**replaced, "attn2": attn2}}

    def _attend(
        self,
        run: Run,
        rows: tuple[Rows, ...],
        acts: bool,
        batch: int,
        block: Block,
        previous: Callable[..., Tensor] | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        extra_options: dict[str, Any],
        **kwargs: Any,
    ) -> Tensor:
        """attn2 replace patch: the text attention as it was, plus the image branch."""
        heads = extra_options["n_heads"]
        if previous is not None:
            out = previous(q, k, v, extra_options, **kwargs).clone()
        else:
            out = optimized_attention(
                q,
                k,
                v,
                heads,
                attn_precision=extra_options["attn_precision"],
                transformer_options=extra_options,
            )
        height, width = extra_options["activations_shape"][-2:]
        if q.shape[1] != height * width:
            raise ValueError(
                f"MSD Apply: another node changed the {height * width} queries of block {block} to "
                f"{q.shape[1]}, so that the subjects' places can't be found."
            )
        for part, row in _positive_parts(rows, batch, q.shape[0], extra_options):
            query = q[part]
            queries, coverage = self._coverage(
                run, row, block, query, k[part], heads, height, width
            )
            if not acts or queries.numel() == 0:
                continue
            everything = queries.numel() == query.shape[1]
            key, value = self._keys_values(run, q)[block]
            image = subject_attention(
                query if everything else query.index_select(1, queries),
                key.expand(len(query), -1, -1),
                value.expand(len(query), -1, -1),
                coverage.expand(len(query), -1, -1),
                heads,
            ).to(out.dtype)  # another pack's attention may give another type
            if everything:
                out[part] += image
            else:
                out[part].index_add_(1, queries, image)
        return out

    def _keys_values(self, run: Run, q: Tensor) -> dict[Block, KeyValue]:
        """All layers' keys and values [1, K, width], moved to the query's device once a run."""
        place = (q.device, q.dtype)
        if place not in run.keys_values:
            run.keys_values[place] = {
                block: (key[None].to(q), value[None].to(q))
                for block, (key, value) in self.keys_values.items()
            }
        return run.keys_values[place]

    def _coverage(
        self,
        run: Run,
        row: Rows,
        block: Block,
        query: Tensor,
        text_key: Tensor,
        heads: int,
        height: int,
        width: int,
    ) -> tuple[Tensor, Tensor]:
        """The covered queries [n], and the coverage [1 or B, S, n] of just these."""
        place = (height, width, row.crop, query.device)
        if place not in run.coverages:
            subjects = self.subjects.subjects
            soft = any(s.region is not None for s in subjects)
            kind = torch.float32 if soft else torch.bool
            cells = torch.stack([s.coverage(height, width, row.crop).to(kind) for s in subjects])
            covered = cells.amax(0).nonzero().flatten()
            coverage = cells[self.owners][None, :, covered]
            run.coverages[place] = covered.to(query.device), coverage.to(query.device)
        settings = self.subjects.auto_layout
        if settings is None:
            return run.coverages[place]
        state = run.auto_layouts.setdefault(
            (block, row.positive, row.crop), StepLayout(AutoLayout(settings.threshold))
        )
        if run.step > state.step:
            weights = self._phrase_weights(text_key.shape[1], row.text_tokens).to(query.device)
            state.layout.add(phrase_maps(query, text_key, heads, weights))
            state.step = run.step
        if run.step < settings.start_step:
            return run.coverages[place]
        # A subject keeps its place where this conditioning's text doesn't hold its phrase.
        covered, of_covered = run.coverages[place]
        coverage = state.layout.coverage()[:, self.owners].to(of_covered)
        for n, owner in enumerate(self.owners):
            tokens = self.subjects.subjects[owner].prompt_tokens
            if not tokens or max(tokens) >= (row.text_tokens or text_key.shape[1]):
                coverage[:, n] = 0
                coverage[:, n, covered] = of_covered[:, n]
        return torch.arange(coverage.shape[-1], device=query.device), coverage

    def _phrase_weights(self, length: int, own_length: int | None) -> Tensor:
        """[K, S]; 1 / length at the phrase's tokens, in every copy of a text that the host has
        repeated to the length of its neighbours in the batch."""
        own_length = own_length or length
        weights = torch.zeros(length, len(self.subjects.subjects))
        for n, subject in enumerate(self.subjects.subjects):
            for place in subject.prompt_tokens:
                if place < own_length:
                    weights[place::own_length, n] = 1 / len(subject.prompt_tokens)
        return weights


def _marked(cond: dict[str, Any], positive: int | None, picture: tuple[int, int]) -> dict[str, Any]:
    text = cond["model_conds"].get("c_crossattn")
    rows = Rows(positive, None if text is None else text.cond.shape[1], picture)
    return {**cond, "model_conds": {**cond["model_conds"], _ROWS: RowsCond((rows,))}}


def _guess_rows(transformer_options: dict[str, Any]) -> tuple[Rows, ...]:
    """Rows of a call whose conditionings carry no mark: outside a sampling run the first is the
    positive, as everywhere in the host; inside one, a pack evaluates something of its own."""
    inside = "sample_sigmas" in transformer_options
    order = transformer_options.get("cond_or_uncond", [])
    return tuple(Rows(0 if index == 0 and not inside else None) for index in order)


def _positive_parts(
    rows: tuple[Rows, ...], batch: int, q_rows: int, extra_options: dict[str, Any]
) -> list[tuple[slice, Rows]]:
    """Slices of the query's rows that belong to positive conditionings."""
    each = batch // len(rows)
    if q_rows != batch:
        # Attention-couple packs enlarge the cond rows and say here what each part then is.
        couple = extra_options.get("cond_or_uncond_couple", [])
        if len(couple) * each != q_rows:
            raise ValueError(
                f"MSD Apply: another node changed the batch of the attention from {batch} to "
                f"{q_rows} rows, so that the positive ones can't be told."
            )
        positive = next(row for row in rows if row.positive is not None)
        rows = tuple(positive if index == 0 else Rows(None) for index in couple)
    return [
        (slice(n * each, (n + 1) * each), row)
        for n, row in enumerate(rows)
        if row.positive is not None
    ]
