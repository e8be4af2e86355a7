"""Efficient attention: tokens meet through a context as wide as the channels, linear in their number.

After arXiv:1812.01243. Maps are channels last, [B, *S, C].
"""

import torch
from torch import Tensor, nn

from unetkit.blocks.layers import Layers
from unetkit.blocks.mix_transformer import MLP_RATIO, MixMlp, OnChannels


def context_of(keys: Tensor, values: Tensor) -> Tensor:
    """Return the context [B, C, C] of tokens [B, N, C]: their values, each key spread over the tokens."""
    return keys.softmax(1).transpose(1, 2) @ values


class EfficientContext(nn.Module):
    """What a map [B, *S, C] offers and asks: a context [B, C, C] and queries [B, N, C], of one head."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.keys = OnChannels(layers.conv(channels, channels, 1))
        self.queries = OnChannels(layers.conv(channels, channels, 1))
        self.values = OnChannels(layers.conv(channels, channels, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the context and the queries of [B, *S, C]."""
        context = context_of(self.keys(x).flatten(1, -2), self.values(x).flatten(1, -2))
        # each query is spread over the channels
        return context, self.queries(x).flatten(1, -2).softmax(-1)


class EfficientMixing(nn.Module):
    """Efficient attention within one map, projected at its end."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.context = EfficientContext(layers, channels)
        self.out = OnChannels(layers.conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape."""
        context, queries = self.context(x)
        return self.out((queries @ context).reshape(x.shape))


class EfficientCross(nn.Module):
    """Two maps side by side, with what efficient attention finds between them added, then an MLP.

    Queries and keys are those of the skip, values of the decoder: so it is in the reference of DAE-Former.
    """

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.out = OnChannels(layers.conv(channels, 2 * channels, 1))
        self.norm = nn.LayerNorm(2 * channels)
        self.norm2 = nn.LayerNorm(2 * channels)
        self.mlp = MixMlp(layers, 2 * channels, MLP_RATIO * channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map a decoder map and a skip, both [B, *S, C], to [B, *S, 2 C]."""
        seen, values = self.norm1(skip).flatten(1, -2), self.norm1(x).flatten(1, -2)
        attended = self.out((seen.softmax(-1) @ context_of(seen, values)).reshape(x.shape))
        x = torch.cat([x, skip], -1) + self.norm(attended)
        return x + self.mlp(self.norm2(x))
