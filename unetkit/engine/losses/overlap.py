"""Losses on overlaps: soft Dice and its weighted relative, Tversky."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unetkit.engine.losses.comparison import Comparison

TINY = 1e-8
"""Floor of a denominator, for smooth=0."""


class SoftDice(nn.Module):
    """One minus the mean over classes of (2 TP + smooth) / (P + G + smooth), as nnU-Net computes it.

    TP, P and G are sums of p*g, p and g over the valid voxels of a sample, or with `batch` of the whole batch, that of
    all processes which train together. `squared` takes p^2 and g^2 in P and G (V-Net, arXiv:1606.04797). The
    background channel of exclusive classes counts with `background` only.
    """

    def __init__(self, smooth: float, batch: bool = False, background: bool = False, squared: bool = False) -> None:
        super().__init__()
        self.smooth, self.batch, self.background, self.squared = smooth, batch, background, squared

    def forward(self, seen: Comparison) -> Tensor:
        """Return the loss of a batch, a scalar."""
        p, g = foreground(seen, self.background)
        power = 2 if self.squared else 1
        axes = _axes(p, self.batch)
        hit = (p * g).sum(axes)  # TP per sample and class [B, F], or per class [F]
        total = p.pow(power).sum(axes) + g.sum(axes)  # g is 0 or 1: its square is itself
        if self.batch:
            hit, total = seen.pooled(torch.stack([hit, total]))
        return 1 - ((2 * hit + self.smooth) / (total + self.smooth).clamp_min(TINY)).mean()


class Tversky(nn.Module):
    """One minus the mean over classes of TP / (TP + alpha FP + beta FN) (arXiv:1706.05721).

    `alpha` weighs false positives, `beta` false negatives; both 0.5 make it the Dice loss.
    """

    def __init__(self, alpha: float, beta: float, smooth: float, batch: bool = False, background: bool = False) -> None:
        super().__init__()
        self.alpha, self.beta, self.smooth, self.batch, self.background = alpha, beta, smooth, batch, background

    def forward(self, seen: Comparison) -> Tensor:
        """Return the loss of a batch, a scalar."""
        p, g = foreground(seen, self.background)
        axes = _axes(p, self.batch)
        hit = (p * g).sum(axes)  # TP
        # FP = P - TP, FN = G - TP
        wrong = self.alpha * (p.sum(axes) - hit) + self.beta * (g.sum(axes) - hit)
        if self.batch:
            hit, wrong = seen.pooled(torch.stack([hit, wrong]))
        return 1 - ((hit + self.smooth) / (hit + wrong + self.smooth).clamp_min(TINY)).mean()


def foreground(seen: Comparison, background: bool) -> tuple[Tensor, Tensor]:
    """Return probabilities (0 where ignored) and one-hot labels of the channels that count, [B, F, *S] each."""
    p, g = seen.probabilities * seen.valid, seen.onehot
    # An only channel is the foreground, whatever the model calls it.
    return (p, g) if seen.regions or background or p.shape[1] == 1 else (p[:, 1:], g[:, 1:])


def _axes(x: Tensor, batch: bool) -> tuple[int, ...]:
    space = tuple(range(2, x.ndim))
    return (0, *space) if batch else space
