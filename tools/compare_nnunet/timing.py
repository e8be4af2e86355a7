"""Wall-clock time, and how much of it a network takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Stopwatch:
    """Seconds since it was made, without pauses."""

    def __init__(self) -> None:
        self._sum, self._since = 0.0, time.perf_counter()
        self._lap = self._since

    def total(self) -> float:
        """Return the seconds so far."""
        return self._sum + (time.perf_counter() - self._since if self._since else 0.0)

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        before, self._lap = self._lap, time.perf_counter()
        return self._lap - before

    def pause(self) -> None:
        """Stop counting."""
        self._sum, self._since = self.total(), 0.0

    def go_on(self) -> None:
        """Count again."""
        self._since = time.perf_counter()


@contextmanager
def timed_network(network: nn.Module) -> Iterator[Stopwatch]:
    """Count the time between a network's call and its return, the device's work included."""
    watch = Stopwatch()
    watch.pause()
    watch._sum = 0.0

    def before(*_: object) -> None:
        _finish()
        watch.go_on()

    def after(*_: object) -> None:
        _finish()
        watch.pause()

    hooks = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
