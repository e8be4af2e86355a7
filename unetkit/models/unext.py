"""UNeXt: the deep levels of a small U-Net are MLPs over tokens, whose channels are shifted (arXiv:2203.04967)."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.conv import Block
from unetkit.blocks.init import fan_out_init, linear_init
from unetkit.blocks.layers import ChannelNorm, Layers, Size
from unetkit.blocks.pooled import EnlargeStage, PoolStage, SumDecoder
from unetkit.blocks.rearrange import shift
from unetkit.blocks.unet import Encoder, Heads, UNet
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register, variant
from unetkit.types import TaskShape

TOKEN_LEVELS = 2


class ShiftedMlp(nn.Module):
    """Residual block on a map [B, *S, C]: norm, then per axis a shift and a linear layer over the channels.

    Between two of them stand a depthwise convolution, for the position, and GELU.
    """

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.linears = nn.ModuleList(nn.Linear(channels, channels) for _ in range(layers.dims))
        self.depthwise = nn.ModuleList(layers.conv(channels, channels, groups=channels) for _ in range(layers.dims - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape."""
        y = self.norm(x)
        for axis, linear in enumerate(self.linears):
            if axis:
                y = F.gelu(self.depthwise[axis - 1](y.movedim(-1, 1)).movedim(1, -1))
            y = linear(shift(y, axis + 1))
        return x + y


class TokenMixing(nn.Module):
    """A ShiftedMlp and a norm, on a map [B, C, *S]."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.mlp = ShiftedMlp(layers, channels)
        self.norm = nn.LayerNorm(channels)
        linear_init(self)
        fan_out_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to the same shape."""
        return self.norm(self.mlp(x.movedim(1, -1))).movedim(-1, 1)


class TokenStage(nn.Module):
    """Tokens from overlapping patches, 3 wide, then TokenMixing."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> None:
        super().__init__()
        self.proj = layers.conv(in_channels, channels, stride=stride)
        self.norm = ChannelNorm(channels)
        fan_out_init(self)
        self.mixing = TokenMixing(layers, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, *S] to [B, channels, *S / stride]."""
        return self.mixing(self.norm(self.proj(x)))


def _conv_stage(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
    return PoolStage(layers, layers.conv(in_channels, channels), channels, stride)


@register(
    ModelInfo(
        title="UNeXt",
        family="cnn",
        year=2022,
        paper="2203.04967",
        dims=(2, 3),
        multiple=32,
        multiple_by={"widths": 2},
        source=("github:jeya-maria-jose/UNeXt-pytorch", "6ad0855", "MIT"),
        params={2: 1471921},
        params_at={2: (3, 1, (256, 256))},
        gflops={2: 1.124},
        activation_mb={2: 39.13},
        notes="the reference takes 3 channels whatever it is told; in 3D each axis has its shift and linear layer",
    )
)
def unext(task: TaskShape, *, widths: Sequence[int] = (16, 32, 128, 160, 256)) -> nn.Module:
    """Build UNeXt of `widths` channels per level, finest first at half resolution, the last two of tokens.

    Raises ModelError for fewer than 3.
    """
    convs = len(widths) - TOKEN_LEVELS
    if convs < 1:
        raise ModelError(f"widths {list(widths)}: two token levels lie below at least one other; give 3 or more")
    layers = Layers(task.dims, up="linear")
    blocks: Sequence[Block] = [_conv_stage] * convs + [TokenStage] * TOKEN_LEVELS
    encoder = Encoder(layers, task.in_channels, widths, blocks, strides=[2] * len(widths), pool=False)
    # the step to the image's resolution has neither norm nor skip
    steps = [EnlargeStage(layers.but(norm="none"), layers.conv(widths[0], widths[0]), widths[0])]
    steps += [EnlargeStage(layers, layers.conv(b, a), a) for a, b in pairwise(widths)]
    mixing = [TokenMixing(layers, width) for width in widths[convs - 1 : -1]]
    decoder = SumDecoder(steps, [*(nn.Identity() for _ in range(convs)), *mixing])
    return UNet(encoder, decoder, Heads(layers, widths[:1], task.num_classes))


@variant(
    unext, title="UNeXt-S", params={2: 253561}, gflops={2: 0.1985}, activation_mb={2: 17.18}, new="a smaller UNeXt"
)
def unext_s(task: TaskShape, *, widths: Sequence[int] = (8, 16, 32, 64, 128)) -> nn.Module:
    """Build UNeXt-S, as `unext` with its own widths."""
    return unext(task, widths=widths)
