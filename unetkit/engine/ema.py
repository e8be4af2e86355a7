"""An exponential moving average of the weights (arXiv:1803.05407 averages equally, this one forgets)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from unetkit.engine.parallel import Alone


class Ema:
    """A copy of a network whose weights follow the original's slowly.

    After step s (from 0) the share of the old average is min(decay, (1 + s) / (10 + s)), so that the random start
    is forgotten soon. Buffers (running statistics of batch norm) and whole numbers are copied as they are.
    """

    def __init__(self, network: nn.Module, decay: float, parallel: Alone | None = None) -> None:
        self.decay, self.parallel = decay, parallel or Alone()
        self.network = self.parallel.prepare(copy.deepcopy(network).requires_grad_(False).eval())

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards the network's present weights."""
        keep = min(self.decay, (1 + step) / (10 + step))
        # average += (1 - keep) * (weights - average), one kernel for many tensors
        mine: list[Tensor] = [self.parallel.local(p) for p in self.network.parameters()]
        live: list[Tensor] = [self.parallel.local(p) for p in network.parameters()]
        torch._foreach_lerp_(mine, live, 1 - keep)
        # averaged running statistics would be those of no network; these are close enough to the average's
        for old, new in zip(self.network.buffers(), network.buffers(), strict=True):
            old.copy_(new)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights by name."""
        return self.network.state_dict()
