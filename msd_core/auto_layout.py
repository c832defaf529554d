"""Auto layout (the authors' later addition): coverage from where the text attention itself looks
at each subject's phrase."""

from torch import Tensor


class AutoLayout:
    """Running mean of the maps of one layer and one run, and the coverage that follows from it.

    Args:
        threshold: a cell is covered where its min-max normalised mean map exceeds this.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.steps = 0
        self._sum: Tensor | None = None

    def add(self, maps: Tensor) -> None:
        """Count one step's maps [B, S, N] in."""
        maps = maps.float()
        self._sum = maps.clone() if self._sum is None else self._sum + maps.to(self._sum.device)
        self.steps += 1

    def coverage(self) -> Tensor:
        """bool [B, S, N], from the mean over all steps so far.

        Raises:
            ValueError: no maps were added.
        """
        if self._sum is None:
            raise ValueError("auto layout has no maps yet")
        low, high = self._sum.amin(-1, keepdim=True), self._sum.amax(-1, keepdim=True)
        # (mean - low) / (high - low + 1e-5) > threshold, of the sums and without dividing: on a GPU
        # each operation counts, here in each layer.
        return self._sum > low.lerp(high, self.threshold) + self.threshold * self.steps * 1e-5
