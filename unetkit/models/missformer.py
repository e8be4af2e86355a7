"""MISSFormer: a Mix Transformer U-Net whose skips look at each other in a bridge (arXiv:2109.07162)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.blocks.attention import TransformerBlock
from unetkit.blocks.checks import check_even, check_heads, check_levels
from unetkit.blocks.layers import Layers
from unetkit.blocks.mix_transformer import MLP_RATIO, JoinTo, MixMlp, MixUnet, ReducedAttention, attend, carry_unused
from unetkit.blocks.rearrange import maps_of, tokens_of
from unetkit.blocks.swin import stem_channels
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape


class BridgeAttention(nn.Module):
    """Every token of all scales looks at those of all scales made as coarse as the deepest; one head."""

    def __init__(self, layers: Layers, widths: Sequence[int], ratios: Sequence[int]) -> None:
        super().__init__()
        channels = widths[0]
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.reduce = nn.ModuleList(
            layers.conv(width, width, ratio, stride=ratio, padding=0) if ratio > 1 else nn.Identity()
            for width, ratio in zip(widths, ratios, strict=True)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, maps: Sequence[Tensor], channels: int) -> Tensor:
        """Map scales [B, *S, m C] to tokens [B, N, C] of all of them."""
        coarse = []
        for reduce, x in zip(self.reduce, maps, strict=True):
            if isinstance(reduce, nn.Identity):
                coarse.append(tokens_of([x], channels))
            else:
                # here the reference splits channels first: m neighbouring channels become m tokens far apart
                coarse.append(reduce(x.movedim(-1, 1)).reshape(len(x), channels, -1).transpose(1, 2))
        return attend(self, tokens_of(maps, channels), self.norm(torch.cat(coarse, 1)), 1)


class BridgeLayer(nn.Module):
    """Attention across scales, then an MLP per scale; scales are a list of maps [B, *S, m C], finest first."""

    def __init__(self, layers: Layers, widths: Sequence[int], ratios: Sequence[int]) -> None:
        super().__init__()
        self.channels = widths[0]
        self.norm1 = nn.LayerNorm(self.channels)
        self.attention = BridgeAttention(layers, widths, ratios)
        self.norm2 = nn.LayerNorm(self.channels)
        self.mlps = nn.ModuleList(MixMlp(layers, width, MLP_RATIO * width) for width in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map scales to scales of the same shapes."""
        tokens = tokens_of(maps, self.channels)
        tokens = tokens + self.attention(maps_of(self.norm1(tokens), maps), self.channels)
        normed = maps_of(self.norm2(tokens), maps)
        return [x + mlp(y) for x, mlp, y in zip(maps_of(tokens, maps), self.mlps, normed, strict=True)]


@register(
    ModelInfo(
        title="MISSFormer",
        family="transformer",
        year=2023,
        paper="2109.07162",
        dims=(2, 3),
        multiple=32,
        multiple_by={"widths": 4},
        source=("github:ZhifangDeng/MISSFormer", "007424e", "none stated"),
        params={2: 35452745},
        params_at={2: (3, 9, (224, 224))},
        gflops={2: 16.0},
        activation_mb={2: 401.3},
        notes="The reference's 42462537 parameters contain 7009792 that its forward pass skips (blocks of the deepest "
        "decoder level, two norms per MLP), and it computes the first layer of each MLP twice; as_published=true "
        "does both, with those parameters unused. One channel is repeated to three. The reference is 224 pixels "
        "square only; other sizes and 3D are our extension.",
    )
)
def missformer(
    task: TaskShape,
    *,
    widths: Sequence[int] = (64, 128, 320, 512),
    depths: Sequence[int] = (2, 2, 2, 2),
    heads: Sequence[int] = (1, 2, 5, 8),
    bridges: int = 4,
    as_published: bool = False,
) -> nn.Module:
    """Build MISSFormer with `widths`, encoder `depths` and `heads` per level and so many layers in the bridge.

    Raises ModelError if the options contradict each other.
    """
    check_levels(widths=widths, depths=depths, heads=heads)
    check_heads(widths, heads)
    check_even(widths)
    if any(width % widths[0] for width in widths):
        raise ModelError(f"widths {tuple(widths)} must be multiples of the first: the bridge reads all as tokens of it")
    if bridges < 0:
        raise ModelError(f"bridges={bridges}: give the layers of the bridge, 0 or more")
    layers, levels = Layers(task.dims), len(widths)
    # keys of every level are as coarse as the deepest map
    ratios = [2 ** (levels - 1 - i) for i in range(levels)]

    def block(level: int) -> nn.Module:
        width = widths[level]
        attention = ReducedAttention(layers, width, heads[level], ratios[level])
        return TransformerBlock(width, attention, MixMlp(layers, width, MLP_RATIO * width))

    joins = [JoinTo(below // 2, width) for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)]
    model = MixUnet(layers, (stem_channels(task), task.num_classes), widths, depths, block, joins)
    model.bridge = nn.Sequential(*(BridgeLayer(layers, widths, ratios) for _ in range(bridges)))
    if as_published:
        carry_unused(model, [JoinTo(widths[-1], widths[-1]), block(levels - 1), block(levels - 1)])
    return model
