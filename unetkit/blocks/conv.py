"""Convolution blocks. A block is built as block(layers, in_channels, channels, stride) and maps [B, C, *S]."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from unetkit.blocks.layers import Layers, Size, per_axis


class Block(Protocol):
    """What builds one stage: any of the classes below, or functools.partial of one."""

    def __call__(self, layers: Layers, in_channels: int, channels: int, stride: Size = 1, /) -> nn.Module:
        """Return a module from [B, in_channels, *S] to [B, channels, *S / stride]."""
        ...


class ConvNormAct(nn.Sequential):
    """Convolution, norm, activation, dropout."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, stride: Size = 1, kernel: Size = 3) -> None:
        conv = layers.conv(in_channels, channels, kernel, stride=stride, bias=layers.bias)
        super().__init__(conv, layers.norm(channels), layers.act(), layers.drop())


class ConvActNorm(nn.Sequential):
    """Convolution, activation, norm; `options` are the convolution's."""

    def __init__(
        self, layers: Layers, in_channels: int, channels: int, stride: Size = 1, kernel: Size = 3, **options: Any
    ) -> None:
        conv = layers.conv(in_channels, channels, kernel, stride=stride, **options)
        super().__init__(conv, layers.act(), layers.norm(channels))


class ConvStack(nn.Sequential):
    """`count` times ConvNormAct; the first has the stride, and `hidden` channels if given."""

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        channels: int,
        stride: Size = 1,
        kernel: Size = 3,
        *,
        count: int = 2,
        hidden: int | None = None,
    ) -> None:
        # only the second block sees the hidden channels; later ones keep what they get
        first = channels if hidden is None else hidden
        rest = [ConvNormAct(layers, first if i == 1 else channels, channels, 1, kernel) for i in range(1, count)]
        super().__init__(ConvNormAct(layers, in_channels, first, stride, kernel), *rest)


def separable(
    layers: Layers, in_channels: int, channels: int, *between: nn.Module, kernel: Size = 3, bias: bool = True
) -> nn.Sequential:
    """Return a depthwise convolution, what comes `between`, and a 1 wide convolution to `channels`."""
    depthwise = layers.conv(in_channels, in_channels, kernel, groups=in_channels, bias=bias)
    return nn.Sequential(depthwise, *between, layers.conv(in_channels, channels, 1, bias=bias))


class ResidualUnit(nn.Module):
    """Two convolutions with norm beside a shortcut that `project` makes a convolution, 1 wide, without norm."""

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        channels: int,
        stride: Size = 1,
        kernel: Size = 3,
        *,
        project: bool = False,
    ) -> None:
        super().__init__()
        self.first = ConvNormAct(layers, in_channels, channels, stride, kernel)
        # the activation comes after the sum, as in ResNet
        self.second = ConvNormAct(layers.but(act="none"), channels, channels, 1, kernel)
        self.shortcut: nn.Module = layers.conv(in_channels, channels, 1, stride=stride) if project else nn.Identity()
        self.act = layers.act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.second(self.first(x)) + self.shortcut(x))


class ResidualBlockD(ResidualUnit):
    """Two convolutions beside a shortcut that averages before it projects (ResNet-D, arXiv:1812.01187).

    The shortcut pools where the block has a stride and projects, 1 wide with norm, where the channels change.
    """

    def __init__(self, layers: Layers, in_channels: int, channels: int, stride: Size = 1, kernel: Size = 3) -> None:
        super().__init__(layers, in_channels, channels, stride, kernel)
        shortcut: list[nn.Module] = []
        if max(per_axis(stride, layers.dims)) > 1:
            # a strided 1 wide convolution would skip most voxels; the average sees them all
            shortcut.append(layers.pool(stride, "average"))
        if in_channels != channels:
            shortcut.append(ConvNormAct(layers.but(act="none", bias=False), in_channels, channels, 1, 1))
        self.shortcut = nn.Sequential(*shortcut)


class PreActivationUnit(nn.Module):
    """Norm, activation and convolution, twice, beside a projecting shortcut with norm.

    `first`: the unit that sees the image; it starts with the convolution. `shortcut` is the width of the
    projection's kernel, `shortcut_norm` whether a norm follows.
    """

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        channels: int,
        stride: Size = 1,
        *,
        first: bool = False,
        shortcut: int = 1,
        shortcut_norm: bool = True,
    ) -> None:
        super().__init__()
        # norm and activation of the raw image would throw half of it away
        before = [] if first else [layers.norm(in_channels), layers.act()]
        self.main = nn.Sequential(
            *before,
            layers.conv(in_channels, channels, stride=stride),
            layers.norm(channels),
            layers.act(),
            layers.conv(channels, channels),
        )
        norm = layers.norm(channels) if shortcut_norm else nn.Identity()
        self.shortcut = nn.Sequential(layers.conv(in_channels, channels, shortcut, stride=stride), norm)

    def forward(self, x: Tensor) -> Tensor:
        # the shortcut first: the activation of the main path works in place where no norm comes before it
        return self.shortcut(x) + self.main(x)


class Repeat(nn.Sequential):
    """The same block `count` times; the first changes channels and resolution."""

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        channels: int,
        stride: Size = 1,
        *,
        block: Callable[..., nn.Module],
        count: int,
    ) -> None:
        rest = [block(layers, channels, channels, 1) for _ in range(count - 1)]
        super().__init__(block(layers, in_channels, channels, stride), *rest)


class Stemmed(nn.Sequential):
    """A block behind one convolution to its channels that keeps the size, as for the first level."""

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        channels: int,
        stride: Size = 1,
        *,
        block: Block,
        kernel: Size = 3,
    ) -> None:
        stem = ConvNormAct(layers, in_channels, channels, 1, kernel)
        super().__init__(stem, block(layers, channels, channels, stride))
