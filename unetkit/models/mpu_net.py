"""MPU-Net: a U-Net with position attention at its bottom and attended skips and several reaches at every decoder level.

arXiv:2307.05799. The paper has no public code and names no widths: this is a reconstruction.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct, ConvStack
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

WIDTHS = {2: (64, 128, 256, 512, 1024), 3: (32, 64, 128, 256, 512)}
REACHES = (1, 2, 4)


class MapAttention(nn.Module):
    """Add to a map what each voxel of another finds in it, weighted from 0 on (as DANet does, arXiv:1809.02983).

    Keys and values are averaged over blocks of `stride` voxels a side, for full resolution would take the square of
    its voxels.
    """

    def __init__(self, layers: Layers, channels: int, stride: int = 1) -> None:
        super().__init__()
        hidden = max(channels // 8, 1)
        self.pool = layers.pool(stride, "average") if stride > 1 else nn.Identity()
        self.query = layers.conv(channels, hidden, 1)
        self.key = layers.conv(channels, hidden, 1)
        self.value = layers.conv(channels, channels, 1)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, skip: Tensor, asking: Tensor, below: Tensor) -> Tensor:
        """Return `skip` [B, C, *S] with what `asking`, of the same shape, finds in it."""
        found = self.pool(skip)
        q, k, v = (part.flatten(2).transpose(1, 2) for part in (self.query(asking), self.key(found), self.value(found)))
        seen = F.scaled_dot_product_attention(q, k, v, scale=1.0)  # [B, N, C]; DANet does not scale either
        return skip + self.scale * seen.transpose(1, 2).reshape(skip.shape)


class AttendedEncoder(Encoder):
    """Encoder whose deepest map, taken as a series of tokens with learned positions, attends to itself."""

    def __init__(self, layers: Layers, in_channels: int, widths: Sequence[int], size: Sequence[int]) -> None:
        super().__init__(layers, in_channels, widths, ConvStack)
        deepest = [n // 2 ** (len(widths) - 1) for n in size]
        self.positions = nn.Parameter(torch.zeros(1, widths[-1], *deepest))
        self.attention = MapAttention(layers, widths[-1])
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor, levels: int | None = None) -> list[Tensor]:
        """Map [B, C, *S] to a map per level, finest first; only the finest `levels`, if given."""
        *maps, deepest = super().forward(x, levels)
        if levels is not None and levels < len(self.stages):
            return [*maps, deepest]
        deepest = deepest + self.positions
        return [*maps, self.attention(deepest, deepest, deepest)]


class ReachBlock(nn.Module):
    """Convolutions of several dilations and a 1 wide one side by side, fused by a 1 wide one; then two more."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> None:
        super().__init__()
        part = max(channels // (len(REACHES) + 1), 1)
        convs = [layers.conv(in_channels, part, stride=stride, padding=d, dilation=d, bias=False) for d in REACHES]
        convs.append(layers.conv(in_channels, part, 1, stride=stride, bias=False))
        self.parts = nn.ModuleList(nn.Sequential(conv, layers.norm(part), layers.act()) for conv in convs)
        self.fuse = ConvNormAct(layers, part * len(convs), channels, kernel=1)
        self.convs = ConvStack(layers, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(self.fuse(torch.cat([part(x) for part in self.parts], 1)))


@register(
    ModelInfo(
        title="MPU-Net",
        family="hybrid",
        year=2023,
        paper="2307.05799",
        dims=(2, 3),
        multiple=16,
        multiple_by={"widths": 1},
        fixed=True,
        deep_supervision=True,
        notes=(
            "A reconstruction from the abstract: there is no public code. Stated there are the U-Net, the position "
            "attention on a serialised map, and a multi-scale module and cross-attention at every decoder level. Ours "
            "are the widths, DANet's form of attention, learned positions (for the built patch size), dilations of "
            "1, 2 and 4, and keys averaged to the deepest resolution. Counts and results cannot be compared."
        ),
    )
)
def mpu_net(task: TaskShape, *, widths: Sequence[int] | None = None, deep_supervision: bool = False) -> nn.Module:
    """Build MPU-Net with `widths` per level, finest first. Raises ModelError if they are fewer than two."""
    widths = WIDTHS[task.dims] if widths is None else widths
    if len(widths) < 2:
        raise ModelError(f"widths {tuple(widths)}: attention needs a level below the first; give two or more")
    layers = Layers(task.dims, bias=False)
    encoder = AttendedEncoder(layers, task.in_channels, widths, task.patch_size)
    # keys of every level are as few as the deepest map has voxels
    gates = [MapAttention(layers, n, 2 ** (len(widths) - 1 - i)) for i, n in enumerate(widths[:-1])]
    decoder = Decoder(layers, widths, encoder.strides, ReachBlock, gates=gates)
    return UNet(encoder, decoder, Heads(layers, widths[:-1], task.num_classes, deep_supervision=deep_supervision))
