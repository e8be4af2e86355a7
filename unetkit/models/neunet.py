"""neU-Net: nnU-Net's plain network with sub-pixel enlargement and Haar bands of the image (arXiv:2309.11139)."""

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct, ConvStack
from unetkit.blocks.init import he_init
from unetkit.blocks.layers import Layers, Size, per_axis
from unetkit.blocks.rearrange import haar, sub_pixels
from unetkit.blocks.stages import StageSizes
from unetkit.blocks.unet import Encoder
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

SLOPE = 0.01


class SubPixelUp(nn.Module):
    """Compute all voxels of the finer map as channels of the coarse one, then put them in their places."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, stride: Size) -> None:
        super().__init__()
        self.stride = per_axis(stride, layers.dims)
        self.first = layers.conv(in_channels, 2 * in_channels, 5)
        self.second = layers.conv(2 * in_channels, channels * prod(self.stride), 3)

    def forward(self, x: Tensor) -> Tensor:
        return sub_pixels(self.second(self.first(x).tanh()).tanh(), self.stride)


class WaveletEncoder(nn.Module):
    """nnU-Net's plain encoder; all stages but the first and the last also see Haar bands of the image.

    Bands of a level are transforms of the averages of the level above.
    """

    def __init__(self, layers: Layers, in_channels: int, sizes: StageSizes) -> None:
        super().__init__()
        self.strides = sizes.strides
        inner = range(1, len(sizes.widths) - 1)
        before = (in_channels, *sizes.widths)
        self.bands = nn.ModuleList(
            ConvNormAct(layers, in_channels * prod(sizes.strides[i - 1]), sizes.widths[i - 1]) for i in inner
        )
        self.stages = nn.ModuleList(
            ConvStack(layers, before[i] * (2 if i in inner else 1), width, stride, kernel)
            for i, (width, stride, kernel) in enumerate(zip(sizes.widths, sizes.strides, sizes.kernels, strict=True))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        channels, average = x.shape[1], x
        maps = [self.stages[0](x)]
        for bands, stage, stride in zip(self.bands, self.stages[1:], self.strides, strict=False):
            found = haar(average, stride)
            average = found[:, :channels]
            maps.append(stage(torch.cat([maps[-1], bands(found)], 1)))
        return [*maps, *(stage(maps[-1]) for stage in self.stages[len(maps) :])]


@register(
    ModelInfo(
        title="neU-Net",
        family="cnn",
        year=2023,
        paper="2309.11139",
        dims=(2, 3),
        min_size=2,
        multiple_by={"strides": "product"},
        deep_supervision=True,
        source=("github:aitechlabcn/neUNet", "0d15637", "MIT"),
        params={3: 203766570},
        params_at={3: (1, 2, (128, 128, 128))},
        gflops={3: 2827.0},
        activation_mb={3: 5559.0},
        notes="sides and strides as plain_unet; the bands are computed in the network, of any number of channels, where"
        " the reference has the loader do it and fixes three channels in 2D; wavelets=false leaves only the sub-pixel"
        " decoder; without deep supervision the lower heads are built but unused",
    )
)
def neunet(
    task: TaskShape,
    *,
    widths: Sequence[int] | None = None,
    strides: Sequence[Size] | None = None,
    kernels: Sequence[Size] | None = None,
    wavelets: bool = True,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build neU-Net; sizes per level as those of `plain_unet`, and so are the errors.

    Raises ModelError for strides other than 1 and 2, which a Haar transform does not have.
    """
    sizes = StageSizes(task, widths, strides, kernels)
    if any(step not in (1, 2) for stride in sizes.strides for step in stride):
        raise ModelError(f"neunet: strides {sizes.strides}: a Haar transform halves or keeps an axis; give 1 or 2")
    layers = Layers(task.dims, norm="instance", act="leaky_relu", up=SubPixelUp)
    blocks = [partial(ConvStack, kernel=kernel) for kernel in sizes.kernels]
    encoder: nn.Module
    if wavelets:
        encoder = WaveletEncoder(layers, task.in_channels, sizes)
    else:
        encoder = Encoder(layers, task.in_channels, sizes.widths, blocks, strides=sizes.strides, pool=False)
    model = sizes.network(layers, encoder, blocks[:-1], task.num_classes, deep_supervision)
    he_init(model, SLOPE, zero_bias=True, zero_last=True)
    return model
