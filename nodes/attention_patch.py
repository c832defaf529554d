"""The image branch inside a running host: which rows of a batch it acts on, with which coverage,
beside whatever other packs have put on the same attentions."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import comfy.conds
import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY, TORCH_COMPILE_KWARGS
from torch import Tensor

from ..msd_core.attention import SubjectMask, masked_attention, phrase_maps, subject_mask
from ..msd_core.auto_layout import AutoLayout
from .subjects import WHOLE_PICTURE, AutoLayoutSettings, Box, Subjects

_ROWS = "ms_diffusion_rows"  # model cond, which the UNet gets too and leaves alone
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
    """Carries `Rows` with a conditioning to the model, through whatever batching the host does.

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


@dataclass(frozen=True)
class Cells:
    """Where the subjects' boxes and regions are in one grid."""

    queries: slice | Tensor  # the n covered ones; a slice where they are in a row
    coverage: Tensor  # [1, S, n], of just these
    mask: SubjectMask  # the same for the attention
    owners: Tensor  # [sets of image tokens], the subject of each


@dataclass
class Run:
    """State of one sampling run."""

    sigmas: list[float]  # the schedule; empty outside a sampling run
    keys_values: dict[Any, dict[Block, KeyValue]] = field(default_factory=dict)
    cells: dict[Any, Cells] = field(default_factory=dict)
    phrase_weights: dict[Any, Tensor] = field(default_factory=dict)
    auto_layouts: dict[Any, "StepLayout"] = field(default_factory=dict)
    step: int = 0
    last_sigma: float = float("inf")
    backend: str | None = None  # of TorchCompileModel
    told: bool = False  # that the model runs uncompiled

    def enter(self, sigma: float) -> None:
        """Find the step, counted from 1, that a call at this sigma belongs to. Samplers may call
        the model more than once a step, also between the sigmas of the schedule; a call that
        looks ahead to the next sigma, as heun's second, counts for the next step."""
        if self.sigmas:
            self.step = max(1, sum(s >= sigma * (1 - 1e-5) for s in self.sigmas))
        elif sigma > self.last_sigma:  # outside a run, a rising sigma is a new one
            self.keys_values.clear()
            self.cells.clear()
            self.phrase_weights.clear()
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
        self.tokens = next(iter(keys_values.values()))[0].shape[0] // len(self.owners)
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
        model_options = extra_args["model_options"]
        compiled = model_options.get(TORCH_COMPILE_KWARGS) or {}
        run = Run(sigmas[:-1].tolist(), backend=compiled.get("backend"))
        options = model_options.setdefault("transformer_options", {})
        options[_RUNS] = {**options.get(_RUNS, {}), self: run}
        return executor(guider, sigmas, extra_args, *args)

    def apply_model(
        self,
        executor: Any,
        x: Tensor,
        timesteps: Tensor,
        concat: Tensor | None = None,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """APPLY_MODEL wrapper: put the image branch over what is on each block right now. It is
        put there also for calls in which it does nothing, since compiled code stays as it was at
        first."""
        options = transformer_options or {}
        rows: tuple[Rows, ...] = kwargs.get(_ROWS) or _guess_rows(options)
        run = options.get(_RUNS, {}).get(self)
        if run is None:
            run = Run([]) if self.subjects.auto_layout is None else self.outside
        calls = _calls.get()
        if any(row.positive is not None for row in rows):
            acts = self._acts(run, options)
            # Auto layout looks on from the first step, also while the subjects don't act yet.
            if acts or self.subjects.auto_layout is not None:
                order = options.get("cond_or_uncond", [])
                calls = (*calls, Call(self, run, rows, acts, x.shape[0], order))
        stance = nullcontext()
        if _is_compiled_wrongly(run, options):
            stance = torch.compiler.set_stance("force_eager")
            if not run.told:
                logging.warning(
                    "MSD Apply: the model runs uncompiled, since what TorchCompileModel compiles "
                    "would keep the subjects of an earlier run."
                )
            run.told = True
        options = self._patched(options)
        before = _calls.set(calls)
        try:
            with stance:
                return executor(x, timesteps, concat, context, control, options, **kwargs)
        finally:
            _calls.reset(before)

    def _acts(self, run: Run, transformer_options: dict[str, Any]) -> bool:
        always = self.sigma_start > 1e8 and self.sigma_end <= 0
        if always and self.subjects.auto_layout is None:
            return True
        sigma = float(transformer_options["sigmas"][0])
        run.enter(sigma)
        return self.sigma_end <= sigma <= self.sigma_start

    def _patched(self, transformer_options: dict[str, Any]) -> dict[str, Any]:
        replaced = transformer_options.get("patches_replace", {})
        attn2 = dict(replaced.get("attn2", {}))
        for block in self.keys_values:
            # The host looks for the block's own patch first, then for its room's.
            previous = attn2.get(block, attn2.get(block[:2]))
            if not _is_ours(previous):
                attn2[block] = partial(_attend, block, previous)
        return {**transformer_options, "patches_replace": {**replaced, "attn2": attn2}}

    def add_image_branch(
        self,
        call: "Call",
        block: Block,
        out: Tensor,
        q: Tensor,
        k: Tensor,
        heads: int,
        height: int,
        width: int,
        couple: bool,
    ) -> None:
        """Add the image branch to the text attention's output, in place.

        Args:
            out: [B, N, C], the text attention's output. q: [B, N, C]. k: [B, K, C], of the text.
            heads: that C holds. height, width: of the grid whose N cells the queries are.
            couple: whether an attention-couple pack says that it has enlarged the batch.
        Raises:
            ValueError: another pack has changed the queries or the batch in a way of its own.
        """
        if q.shape[1] != height * width:
            raise ValueError(
                f"MSD Apply: another node changed the {height * width} queries of block {block} to "
                f"{q.shape[1]}, so that the subjects' places can't be found."
            )
        run = call.run
        for part, row in _positive_parts(call, q, couple):
            query = q[part]
            cells = self._cells(run, row, query, height, width)
            queries, mask = cells.queries, cells.mask
            if (settings := self.subjects.auto_layout) is not None:
                followed = self._followed(settings, run, row, block, query, k[part], heads, cells)
                if followed is not None:
                    queries, mask = slice(None), followed
            if not call.acts or mask.scores.numel() == 0:
                continue
            if isinstance(queries, slice):
                query = query[:, queries]
            else:
                query = query.index_select(1, queries)
            key, value = self._keys_values(run, q)[block]
            image = masked_attention(
                query,
                key.expand(len(query), -1, -1),
                value.expand(len(query), -1, -1),
                mask,
                heads,
            ).to(out.dtype)  # another pack's attention may give another type
            if isinstance(queries, slice):
                out[part, queries].add_(image)
            else:
                out[part].index_add_(1, queries, image)

    def _keys_values(self, run: Run, q: Tensor) -> dict[Block, KeyValue]:
        """All layers' keys and values [1, K, width], moved to the query's device once a run."""
        place = (q.device, q.dtype)
        if place not in run.keys_values:
            run.keys_values[place] = {
                block: (key[None].to(q), value[None].to(q))
                for block, (key, value) in self.keys_values.items()
            }
        return run.keys_values[place]

    def _cells(self, run: Run, row: Rows, query: Tensor, height: int, width: int) -> Cells:
        """Made once a run for each grid, and moved to the query's device."""
        place = (height, width, row.crop, query.device, query.dtype)
        if place not in run.cells:
            subjects = self.subjects.subjects
            soft = any(s.region is not None for s in subjects)
            kind = torch.float32 if soft else torch.bool
            of_subjects = [s.coverage(height, width, row.crop).to(kind) for s in subjects]
            cells = torch.stack(of_subjects)[self.owners]
            covered = cells.amax(0) > 0
            start, count = int(covered.int().argmax()), int(covered.sum())
            queries: slice | Tensor = slice(start, start + count)
            if not covered[queries].all():
                queries = covered.nonzero().flatten().to(query.device)
            coverage = cells[None, :, covered].to(query.device)
            mask = subject_mask(coverage, self.tokens, query.dtype)
            run.cells[place] = Cells(
                queries,
                coverage,
                mask if soft else mask._replace(strength=None),
                torch.tensor(self.owners, device=query.device),
            )
        return run.cells[place]

    def _followed(
        self,
        settings: AutoLayoutSettings,
        run: Run,
        row: Rows,
        block: Block,
        query: Tensor,
        text_key: Tensor,
        heads: int,
        cells: Cells,
    ) -> SubjectMask | None:
        """Auto layout: where the text attention looks at the phrases; None before it starts."""
        state = run.auto_layouts.setdefault(
            (block, row.positive, row.crop), StepLayout(AutoLayout(settings.threshold))
        )
        if run.step > state.step:
            place = (text_key.shape[1], row.text_tokens, query.device)
            if place not in run.phrase_weights:
                run.phrase_weights[place] = self._phrase_weights(*place[:2]).to(query.device)
            state.layout.add(phrase_maps(query, text_key, heads, run.phrase_weights[place]))
            state.step = run.step
        if run.step < settings.start_step:
            return None
        # A subject keeps its place where this conditioning's text doesn't hold its phrase.
        coverage = state.layout.coverage().index_select(1, cells.owners).to(cells.coverage)
        for n, owner in enumerate(self.owners):
            tokens = self.subjects.subjects[owner].prompt_tokens
            if not tokens or max(tokens) >= (row.text_tokens or text_key.shape[1]):
                coverage[:, n] = 0
                coverage[:, n, cells.queries] = cells.coverage[:, n]
        return subject_mask(coverage, self.tokens, query.dtype)

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


def _is_compiled_wrongly(run: Run, transformer_options: dict[str, Any]) -> bool:
    """TorchCompileModel's code doesn't look at the options again, so that it takes one block for
    another wherever the model isn't a single graph; and CUDA graphs replay an earlier run."""
    wrappers = transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    if COMPILE_KEY not in wrappers:
        return False
    replaced = transformer_options.get("patches_replace", {}).values()
    others = any(not _is_ours(patch) for patches in replaced for patch in patches.values())
    return (
        run.backend == "cudagraphs"
        or optimized_attention is not attention_pytorch  # others measure memory, and break graphs
        or others
        or bool(transformer_options.get("patches"))
    )


@dataclass(frozen=True)
class Call:
    """One call of the model, as one MSD Apply sees it."""

    patch: SubjectAttentionPatch
    run: Run
    rows: tuple[Rows, ...]
    acts: bool
    batch: int
    order: Sequence[int]  # the host's cond_or_uncond
    seen: set[Block] = field(default_factory=set)


# Those of the model's call that is under way: what is compiled once asks here each time.
_calls: ContextVar[tuple[Call, ...]] = ContextVar("ms_diffusion_calls", default=())


def _attend(
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
    couple, compiled = "cond_or_uncond_couple" in extra_options, torch.compiler.is_compiling()
    add = _add_compiled if compiled else _add
    add(out, q, k, *block, heads, height, width, couple, compiled)
    return out


def _is_ours(patch: Any) -> bool:
    return isinstance(patch, partial) and patch.func is _attend


def _add(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    room: str,
    number: int,
    index: int,
    heads: int,
    height: int,
    width: int,
    couple: bool,
    compiled: bool,
) -> None:
    block = (room, number, index)
    for call in _calls.get():
        if compiled and block in call.seen:
            raise ValueError(
                f"MSD Apply: the compiled model came to its block {block} twice in one call. "
                "Bypass the node that compiles the model."
            )
        call.seen.add(block)
        call.patch.add_image_branch(call, block, out, q, k, heads, height, width, couple)


# For torch.compile an operation that it doesn't look into: the code stays the same whoever goes
# where, and whatever CUDA graph is made around it leaves it out.
_UNSAFE: dict[str, Any] = (
    {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
)
_add_compiled = torch.library.custom_op(
    "ms_diffusion::add_image_branch", _add, mutates_args=("out",), **_UNSAFE
)


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


def _positive_parts(call: Call, q: Tensor, couple: bool) -> list[tuple[slice, Rows]]:
    """Slices of the query's rows that belong to positive conditionings."""
    rows, each = call.rows, call.batch // len(call.rows)
    if len(q) != call.batch:
        rows = _repeated(call, each, q, couple)
    return [
        (slice(n * each, (n + 1) * each), row)
        for n, row in enumerate(rows)
        if row.positive is not None
    ]


def _repeated(call: Call, each: int, q: Tensor, couple: bool) -> tuple[Rows, ...]:
    """Rows of a batch that an attention-couple pack has enlarged: all but the negative's stand
    there once for each of the pack's texts, with the same query."""
    negatives = call.order.count(1)
    times, rest = divmod(len(q) - each * negatives, each * max(1, len(call.rows) - negatives))
    counts = [1 if index == 1 else times for index in call.order]
    explained = not rest and sum(counts) * each == len(q)
    if explained and not couple:  # not all packs say so
        parts = iter(q.split(each))
        for count in counts:
            first, *copies = (next(parts) for _ in range(count))
            explained &= all(torch.equal(first, copy) for copy in copies)
    if not explained:
        raise ValueError(
            f"MSD Apply: another node changed the batch of the attention from {call.batch} to "
            f"{len(q)} rows, so that the positive ones can't be told."
        )
    return tuple(row for row, count in zip(call.rows, counts, strict=True) for _ in range(count))
