"""Losses on values from -1 (surely background) to 1 (surely foreground), as SAUNA has them (arXiv:2405.16815)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unetkit.engine.losses.comparison import Comparison
from unetkit.engine.losses.overlap import TINY, foreground


class FocalL1(nn.Module):
    """Mean over valid voxels and classes of w |p - g|: what is on the right side of 0 already counts by its distance.

    w is alpha |p - g|^beta where p and g have the same sign, else 1; times `positive` where g is above 0.
    """

    def __init__(self, alpha: float, beta: float, positive: float = 1.0) -> None:
        super().__init__()
        self.alpha, self.beta, self.positive = alpha, beta, positive

    def forward(self, seen: Comparison) -> Tensor:
        """Return the loss of a batch, a scalar."""
        p, g, valid = signed(seen)
        away = (p - g).abs()
        # one power of both factors: |p - g|^beta alone has no slope at 0 for a beta below 1
        cost = torch.where(p * g > 0, self.alpha * away ** (1 + self.beta), away)
        cost = torch.where(g > 0, self.positive * cost, cost)
        return seen.mean((cost * valid).sum(), valid.sum())


class JaccardMetric(nn.Module):
    """One minus the mean over classes of I / U over the whole batch; for soft labels too, 0 only where p is g.

    I and U add up what min and max of |p| and |g| are among the positive parts of both and among the negative parts:
    the reference's |x + y| - |x - y| and |x + y| + |x - y|, halved.
    """

    def forward(self, seen: Comparison) -> Tensor:
        """Return the loss of a batch, a scalar."""
        p, g, valid = signed(seen)
        x, y = (torch.stack([v.clamp_min(0), (-v).clamp_min(0)]) for v in (p, g))  # [2, B, F, *S]
        axes = (0, 1, *range(3, x.ndim))
        sums = [(torch.minimum(x, y) * valid).sum(axes), (torch.maximum(x, y) * valid).sum(axes)]
        common, union = seen.pooled(torch.stack(sums))
        return 1 - (common / union.clamp_min(TINY)).mean()


def signed(seen: Comparison) -> tuple[Tensor, Tensor, Tensor]:
    """Return predictions and targets from -1 to 1 and valid voxels as 0 and 1, [B, F, *S] each.

    The prediction of a region is the tanh of its logit, as in the paper; of exclusive classes, which the paper has
    not, 2 p - 1. Either is above 0 where the class is predicted.
    """
    if seen.regions:
        return seen.logits.tanh(), 2 * seen.onehot - 1 if seen.soft is None else seen.soft, seen.valid
    p, g = foreground(seen, background=False)
    return 2 * p - 1, 2 * g - 1, seen.valid.expand_as(p)
