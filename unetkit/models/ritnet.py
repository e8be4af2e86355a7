"""RITnet: a small U-Net of densely connected blocks for real-time eye segmentation (arXiv:1910.00694)."""

from functools import partial

import torch
from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.init import fan_out_init
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

LEVELS = 5


class DenseBlock(nn.Module):
    """`count` convolutions, each of which sees the input [B, C, *S] and the maps of all before it.

    A 1 wide convolution narrows what is joined before each but, with `direct`, the first. One norm ends the block.
    A stride is an average before it.
    """

    def __init__(
        self, layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, count: int, direct: bool = False
    ) -> None:
        super().__init__()
        self.pool = nn.Identity() if stride == 1 else layers.pool(stride, "average")
        self.steps = nn.ModuleList()
        plain = layers.but(norm="none")
        for i in range(count):
            joined = in_channels + i * channels
            # no activation between the two: the 1 wide convolution only chooses what the 3 wide one sees
            narrow = [] if direct and i == 0 else [layers.conv(joined, channels, 1)]
            self.steps.append(nn.Sequential(*narrow, ConvNormAct(plain, channels if narrow else joined, channels)))
        self.norm = layers.norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        for step in self.steps[:-1]:
            x = torch.cat([x, step(x)], 1)
        return self.norm(self.steps[-1](x))


def _down(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
    return DenseBlock(layers, in_channels, channels, stride, count=3, direct=True)


def _up(layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, last: bool = False) -> nn.Module:
    block = DenseBlock(layers.but(norm="none"), in_channels, channels, stride, count=2)
    # the head has a dropout of its own in front
    return nn.Sequential(block, layers.drop()) if last else block


@register(
    ModelInfo(
        title="RITnet",
        family="cnn",
        year=2019,
        paper="1910.00694",
        dims=(2, 3),
        multiple=16,
        deep_supervision=True,
        source=("github:AayushKrChaudhary/RITnet", "b0d045b", "MIT"),
        params={2: 248900},
        params_at={2: (1, 4, (640, 400))},
        gflops={2: 32.84},
        activation_mb={2: 1147.0},
        notes="deep supervision and 3D are not in the paper; its pooling is an average",
    )
)
def ritnet(task: TaskShape, *, width: int = 32, dropout: float = 0.2, deep_supervision: bool = False) -> nn.Module:
    """Build RITnet with `width` channels at every level and `dropout` behind every 3 wide convolution."""
    layers = Layers(task.dims, act="leaky_relu", dropout=dropout, up="nearest")
    widths = (width,) * LEVELS
    encoder = Encoder(layers, task.in_channels, widths, _down, pool=False)
    blocks = [partial(_up, last=level == 0) for level in range(LEVELS - 1)]
    decoder = Decoder(layers, widths, encoder.strides, blocks, join="up_first")
    model = UNet(encoder, decoder, Heads(layers, widths[:-1], task.num_classes, deep_supervision=deep_supervision))
    fan_out_init(model)
    return model
