"""Mix Transformer: overlapping patches, attention to a coarser map, convolutions in the MLP; and U-Nets of such stages.

After SegFormer (arXiv:2105.15203). Maps are channels last, [B, *S, C].
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.init import glorot_init
from unetkit.blocks.layers import Layers
from unetkit.blocks.patches import PatchExpand
from unetkit.blocks.unet import Chain

FIRST_STRIDE = 4
MLP_RATIO = 4


class OnChannels(nn.Module):
    """Apply a layer for maps [B, C, *S] to one of [B, *S, C]."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to what the layer makes of it, channels last again."""
        return self.layer(x.movedim(-1, 1)).movedim(1, -1)


class ReducedAttention(nn.Module):
    """Every token of a map looks at the same map made `ratio` times coarser by a convolution."""

    def __init__(self, layers: Layers, channels: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.reduce: nn.Module = nn.Identity()
        if ratio > 1:
            conv = layers.conv(channels, channels, ratio, stride=ratio, padding=0)
            self.reduce = nn.Sequential(OnChannels(conv), nn.LayerNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape."""
        return attend(self, x.flatten(1, -2), self.reduce(x).flatten(1, -2), self.heads).reshape(x.shape)


class Attending(Protocol):
    """A module with the linear layers of attention: queries, keys and values together, and the projection."""

    q: nn.Linear
    kv: nn.Linear
    proj: nn.Linear


def attend(part: Attending, x: Tensor, seen: Tensor, heads: int) -> Tensor:
    """Let tokens x [B, N, C] look at others [B, M, C], by the layers of `part`; return [B, N, C]."""
    q = part.q(x).unflatten(-1, (heads, -1)).transpose(1, 2)
    k, v = part.kv(seen).unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v)  # [B, heads, N, C / heads]
    return part.proj(mixed.transpose(1, 2).flatten(2))


class MixMlp(nn.Module):
    """MLP with a depthwise convolution beside a shortcut, and a norm, between its layers.

    The `hidden` channels are by default MLP_RATIO times those of the map. With `twice` set the shortcut computes the
    first layer once more, as references do: more work, the same values.
    """

    twice = False

    def __init__(self, layers: Layers, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or MLP_RATIO * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.mix = OnChannels(layers.conv(hidden, hidden, groups=hidden))
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape."""
        hidden = self.fc1(x)
        shortcut = self.fc1(x) if self.twice else hidden
        return self.fc2(F.gelu(self.norm(self.mix(hidden) + shortcut)))


class MixResidual(nn.Module):
    """A MixMlp behind a norm of its own, added to a map [B, *S, C]."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mlp = MixMlp(layers, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape."""
        return x + self.mlp(self.norm(x))


class MixStage(nn.Sequential):
    """Overlapping patches of a map, blocks on them, a norm."""

    def __init__(
        self, layers: Layers, in_channels: int, channels: int, stride: int, blocks: Sequence[nn.Module]
    ) -> None:
        # patches reach one voxel less than a stride beyond their own on either side
        embed = OnChannels(layers.conv(in_channels, channels, 2 * stride - 1, stride=stride))
        super().__init__(embed, nn.LayerNorm(channels), *blocks, nn.LayerNorm(channels))


class JoinTo(nn.Linear):
    """Set a skip beside the decoder's map, [B, *S, .], and bring both to the skip's channels."""

    def __init__(self, channels: int, skip_channels: int) -> None:
        super().__init__(channels + skip_channels, skip_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Map a decoder map and a skip to one with the skip's channels."""
        return super().forward(torch.cat([x, skip], -1))


class LinearJoin(nn.Module):
    """Bring the decoder's map to the skip's channels and join both by linear layers and a norm."""

    def __init__(self, channels: int, skip_channels: int) -> None:
        super().__init__()
        self.fit = nn.Linear(channels, skip_channels)
        self.mix = nn.Linear(2 * skip_channels, skip_channels)
        self.norm = nn.LayerNorm(skip_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map a decoder map and a skip, [B, *S, .], to one with the skip's channels."""
        return self.norm(self.mix(torch.cat([self.fit(x), skip], -1)))


class MixUnet(nn.Module):
    """Mix Transformer stages down, blocks and expanding steps up; skips are the outputs of the stages.

    `block(level)` returns a fresh block for the map of that level, finest first; `depths` count those of the encoder,
    the decoder has two on each level but the deepest. `joins`, deepest first, merge the decoder's map with a
    skip to the skip's width. `bridge`, if given, turns the list of skips into another of the same shapes. An image of
    one channel is repeated where `stem_channels` is 3.
    """

    def __init__(
        self,
        layers: Layers,
        channels: tuple[int, int],
        widths: Sequence[int],
        depths: Sequence[int],
        block: Callable[[int], nn.Module],
        joins: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.stem_channels, num_classes = channels
        before = (self.stem_channels, *widths)
        self.stages = Chain(
            MixStage(layers, before[i], width, 2 if i else FIRST_STRIDE, [block(i) for _ in range(depth)])
            for i, (width, depth) in enumerate(zip(widths, depths, strict=True))
        )
        self.bridge: nn.Module | None = None
        self.expand = PatchExpand(layers.dims, widths[-1], widths[-1] // 2, 2)
        self.joins = nn.ModuleList(joins)
        steps = [PatchExpand(layers.dims, widths[0], widths[0], FIRST_STRIDE)]
        steps += [PatchExpand(layers.dims, width, width // 2, 2) for width in widths[1:-1]]
        levels = reversed(range(len(widths) - 1))
        self.ups = nn.ModuleList(nn.Sequential(*(block(i) for _ in range(2)), steps[i]) for i in levels)
        self.head = layers.conv(widths[0], num_classes, 1)
        for part in (self.expand, self.joins, self.ups, self.head):
            glorot_init(part)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, *S] to logits [B, K, *S]."""
        x = x.expand(-1, self.stem_channels, *x.shape[2:]).movedim(1, -1)
        maps = self.stages(x)
        if self.bridge is not None:
            maps = self.bridge(maps)
        x = self.expand(maps[-1])
        for join, up, skip in zip(self.joins, self.ups, maps[-2::-1], strict=True):
            x = up(join(x, skip))
        return self.head(x.movedim(-1, 1))


def spend_as_published(model: nn.Module) -> nn.ModuleList:
    """Let each MixMlp compute its first layer twice, and return two norms for each, all as in this family's references.

    The references carry these norms and never use them.
    """
    mlps = [m for m in model.modules() if isinstance(m, MixMlp)]
    for mlp in mlps:
        mlp.twice = True
    return nn.ModuleList(nn.LayerNorm(m.norm.normalized_shape) for m in mlps for _ in range(2))


def carry_unused(model: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Let a network work as its reference does, and carry what that never uses: `parts`, and two norms per MixMlp."""
    unused = nn.ModuleList(parts)
    glorot_init(unused)
    unused.extend([spend_as_published(model), spend_as_published(unused)])
    model.unused = unused
