"""MS-Diffusion (ICLR 2025, arXiv 2406.07209) and IP-Adapter (arXiv 2308.06721) in boxes, in plain
torch: it knows no host and does no I/O outside `msd_core.checkpoint` and `msd_core.convert`."""

from .adapters.ip_adapter import IPAdapter
from .adapters.ms_diffusion import MSAdapter
from .adapters.resampler import GroundingResampler

__all__ = ["GroundingResampler", "IPAdapter", "MSAdapter"]
