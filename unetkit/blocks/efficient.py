"""Efficient attention: tokens meet through a context as wide as the channels, linear in their number.

After arXiv:1812.01243. Maps are channels last, [B, *S, C].
"""

from torch import Tensor, nn

from unetkit.blocks.layers import Layers
from unetkit.blocks.mix_transformer import OnChannels


class EfficientContext(nn.Module):
    """What a map [B, *S, C] offers and asks: a context [B, C, C] and queries [B, N, C], of one head."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.keys = OnChannels(layers.conv(channels, channels, 1))
        self.queries = OnChannels(layers.conv(channels, channels, 1))
        self.values = OnChannels(layers.conv(channels, channels, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the context and the queries of [B, *S, C]."""
        # each key is spread over the tokens, each query over the channels
        context = self.keys(x).flatten(1, -2).softmax(1).transpose(1, 2) @ self.values(x).flatten(1, -2)
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
