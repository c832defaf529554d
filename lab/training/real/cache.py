"""The encoded samples of a set, each in a file by a hash of all that decides it: one that doesn't
fit is never used, but made again. Several processes and machines may make them at once."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lab.jobs.folder import process_name
from lab.training.real.encoders import Encoded, Encoders
from lab.training.real.training_set import Sample


@dataclass(frozen=True)
class Cache:
    """The folder of such files.

    Args:
        encoders_key: `Encoders.key`.
    """

    folder: Path
    encoders_key: str

    def key(self, sample: Sample | None) -> str:
        """Of a sample; None is what stands for no text and no reference."""
        own = sample.digest if sample else "blank"
        return hashlib.sha256(f"{self.encoders_key} {own}".encode()).hexdigest()[:32]

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def has(self, key: str) -> bool:
        """Whether there is a whole file; one that was cut short isn't."""
        try:
            with safe_open(self.path(key), "pt"):  # reads its header, and compares its size
                return True
        except (FileNotFoundError, SafetensorError):
            return False

    def save(self, key: str, encoded: Encoded) -> None:
        """Write a file as a whole; if another process has done so, it's the same.

        Raises OSError: it can't be written.
        """
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{key}.{process_name()}")  # not another machine's
        try:
            save_file(encoded, aside)
        except SafetensorError as error:
            raise OSError(f"{path} can't be written: {error}.") from error
        aside.replace(path)

    def load(self, key: str) -> Encoded:
        """Raises ValueError: the file was damaged since it was found whole."""
        try:
            return load_file(self.path(key))
        except SafetensorError as error:
            raise ValueError(f"{self.path(key)} was damaged meanwhile: {error}.") from error

    def buckets(self, keys: Sequence[str]) -> list[list[str]]:
        """Keys of samples with subjects, by the size of their latents."""
        sizes: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for key in keys:
            with safe_open(self.path(key), "pt") as file:
                if "features" in file.keys():  # noqa: SIM118
                    sizes[tuple(file.get_slice("latent").get_shape())].append(key)
        return [sizes[size] for size in sorted(sizes)]


@dataclass
class EncodingWorker:
    """Encodes samples for `lab.jobs.engines`."""

    cache: Cache
    encoders: Encoders

    def make(self, job: tuple[str, Sample | None]) -> str:
        """Encode a sample by its key; returns why it can't be, or nothing.

        Raises OSError: the cache can't be written, which is the end of the run.
        """
        key, sample = job
        try:
            encoded = self.encoders.encode(sample) if sample else self.encoders.blank()
        except (OSError, ValueError) as error:
            return f"{sample.name if sample else 'no reference'}: {error}"
        self.cache.save(key, encoded)
        return ""


@dataclass(frozen=True)
class MakeEncodingWorker:
    """What makes such a worker, wherever that is."""

    cache: Cache
    encoders: Encoders

    def __call__(self, name: str) -> EncodingWorker:
        """Raises ValueError: a model can't be loaded."""
        self.encoders.load()  # here, so that it's said once, not of each sample
        return EncodingWorker(self.cache, self.encoders)
