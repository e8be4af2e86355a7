"""External attention: positions meet in a small learned memory that all images share (arXiv:2105.02358)."""

from torch import Tensor, nn

from unetkit.blocks.layers import Layers

EPS = 1e-9


class ExternalAttention(nn.Module):
    """Residual attention of all positions of a map [B, C, *S] to a memory of `slots` places per channel."""

    def __init__(self, layers: Layers, channels: int, slots: int = 4) -> None:
        super().__init__()
        self.query = layers.conv(channels, channels, 1)
        self.keys = nn.Conv1d(channels, slots * channels, 1, bias=False)
        self.values = nn.Conv1d(slots * channels, channels, 1, bias=False)
        self.out = nn.Sequential(layers.conv(channels, channels, 1, bias=False), layers.norm(channels))
        self.act = layers.act()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to the same shape."""
        scores = self.keys(self.query(x).flatten(2)).softmax(-1)  # [B, slots, N], over positions
        scores = scores / (EPS + scores.sum(1, keepdim=True))
        return self.act(x + self.out(self.values(scores).view(x.shape)))
