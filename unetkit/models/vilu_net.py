"""ViLU-Net: two Vision-LSTM blocks after every stage of a residual U-Net, on both of its sides (arXiv:2502.00314)."""

from typing import Any

from torch import nn

from unetkit.blocks.layers import Layers
from unetkit.blocks.stages import StageSizes
from unetkit.blocks.tokens import over_tokens, tie_to_patch, token_unet
from unetkit.blocks.xlstm import VisionLstmBlock
from unetkit.models.xlstm_unet import xlstm_unet_bot
from unetkit.registry import variant
from unetkit.types import TaskShape

BLOCKS = 2
LSTMS = 2


@variant(
    xlstm_unet_bot,
    title="ViLU-Net",
    year=2025,
    paper="2502.00314",
    source=("github:moeinheidari7829/Retroperitoneal_Tumour_Segmentation_SPIE2025", "d69048d", "MIT"),
    params={2: 78535524, 3: 34563672},
    params_at={2: (1, 14, (320, 320)), 3: (1, 2, (64, 64, 64))},
    gflops={2: 149.5, 3: 351.4},
    activation_mb={2: 4231.0, 3: 7481.0},
    notes="Voxels are tokens at every level. In the reference channels are where a map has no more voxels than "
    "channels, so its weights fit one patch size: as_published=true does so (66625486 parameters at 1 x 320 x 320, "
    "14 classes). Sides must be multiples of the product of strides, which follow from the patch or the plan. "
    "Without deep supervision the lower heads are built but unused.",
)
def vilu_net(task: TaskShape, *, as_published: bool = False, deep_supervision: bool = False, **lists: Any) -> nn.Module:
    """Build ViLU-Net; `as_published` ties it to the patch size, the rest is as in `xlstm_unet_bot`."""
    sizes = StageSizes(task, **lists)
    levels = len(sizes.widths)
    lstm = over_tokens(VisionLstmBlock, swap=as_published)

    def after(layers: Layers, channels: int, size: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(*(lstm(layers, channels, size) for _ in range(LSTMS)))

    counts, places = ([BLOCKS] * levels, [BLOCKS] * (levels - 1)), ([after] * levels, [after] * (levels - 1))
    model = token_unet(task, sizes, counts, places, deep_supervision=deep_supervision)
    if as_published:
        tie_to_patch(model, task.patch_size)
    return model
