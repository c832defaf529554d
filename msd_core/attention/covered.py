"""The queries that the subjects cover: only these are computed."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class CoveredQueries:
    """Which n of a grid's N queries any subject covers."""

    index: slice | Tensor  # a slice where they are consecutive: taking them is a view then

    def take(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, n, C]."""
        if isinstance(self.index, slice):
            return x[:, self.index]
        return x.index_select(1, self.index)

    def add(self, out: Tensor, x: Tensor) -> None:
        """Add x [B, n, C] to out [B, N, C], in place."""
        if isinstance(self.index, slice):
            out[:, self.index].add_(x)
        else:
            out.index_add_(1, self.index, x)


EVERY_QUERY = CoveredQueries(slice(None))


def covered_queries(coverage: Tensor) -> CoveredQueries:
    """The queries that a coverage [S, N] covers, on its device."""
    covered = coverage.amax(0) > 0
    start, count = int(covered.int().argmax()), int(covered.sum())
    consecutive = slice(start, start + count)
    if covered[consecutive].all():
        return CoveredQueries(consecutive)
    return CoveredQueries(covered.nonzero().flatten())
