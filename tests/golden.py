"""Access to the golden data: weights and inputs are rebuilt from names, outputs are stored."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from data.golden import msd_recipe as recipe
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["Golden", "recipe"]

_DATA = Path(__file__).parent / "data"


class Golden:
    """One set of golden data, or a part of one that has its own file of outputs."""

    def __init__(self, name: str, part: str | None = None, folder: str = "golden") -> None:
        self.manifest: dict[str, Any] = json.loads((_DATA / folder / f"{name}.json").read_text())
        self.seed: int = self.manifest.get("seed", 0)
        if part:
            self.manifest = self.manifest[part]
            name = f"{name}_{part}"
        self._file = _DATA / folder / f"{name}.safetensors"
        self._stored: dict[str, Tensor] | None = None

    def outputs(self, prefix: str) -> dict[str, Tensor]:
        """The stored outputs whose name begins with `prefix`, without it."""
        if self._stored is None:
            self._stored = load_file(self._file)
        cut = len(prefix)
        return {key[cut:]: x for key, x in self._stored.items() if key.startswith(prefix)}

    def array(self, name: str, shape: Any, mean: float = 0.0, std: float = 1.0) -> Tensor:
        return torch.from_numpy(recipe.array(self.seed, name, shape, mean, std))

    def tensor(self, entry: Any) -> Tensor:
        """An input by its manifest entry, checked against its hash first."""
        if isinstance(entry, dict):
            name, shape, sha = entry["name"], entry["shape"], entry["sha"]
            mean, std = entry["mean"], entry["std"]
        else:
            (name, shape, sha), mean, std = entry, 0.0, 1.0
        values = recipe.array(self.seed, name, shape, mean, std)
        assert hashlib.sha256(values.tobytes()).hexdigest()[:16] == sha, name
        return torch.from_numpy(values)
