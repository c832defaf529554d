"""A narrow autoencoder of TAESD's topology, quick to train, that widens into the host's TAESD."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (8, 16, 32, 64)  # at 1/1, 1/2, 1/4 and 1/8 of the picture's size


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class Autoencoder(nn.Module):
    """Modules are numbered as in the host's TAESD. Blocks that TAESD has and this hasn't become
    blocks of zeros there, which a residual block passes on unchanged."""

    def __init__(self, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        a, b, c, d = widths
        self.encoder = nn.ModuleDict(
            {
                "0": _conv(3, a),
                "2": _conv(a, b, 2, bias=False),
                "3": Block(b),
                "6": _conv(b, c, 2, bias=False),
                "7": Block(c),
                "10": _conv(c, d, 2, bias=False),
                "11": Block(d),
                "14": _conv(d, 4),
            }
        )
        self.decoder = nn.ModuleDict(
            {
                "1": _conv(4, d),
                "3": Block(d),
                "7": _conv(d, c, bias=False),
                "8": Block(c),
                "12": _conv(c, b, bias=False),
                "13": Block(b),
                "17": _conv(b, a, bias=False),
                "18": Block(a),
                "19": _conv(a, 3),
            }
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=1)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.normal_(module.conv[4].weight, std=0.01)  # type: ignore[arg-type]

    def encode(self, picture: Tensor) -> Tensor:
        """[n, 3, H, W] in 0..1 -> latents [n, 4, H / 8, W / 8] of about unit variance."""
        x = picture
        for number, module in self.encoder.items():
            x = F.relu(module(x)) if number == "0" else module(x)
        return x

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pictures [n, 3, H, W], in 0..1 but for overshoot."""
        x = torch.tanh(latents / 3) * 3
        for number, module in self.decoder.items():
            x = F.relu(module(x)) if number == "1" else module(x)
            if number in ("3", "8", "13"):
                x = F.interpolate(x, scale_factor=2)
        return x


def narrow(taesd: Mapping[str, Tensor]) -> Autoencoder:
    """The narrow autoencoder that `widen` made the host's TAESD of."""
    autoencoder = Autoencoder()
    own = autoencoder.state_dict()
    for name, weights in own.items():
        side, _, rest = name.partition(".")
        wide = taesd[f"taesd_{side}.{rest}"]
        weights.copy_(wide[tuple(slice(0, size) for size in weights.shape)])
    return autoencoder


def widen(narrow: Autoencoder, taesd: nn.Module) -> None:
    """Write a narrow autoencoder's weights into the host's TAESD, zeros everywhere else."""
    for parameter in taesd.parameters():
        parameter.data.zero_()
    own = taesd.state_dict()
    for name, weights in narrow.state_dict().items():
        side, _, rest = name.partition(".")
        target = own[f"taesd_{side}.{rest}"]
        target[tuple(slice(0, size) for size in weights.shape)] = weights.float()
    own["vae_scale"].fill_(0.13025)
    own["vae_shift"].zero_()
