"""The shape all U-Nets share: an encoder that gives a map per level, a decoder that climbs back, heads on top.

Maps and channels are listed finest first throughout. A level may be without an encoder map: its channels are then 0
and its map None or not looked at, and the decoder only enlarges there.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.conv import Block
from unetkit.blocks.layers import Layers, Size, per_axis
from unetkit.errors import ShapeError


class Chain(nn.ModuleList):
    """Stages in a row, of which every map is wanted."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return what each stage makes of the map before it, in order."""
        maps = []
        for stage in self:
            x = stage(x)
            maps.append(x)
        return maps


class Encoder(nn.Module):
    """One block per level; `channels` and `strides` (of each level against the one above) describe its maps.

    `block` is one for all levels or a sequence. With `pool` the way down is max pooling before the block,
    otherwise the block gets the stride.
    """

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        widths: Sequence[int],
        block: Block | Sequence[Block],
        *,
        strides: Sequence[Size] | None = None,
        pool: bool = True,
    ) -> None:
        super().__init__()
        self.channels = tuple(widths)
        steps = strides or [1] + [2] * (len(widths) - 1)
        self.strides = tuple(per_axis(s, layers.dims) for s in steps)
        blocks = block if isinstance(block, Sequence) else [block] * len(widths)
        self.stages = Chain()
        for make, before, width, stride in zip(blocks, (in_channels, *widths), widths, self.strides, strict=False):
            if pool and max(stride) > 1:
                stage = nn.Sequential(layers.pool(stride), make(layers, before, width, 1))
            else:
                stage = nn.Sequential(make(layers, before, width, stride))
            self.stages.append(stage)

    def forward(self, x: Tensor, levels: int | None = None) -> list[Tensor]:
        # all, or the finest so many
        maps: list[Tensor] = self.stages[:levels](x)
        return maps


class Decoder(nn.Module):
    """From the deepest map up: enlarge, join the encoder's map of that level, apply a block.

    `channels` and `strides` are those of the encoder. `widths` are the channels after each level's block, finest
    first; by default the encoder's. `enlarged` are the channels to enlarge to; by default the skips'. `gates`, one
    per level or None, are called gate(skip, enlarged, below) and return the skip to use. `join`: "skip_first" or
    "up_first" for the order of the concatenation, or "sum". Its `channels` are those of the maps it returns, one
    per level but the deepest.
    """

    def __init__(
        self,
        layers: Layers,
        channels: Sequence[int],
        strides: Sequence[Size],
        block: Block | Sequence[Block],
        *,
        widths: Sequence[int] | None = None,
        enlarged: Sequence[int] | None = None,
        gates: Sequence[nn.Module | None] = (),
        join: str = "skip_first",
    ) -> None:
        super().__init__()
        levels = len(channels) - 1
        self.channels = tuple(widths or channels[:-1])
        self.skips = tuple(channels[:-1])
        self.join = join
        blocks = block if isinstance(block, Sequence) else [block] * levels
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            below = channels[-1] if level == levels - 1 else self.channels[level + 1]
            skip, width = channels[level], self.channels[level]
            # a level without a skip (0 channels) enlarges to what its block returns
            wanted = enlarged[level] if enlarged else skip or width
            self.ups.append(layers.up(below, wanted, strides[level + 1]))
            joined = layers.up_channels(below, wanted) + (0 if join == "sum" else skip)
            self.blocks.append(blocks[level](layers, joined, width, 1))
        # by name, as a list of modules has no place for None
        self.gates = nn.ModuleDict({str(i): g for i, g in enumerate(gates) if g is not None})

    def forward(self, maps: Sequence[Tensor | None]) -> list[Tensor]:
        below = maps[-1]
        assert below is not None, "the deepest level always has a map"
        found: list[Tensor] = []
        for level in reversed(range(len(self.blocks))):
            skip, x = maps[level] if self.skips[level] else None, self.ups[level](below)
            if skip is not None:
                x, skip = match(x, skip)
                if str(level) in self.gates:
                    skip = self.gates[str(level)](skip, x, below)
                x = self._joined(x, skip)
            below = self.blocks[level](x)
            found.insert(0, below)
        return found or [below]  # an encoder of one level leaves nothing to climb

    def _joined(self, enlarged: Tensor, skip: Tensor) -> Tensor:
        if self.join == "sum":
            return enlarged + skip
        return torch.cat([enlarged, skip] if self.join == "up_first" else [skip, enlarged], 1)


