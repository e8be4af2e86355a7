"""ViLU-Net: two Vision-LSTM blocks after every stage of a residual U-Net, on both of its sides (arXiv:2502.00314)."""

from collections.abc import Sequence

from torch import nn

from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.stages import StageSizes
from unetkit.blocks.tokens import over_tokens, tie_to_patch, token_unet
from unetkit.blocks.xlstm import VisionLstmBlock
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

BLOCKS = 2
LSTMS = 2


@register(
    ModelInfo(
        title="ViLU-Net",
        family="xlstm",
        year=2025,
        paper="2502.00314",
        dims=(2, 3),
        min_size=2,
        multiple_by={"strides": "product"},
        deep_supervision=True,
        source=("github:moeinheidari7829/Retroperitoneal_Tumour_Segmentation_SPIE2025", "d69048d", "MIT"),
        params_at={2: (1, 14, (320, 320)), 3: (1, 2, (64, 64, 64))},
        gflops={2: 149.5, 3: 351.4},
        activation_mb={2: 4231.0, 3: 7481.0},
        notes="Voxels are tokens at every level. In the reference channels are where a map has no more voxels than "
        "channels, so its weights fit one patch size: as_published=true does so (66625486 parameters at 1 x 320 x 320, "
        "14 classes). Sides must be multiples of the product of strides, which follow from the patch or the plan. "
        "Without deep supervision the lower heads are built but unused.",
    )
)
def vilu_net(
    task: TaskShape,
    *,
    widths: Sequence[int] | None = None,
    strides: Sequence[Size] | None = None,
    kernels: Sequence[Size] | None = None,
    as_published: bool = False,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build ViLU-Net; `as_published` ties it to the patch size.

    Raises ModelError if the lists differ in length, ShapeError if the strides do not divide the patch.
    """
    sizes = StageSizes(task, widths, strides, kernels)
    levels = len(sizes.widths)

    def after(layers: Layers, channels: int, size: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(*(over_tokens(VisionLstmBlock, channels, size, swap=as_published) for _ in range(LSTMS)))

    counts, places = ([BLOCKS] * levels, [BLOCKS] * (levels - 1)), ([after] * levels, [after] * (levels - 1))
    model = token_unet(task, sizes, counts, places, deep_supervision=deep_supervision)
    if as_published:
        tie_to_patch(model, task.patch_size)
    return model
