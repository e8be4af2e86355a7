"""xLSTM-UNet: Vision-LSTM blocks in a residual U-Net, at the bottom or along the encoder (arXiv:2407.01530)."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from unetkit.blocks.conv import ResidualBlockD
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.stages import StageSizes
from unetkit.blocks.tokens import TOP_SKIP, After, halved_counts, no_layer, over_tokens, tie_to_patch, token_unet
from unetkit.blocks.xlstm import VisionLstmBlock
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

BLOCKS = 2


class _Wrapped(nn.Module):
    """A Vision-LSTM block beside the layer norm that the reference registers and never uses."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.unused = nn.LayerNorm(channels)
        self.block = VisionLstmBlock(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


def _lstm(
    layers: Layers, channels: int, size: tuple[int, ...], *, wrapped: bool = False, swap: bool = False
) -> nn.Module:
    return over_tokens(_Wrapped if wrapped else VisionLstmBlock, channels, size, swap=swap)


def _residual(kernel: Size) -> After:
    return lambda layers, channels, size: ResidualBlockD(layers, channels, channels, 1, kernel)


def _images(kernels: Sequence[Size], lstm: After) -> list[After]:
    """Return what follows each level: a memory at every other one from the deepest, but not at the finest two."""
    found = [lstm if i > 1 and i % 2 != len(kernels) % 2 else no_layer for i in range(len(kernels))]
    return [_residual(kernels[i]) if i == 1 else after for i, after in enumerate(found)]


def _volumes(kernels: Sequence[Size], lstm: After) -> list[After]:
    return [lstm if i > 2 else _residual(kernel) for i, kernel in enumerate(kernels)]


ALONG = {2: _images, 3: _volumes}


def _build(task: TaskShape, sizes: StageSizes, after: Sequence[After], deep_supervision: bool) -> nn.Module:
    levels = len(sizes.widths)
    return token_unet(
        task,
        sizes,
        halved_counts(BLOCKS, levels),
        (after, [no_layer] * (levels - 1)),
        top_skip=TOP_SKIP[task.dims],
        deep_supervision=deep_supervision,
    )


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
    sizes = StageSizes(task, widths, strides, kernels)
    lstm = partial(_lstm, wrapped=as_published)
    return _build(task, sizes, [*[no_layer] * (len(sizes.widths) - 1), lstm], deep_supervision)


@register(
    ModelInfo(
        title="xLSTM-UNet Enc",
        family="xlstm",
        year=2024,
        paper="2407.01530",
        dims=(2, 3),
        min_size=2,
        multiple_by={"strides": "product"},
        deep_supervision=True,
        source=("github:tianrun-chen/xLSTM-UNet-PyTorch", "6176c06", "Apache-2.0, its Vision-LSTM AGPL-3.0"),
        params_at={2: (1, 14, (320, 320)), 3: (1, 14, (128, 128, 128))},
        gflops={2: 89.87, 3: 2353.0},
        activation_mb={2: 692.6, 3: 9517.0},
        new="Vision-LSTM blocks along the encoder of a residual U-Net: every other level of images, the deep ones of "
        "volumes",
        notes="Voxels are tokens at every level. In the reference channels are where a map has no more voxels than "
        "channels, so its weights fit one patch size: as_published=true does so, with its never used layer norms "
        "(47021771 parameters at 1 x 320 x 320, 14 classes), unused. Otherwise as xlstm_unet_bot; without deep "
        "supervision the lower heads are built but unused.",
    )
)
def xlstm_unet_enc(
    task: TaskShape,
    *,
    widths: Sequence[int] | None = None,
    strides: Sequence[Size] | None = None,
    kernels: Sequence[Size] | None = None,
    as_published: bool = False,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build xLSTM-UNet with Vision-LSTM blocks in the encoder; raises as `xlstm_unet_bot`."""
    sizes = StageSizes(task, widths, strides, kernels)
    lstm = partial(_lstm, wrapped=as_published, swap=as_published)
    model = _build(task, sizes, ALONG[task.dims](sizes.kernels, lstm), deep_supervision)
    if as_published:
        tie_to_patch(model, task.patch_size)
    return model
