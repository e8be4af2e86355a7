"""Widths, strides and kernels of every level, as a plan gives them or as they follow from the patch."""

from collections.abc import Callable, Sequence
from math import prod

from torch import nn

from unetkit.blocks.conv import Block
from unetkit.blocks.layers import Layers, Size, per_axis
from unetkit.blocks.unet import Decoder, Heads, UNet, check_divides
from unetkit.errors import ModelError
from unetkit.topology import pool_topology
from unetkit.types import TaskShape

BASE_WIDTH = 32
MOST_WIDTH = {2: 512, 3: 320}


class StageSizes:
    """Widths, strides and kernels of every level, given or derived from a patch of equal spacing.

    Raises ModelError if what is given is not of one length.
    """

    def __init__(
        self,
        task: TaskShape,
        widths: Sequence[int] | None,
        strides: Sequence[Size] | None,
        kernels: Sequence[Size] | None,
    ) -> None:
        # without a plan nothing is known of the spacing, so all axes are treated alike
        own_strides, own_kernels, _ = pool_topology(task.patch_size, (1.0,) * task.dims)
        chosen = strides or own_strides
        self.strides = tuple(per_axis(s, task.dims) for s in chosen)
        levels = len(self.strides)
        # kernels derived for other strides would not fit in number
        self.kernels = tuple(kernels or (own_kernels if strides is None else [3] * levels))
        most = MOST_WIDTH[task.dims]
        self.widths = tuple(widths or (min(BASE_WIDTH * 2**i, most) for i in range(levels)))
        if not levels == len(self.kernels) == len(self.widths):
            raise ModelError(
                f"{levels} strides, {len(self.kernels)} kernels and {len(self.widths)} widths for patch "
                f"{task.patch_size}; give one of each per level, or only strides"
            )
        self.divisor = tuple(prod(axis) for axis in zip(*self.strides, strict=True))
        check_divides(self.divisor, task.patch_size)

    def blocks(
        self, make: Callable[[int, Size], Block], counts: Sequence[int] | int | None, default: Sequence[int]
    ) -> list[Block]:
        """Return `make(count, kernel)` for each level; the last of a shorter list of counts is repeated."""
        known = [counts] if isinstance(counts, int) else list(counts or default)
        return [make(known[min(i, len(known) - 1)], kernel) for i, kernel in enumerate(self.kernels)]

    def network(
        self,
        layers: Layers,
        encoder: nn.Module,
        blocks: Block | Sequence[Block],
        num_classes: int,
        deep_supervision: bool,
    ) -> UNet:
        """Return a U-Net of these sizes: on top of an encoder a decoder with such `blocks` a level, and its heads."""
        decoder = Decoder(layers, self.widths, self.strides, blocks, join="up_first")
        # a patch too small to be halved leaves one level and no decoder; lower heads exist always, as in nnU-Net
        channels = decoder.channels or self.widths
        heads = Heads(layers, channels, num_classes, deep_supervision=deep_supervision, always=True)
        return UNet(encoder, decoder, heads, self.divisor)
