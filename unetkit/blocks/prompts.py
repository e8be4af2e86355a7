"""Prompts and what answers them, as in Segment Anything (arXiv:2304.02643): tokens that a map and they attend to."""

from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.layers import ChannelNorm, Layers


class PromptEncoder(nn.Module):
    """Tokens of points and boxes, and a map of a first mask, for images of `size` pixels whose maps have `grid`.

    Places are told by sines and cosines of `channels` / 2 random frequencies, which are part of the state.
    """

    frequencies: Tensor

    kinds: Any  # torch types the members of a list as plain modules

    def __init__(self, channels: int, size: tuple[int, ...], grid: tuple[int, ...], hidden: int = 16) -> None:
        super().__init__()
        self.size, self.grid = size, grid
        self.register_buffer("frequencies", torch.randn(2, channels // 2))
        # background and foreground points, first and last corner of a box
        self.kinds = nn.ModuleList(nn.Embedding(1, channels) for _ in range(4))
        self.filler = nn.Embedding(1, channels)
        flat = Layers(2)
        self.mask = nn.Sequential(
            flat.conv(1, hidden // 4, 2, stride=2, padding=0),
            ChannelNorm(hidden // 4, eps=1e-6),
            nn.GELU(),
            flat.conv(hidden // 4, hidden, 2, stride=2, padding=0),
            ChannelNorm(hidden, eps=1e-6),
            nn.GELU(),
            flat.conv(hidden, channels, 1),
        )
        self.no_mask = nn.Embedding(1, channels)

    def forward(self, boxes: Tensor | None, points: Tensor | None, labels: Tensor | None) -> Tensor:
        """Return tokens [B, N, C] of prompts for B images; boxes or points must be there.

        `boxes` [B, 4] hold x and y of the first and of the last corner in pixels, `points` [B, P, 2] x and y, `labels`
        [B, P] 1 for foreground and 0 for background.
        """
        tokens = []
        if points is not None and labels is not None:
            if boxes is None:  # without a box, one more point that is none
                points = torch.cat([points, points.new_zeros(len(points), 1, 2)], 1)
                labels = torch.cat([labels, labels.new_full((len(labels), 1), -1)], 1)
            tokens.append(self._points(points, labels))
        if boxes is not None:
            corners = torch.cat([self.kinds[2].weight, self.kinds[3].weight])
            tokens.append(self._waves(self._share(boxes.reshape(-1, 2, 2))) + corners)
        return torch.cat(tokens, 1)

    def dense(self, masks: Tensor | None) -> Tensor:
        """Return what a first mask, logits [B, 1, 4 h, 4 w], adds to a map: [B, C, h, w], without one [1, C, 1, 1]."""
        return self.no_mask.weight[..., None, None] if masks is None else self.mask(masks)

    def places(self) -> Tensor:
        """Return the code of every place of a map, [1, C, h, w]."""
        like = self.frequencies
        rows, columns = ((torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n for n in self.grid)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return self._waves(torch.stack([x, y], -1)).movedim(-1, 0)[None]

    def _points(self, points: Tensor, labels: Tensor) -> Tensor:
        labels = labels.long()[..., None]
        known = self._waves(self._share(points)) + torch.where(labels > 0, self.kinds[1].weight, self.kinds[0].weight)
        return torch.where(labels < 0, self.filler.weight, known)

    def _share(self, points: Tensor) -> Tensor:
        """Turn pixels [..., 2] into shares of the width and height; a pixel is where its centre is."""
        height, width = self.size
        return (points + 0.5) / points.new_tensor([width, height])

    def _waves(self, shares: Tensor) -> Tensor:
        phase = 2 * pi * (2 * shares.to(self.frequencies) - 1) @ self.frequencies
        return torch.cat([phase.sin(), phase.cos()], -1)


class CrossAttention(nn.Module):
    """Let tokens [B, N, C] look at others [B, M, C], in `hidden` channels and so many heads."""

    def __init__(self, channels: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, hidden)
        self.key = nn.Linear(channels, hidden)
        self.value = nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, channels)

    def forward(self, asking: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return [B, N, C] from `asking` [B, N, C], `keys` and `values` [B, M, C]."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part, x in ((self.query, asking), (self.key, keys), (self.value, values))
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """Tokens look at themselves, then at the map, pass an MLP, and the map looks at them; norms come after the sums.

    The `first` block's tokens bear no places yet when they look at themselves, and what they find replaces them.
    """

    def __init__(self, channels: int, heads: int, mlp: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.own = CrossAttention(channels, channels, heads)
        self.to_map = CrossAttention(channels, channels // 2, heads)
        self.mlp = nn.Sequential(nn.Linear(channels, mlp), nn.ReLU(), nn.Linear(mlp, channels))
        self.to_tokens = CrossAttention(channels, channels // 2, heads)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(4))

    def forward(self, tokens: Tensor, pixels: Tensor, prompts: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens [B, N, C] and pixels [B, M, C] to the same shapes; `prompts` and `places` say where they are."""
        asking = tokens if self.first else tokens + prompts
        found = self.own(asking, asking, tokens)
        tokens = self.norms[0](found if self.first else tokens + found)
        tokens = self.norms[1](tokens + self.to_map(tokens + prompts, pixels + places, pixels))
        tokens = self.norms[2](tokens + self.mlp(tokens))
        pixels = self.norms[3](pixels + self.to_tokens(pixels + places, tokens + prompts, tokens))
        return tokens, pixels


class TwoWayTransformer(nn.Module):
    """So many TwoWayBlocks, and a last look of the tokens at the map."""

    def __init__(self, channels: int, depth: int = 2, heads: int = 8, mlp: int = 2048) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TwoWayBlock(channels, heads, mlp, first=i == 0) for i in range(depth))
        self.last = CrossAttention(channels, channels // 2, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, places: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, C, h, w], the code of its places [1, C, h, w] and tokens [B, N, C] to tokens and a map."""
        pixels, where = x.flatten(2).transpose(1, 2), places.flatten(2).transpose(1, 2)
        tokens = prompts
        for block in self.blocks:
            tokens, pixels = block(tokens, pixels, prompts, where)
        tokens = self.norm(tokens + self.last(tokens + prompts, pixels + where, pixels))
        return tokens, pixels.transpose(1, 2).reshape(x.shape)
