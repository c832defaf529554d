"""MS-Diffusion (ICLR 2025, arXiv 2406.07209), IP-Adapter (arXiv 2308.06721) in boxes, and
MIP-Adapter (AAAI 2025, arXiv 2409.17920) in plain torch: it knows no host, and does no I/O outside
`msd_core.checkpoint` and `msd_core.convert`."""

from .adapters.ip_adapter import IPAdapter
from .adapters.mip_adapter import MIPAdapter
from .adapters.ms_diffusion import MSAdapter
from .adapters.resampler import GroundingResampler

__all__ = ["GroundingResampler", "IPAdapter", "MIPAdapter", "MSAdapter"]