def match(enlarged: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps at one size: an enlarged map that is smaller by one voxel is padded, else the larger is cropped.

    Maps differ by one where an odd size was halved, and by more where unpadded convolutions lost the border.
    """
    more = [s - e for s, e in zip(skip.shape[2:], enlarged.shape[2:], strict=True)]
    if not any(more):
        return enlarged, skip
    if max(more) > 1:
        return enlarged, crop(skip, enlarged.shape[2:])
    enlarged = crop(enlarged, [min(e, s) for e, s in zip(enlarged.shape[2:], skip.shape[2:], strict=True)])
    # F.pad counts from the last axis
    padding = [n for m in reversed(more) for n in (max(m, 0) // 2, max(m, 0) - max(m, 0) // 2)]
    return F.pad(enlarged, padding), skip


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return the centre of a map [B, C, *S]."""
    for axis, (have, want) in enumerate(zip(x.shape[2:], size, strict=True), start=2):
        x = x.narrow(axis, (have - want) // 2, want)
    return x


class Heads(nn.Module):
    """Turn decoder maps, best first, into logits: a tensor, or with deep supervision a tuple in the same order.

    Convolutions of `kernel` width. Without deep supervision only the first is built, unless `always` or `mean` (the
    average of all heads, whose maps must then be of one size). State dicts of both kinds load into each other:
    heads that are not built are skipped, heads that are not stored keep their values.
    """

    def __init__(
        self,
        layers: Layers,
        channels: Sequence[int],
        num_classes: int,
        *,
        deep_supervision: bool = False,
        always: bool = False,
        mean: bool = False,
        **conv: Any,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.mean = mean
        built = channels if deep_supervision or always or mean else channels[:1]
        options = {"kernel": 1, **conv}
        self.convs = nn.ModuleList(layers.conv(c, num_classes, **options) for c in built)
        self.register_load_state_dict_pre_hook(_fit_heads)

    def forward(self, maps: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        if not (self.deep_supervision or self.mean):
            return self.convs[0](maps[0])
        logits = tuple(conv(x) for conv, x in zip(self.convs, maps, strict=True))
        return logits if self.deep_supervision else torch.stack(logits).mean(0)


def _fit_heads(heads: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    # state holds the whole network's tensors and may be changed; convs.0 has to match in any case
    own = {prefix + key: value for key, value in heads.state_dict().items()}
    auxiliary = [
        k for k in {*own, *(k for k in state if k.startswith(prefix))} if not k.startswith(f"{prefix}convs.0.")
    ]
    for key in auxiliary:
        if key not in own:
            del state[key]
        else:
            state.setdefault(key, own[key])


class Finest(nn.Sequential):
    """Apply layers to the best of the decoder's maps: a head that is more than one convolution."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return super().forward(maps[0])


class UNet(nn.Module):
    """Encoder, decoder and heads in a row, on an input [B, C, *S].

    `divisor`, if given, must divide the input's sides. Raises ShapeError, naming the next legal size, if it does not.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, heads: nn.Module, divisor: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.heads = heads
        self.divisor = divisor
        if divisor is not None:
            check_inputs(self, partial(check_divides, divisor))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.heads(self.decoder(self.encoder(x)))


def check_inputs(network: nn.Module, check: Callable[[Sequence[int]], None]) -> None:
    """Show `check` the spatial size of every input before the network sees it.

    For what options of a network demand beyond its ModelInfo: an input may be of another size than the patch.
    """
    network.register_forward_pre_hook(partial(_check_size, check))


def _check_size(check: Callable[[Sequence[int]], None], _: nn.Module, args: tuple[Tensor, ...]) -> None:
    check(args[0].shape[2:])


def check_divides(divisor: Sequence[int], size: Sequence[int]) -> None:
    """Raise ShapeError if a side of `size` is no multiple of its number in `divisor`."""
    legal = tuple(-(-n // d) * d for n, d in zip(size, divisor, strict=True))
    if tuple(size) != legal:
        raise ShapeError(
            f"size {tuple(size)}: sides must be multiples of {tuple(divisor)} here; the next legal size is {legal}"
        )
