"""What all training on noise has in common: timesteps, and subjects' tokens side by side."""

import torch
from torch import Generator, Tensor


def draw_timesteps(n: int, g: Generator) -> Tensor:
    """[n], one in each n-th of the range: less chance in how hard a micro batch is."""
    position = torch.randperm(n, generator=g) + torch.rand(n, generator=g)
    return (position / n * 1000).long()


def scatter(tokens: Tensor, present: Tensor) -> Tensor:
    """Image tokens [m, T, C] of the subjects that exist -> [n, MAX_SUBJECTS * T, C], zeros for
    those that don't: so the tower and the resampler need not see these."""
    all_tokens = tokens.new_zeros(*present.shape, *tokens.shape[1:])
    return all_tokens.index_put((present,), tokens).flatten(1, 2)
