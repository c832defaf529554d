"""The settings of the training of an adapter, which a JSON file has, by default `paper.json`."""

import json
from dataclasses import MISSING, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lab.training.config import StageSettings

PAPER = Path(__file__).with_name("paper.json")
STAGE = "run"  # its state is run.pt
# Kinds of adapters that need no file to start from.
NEW = ("ms-diffusion", "ip-adapter", "ip-adapter-plus", "mip-adapter", "mip-adapter-plus")
DECIDES = {
    "encoders": "the checkpoint, the image encoder, --edge, or the code that encodes",
    "set": "the set",
    "adapter": "what it starts from",
}
DROPS = ("text", "image", "both", "grounding")


@dataclass(frozen=True)
class RunSettings(StageSettings):
    """Settings of a run.

    Args:
        text, image, both: fractions of samples without the caption, the references, or either.
        grounding: fraction without phrase and box in the image tokens, for families that have them
            there.
        min_snr: the weight of an error is at most this over the signal-to-noise ratio (arXiv
            2303.09556); 0 weighs all alike.
        validation: samples that are held out, the first ones by key.
        validate: steps between two validations.
        pictures: held-out samples that are sampled at each validation; they don't decide the
            result.
        decided_by: hashes of what else decides the result: encoders, set, what it starts from.
    """

    text: float = 0.05
    image: float = 0.05
    both: float = 0.05
    grounding: float = 0.1
    min_snr: float = 0.0
    validation: int = 64
    validate: int = 500
    pictures: int = field(default=4, compare=False)
    decided_by: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_snr", "validation", "validate", "pictures", *DROPS):
            if getattr(self, name) < 0:
                raise ValueError(f"{self.stage}: {name} must not be negative.")
        if self.grounding > 1 or self.text + self.image + self.both > 1:
            raise ValueError(
                f"{self.stage}: text, image and both must be at most 1 together, and grounding too."
            )

    def differences(self, other: dict[str, Any]) -> list[str]:
        """As for all settings; of what else decides the result only which it is: hashes say no
        more."""
        before = other.get("decided_by", {})
        changed = [n for n, value in self.decided_by.items() if before.get(n) != value]
        others = super().differences({**other, "decided_by": self.decided_by})
        return others + [f"{DECIDES[name]} changed" for name in changed]


def read_settings(path: Path, **more: Any) -> RunSettings:
    """Those of a file, and what isn't set in files.

    Raises:
        ValueError: it isn't such a file, or asks for a package that isn't installed.
    """
    others = ("stage", "scenes", "minutes", "decided_by")
    known = {f.name: f for f in fields(RunSettings) if f.name not in others}
    needed = {n for n, f in known.items() if MISSING is f.default is f.default_factory}
    try:
        given = json.loads(path.read_text())
        if not isinstance(given, dict):
            raise ValueError(f"expected an object with {', '.join(sorted(known))}")
        for problem, names in (
            ("unknown", given.keys() - known.keys()),
            ("missing", needed - given.keys()),
        ):
            if names:
                raise ValueError(
                    f"{problem}: {', '.join(sorted(names))}; known are {', '.join(sorted(known))}"
                )
        settings = RunSettings(**given, **more, stage=STAGE)
        if settings.optimizer == "adamw8bit" and not find_spec("bitsandbytes"):
            raise ValueError("bitsandbytes is missing: install the dependency group training.")
        return settings
    except OSError as error:
        raise ValueError(f"--settings: {path} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise ValueError(f"--settings: {path}: {error}") from None
