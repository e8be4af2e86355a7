"""Gates: what scales a map by a mask made from itself or from another map."""

from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.layers import Layers


class SqueezeExcite(nn.Module):
    """Scale each channel of a map [B, C, *S] by what its average and those of the others say (arXiv:1709.01507).

    Two fully connected layers, with a `bias` or without, `reduction` times fewer channels between them.
    """

    def __init__(self, channels: int, reduction: int = 16, *, bias: bool = False) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)  # narrow maps keep one channel
        self.scale = nn.Sequential(
            nn.Linear(channels, hidden, bias=bias),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=bias),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale(x.flatten(2).mean(2))
        return x * scale.view(*scale.shape, *[1] * (x.ndim - 2))


class FullExcite(nn.Module):
    """Scale each channel of a map [B, C, *S] by what two 1 wide convolutions, not reduced, make of all averages."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            layers.conv(channels, channels, 1), nn.SiLU(), layers.conv(channels, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x.mean(tuple(range(2, x.ndim)), keepdim=True))


class EfficientChannelGate(nn.Module):
    """Scale each channel of a map [B, C, *S] by what its average and those of `kernel` neighbours say (ECA-Net).

    One convolution along the channels (arXiv:1910.03151), without bias.
    """

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.conv(x.flatten(2).mean(2)[:, None])[:, 0].sigmoid()
        return x * scale.view(*scale.shape, *[1] * (x.ndim - 2))


class ChannelGate(nn.Module):
    """Scale each channel of a map [B, C, *S] by what averages and largest values say (CBAM, arXiv:1807.06521).

    Both pass the same two 1 wide convolutions without bias, `reduction` times fewer channels between them.
    """

    def __init__(self, layers: Layers, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)  # narrow maps keep one channel
        self.scale = nn.Sequential(
            layers.conv(channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            layers.conv(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        ones = [1] * (x.ndim - 2)
        pooled = (x.flatten(2).mean(2), x.flatten(2).amax(2))
        # the sum of both, before the sigmoid
        average, largest = (self.scale(values.view(*values.shape, *ones)) for values in pooled)
        return x * (average + largest).sigmoid()


class AdditiveGate(nn.Module):
    """Scale a skip [B, C, *S] by a mask made from it and the enlarged decoder map [B, Q, *S]."""

    def __init__(self, layers: Layers, channels: int, query_channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        plain = layers.but(act="none")  # both paths are summed before the activation
        self.skip = ConvNormAct(plain, channels, hidden, kernel=1)
        self.query = ConvNormAct(plain, query_channels, hidden, kernel=1)
        self.mask = nn.Sequential(layers.act(), ConvNormAct(plain, hidden, 1, kernel=1), nn.Sigmoid())

    def forward(self, skip: Tensor, enlarged: Tensor, below: Tensor) -> Tensor:
        return skip * self.mask(self.skip(skip) + self.query(enlarged))
