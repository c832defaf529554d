"""Development only, never shipped: drivers for a real ComfyUI, the micro world and its models,
their training and evaluation, the demo."""

from pathlib import Path

ROOT = Path(__file__).parents[1]  # of the repository
