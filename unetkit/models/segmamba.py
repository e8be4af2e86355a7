"""SegMamba: Mamba that reads volumes forward, backward and across slices, under a UNETR decoder (arXiv:2401.13560)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from unetkit.blocks.checks import check_levels
from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.layers import Layers
from unetkit.blocks.mamba import TriMamba
from unetkit.blocks.unet import Heads, UNet
from unetkit.blocks.unetr import UnetrDecoder
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

SLICES = 64
"""Slices of the first map of the published patch of 128 voxels; half as many in each next."""
STEM = 7
MLP_RATIO = 2


class SpatialConv(nn.Module):
    """Two convolutions, 3 wide, beside one that is 1 wide, mixed by another; a shortcut around them all (GSC)."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(*[ConvNormAct(layers, channels, channels) for _ in range(2)])
        self.narrow = ConvNormAct(layers, channels, channels, kernel=1)
        self.mix = ConvNormAct(layers, channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.wide(x) + self.narrow(x))


class TriOriented(nn.Module):
    """Norm and the Mamba of three walks over the voxels of a map [B, C, *S], beside a shortcut (ToM)."""

    def __init__(self, channels: int, slices: int | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = TriMamba(channels, slices=slices)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        return x + self.mamba(tokens, x.shape[2:]).transpose(1, 2).reshape(x.shape)


class SegMambaEncoder(nn.Module):
    """The image and stages from half its resolution on; what they give away passes a norm and an MLP.

    With `as_published` maps are cut into as many slices as those of the published patch, else as they have.
    """

    def __init__(
        self, layers: Layers, in_channels: int, widths: Sequence[int], depths: Sequence[int], as_published: bool
    ) -> None:
        super().__init__()
        stem = layers.conv(in_channels, widths[0], STEM, stride=2)
        steps = [nn.Sequential(layers.norm(a), layers.conv(a, b, 2, stride=2)) for a, b in pairwise(widths)]
        self.steps = nn.ModuleList([stem, *steps])
        slices = [SLICES // 2**i if as_published else None for i in range(len(widths))]
        self.stages = nn.ModuleList(
            nn.Sequential(SpatialConv(layers, width), *[TriOriented(width, cut) for _ in range(depth)])
            for width, depth, cut in zip(widths, depths, slices, strict=True)
        )
        self.outs = nn.ModuleList(
            nn.Sequential(layers.norm(n), layers.conv(n, MLP_RATIO * n, 1), nn.GELU(), layers.conv(MLP_RATIO * n, n, 1))
            for n in widths
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [x]
        for step, stage, out in zip(self.steps, self.stages, self.outs, strict=True):
            x = stage(step(x))
            maps.append(out(x))
        return maps


@register(
    ModelInfo(
        title="SegMamba",
        family="ssm",
        year=2024,
        paper="2401.13560",
        dims=(2, 3),
        multiple=16,
        min_size=32,  # at 16 the deepest map is one voxel, which instance norm refuses
        multiple_by={"widths": 2},
        source=("github:ge-xing/SegMamba", "cff3597", "none stated"),
        params={3: 67416196},
        params_at={3: (4, 4, (128, 128, 128))},
        gflops={3: 2967.0},
        activation_mb={3: 13740.0},
        notes="The third walk goes from slice to slice of the map at hand, whatever its size; the code always cuts it "
        "into 64, 32, 16 and 8 parts, which are slices for a side of 128 alone: as_published=true. 2D, where rows are "
        "the slices, is our extension.",
    )
)
def segmamba(
    task: TaskShape,
    *,
    widths: Sequence[int] = (48, 96, 192, 384),
    depths: Sequence[int] = (2, 2, 2, 2),
    hidden: int = 768,
    as_published: bool = False,
) -> nn.Module:
    """Build SegMamba with `depths` layers per level of `widths`, from half the resolution on, `hidden` below them.

    Raises ModelError if the lists differ in length.
    """
    check_levels(widths=widths, depths=depths)
    layers = Layers(task.dims, norm=("instance", {"affine": False}))
    encoder = SegMambaEncoder(layers, task.in_channels, widths, depths, as_published)
    # the map of the image has as many channels as the first of the encoder, each other as many as the next
    decoder = UnetrDecoder(task.dims, (task.in_channels, *widths), (*widths, hidden))
    return UNet(encoder, decoder, Heads(layers, decoder.channels, task.num_classes))
