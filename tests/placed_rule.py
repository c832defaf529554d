"""The rule of placed references, written plainly: token by token and pair by pair."""

import math
from typing import Any

import torch
from torch import Tensor


def masked_scores(placement: Any, order: Any, base: Tensor) -> Tensor:
    """What the rule makes of scores [..., L, L]."""
    subjects = range(len(placement.weights))
    tokens = []
    for part in order:
        if part.value == "text":
            for t in range(placement.own_text.shape[1]):
                own = {s for s in subjects if placement.own_text[s, t]}
                kind = "padding" if placement.padding[t] else "own" if own else "shared"
                tokens.append((kind, own, None))
        elif part.value == "picture":
            for n in range(placement.coverage.shape[1]):
                covers = {s: float(placement.coverage[s, n]) for s in subjects}
                tokens.append(("picture", {s for s in subjects if covers[s] > 0}, covers))
        else:
            for s, count in placement.references:
                tokens += [("reference", {s}, None)] * count
    first = placement.first_stage
    scores = torch.full_like(base, -math.inf)
    for q, (kind, own, covers) in enumerate(tokens):
        for k, (key_kind, key_own, _) in enumerate(tokens):
            same = bool(own & key_own)
            sees = {
                ("own", "own"): same, ("own", "shared"): True, ("own", "padding"): True,
                ("own", "picture"): same, ("own", "reference"): same,
                ("shared", "own"): True, ("shared", "shared"): True, ("shared", "padding"): True,
                ("shared", "picture"): not first, ("shared", "reference"): True,
                ("picture", "own"): same, ("picture", "shared"): not first,
                ("picture", "padding"): True, ("picture", "reference"): same,
                ("picture", "picture"): not first or same or (not own and not key_own),
                ("reference", "own"): same, ("reference", "shared"): True,
                ("reference", "padding"): True, ("reference", "picture"): same,
                ("reference", "reference"): same,
            }.get((kind, key_kind), kind == "padding")  # fmt: skip
            if not sees:
                continue
            scores[..., q, k] = base[..., q, k]
            if key_kind == "reference" and kind != "reference":
                weight = placement.weights[next(iter(key_own))]
                scores[..., q, k] += math.log(weight) if weight else -math.inf
            if kind == "picture" and key_kind in ("own", "reference"):
                scores[..., q, k] += math.log(max(covers[s] for s in own & key_own))
    return scores
