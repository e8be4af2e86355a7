"""Sums over the samples of all processes that train together, with their gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Pool:
    """Adds up a tensor over `world` processes, each of which has to call it equally often."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._closed = False
        # An exchange is no operator that the compiler knows; around it, all is compiled. Here and not as a decorator,
        # which would load the compiler with this module.
        self._sum: Callable[[Tensor], Tensor] = torch.compiler.disable(self._exchanged)

    def __call__(self, sums: Tensor) -> Tensor:
        """Return the sum over the processes, the same on all."""
        return self._sum(sums)

    def _exchanged(self, sums: Tensor) -> Tensor:
        total: Tensor = sums if self._closed else _Sum.apply(sums, self.world)
        return total

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Exchange nothing within the block: others may not be there."""
        self._closed = True
        try:
            yield
        finally:
            self._closed = False


class _Sum(torch.autograd.Function):
    """Sum over processes that all go on with it in the same way."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, world: int) -> Tensor:
        ctx.world = world
        total = sums.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # The sum of the gradients of all processes, which are equal, since all make the same of the same sum: one
        # exchange less than asking them.
        return grad * ctx.world, None
