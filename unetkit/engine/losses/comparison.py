"""One batch of logits beside its labels: what every loss term reads."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from unetkit.engine.losses.pool import Pool
from unetkit.types import IGNORE


class Comparison:
    """Logits [B, K, *S] and labels uint8 [B, L, *S], seen as probabilities, one-hot labels and valid voxels.

    `regions`: one sigmoid per channel (L = K, labels 0, 1 or IGNORE); otherwise a softmax over exclusive
    classes (L = 1, labels 0 to K-1 or IGNORE). Everything is fp32 (or fp64 where the logits are), because
    sums over a patch overflow fp16. What two terms need is computed once. `pool` adds up what processes that train
    together have of one batch. `soft`: targets of regions from -1 to 1 [B, K, *S], if there are any beside the labels.
    """

    def __init__(
        self, logits: Tensor, labels: Tensor, regions: bool, pool: Pool | None = None, soft: Tensor | None = None
    ) -> None:
        self.logits = logits if logits.dtype == torch.float64 else logits.float()
        self.labels = labels
        self.regions = regions
        self.soft = soft
        self._pool = pool

    def pooled(self, sums: Tensor) -> Tensor:
        """Return sums over this process's samples as sums over those of all processes."""
        return sums if self._pool is None else self._pool(sums)

    def mean(self, total: Tensor, weight: Tensor) -> Tensor:
        """Return total / weight, both sums over this process's samples, so that the processes' mean is the batch's.

        0 where nothing weighs anything.
        """
        # the processes average their gradients, hence their number
        shares = 1 if self._pool is None else self._pool.world
        return total * shares / self.pooled(weight).clamp_min(torch.finfo(total.dtype).tiny)

    @cached_property
    def valid(self) -> Tensor:
        """1 where the label says something, else 0: [B, 1, *S], or [B, K, *S] for regions."""
        # labels of exclusive classes have one channel, which broadcasts over the K of the logits
        return (self.labels != IGNORE).to(self.logits.dtype)

    @cached_property
    def onehot(self) -> Tensor:
        """Labels as 0 and 1 [B, K, *S]; ignored voxels are 0 in every channel."""
        if self.regions:
            return (self.labels == 1).to(self.logits.dtype)
        shape = (1, -1) + (1,) * (self.logits.ndim - 2)
        classes = torch.arange(self.logits.shape[1], device=self.labels.device, dtype=torch.uint8).view(shape)
        return (self.labels == classes).to(self.logits.dtype)

    @cached_property
    def log_probabilities(self) -> Tensor:
        """Logarithm of `probabilities`."""
        return F.logsigmoid(self.logits) if self.regions else F.log_softmax(self.logits, dim=1)

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax over the classes, or a sigmoid per region: [B, K, *S]."""
        # by way of the logarithm, which cross-entropy needs anyway
        return self.log_probabilities.exp()

    @cached_property
    def log_likelihood(self) -> Tensor:
        """Log probability of the true label, 0 where ignored: [B, 1, *S], or [B, K, *S] for regions."""
        if self.regions:
            # log(1 - sigmoid(x)) = logsigmoid(x) - x
            return (self.log_probabilities - (1 - self.onehot) * self.logits) * self.valid
        # one channel is 1, or none where ignored; cheaper than a gather, whose index 255 would be out of range
        return (self.log_probabilities * self.onehot).sum(1, keepdim=True)
