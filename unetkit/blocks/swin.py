"""Stages of shifted windows, and the U-shape that Swin-Unet and the networks built on it share (arXiv:2105.05537).

Modules are called as in Swin and in the Swin-Unet reference, so that weights of both load by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from unetkit.blocks.attention import Mlp, TransformerBlock, WindowAttention
from unetkit.blocks.checks import check_heads, check_levels, check_rate
from unetkit.blocks.init import linear_init
from unetkit.blocks.layers import Layers
from unetkit.blocks.patches import PatchEmbed, PatchExpand, PatchMerging
from unetkit.errors import ModelError
from unetkit.types import TaskShape

PATCH = 4
RGB = 3


@dataclass(frozen=True)
class Level:
    """What the blocks of one resolution need: channels, heads, window sides, hidden channels, drop path per block.

    `shift` is how far the windows of every second block are moved; by default half their side.
    """

    channels: int
    heads: int
    window: tuple[int, ...]
    hidden: int
    drop_path: tuple[float, ...]
    shift: int | None = None

    def blocks(self) -> nn.ModuleList:
        """Return fresh blocks; every second one has shifted windows."""
        return nn.ModuleList(
            TransformerBlock(
                self.channels,
                WindowAttention(self.channels, self.heads, self.window, shifted=i % 2 == 1, shift=self.shift),
                Mlp(self.channels, self.hidden),
                drop_path=rate,
            )
            for i, rate in enumerate(self.drop_path)
        )

    def blocks_up(self) -> nn.ModuleList:
        """Return fresh blocks for the decoder: as many and the same."""
        return self.blocks()


def swin_levels(
    task: TaskShape,
    *,
    embed_dim: int,
    depths: Sequence[int],
    heads: Sequence[int],
    window: int,
    mlp_ratio: float,
    drop_path: float,
) -> list[Level]:
    """Return a level for each of `depths`, finest first: `embed_dim` channels, doubled from one to the next.

    `drop_path` is the rate of the deepest block, rising linearly. Raises ModelError if the options contradict each
    other.
    """
    check_levels(depths=depths, heads=heads)
    check_heads([embed_dim * 2**i for i in range(len(heads))], heads)
    if window < 1:
        raise ModelError(f"window={window}: give the side of a window, 1 or more")
    check_rate(drop_path)
    rates = rising(drop_path, depths)
    levels = []
    for i, (count, own) in enumerate(zip(heads, rates, strict=True)):
        # a window larger than the map would be padding for the most part
        side = min(window, min(task.patch_size) // (PATCH * 2**i))
        channels = embed_dim * 2**i
        levels.append(Level(channels, count, (side,) * task.dims, int(channels * mlp_ratio), own))
    return levels


def rising(rate: float, depths: Sequence[int]) -> list[tuple[float, ...]]:
    """Return a drop path rate for each block of each level, from 0 in the first to `rate` in the last."""
    rates = [rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
    return [tuple(rates[sum(depths[:i]) : sum(depths[: i + 1])]) for i in range(len(depths))]


def stem_channels(task: TaskShape) -> int:
    """Return the channels of the first layer: those of the task, but three for a grey image.

    Published weights are for RGB, so a grey image is shown to them as one.
    """
    return RGB if task.in_channels == 1 else task.in_channels


class SwinStage(nn.Module):
    """Blocks on a map [B, *S, C], then a merging or an expanding step, if there is one."""

    def __init__(
        self, blocks: nn.ModuleList, downsample: nn.Module | None = None, upsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.blocks = blocks
        self.downsample = downsample
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape, or to that of the step at the end."""
        for block in self.blocks:
            x = block(x)
        return self.step(x)

    def step(self, x: Tensor) -> Tensor:
        """Apply what follows the blocks."""
        for part in (self.downsample, self.upsample):
            x = x if part is None else part(x)
        return x


class Join(nn.Linear):
    """Concatenate two maps [B, *S, C] and mix them to C channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels, channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Map a decoder map and its skip, both [B, *S, C], to one."""
        return super().forward(torch.cat([x, skip], -1))


