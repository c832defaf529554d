"""The micro world: drawn scenes of a few shapes, and models of a few megabytes in SDXL's file
formats that know nothing else."""

from pathlib import Path

MODELS = Path(__file__).parent / "models"  # the trained family, laid out as a host's models folder
LOADER_PACK = Path(__file__).parent / "pack"  # lets the host's stock loaders read the family
JUDGE = MODELS / "judge" / "judge.safetensors"
