"""MS-Diffusion (ICLR 2025, arXiv 2406.07209) in plain torch: it knows no host and does no I/O
outside `msd_core.checkpoint`."""

from .adapter import MSAdapter
from .resampler import GroundingResampler

__all__ = ["GroundingResampler", "MSAdapter"]
