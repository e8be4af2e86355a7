"""MedNeXt's block and network, which its published sizes share (arXiv:2303.09975)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from unetkit.blocks.layers import Layers, Size, per_axis
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet
from unetkit.errors import ModelError
from unetkit.models._pretrained import load_matching, read_weights
from unetkit.models._upkern import upkern
from unetkit.types import TaskShape

WIDTHS = (32, 64, 128, 256, 512)
KERNELS = (3, 5)


@dataclass(frozen=True)
class Scale:
    """A published size: expansion ratio and blocks at each of nine steps, from the image down and up again.

    `save_memory`: the maps inside a block are computed again in the backward pass, as the authors train the larger two.
    """

    ratios: Sequence[int]
    counts: Sequence[int]
    save_memory: bool = False


class MedNeXtBlock(nn.Module):
    """Depthwise convolution, norm per channel, expansion by `ratio`, GELU, compression; the input is added.

    A stride shrinks the map, or enlarges it with `up`; the input then passes a convolution of that stride, 1 wide.
    """

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        channels: int,
        stride: Size = 1,
        *,
        kernel: int,
        ratio: int,
        up: bool = False,
        save_memory: bool = False,
    ) -> None:
        super().__init__()
        self.save_memory = save_memory
        self.up = up
        make = layers.transposed if up else layers.conv
        self.depthwise = make(in_channels, in_channels, kernel, stride=stride, padding=kernel // 2, groups=in_channels)
        self.norm = nn.GroupNorm(in_channels, in_channels)
        self.expand = layers.conv(in_channels, ratio * in_channels, 1)
        self.act = nn.GELU()
        self.compress = layers.conv(ratio * in_channels, channels, 1)
        changes = max(per_axis(stride, layers.dims)) > 1
        self.shortcut = make(in_channels, channels, 1, stride=stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.save_memory and torch.is_grad_enabled():
            out: Tensor = checkpoint(self._run, x, use_reentrant=False)
            return out
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        x = self.compress(self.act(self.expand(self.norm(self.depthwise(x))))) + self.shortcut(x)
        # 2 n - 1 voxels come out of a transposed convolution; a row of zeros before them makes it 2 n
        return pad(x, (1, 0) * (x.ndim - 2)) if self.up else x


class MedNeXt(UNet):
    """Stem, encoder, a decoder that adds its skips, and heads on every decoder map and on the deepest."""

    def __init__(self, stem: nn.Module, encoder: nn.Module, decoder: nn.Module, heads: Heads) -> None:
        super().__init__(encoder, decoder, heads)
        self.stem = stem

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        maps = self.encoder(self.stem(x))
        return self.heads([*self.decoder(maps), maps[-1]])

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of another MedNeXt, as `train.init` brings them, with kernels as wide as these."""
        return upkern(self, weights)


def _stage(
    layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, block: Callable[..., nn.Module], count: int
) -> nn.Module:
    """Return `count` blocks, after one that shrinks the map if there is a stride."""
    down = [block(layers, in_channels, channels, stride)] if max(per_axis(stride, layers.dims)) > 1 else []
    return nn.Sequential(*down, *(block(layers, channels, channels) for _ in range(count)))


def build_mednext(
    task: TaskShape, scale: Scale, kernel: int, weights: str | None, deep_supervision: bool, as_published: bool
) -> nn.Module:
    if kernel not in KERNELS:
        raise ModelError(f"kernel={kernel}: choose one of {', '.join(map(str, KERNELS))}")
    blocks = [partial(MedNeXtBlock, kernel=kernel, ratio=n, save_memory=scale.save_memory) for n in scale.ratios]
    stages = [partial(_stage, block=block, count=count) for block, count in zip(blocks, scale.counts, strict=True)]

    def enlarge(layers: Layers, in_channels: int, channels: int, stride: Size) -> nn.Module:
        # the ratio is that of the level it leads to
        return blocks[-1 - WIDTHS.index(channels)](layers, in_channels, channels, stride, up=True)

    layers = Layers(task.dims, up=enlarge)
    encoder = Encoder(layers, WIDTHS[0], WIDTHS, stages[: len(WIDTHS)], pool=False)
    decoder = Decoder(layers, WIDTHS, encoder.strides, stages[: len(WIDTHS) - 1 : -1], join="sum")
    heads = Heads(layers, WIDTHS, task.num_classes, deep_supervision=deep_supervision)
    # transposed in the reference: the same function, but the axes of its weights are the other way round
    heads.convs = nn.ModuleList(layers.transposed(c, task.num_classes, 1, stride=1) for c in WIDTHS[: len(heads.convs)])
    model = MedNeXt(layers.conv(task.in_channels, WIDTHS[0], 1), encoder, decoder, heads)
    if as_published:
        model.register_parameter("dummy_tensor", nn.Parameter(torch.ones(1)))
    if weights:
        load_matching(model, upkern(model, read_weights(weights)))
    return model
