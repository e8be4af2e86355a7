"""Inter-Scale Context Fusion: the contexts of all scales, weighed and merged, answer each scale (arXiv:2310.13727)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.blocks.attention import TransformerBlock
from unetkit.blocks.checks import check_even, check_levels
from unetkit.blocks.efficient import EfficientContext, EfficientCross, EfficientMixing
from unetkit.blocks.init import glorot_init
from unetkit.blocks.layers import Layers
from unetkit.blocks.mix_transformer import LinearJoin, MixMlp, MixResidual, MixUnet, OnChannels, spend_as_published
from unetkit.blocks.swin import stem_channels
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape


class WastefulContext(EfficientContext):
    """A context as the reference computes it: what the map answers itself is projected, then dropped."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__(layers, channels)
        self.unused = OnChannels(layers.conv(channels, channels, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the context and the queries of [B, *S, C]."""
        context, queries = super().forward(x)
        self.unused((queries @ context).reshape(x.shape))
        return context, queries


class ContextFusion(nn.Module):
    """Merge the contexts of all scales to one, and add what it answers to each scale's queries.

    Contexts are square matrices of the deepest width, whatever the size of the maps, so they stack like channels;
    `context` makes that of one map.
    """

    def __init__(self, layers: Layers, widths: Sequence[int], context: type[EfficientContext]) -> None:
        super().__init__()
        wide, count = widths[-1], len(widths)
        self.widen = nn.ModuleList(OnChannels(layers.conv(w, wide, 1)) for w in widths[:-1])
        self.narrow = nn.ModuleList(OnChannels(layers.conv(wide, w, 1)) for w in widths[:-1])
        self.contexts = nn.ModuleList(context(layers, wide) for _ in widths)
        self.weigh = nn.Sequential(nn.Linear(count, count), nn.ReLU(), nn.Linear(count, count), nn.Sigmoid())
        # matrices have two axes in volumes too
        self.merge = nn.Conv2d(count, 1, 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map [B, *S, C] of each scale, finest first, to the same shapes."""
        wide = [*(widen(x) for widen, x in zip(self.widen, maps, strict=False)), maps[-1]]
        found = [context(x) for context, x in zip(self.contexts, wide, strict=True)]
        stacked = torch.stack([context for context, _ in found], 1)  # [B, scales, C, C]
        weights = self.weigh(stacked.mean((2, 3)))
        merged = self.merge(stacked * weights[:, :, None, None])[:, 0]
        answers = [(queries @ merged).reshape(x.shape) for (_, queries), x in zip(found, wide, strict=True)]
        narrow = [*(part(x) for part, x in zip(self.narrow, answers, strict=False)), answers[-1]]
        return [x + more for x, more in zip(maps, narrow, strict=True)]


@register(
    ModelInfo(
        title="Inter-Scale Context Fusion",
        family="transformer",
        year=2023,
        paper="2310.13727",
        dims=(2, 3),
        multiple=16,
        multiple_by={"widths": 4},
        source=("github:saniaesk/skin-lesion-segmentation", "2618f7d", "none stated"),
        params={2: 21485021},
        params_at={2: (3, 1, (224, 224))},
        gflops={2: 32.69},
        activation_mb={2: 383.0},
        notes=(
            "The reference registers 23431389 parameters: 1946368 more, without use (projections and norms of the "
            "fusion, two norms per MLP, most of its deepest and last decoder levels). It takes 42.87 billion "
            "operations, as it computes the first layer of each MLP twice, and of each scale of the fusion an answer "
            "of its own that is dropped. as_published=true does all of this; outputs are the same. Its head count "
            "changes nothing there: attention has one head. One channel is repeated to three. The reference is "
            "224 pixels square only; other sizes and 3D are our extension."
        ),
    )
)
def iscf(
    task: TaskShape,
    *,
    widths: Sequence[int] = (128, 320, 512),
    depths: Sequence[int] = (2, 2, 2),
    as_published: bool = False,
) -> nn.Module:
    """Build the network with `widths` and encoder `depths` per scale. Raises ModelError if these disagree."""
    check_levels(widths=widths, depths=depths)
    check_even(widths)
    layers = Layers(task.dims)

    def block(level: int) -> nn.Module:
        width = widths[level]
        mlp = MixMlp(layers, width)
        return nn.Sequential(TransformerBlock(width, EfficientMixing(layers, width), mlp), MixResidual(layers, width))

    joins = [LinearJoin(below // 2, width) for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)]
    model = MixUnet(layers, (stem_channels(task), task.num_classes), widths, depths, block, joins)
    model.bridge = ContextFusion(layers, widths, WastefulContext if as_published else EfficientContext)
    # the decoder has no blocks, only the step that ends each level
    model.ups = nn.ModuleList([*up.children()][-1] for up in model.ups)
    if as_published:
        wide = widths[-1]
        unused = nn.ModuleList([LinearJoin(wide, wide), EfficientCross(layers, widths[0])])
        glorot_init(unused)
        norms = nn.ModuleList(nn.LayerNorm(wide) for _ in widths)
        unused.extend([norms, spend_as_published(model), spend_as_published(unused)])
        model.unused = unused
    return model
