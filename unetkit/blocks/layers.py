"""The small layers every network is made of, for 2D and 3D alike: the only place that asks how many dims there are."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = int | Sequence[int]
"""One number for all axes, or one per axis."""
Named = str | tuple[str, Mapping[str, Any]]
"""A layer by name, or by name and the arguments that differ from its defaults."""


class Conv2d(nn.Conv2d):
    """Convolution of maps [B, C, H, W] that lays a map out channel by channel where groups of channels are dilated.

    Of such maps laid out pixel by pixel (channels last) oneDNN leaves the weights' gradient in bf16 unset on a CPU, or
    writes where it may not: torch 2.15 with AVX-512 gives NaN there, or ends the process.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.is_cpu and self.groups > 1 and max(self.dilation) > 1:
            # Strides of a weight whose second axis is 1 can be read both ways, so it is laid out anew.
            input, weight = input.contiguous(), weight.clone(memory_format=torch.contiguous_format)
        return super()._conv_forward(input, weight, bias)


class Conv3d(nn.Conv3d):
    """Convolution of volumes [B, C, D, H, W] that pads a map by itself where no window lies wholly within its depth.

    Of such maps (a depth of 2 under a kernel of 3) oneDNN leaves parts of the weights' gradient in bf16 unset on a
    CPU: torch 2.15 with AVX-512 or AMX gives values of 1e30 there, or none at all.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        zeros = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if input.is_cpu and zeros and _overhangs(input.shape[2], self):
            # torch lists paddings from the last axis on, each side for itself
            input = F.pad(input, self._reversed_padding_repeated_twice)
            return F.conv3d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return super()._conv_forward(input, weight, bias)


def _overhangs(depth: int, conv: nn.Conv3d) -> bool:
    """Whether every window of a convolution reaches into the padding of a map so many voxels deep."""
    first = -int(conv.padding[0]) % conv.stride[0]  # where the first window begins that starts within the map
    return first + conv.dilation[0] * (conv.kernel_size[0] - 1) + 1 > depth


_CONV: dict[int, Callable[..., nn.Module]] = {2: Conv2d, 3: Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL: dict[str, dict[int, Callable[..., nn.Module]]] = {
    "max": {2: nn.MaxPool2d, 3: nn.MaxPool3d},
    "average": {2: nn.AvgPool2d, 3: nn.AvgPool3d},
}
_DROP_CHANNELS: dict[int, Callable[..., nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
_NORM: dict[str, dict[int, Callable[..., nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    # torch leaves scale and shift out here, unlike in its batch norm; nnU-Net has them
    "instance": {2: partial(nn.InstanceNorm2d, affine=True), 3: partial(nn.InstanceNorm3d, affine=True)},
}
_ACT: dict[str, Callable[..., nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, negative_slope=0.01, inplace=True),
    "prelu": nn.PReLU,
    "elu": partial(nn.ELU, inplace=True),
    "gelu": nn.GELU,
    "silu": partial(nn.SiLU, inplace=True),
    "none": nn.Identity,
}
_LINEAR = {2: "bilinear", 3: "trilinear"}


class Resize(nn.Module):
    """Enlarge a map [B, C, *S] by a factor per axis, without weights: "nearest", "linear" or "linear_aligned".

    "linear" places samples at voxel centres, "linear_aligned" puts corner samples on top of each other.
    """

    def __init__(self, dims: int, mode: str, stride: Size) -> None:
        super().__init__()
        self.factors = tuple(float(n) for n in per_axis(stride, dims))
        self.mode = "nearest" if mode == "nearest" else _LINEAR[dims]
        self.align_corners = None if mode == "nearest" else mode == "linear_aligned"

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.factors, mode=self.mode, align_corners=self.align_corners)


class CubicUp(nn.Module):
    """Enlarge a map [B, C, H, W] twice by cubic interpolation; it goes on periodically by `wrap` pixels."""

    def __init__(self, wrap: int) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(F.pad(x, [self.wrap] * 4, mode="circular"), scale_factor=2, mode="bicubic")
        cut = 2 * self.wrap
        return x[..., cut : x.shape[2] - cut, cut : x.shape[3] - cut]


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map [B, C, *S]."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to the same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


UPS = ("transposed", "nearest_conv", "nearest_project", "project_linear", "nearest", "linear", "linear_aligned")


class Layers:
    """Makes the layers of one network: chosen once, first argument of every block; never changed afterwards.

    `dims` is 2 or 3. `norm`: "batch", "instance", "group" (8 groups, or 1 where 8 does not divide) or "none".
    `act`: a name of torch in lower case, or "none". `dropout` is the probability that an element is dropped after
    an activation. `bias`: convolutions that a norm follows have one too. `up`: how decoders enlarge maps, one of
    UPS or a function (layers, in_channels, channels, stride) -> module. `padded`: convolutions keep the size;
    otherwise they lose the border. `border`: what they are padded with, "zeros" or "circular" for periodic fields.
    """

    def __init__(
        self,
        dims: int,
        norm: Named = "batch",
        act: Named = "relu",
        dropout: float = 0.0,
        *,
        bias: bool = True,
        up: str | Callable[..., nn.Module] = "transposed",
        padded: bool = True,
        border: str = "zeros",
    ) -> None:
        self.dims = dims
        self.bias = bias
        self.padded = padded
        self.border = border
        self._norm, self._act, self._dropout, self._up = norm, act, dropout, up

    def but(self, **changes: Any) -> "Layers":
        """Return a copy in which the given constructor arguments differ."""
        own = {"norm": self._norm, "act": self._act, "dropout": self._dropout, "up": self._up}
        fixed = {"bias": self.bias, "padded": self.padded, "border": self.border}
        return Layers(self.dims, **{**own, **fixed, **changes})

    def conv(self, in_channels: int, channels: int, kernel: Size = 3, *, stride: Size = 1, **options: Any) -> nn.Module:
        """Return a convolution; unless `padding` is given, it is padded to keep the size at stride 1."""
        # even kernels (patches) are given their own padding: no symmetric one keeps the size
        if "padding" not in options and self.padded:
            options["padding"] = tuple((k - 1) // 2 for k in per_axis(kernel, self.dims))
        options = {"padding_mode": self.border, **options}
        return _CONV[self.dims](
            in_channels, channels, per_axis(kernel, self.dims), stride=per_axis(stride, self.dims), **options
        )

    def transposed(
        self, in_channels: int, channels: int, kernel: Size = 2, *, stride: Size = 2, **options: Any
    ) -> nn.Module:
        """Return a transposed convolution."""
        return _TRANSPOSED[self.dims](
            in_channels, channels, per_axis(kernel, self.dims), stride=per_axis(stride, self.dims), **options
        )

    def norm(self, channels: int) -> nn.Module:
        """Return the norm layer for maps of `channels`, with scale and shift; Identity for "none"."""
        name, options = _named(self._norm)
        if name == "none":
            return nn.Identity()
        if name == "group":
            # narrow maps: one group over all channels, as pytorch-3dunet does
            groups = options.get("groups", 8)
            return nn.GroupNorm(groups if channels % groups == 0 else 1, channels)
        return _NORM[name][self.dims](channels, **options)

    def act(self) -> nn.Module:
        """Return the activation."""
        name, options = _named(self._act)
        return _ACT[name](**options)

    def drop(self) -> nn.Module:
        """Return the dropout layer; Identity if nothing is dropped."""
        return nn.Dropout(self._dropout) if self._dropout else nn.Identity()

    def drop_channels(self, rate: float) -> nn.Module:
        """Return dropout of whole channels; Identity if nothing is dropped."""
        return _DROP_CHANNELS[self.dims](rate) if rate else nn.Identity()

    def pool(self, stride: Size = 2, kind: str = "max", **options: Any) -> nn.Module:
        """Return pooling ("max" or "average") over windows as large as their stride, or of another `kernel_size`."""
        step = per_axis(stride, self.dims)
        return _POOL[kind][self.dims](**{"kernel_size": step, "stride": step, **options})

    def up(self, in_channels: int, channels: int, stride: Size = 2) -> nn.Module:
        """Return what enlarges a map by `stride`, to `up_channels(in_channels, channels)` channels.

        "transposed": a transposed convolution as large as its stride; "nearest_conv": copies, then a convolution,
        3 wide, with norm and activation; "nearest_project": copies, then a convolution, 1 wide; "project_linear": such
        a convolution, without bias, then "linear"; "nearest", "linear", "linear_aligned": no weights, so the channels
        stay.
        """
        per = per_axis(stride, self.dims)
        if callable(self._up):
            return self._up(self, in_channels, channels, per)
        if self._up == "transposed":
            return self.transposed(in_channels, channels, per, stride=per)
        if self._up == "nearest_conv":
            conv = self.conv(in_channels, channels, bias=self.bias)
            return nn.Sequential(Resize(self.dims, "nearest", per), conv, self.norm(channels), self.act())
        if self._up == "nearest_project":
            return nn.Sequential(Resize(self.dims, "nearest", per), self.conv(in_channels, channels, 1))
        if self._up == "project_linear":
            return nn.Sequential(self.conv(in_channels, channels, 1, bias=False), Resize(self.dims, "linear", per))
        return Resize(self.dims, self._up, per)

    def up_channels(self, in_channels: int, channels: int) -> int:
        """Return how many channels `up` gives: those wanted, or those it got if it has no weights."""
        return in_channels if self._up in ("nearest", "linear", "linear_aligned") else channels

    def linear(self, x: Tensor, size: Sequence[int], *, aligned: bool = False) -> Tensor:
        """Return a map [B, C, *S] resampled linearly to `size`, samples at voxel centres, or corners `aligned`."""
        return F.interpolate(x, size=tuple(size), mode=_LINEAR[self.dims], align_corners=aligned)


def per_axis(size: Size, dims: int) -> tuple[int, ...]:
    """Return `size` as one number per axis."""
    return (size,) * dims if isinstance(size, int) else tuple(size)


def _named(spec: Named) -> tuple[str, dict[str, Any]]:
    return (spec, {}) if isinstance(spec, str) else (spec[0], dict(spec[1]))
