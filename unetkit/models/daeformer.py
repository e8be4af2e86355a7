"""DAE-Former: efficient attention over space, then over channels, and skips by cross attention (arXiv:2212.13504)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.attention import TransformerBlock
from unetkit.blocks.checks import check_even, check_heads, check_levels
from unetkit.blocks.efficient import EfficientCross, EfficientMixing
from unetkit.blocks.layers import Layers
from unetkit.blocks.mix_transformer import MLP_RATIO, MixMlp, MixUnet, carry_unused
from unetkit.blocks.swin import stem_channels
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape


class ChannelAttention(nn.Module):
    """Let the channels of a map [B, *S, C] look at each other within heads, at a learned temperature."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape."""
        # each [B, heads, C / heads, N]
        q, k, v = self.qkv(x.flatten(1, -2)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 4, 1)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)  # over tokens
        mixed = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1) @ v
        return self.proj(mixed.permute(0, 3, 1, 2).flatten(2)).reshape(x.shape)


class CrossJoin(nn.Module):
    """Bring the decoder's map to the skip's channels and join both by efficient attention."""

    def __init__(self, layers: Layers, channels: int, skip_channels: int) -> None:
        super().__init__()
        self.fit = nn.Linear(channels, skip_channels)
        self.cross = EfficientCross(layers, skip_channels)
        self.narrow = nn.Linear(2 * skip_channels, skip_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map a decoder map and a skip, [B, *S, .], to one with the skip's channels."""
        return self.narrow(self.cross(self.fit(x), skip))


@register(
    ModelInfo(
        title="DAE-Former",
        family="transformer",
        year=2023,
        paper="2212.13504",
        dims=(2, 3),
        multiple=16,
        multiple_by={"widths": 4},
        source=("github:mindflow-institue/DAEFormer", "9460d3a", "MIT"),
        params={2: 29690201},
        params_at={2: (3, 9, (224, 224))},
        gflops={2: 43.11},
        activation_mb={2: 713.8},
        notes=(
            "The reference's 48073065 parameters contain 18382864 that its forward pass skips (all of the deepest "
            "decoder level, two norms per MLP), and it computes the first layer of each MLP twice; as_published=true "
            "does both, with those parameters unused. Queries and keys of the cross attention both come from the "
            "skip. One channel is repeated to three. The reference is 224 pixels square only; other sizes and 3D are "
            "our extension."
        ),
    )
)
def daeformer(
    task: TaskShape,
    *,
    widths: Sequence[int] = (128, 320, 512),
    depths: Sequence[int] = (2, 2, 2),
    channel_heads: int = 8,
    as_published: bool = False,
) -> nn.Module:
    """Build DAE-Former with `widths` and encoder `depths` per level; channels attend within `channel_heads` heads.

    Raises ModelError if the options contradict each other.
    """
    check_levels(widths=widths, depths=depths)
    check_heads(widths, [channel_heads] * len(widths))
    check_even(widths)
    layers = Layers(task.dims)

    def block(level: int) -> nn.Module:
        width = widths[level]
        parts = (EfficientMixing(layers, width), ChannelAttention(width, channel_heads))
        return nn.Sequential(
            *(TransformerBlock(width, part, MixMlp(layers, width, MLP_RATIO * width)) for part in parts)
        )

    joins = [CrossJoin(layers, below // 2, width) for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)]
    model = MixUnet(layers, (stem_channels(task), task.num_classes), widths, depths, block, joins)
    if as_published:
        deepest = len(widths) - 1
        carry_unused(model, [CrossJoin(layers, widths[-1], widths[-1]), block(deepest), block(deepest)])
    return model