class Stage(Protocol):
    """One resolution of a U-Net of tokens: its channels, and fresh blocks for the way down and the way up."""

    @property
    def channels(self) -> int:
        """Channels of the maps."""
        ...

    def blocks(self) -> nn.ModuleList:
        """Return fresh blocks of the encoder."""
        ...

    def blocks_up(self) -> nn.ModuleList:
        """Return fresh blocks of the decoder."""
        ...


@dataclass(frozen=True)
class Steps:
    """How maps [B, *S, C] change between stages.

    `down(channels)` halves the sides and doubles the channels, `up(channels, out_channels)` doubles the sides,
    `last(channels)` leads back to the sides of the image, `join(channels)` merges a map and its skip.
    """

    down: Callable[[int], nn.Module]
    up: Callable[[int, int], nn.Module]
    last: Callable[[int], nn.Module]
    join: Callable[[int], nn.Module] = Join


def swin_steps(dims: int, join: Callable[[int], nn.Module] = Join) -> Steps:
    """Return the steps of Swin-Unet: patches are merged and expanded by linear layers."""
    return Steps(
        down=lambda channels: PatchMerging(dims, channels),
        up=lambda channels, out: PatchExpand(dims, channels, out, 2),
        last=lambda channels: PatchExpand(dims, channels, channels, PATCH),
        join=join,
    )


class SwinUnet(nn.Module):
    """Stages of tokens down and up; skips are what enters a stage.

    An image of one channel is repeated where `stem_channels` is 3, as the reference does. The last convolution has
    `kernel` width.
    """

    def __init__(
        self,
        layers: Layers,
        stem_channels: int,
        num_classes: int,
        levels: Sequence[Stage],
        steps: Steps,
        kernel: int = 1,
    ) -> None:
        super().__init__()
        self.stem_channels = stem_channels
        widths = [level.channels for level in levels]
        self.patch_embed = PatchEmbed(layers, stem_channels, widths[0], PATCH)
        *above, lowest = levels
        down = [SwinStage(level.blocks(), downsample=steps.down(level.channels)) for level in above]
        self.layers = nn.ModuleList([*down, SwinStage(lowest.blocks())])
        self.norm = nn.LayerNorm(widths[-1])

        # the widest step stands alone at the bottom, as in the reference: a stage without blocks
        expand = [steps.up(width, width // 2) for width in widths[1:]]
        ups = [SwinStage(level.blocks_up(), upsample=step) for level, step in zip(above, [None, *expand], strict=False)]
        self.layers_up = nn.ModuleList([expand[-1], *reversed(ups)])
        # a place for the bottom too, so that the keys count as the reference's do
        self.concat_back_dim = nn.ModuleList([nn.Identity(), *(steps.join(n) for n in widths[-2::-1])])
        self.norm_up = nn.LayerNorm(widths[0])
        self.up = steps.last(widths[0])
        self.output = layers.conv(widths[0], num_classes, kernel, bias=False)
        linear_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, *S] to logits [B, K, *S]."""
        x = self.embed(x)
        skips = []
        for stage in self.layers:
            skips.append(x)
            x = stage(x)
        x = self.layers_up[0](self.norm(x))
        # the bottom stage's own input is no skip: the decoder starts from its output
        for stage, join, skip in zip(self.layers_up[1:], self.concat_back_dim[1:], skips[-2::-1], strict=True):
            x = stage(join(x, skip))
        return self.head(x)

    def embed(self, x: Tensor) -> Tensor:
        """Map images [B, C, *S] to patches [B, *S / 4, C]."""
        return self.patch_embed(x.expand(-1, self.stem_channels, *x.shape[2:]))

    def head(self, x: Tensor) -> Tensor:
        """Map the last decoder map [B, *S / 4, C] to logits [B, K, *S]."""
        return self.output(self.up(self.norm_up(x)).movedim(-1, 1))  # [B, *S, C] -> [B, C, *S]
