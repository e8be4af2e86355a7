"""xLSTM-UNet: Vision-LSTM blocks in a residual U-Net, at the bottom or along the encoder (arXiv:2407.01530)."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from unetkit.blocks.conv import ResidualBlockD
from unetkit.blocks.layers import Size
from unetkit.blocks.stages import StageSizes
from unetkit.blocks.tokens import After, no_layer, over_tokens, tie_to_patch, token_encoder_unet
from unetkit.blocks.xlstm import VisionLstmBlock
from unetkit.registry import ModelInfo, register, variant
from unetkit.types import TaskShape


class _Wrapped(nn.Module):
    """A Vision-LSTM block beside the layer norm that the reference registers and never uses."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.unused = nn.LayerNorm(channels)
        self.block = VisionLstmBlock(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


def _residual(kernel: Size) -> After:
    return lambda layers, channels, size: ResidualBlockD(layers, channels, channels, 1, kernel)


def _deepest(kernels: Sequence[Size], lstm: After) -> list[After]:
    return [*[no_layer] * (len(kernels) - 1), lstm]


def _images(kernels: Sequence[Size], lstm: After) -> list[After]:
    """Return what follows each level: a memory at every other one from the deepest, but not at the finest two."""
    found = [lstm if i > 1 and i % 2 != len(kernels) % 2 else no_layer for i in range(len(kernels))]
    return [_residual(kernels[i]) if i == 1 else after for i, after in enumerate(found)]


def _volumes(kernels: Sequence[Size], lstm: After) -> list[After]:
    return [lstm if i > 2 else _residual(kernel) for i, kernel in enumerate(kernels)]


Places = Callable[[Sequence[Size], After], list[After]]
"""(kernels, memory) -> what follows each level."""
ALONG: dict[int, Places] = {2: _images, 3: _volumes}


def _build(
    task: TaskShape, places: Places, as_published: bool, swap: bool, deep_supervision: bool, **lists: Any
) -> nn.Module:
    """Build the network with Vision-LSTM blocks in some `places`; `swap` ties it to the patch size."""
    sizes = StageSizes(task, **lists)
    lstm = over_tokens(_Wrapped if as_published else VisionLstmBlock, swap=swap)
    model = token_encoder_unet(task, sizes, places(sizes.kernels, lstm), deep_supervision)
    if swap:
        tie_to_patch(model, task.patch_size)
    return model


@register(
    ModelInfo(
        title="xLSTM-UNet Bot",
        family="xlstm",
        year=2024,
        paper="2407.01530",
        dims=(2, 3),
        min_size=2,
        multiple_by={"strides": "product"},
        deep_supervision=True,
        source=("github:tianrun-chen/xLSTM-UNet-PyTorch", "6176c06", "Apache-2.0, its Vision-LSTM AGPL-3.0"),
        params={2: 47454684, 3: 42096462},
        params_at={2: (1, 14, (320, 320)), 3: (1, 14, (128, 128, 128))},
        gflops={2: 82.04, 3: 1941.0},
        activation_mb={2: 522.5, 3: 7937.0},
        new="a Vision-LSTM block on the deepest map of a residual U-Net",
        notes="Sides must be multiples of the product of strides, which follow from the patch or the plan. In 2D the "
        "decoder does not see the finest map, as in the code. A layer norm of the reference is never used; "
        "as_published=true carries it (47455708 parameters at 1 x 256 x 256, 14 classes), unused. Without deep "
        "supervision the lower heads are built but unused.",
    )
)
def xlstm_unet_bot(
    task: TaskShape,
    *,
    widths: Sequence[int] | None = None,
    strides: Sequence[Size] | None = None,
    kernels: Sequence[Size] | None = None,
    as_published: bool = False,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build xLSTM-UNet with one Vision-LSTM block; `as_published` carries what the reference never uses.

    Raises ModelError if the lists differ in length, ShapeError if the strides do not divide the patch.
    """
    lists = {"widths": widths, "strides": strides, "kernels": kernels}
    return _build(task, _deepest, as_published, False, deep_supervision, **lists)


@variant(
    xlstm_unet_bot,
    title="xLSTM-UNet Enc",
    params={2: 49255660, 3: 44316766},
    gflops={2: 89.87, 3: 2353.0},
    activation_mb={2: 692.6, 3: 9517.0},
    new="Vision-LSTM blocks along the encoder of a residual U-Net: every other level of images, the deep ones of "
    "volumes",
    notes="Voxels are tokens at every level. In the reference channels are where a map has no more voxels than "
    "channels, so its weights fit one patch size: as_published=true does so, with its never used layer norms "
    "(47021771 parameters at 1 x 320 x 320, 14 classes), unused. Otherwise as xlstm_unet_bot; without deep "
    "supervision the lower heads are built but unused.",
)
def xlstm_unet_enc(task: TaskShape, *, as_published: bool = False, **options: Any) -> nn.Module:
    """Build xLSTM-UNet with Vision-LSTM blocks in the encoder; options and errors as those of `xlstm_unet_bot`."""
    return _build(task, ALONG[task.dims], as_published, as_published, **options)
