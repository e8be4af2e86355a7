"""Residual U-Nets: pre-activation units (Deep ResUNet, arXiv:1711.10684) and two 3D relatives (arXiv:1706.00120)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.conv import PreActivationUnit
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

WIDTHS = (64, 128, 256, 512)


class GroupedUnit(nn.Module):
    """Project to the wanted channels, then norm and convolution twice around that, activation at the end."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> None:
        super().__init__()
        same = in_channels == channels
        self.project = nn.Identity() if same else layers.conv(in_channels, channels, 1, stride=stride)
        self.main = nn.Sequential(
            layers.norm(channels),
            layers.conv(channels, channels, bias=False),
            layers.act(),
            layers.norm(channels),
            layers.conv(channels, channels, bias=False),
        )
        self.act = layers.act()

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        return self.act(x + self.main(x))


class SkewUp(nn.Module):
    """Transposed convolution, 3 wide without bias, to 2 n - 1 voxels, then nearest neighbour to 2 n."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, stride: Size) -> None:
        super().__init__()
        self.conv = layers.transposed(in_channels, channels, 3, stride=stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # (n - 1) 2 - 2 + 3 = 2 n - 1 voxels come out of the convolution
        return F.interpolate(self.conv(x), size=[2 * n for n in x.shape[2:]])


def _pre_activated(
    task: TaskShape, widths: Sequence[int], deep_supervision: bool, *, up: str = "nearest", shortcut: int = 1
) -> nn.Module:
    """Build the paper's network: strides in the units, plain enlargement, units again."""
    layers = Layers(task.dims, up=up)
    unit = partial(PreActivationUnit, shortcut=shortcut)
    # the public code has no norm beside its first unit
    first = partial(unit, first=True, shortcut_norm=shortcut == 1)
    encoder = Encoder(layers, task.in_channels, widths, [first, *[unit] * (len(widths) - 1)], pool=False)
    # enlarging keeps the channels; the unit behind it narrows them
    decoder = Decoder(layers, widths, encoder.strides, unit, enlarged=widths[1:], join="up_first")
    return UNet(encoder, decoder, Heads(layers, widths[:-1], task.num_classes, deep_supervision=deep_supervision))


def _summed(task: TaskShape, widths: Sequence[int], deep_supervision: bool) -> nn.Module:
    """Build pytorch-3dunet's ResidualUNet: group norm before each convolution, skips added."""
    layers = Layers(task.dims, norm="group", up=SkewUp)
    encoder = Encoder(layers, task.in_channels, widths, GroupedUnit)
    decoder = Decoder(layers, widths, encoder.strides, GroupedUnit, join="sum")
    return UNet(encoder, decoder, Heads(layers, widths[:-1], task.num_classes, deep_supervision=deep_supervision))


def _monai(task: TaskShape, widths: Sequence[int], deep_supervision: bool) -> nn.Module:
    """Build MONAI's UNet with two residual units per level."""
    from monai.networks.nets import UNet as MonaiUNet  # slow to import, and only needed here

    if deep_supervision:
        raise ModelError("variant=monai has one output and no deep supervision; drop one of them")
    return MonaiUNet(task.dims, task.in_channels, task.num_classes, widths, (2,) * (len(widths) - 1), num_res_units=2)


VARIANTS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "paper": (_pre_activated, WIDTHS),
    "reference": (partial(_pre_activated, up="transposed", shortcut=3), WIDTHS),
    "wolny": (_summed, (64, 128, 256, 512, 1024)),
    "monai": (_monai, (16, 32, 64, 128, 256)),
}


@register(
    ModelInfo(
        title="Residual U-Net",
        family="cnn",
        year=2018,
        paper="1711.10684",
        dims=(2, 3),
        multiple=8,
        multiple_by={"widths": 1, "variant": {"wolny": 16, "monai": 16}},
        deep_supervision=True,
        source=("github:rishikksh20/ResUnet", "9998512", "none stated"),
        params={2: 8223809},
        params_at={2: (3, 1, (224, 224))},
        gflops={2: 69.25},
        activation_mb={2: 333.0},
        new="residual units with normalisation before the convolution in place of the two convolutions of each level",
        notes="as in the paper, with 1 wide projections and norm on the shortcuts (the 7.8 M it prints leave the "
        "shortcuts out); variants reference (public 2D code), wolny (pytorch-3dunet), monai",
    )
)
def resunet(
    task: TaskShape, *, variant: str = "paper", widths: Sequence[int] | None = None, deep_supervision: bool = False
) -> nn.Module:
    """Build a residual U-Net of `widths` channels per level, finest first.

    Raises ModelError for an unknown variant.
    """
    build, own = choose(VARIANTS, variant, "variant")
    return build(task, tuple(widths or own), deep_supervision)
