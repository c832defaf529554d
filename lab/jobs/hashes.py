"""Hashes of files' contents. Those of large files are kept, as long as size and time stay."""

import hashlib
import json
import os
import socket
from pathlib import Path

SMALL = 2**24  # bytes; what is no larger is read each time
CHUNK = 2**22


class Hashes:
    """SHA-256 of files.

    Args:
        kept: file of those that were computed before, which need not exist; None keeps none.
    Raises:
        ValueError: it isn't such a file.
    """

    def __init__(self, kept: Path | None) -> None:
        self.kept = kept
        self.known: dict[str, list[int | str]] = {}
        if kept and kept.exists():
            self.known = _read(kept)
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
            aside = self.kept.with_name(f"{self.kept.name}.{socket.gethostname()}.{os.getpid()}")
            aside.write_text(json.dumps(self.known))
            aside.replace(self.kept)


def _read(kept: Path) -> dict[str, list[int | str]]:
    try:
        known = json.loads(kept.read_text())
        if isinstance(known, dict) and all(len(found) == 3 for found in known.values()):
            return known
    except (ValueError, TypeError):
        pass
    raise ValueError(f"{kept} isn't a file of hashes; delete it, and they are computed again.")
