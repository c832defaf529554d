"""Hashes of files' contents. Those of large files are kept, as long as size and time stay."""

import hashlib
import json
import os
from pathlib import Path

SMALL = 2**24  # bytes; what is no larger is read each time
CHUNK = 2**22


class Hashes:
    """SHA-256 of files.

    Args:
        kept: file of those that were computed before, which need not exist; None keeps none.
    """

    def __init__(self, kept: Path | None) -> None:
        self.kept = kept
        self.known: dict[str, list[int | str]] = {}
        if kept and kept.exists():
            self.known = json.loads(kept.read_text())
        self._computed: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        if path not in self._computed:
            self._computed[path] = self._known_or_computed(path.resolve())
        return self._computed[path]

    def _known_or_computed(self, path: Path) -> str:
        status = path.stat()
        size, time, found = self.known.get(str(path), [0, 0, ""])
        if (size, time) == (status.st_size, status.st_mtime_ns):
            return str(found)
        computed = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                computed.update(chunk)
        if status.st_size > SMALL:
            self.known[str(path)] = [status.st_size, status.st_mtime_ns, computed.hexdigest()]
        return computed.hexdigest()

    def save(self) -> None:
        """Replace the file as a whole. Of two at once one wins, which costs only time."""
        if self.kept:
            aside = self.kept.with_name(f"{self.kept.name}.{os.getpid()}")
            aside.write_text(json.dumps(self.known))
            aside.replace(self.kept)
