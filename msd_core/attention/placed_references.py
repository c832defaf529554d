"""Placed references (docs/placed_references.md): in the joint attention of text, picture and
references, who may look at whom, and that attention computed without the pairs that may not.

Tokens that look at the same tokens form a group, which attends to just these: what is hidden is
never computed, and any attention function keeps its fast path. The rule is LAMIC's, as released.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.reference_transformers import Part

Index = slice | Tensor  # a slice where tokens are consecutive: taking them is a view then
# (query, key, value, mask) -> output; tokens in the dimension before the last of each, the mask
# [queries, keys] added to the scores, or None.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

_SHARED_TEXT, _OWN_TEXT, _PADDING, _PICTURE, _REFERENCE = range(5)  # kinds of tokens


@dataclass(frozen=True)
class Placement:
    """What is placed where in one joint attention.

    Args:
        coverage: [S, N], bool or float in 0..1, of the picture's N tokens by each subject.
        references: subject and number of tokens of each reference, in the sequence's order.
        weights: of each subject's references; 1 leaves them as the model was made, 0 hides them.
        own_text: bool [S, T], which of the text's tokens speak of which subject alone.
        padding: bool [T], which of them are padding.
        first_stage: the published rule of the first steps, in which subjects see neither each other
            nor the shared text; it needs own texts.
        behind: subjects, each with those in front of it, whose cells its region leaves out in the
            first stage.
    """

    coverage: Tensor
    references: Sequence[tuple[int, int]]
    weights: Sequence[float]
    own_text: Tensor
    padding: Tensor
    first_stage: bool = False
    behind: Sequence[tuple[int, Sequence[int]]] = ()

    @property
    def parts_nothing(self) -> bool:
        """Whether everything may look at everything: no subject has a text of its own, a weight, or
        a region smaller than the picture."""
        return (
            not self.own_text.any()
            and bool((self.coverage >= 1).all())
            and all(weight == 1 for weight in self.weights)
        )


class Group(NamedTuple):
    """Tokens that look at the same tokens."""

    queries: Index
    keys: Index
    bias: Tensor | None  # [queries or 1, keys], added to the scores; None for zeros

    def to(self, device: torch.device, dtype: torch.dtype) -> "Group":
        """The group on a device, its bias in the type of the queries."""
        queries, keys = (x if isinstance(x, slice) else x.to(device) for x in self[:2])
        return Group(queries, keys, None if self.bias is None else self.bias.to(device, dtype))


def placed_groups(
    placement: Placement, order: Sequence[Part], queries: int | None = None
) -> list[Group]:
    """The groups of a joint attention; none where it stays as it is.

    Args:
        order: of the parts in the sequence. A part that is missing here is missing there.
        queries: how many of the sequence's first tokens are queries; None for all.
    """
    if placement.parts_nothing:
        return []
    tokens = _tokens(placement, order)
    length = len(tokens.kinds)
    count = length if queries is None else queries
    classes = tokens.kinds * 2 ** len(placement.weights) + tokens.subjects
    found: dict[tuple[bytes, bytes], tuple[list[Tensor], Tensor, Tensor | None]] = {}
    for value in classes[:count].unique().tolist():
        own = (classes[:count] == value).nonzero().flatten()
        visible = _visible(tokens, int(own[0]), placement.first_stage)
        keys = visible.nonzero().flatten()
        bias = _bias(tokens, own, keys)
        # Classes that look at the same are one group, unless each query has a bias of its own.
        distinct = b"" if bias is None else bias.numpy().tobytes()
        if bias is not None and len(bias) > 1:
            distinct = str(value).encode()
        found.setdefault((visible.numpy().tobytes(), distinct), ([], keys, bias))[0].append(own)
    return [
        Group(_index(torch.cat(own).sort().values, count), _index(keys, length), bias)
        for own, keys, bias in found.values()
    ]


def attend_in_groups(
    attend: Attend,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: Sequence[Group],
    mask: Tensor | None = None,
) -> Tensor:
    """A joint attention, group by group.

    Args:
        attend: the attention function.
        query, key, value: [..., tokens, channels].
        groups: of `placed_groups`, on the query's device, biases in its type.
        mask: [..., queries or 1, keys], added to the scores whatever the groups.
    Returns:
        [..., queries, channels], as `attend` shapes it.
    """
    out: Tensor | None = None
    for group in groups:
        rows = _take(query, group.queries, -2)
        part = attend(
            rows,
            _take(key, group.keys, -2),
            _take(value, group.keys, -2),
            _group_mask(group, mask, rows.shape[-2]),
        )
        if out is None:
            out = part.new_empty(*part.shape[:-2], query.shape[-2], part.shape[-1])
        if isinstance(group.queries, slice):
            out[..., group.queries, :] = part
        else:
            out.index_copy_(out.ndim - 2, group.queries, part)
    if out is None:
        return attend(query, key, value, mask)
    return out


def dense_mask(
    groups: Sequence[Group],
    queries: int,
    keys: int,
    dtype: torch.dtype,
    device: torch.device | None = None,
) -> Tensor:
    """[queries, keys], added to the scores: the same as the groups, for an attention that must
    stay one call. It takes memory for all pairs, and most attention functions are slower with it.

    Args:
        groups: on the device.
    """
    mask = torch.full((queries, keys), torch.finfo(dtype).min, dtype=dtype, device=device)
    for group in groups:
        rows = torch.arange(queries, device=device)[group.queries]
        columns = torch.arange(keys, device=device)[group.keys]
        mask[rows[:, None], columns] = 0.0 if group.bias is None else group.bias.to(dtype)
    return mask


class _Tokens(NamedTuple):
    """The sequence of a joint attention, token by token."""

    kinds: Tensor  # [L]
    subjects: Tensor  # [L], to which subjects it belongs: bit s for subject s
    coverage: Tensor  # [S, L], log of a picture token's coverage by each subject, else 0
    weight: Tensor  # [L], log of a reference token's weight, else 0


def _tokens(placement: Placement, order: Sequence[Part]) -> _Tokens:
    bits = 2 ** torch.arange(len(placement.weights))
    region = placement.coverage > 0
    if placement.first_stage:
        whole = region.clone()
        for subject, in_front in placement.behind:
            region[subject] &= ~whole[list(in_front)].any(0)
    in_text = (placement.own_text * bits[:, None]).sum(0)
    text = torch.where(in_text > 0, _OWN_TEXT, _SHARED_TEXT).masked_fill(
        placement.padding, _PADDING
    )
    lengths = torch.tensor([length for _, length in placement.references])
    owners = torch.tensor([owner for owner, _ in placement.references]).repeat_interleave(lengths)
    picture = torch.full(region.shape[1:], _PICTURE), (region * bits[:, None]).sum(0)
    parts = {
        Part.TEXT: _Tokens(
            text, in_text, torch.zeros(placement.own_text.shape), torch.zeros(len(text))
        ),
        Part.PICTURE: _Tokens(
            *picture, placement.coverage.float().log(), torch.zeros(region.shape[1])
        ),
        Part.REFERENCES: _Tokens(
            torch.full(owners.shape, _REFERENCE),
            bits[owners],
            torch.zeros(len(bits), len(owners)),
            torch.tensor(placement.weights)[owners].log(),
        ),
    }
    return _Tokens(*(torch.cat(x, -1) for x in zip(*(parts[p] for p in order), strict=True)))


def _visible(tokens: _Tokens, query: int, first_stage: bool) -> Tensor:
    """bool [L]: what the token at a position, and all of its class, may look at."""
    kind, subjects = int(tokens.kinds[query]), int(tokens.subjects[query])
    own = (tokens.subjects & subjects) != 0
    shared, padding, picture = (tokens.kinds == k for k in (_SHARED_TEXT, _PADDING, _PICTURE))
    if kind == _REFERENCE:
        return own | shared | padding
    if kind == _PADDING:
        visible = torch.ones_like(own)
    elif kind == _SHARED_TEXT:
        visible = ~picture if first_stage else torch.ones_like(own)
    elif kind == _OWN_TEXT:
        visible = own | shared | padding
    elif not first_stage:
        visible = own | shared | padding | picture
    elif subjects:
        visible = own | padding
    else:
        visible = padding | (picture & (tokens.subjects == 0))
    return visible & (tokens.weight > -torch.inf)  # references of weight 0 see but aren't seen


def _bias(tokens: _Tokens, queries: Tensor, keys: Tensor) -> Tensor | None:
    """[queries or 1, keys], the log of the weight of each reference token, and for a picture token
    that of its coverage by the subject that a text or reference token belongs to."""
    first = queries[0]
    if tokens.kinds[first] == _REFERENCE:
        return None
    bias = tokens.weight[keys][None]
    if (
        tokens.kinds[first] == _PICTURE
        and (tokens.coverage[:, queries].isfinite() & (tokens.coverage[:, queries] < 0)).any()
    ):
        owned = (tokens.subjects[keys] & 2 ** torch.arange(len(tokens.coverage))[:, None]) != 0
        owned &= tokens.kinds[keys] != _PICTURE  # [S, keys]
        of_subjects = tokens.coverage[:, queries, None].where(owned[:, None], -torch.inf).amax(0)
        bias = bias + of_subjects.where(owned.any(0), 0.0)
    return bias if bias.any() else None


def _index(tokens: Tensor, length: int) -> Index:
    """Ascending positions in a sequence of a length."""
    if len(tokens) == length:
        return slice(None)
    start, end = int(tokens[0]), int(tokens[-1]) + 1
    return slice(start, end) if end - start == len(tokens) else tokens


def _take(x: Tensor, index: Index, dim: int) -> Tensor:
    """dim: -1 or -2."""
    if isinstance(index, slice):
        return x[..., index] if dim == -1 else x[..., index, :]
    return x.index_select(dim, index)


def _group_mask(group: Group, mask: Tensor | None, queries: int) -> Tensor | None:
    """What is added to the scores of a group with so many queries."""
    if mask is None:
        return None if group.bias is None else group.bias.expand(queries, -1)
    if mask.shape[-2] > 1:
        mask = _take(mask, group.queries, -2)
    mask = _take(mask, group.keys, -1)
    return mask if group.bias is None else mask + group.bias
