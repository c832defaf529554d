"""Results of a model's last run, so that of several subjects only the changed one is computed
again."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor

from .subjects import MAX_SUBJECTS

Model = TypeVar("Model")
Result = TypeVar("Result")


class Memo(Generic[Model, Result]):
    """A model's latest results by what they were computed from. They go with the model."""

    def __init__(self) -> None:
        self._results: WeakKeyDictionary[Model, OrderedDict[bytes, Result]] = WeakKeyDictionary()

    def get(self, model: Model, *inputs: Tensor | str, compute: Callable[[], Result]) -> Result:
        """The result for these inputs, remembered or computed. It must not be written to."""
        digest = hashlib.blake2b()
        for value in inputs:
            if isinstance(value, str):
                digest.update(value.encode())
                continue
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().numpy().data)
        results = self._results.setdefault(model, OrderedDict())
        key = digest.digest()
        if key not in results:
            results[key] = compute()
        results.move_to_end(key)
        while len(results) > MAX_SUBJECTS + 1:  # and a negative reference
            results.popitem(last=False)
        return results[key]
