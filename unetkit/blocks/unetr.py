"""The decoder of UNETR (arXiv:2103.10504): residual blocks refine every map before it is joined on the way up."""

from collections.abc import Sequence

from torch import Tensor, nn

from unetkit.blocks.conv import ResidualBlockD
from unetkit.blocks.layers import Layers
from unetkit.blocks.unet import Decoder


def _enlarge(layers: Layers, in_channels: int, channels: int, stride: Sequence[int]) -> nn.Module:
    return layers.transposed(in_channels, channels, stride, stride=stride, bias=False)


class UnetrDecoder(nn.Module):
    """Refine maps to `channels`, climb up, and refine the finest once more; norms have no scale, convolutions no bias.

    Maps are halved from one to the next. `in_channels` are those of the maps; maps beyond them come in as they are. Its
    `channels` are those of the maps that it returns, finest first.
    """

    def __init__(self, dims: int, in_channels: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        layers = Layers(dims, norm=("instance", {"affine": False}), act="leaky_relu", bias=False, up=_enlarge)
        self.skips = nn.ModuleList(
            ResidualBlockD(layers, before, after) for before, after in zip(in_channels, channels, strict=False)
        )
        self.decoder = Decoder(layers, channels, [1] + [2] * (len(channels) - 1), ResidualBlockD, join="up_first")
        self.last = ResidualBlockD(layers, channels[0], channels[0])
        self.channels = self.decoder.channels

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map maps [B, C, *S], the image first, to those of the decoder."""
        refined = [skip(x) for skip, x in zip(self.skips, maps, strict=False)]
        finest, *others = self.decoder([*refined, *maps[len(refined) :]])
        return [self.last(finest), *others]
