"""Layers over sequences inside convolutional U-Nets: voxels or channels of a map as tokens (U-Mamba, arXiv:2401.04722).

A residual U-Net as U-Mamba, xLSTM-UNet and ViLU-Net share it; they differ in what follows which stage.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

from torch import Tensor, nn

from unetkit.blocks.conv import Block, ResidualBlockD, ResidualUnit
from unetkit.blocks.init import he_init
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.precision import no_autocast
from unetkit.blocks.stages import StageSizes
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet, check_inputs
from unetkit.errors import ShapeError
from unetkit.types import TaskShape

SLOPE = 0.01
BLOCKS = 2
"""Residual blocks of a level."""
TOP_SKIP = {2: False, 3: True}
"""Whether the decoder of U-Mamba sees the finest map of the encoder."""

After = Callable[[Layers, int, tuple[int, ...]], nn.Module]
"""(layers, channels, map size) -> what follows a stage; maps keep their shape there."""


class OverTokens(nn.Module):
    """Run a layer of sequences [B, N, C] over a map [B, C, *S], row by row from the first voxel.

    With `channel_tokens` the layer gets [B, C, prod(S)] instead: each channel is a token of as many values as the map
    has voxels. Autocast is off inside: the layer computes in the precision of its weights, as recurrences overflow
    in fp16.
    """

    def __init__(self, layer: nn.Module, *, channel_tokens: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.channel_tokens = channel_tokens

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to the same shape."""
        tokens = x.flatten(2) if self.channel_tokens else x.flatten(2).transpose(1, 2)
        with no_autocast(x):
            tokens = self.layer(tokens.to(next(self.layer.parameters()).dtype)).to(x.dtype)
        return (tokens if self.channel_tokens else tokens.transpose(1, 2)).reshape(x.shape)


def over_tokens(make: Callable[[int], nn.Module], *, swap: bool = False) -> After:
    """Return what puts `make(width)` over the tokens of a map; with `swap` channels are these where they are longer.

    The weights then depend on the size of the map.
    """

    def after(layers: Layers, channels: int, size: tuple[int, ...]) -> nn.Module:
        if swap and prod(size) <= channels:
            return OverTokens(make(prod(size)), channel_tokens=True)
        return OverTokens(make(channels))

    return after


def no_layer(layers: Layers, channels: int, size: tuple[int, ...]) -> nn.Module:
    """Return what changes nothing, for stages that nothing follows."""
    return nn.Identity()


def halved_counts(blocks: int, levels: int) -> tuple[list[int], list[int]]:
    """Return the blocks per level, finest first, of encoder and decoder when half of the levels have but one.

    These are the coarser ones of the encoder, and the finer ones of the decoder.
    """
    encoder = [blocks if i < -(-levels // 2) else 1 for i in range(levels)]
    # the reference counts from the deepest: its levels from ceil(levels / 2) on keep one block
    decoder = [1 if levels - 2 - i >= -(-levels // 2) else blocks for i in range(levels - 1)]
    return encoder, decoder


def token_unet(
    task: TaskShape,
    sizes: StageSizes,
    counts: tuple[Sequence[int], Sequence[int]],
    after: tuple[Sequence[After], Sequence[After]],
    *,
    top_skip: bool = True,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build the network: residual blocks per level as in `counts`, then what `after` gives, for encoder and decoder.

    All lists are finest first. Without `top_skip` the decoder does not see the finest map of the encoder.
    """
    layers = Layers(task.dims, norm="instance", act="leaky_relu", up="nearest_project")
    maps = map_sizes(task.patch_size, sizes.strides)
    levels = range(len(maps))
    down = [_stage(sizes.kernels[i], counts[0][i], after[0][i], maps[i], stem=i == 0) for i in levels]
    up = [_stage(sizes.kernels[i], counts[1][i], after[1][i], maps[i]) for i in levels[:-1]]
    encoder = Encoder(layers, task.in_channels, sizes.widths, down, strides=sizes.strides, pool=False)
    skips = sizes.widths if top_skip or len(maps) == 1 else (0, *sizes.widths[1:])
    decoder = Decoder(layers, skips, sizes.strides, up, widths=sizes.widths[:-1], join="up_first")
    # a patch too small to be halved leaves one level and no decoder; lower heads exist always, as in the reference
    channels = decoder.channels or sizes.widths
    heads = Heads(layers, channels, task.num_classes, deep_supervision=deep_supervision, always=True)
    model = UNet(encoder, decoder, heads, sizes.divisor)
    he_init(model, SLOPE, zero_bias=True)
    return model


def token_encoder_unet(task: TaskShape, sizes: StageSizes, after: Sequence[After], deep_supervision: bool) -> nn.Module:
    """Build the network with layers along its encoder alone, as `after` gives them, and half of the levels small.

    So are U-Mamba and xLSTM-UNet, whose decoder does not see the finest map in 2D.
    """
    levels = len(sizes.widths)
    counts, places = halved_counts(BLOCKS, levels), (after, [no_layer] * (levels - 1))
    return token_unet(task, sizes, counts, places, top_skip=TOP_SKIP[task.dims], deep_supervision=deep_supervision)


def _stage(kernel: Size, count: int, after: After, size: tuple[int, ...], *, stem: bool = False) -> Block:
    """Return the block of a level: residual blocks, the first of which projects, and what follows them."""
    unit = partial(ResidualUnit, kernel=kernel, project=True)

    def repeat(layers: Layers, in_channels: int, channels: int, stride: Size) -> list[nn.Module]:
        rest = [ResidualBlockD(layers, channels, channels, 1, kernel) for _ in range(count - 1)]
        return [unit(layers, in_channels, channels, stride), *rest]

    def block(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
        # the stem is a stage of its own before the first, with as many channels
        first = repeat(layers, in_channels, channels, 1) if stem else []
        before = channels if stem else in_channels
        return nn.Sequential(*first, *repeat(layers, before, channels, stride), after(layers, channels, size))

    return block


def map_sizes(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return the size of the map of each level."""
    size, found = tuple(patch_size), []
    for stride in strides:
        size = tuple(n // s for n, s in zip(size, stride, strict=True))
        found.append(size)
    return found


def tie_to_patch(model: nn.Module, patch_size: Sequence[int]) -> None:
    """Let a network take inputs of the patch size alone; raises ShapeError at any other."""

    def check(size: Sequence[int]) -> None:
        if tuple(size) != tuple(patch_size):
            raise ShapeError(
                f"input size {tuple(size)}: with as_published=true it was built for {tuple(patch_size)} only"
            )

    check_inputs(model, check)
