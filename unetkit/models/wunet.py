"""WU-Net: down and up three times at two resolutions, with skips between all neighbours (arXiv:1708.06673)."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from unetkit.blocks.conv import ConvStack
from unetkit.blocks.init import glorot_init
from unetkit.blocks.layers import Layers
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

KERNEL = 5
WIDTHS = (4, 8)
TIMES = 3
BATCH_NORM_EPS = 1e-3  # TensorFlow's


class WPath(nn.Module):
    """Walk `times` times down and up again between two levels of `widths` channels; [B, C, *S] to the sum of both.

    A level's block sees what comes from the other level and, from its second visit on, its own last map.
    """

    def __init__(self, layers: Layers, in_channels: int, widths: Sequence[int], times: int) -> None:
        super().__init__()
        top, bottom = widths
        joined = top + bottom
        block = partial(ConvStack, layers, kernel=KERNEL)
        self.top = nn.ModuleList(block(joined if i else in_channels, top) for i in range(times))
        self.bottom = nn.ModuleList(block(joined if i else top, bottom) for i in range(times))
        self.pool = layers.pool()
        self.up = layers.up(bottom, bottom)

    def forward(self, x: Tensor) -> Tensor:
        low: list[Tensor] = []
        for top, bottom in zip(self.top, self.bottom, strict=True):
            high = top(x)
            low = [bottom(torch.cat([self.pool(high), *low], 1))]
            x = torch.cat([self.up(low[0]), high], 1)
        return x


def _parts(layers: Layers, channels: int, num_classes: int) -> nn.Module:
    return layers.conv(channels, num_classes)


def _features(layers: Layers, channels: int, num_classes: int) -> nn.Module:
    if channels != num_classes:
        raise ModelError(f"head=none gives {channels} features, not {num_classes}; ask for {channels} classes")
    return nn.Identity()


HEADS = {"parts": _parts, "none": _features}


@register(
    ModelInfo(
        title="WU-Net",
        family="cnn",
        year=2018,
        paper="1708.06673",
        dims=(2, 3),
        multiple=2,
        source=("github:sanjeevmk/Tags2Parts", "3b5d307", "none stated"),
        params={3: 71366},
        params_at={3: (1, 2, (64, 64, 64))},
        gflops={3: 13.45},
        activation_mb={3: 108.5},
        notes="one 3 wide convolution per part stands on the 12 features, as for the authors' supervised and tagged "
        "parts; their product of each part's probability with the occupied voxels, and its maximum, are not inside",
    )
)
def wunet(task: TaskShape, *, widths: Sequence[int] = WIDTHS, times: int = TIMES, head: str = "parts") -> nn.Module:
    """Build WU-Net of two `widths`, top and bottom, which goes down and up so many `times`.

    `head`: "parts" for logits, "none" for the sum of both widths as features. Raises ModelError for another head,
    for other than two widths, or features that do not fit the classes.
    """
    if len(widths) != len(WIDTHS) or times < 1:
        raise ModelError(f"widths={list(widths)}, times={times}: give two widths, top and bottom, and times from 1")
    layers = Layers(task.dims, norm=("batch", {"eps": BATCH_NORM_EPS}), up="nearest")
    build = choose(HEADS, head, "head")
    model = nn.Sequential(WPath(layers, task.in_channels, widths, times), build(layers, sum(widths), task.num_classes))
    glorot_init(model)
    return model
