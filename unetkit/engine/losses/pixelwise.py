"""Losses on single voxels: cross-entropy, its binary form for regions, and the focal loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.engine.losses.comparison import Comparison


class CrossEntropy(nn.Module):
    """Mean of -w log p(true label) over the valid voxels, divided by the sum of the weights w.

    `gamma` above 0 makes it the focal loss: each voxel counts (1 - p)^gamma (arXiv:1708.02002). `weights` holds
    one w per output. For regions the mean runs over voxels and regions (binary cross-entropy). A batch without
    a valid voxel gives 0 and no gradient.
    """

    weights: Tensor | None

    def __init__(self, gamma: float = 0.0, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weights", None if weights is None else torch.tensor(list(weights)), persistent=False)

    def forward(self, seen: Comparison) -> Tensor:
        """Return the loss of a batch, a scalar."""
        cost, weight = -seen.log_likelihood, self._weight(seen)
        if self.gamma:
            # -expm1(-cost) is 1 - p, exact for p near 1; the floor keeps the power's slope finite there
            cost = cost * (-torch.expm1(-cost)).clamp_min(torch.finfo(cost.dtype).tiny) ** self.gamma
        # divided by the weights, not the voxels: as torch's cross_entropy with weights does
        return seen.mean((cost * weight).sum(), weight.sum())

    def _weight(self, seen: Comparison) -> Tensor:
        """Weight of each voxel, 0 where ignored: [B, 1, *S], or [B, K, *S] for regions."""
        if self.weights is None:
            return seen.valid
        per_channel = self.weights.to(seen.logits).view(1, -1, *(1,) * (seen.logits.ndim - 2))
        return seen.valid * per_channel if seen.regions else (seen.onehot * per_channel).sum(1, keepdim=True)
