"""MS-Diffusion (ICLR 2025, arXiv 2406.07209) in plain torch: it knows no host and does no I/O
outside `msd_core.checkpoint`."""

from .adapters.ms_diffusion import MSAdapter
from .adapters.resampler import GroundingResampler

__all__ = ["GroundingResampler", "MSAdapter"]
