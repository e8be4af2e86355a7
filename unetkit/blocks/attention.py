"""Attention over tokens, and over shifted windows of a map, for any number of axes.

Maps are channels last, [B, *S, C], and token lists are [B, N, C]: every layer here acts on the last axis. Windows as in
Swin (arXiv:2103.14030), tokens as in ViT (arXiv:2010.11929).
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, drop a residual branch [B, ...] for whole samples with probability `rate` (arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, ...], in training with some samples set to 0 and the others scaled up."""
        if not self.training or self.rate == 0:
            return x
        # one draw per sample, [B, 1, ...]
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)  # so that the expected value stays


class Mlp(nn.Module):
    """Two linear layers with GELU between them, on [..., C]."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to [..., C]."""
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(x)))))


class MultiHeadAttention(nn.Module):
    """Let every token of [B, N, C] look at all others, with separate projections for q, k and v (arXiv:1706.03762)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [B, N, C] to tokens [B, N, C]."""
        query, key, value = self.per_head(x, self.query, self.key, self.value)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def per_head(self, x: Tensor, *parts: nn.Linear) -> list[Tensor]:
        """Project tokens [B, N, C] by each of `parts`, to [B, heads, N, C / heads]."""
        return [part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]


class TransformerBlock(nn.Module):
    """Pre-norm residual block: attention, then MLP, each with its own LayerNorm and under drop path.

    `attention` and `mlp` keep the shape [B, ..., C] they are given; `eps` is that of both norms.
    """

    def __init__(
        self, channels: int, attention: nn.Module, mlp: nn.Module, *, drop_path: float = 0.0, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, ..., C] to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def window_partition(x: Tensor, window: Sequence[int]) -> Tensor:
    """Cut a map [B, *S, C], whose sides `window` divides, into windows [B, W, N, C] of N tokens each."""
    batch, *size, channels = x.shape
    dims = len(size)
    # [B, n1 / w1, w1, n2 / w2, w2, ..., C] -> [B, n1 / w1, n2 / w2, ..., w1, w2, ..., C]
    cut = [part for n, w in zip(size, window, strict=True) for part in (n // w, w)]
    order = [0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1]
    return x.reshape(batch, *cut, channels).permute(order).reshape(batch, -1, math.prod(window), channels)


def window_reverse(windows: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """Put windows [B, W, N, C] together again to a map [B, *size, C]; the inverse of `window_partition`."""
    batch, channels, dims = windows.shape[0], windows.shape[-1], len(size)
    grid = [n // w for n, w in zip(size, window, strict=True)]
    # [B, grid axes, window axes, C] -> grid and window axes in turn
    order = [0, *(axis for i in range(dims) for axis in (1 + i, 1 + dims + i)), 2 * dims + 1]
    return windows.reshape(batch, *grid, *window, channels).permute(order).reshape(batch, *size, channels)


def window_mask(
    size: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device | None = None
) -> Tensor | None:
    """Tell which tokens of each window belong together: bool [W, N, N], or None where all do.

    The map has sides `size`, is padded at its far ends until `window` divides it, then rolled by `-shift`. Tokens
    belong together if both are padding or neither is, and if the roll brought both or neither from the opposite border.
    """
    padded = [-(-n // w) * w for n, w in zip(size, window, strict=True)]
    if not any(shift) and padded == list(size):
        return None
    region = torch.zeros(padded, dtype=torch.long, device=device)
    for axis, (n, whole, step) in enumerate(zip(size, padded, shift, strict=True)):
        place = torch.arange(whole, device=device) + step
        kind = (place >= whole).long() + 2 * (place % whole >= n).long()
        # four kinds per axis, so the digits in base 4 name the region
        region = region * 4 + kind.reshape([-1 if i == axis else 1 for i in range(len(padded))])
    tokens = window_partition(region[None, ..., None], window)[0, ..., 0]  # [W, N]
    return tokens[:, :, None] == tokens[:, None, :]


def relative_position_index(window: Sequence[int]) -> Tensor:
    """Number the offsets between the tokens of a window: long [N, N], values below the product of 2 * side - 1."""
    axes = torch.meshgrid(*(torch.arange(w) for w in window), indexing="ij")
    index = torch.zeros(math.prod(window), math.prod(window), dtype=torch.long)
    for axis, w in zip(axes, window, strict=True):
        place = axis.flatten()
        # offsets run from 1 - w to w - 1: shifted to start at 0, they are digits in base 2 w - 1
        index = index * (2 * w - 1) + place[:, None] - place[None, :] + w - 1
    return index


class WindowAttention(nn.Module):
    """Attend within the windows of a map [B, *S, C], with a learned bias per relative position (arXiv:2103.14030).

    `window` is the side per axis. With `shifted`, windows are moved by `shift`, or half their side, on each axis that
    holds more than one. Sides that the window does not divide are padded. Tokens that a shift or the padding brings
    together do not see each other, unless `masked` is set to False afterwards.
    """

    index: Tensor

    def __init__(
        self, channels: int, heads: int, window: Sequence[int], *, shifted: bool = False, shift: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.window = heads, tuple(window)
        self.masked = True
        self.shift = tuple((w // 2 if shift is None else shift) if shifted else 0 for w in window)
        self.relative_position_bias_table = nn.Parameter(torch.empty(math.prod(2 * w - 1 for w in window), heads))
        self.register_buffer("index", relative_position_index(window), persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to [B, *S, C], for any sides S."""
        return self.with_weights(x)[0]

    def with_weights(self, x: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return what forward does and the attention [B, W, heads, N, N], which `change` may alter before its use."""
        size, axes = x.shape[1:-1], tuple(range(1, x.ndim - 1))
        missing = [-n % w for n, w in zip(size, self.window, strict=True)]
        # a single window per axis sees everything already, as in Swin's reference
        shift = [step if n > w else 0 for n, w, step in zip(size, self.window, self.shift, strict=True)]
        mask = window_mask(size, self.window, shift, x.device) if self.masked else None
        # F.pad counts from the last axis: first the channels, which stay
        x = F.pad(x, [0, 0, *(end for gap in reversed(missing) for end in (0, gap))]) if any(missing) else x
        padded = x.shape[1:-1]
        x = torch.roll(x, [-step for step in shift], axes) if any(shift) else x
        windows, weights = self._attend(window_partition(x, self.window), mask, change)
        x = window_reverse(windows, self.window, padded)
        x = torch.roll(x, shift, axes) if any(shift) else x
        return x[(slice(None), *(slice(n) for n in size))], weights

    def _attend(
        self, windows: Tensor, mask: Tensor | None, change: Callable[[Tensor], Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Mix the tokens of each window; windows [B, W, N, C], mask bool [W, N, N]."""
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)  # [B, W, heads, N, .]
        # softmax(q k^T / sqrt(d) + bias) v, equation 4 of the paper
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self.relative_position_bias_table[self.index].permute(2, 0, 1)
        if mask is not None:
            # never a whole row: a token belongs with itself
            scores = scores.masked_fill(~mask[:, None], -math.inf)
        weights = scores.softmax(-1).to(v.dtype)
        mixed = (change(weights) if change else weights) @ v
        return self.proj(mixed.transpose(2, 3).flatten(3)), weights
