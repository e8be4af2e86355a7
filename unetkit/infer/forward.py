"""A network on windows: slices, mirrored copies, number format, devices, and a memory that fits fewer than asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import combinations, islice
from typing import TypeVar

import torch
from torch import Tensor, nn

from unetkit.infer.shortage import is_shortage

Item = TypeVar("Item")


@dataclass(frozen=True)
class WindowSettings:
    """How windows overlap and how the network is run on them.

    `overlap`: share of a window that its neighbour covers; `window_batch`: windows per forward pass, mirrored copies
    counted; `mirror_axes`: axes of the patch over all of whose mirrored combinations the output is averaged;
    `dtype`: number format of the network (fp32: as it is); `channels_last`: memory layout of the windows.
    """

    overlap: float = 0.5
    window_batch: int = 1
    mirror_axes: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    channels_last: bool = False


class Forward:
    """Windows [B, C, *window] to fp32 logits [B, K, *window] on the device `home`, wherever the network lies.

    With `slices` the windows are one voxel thick along the first axis and the network is 2D. `at_once` windows are
    best given together.
    """

    def __init__(self, network: nn.Module, home: torch.device, slices: int, settings: WindowSettings) -> None:
        self.network, self.home, self.slices, self.settings = network, home, slices, settings
        parameter = next(network.parameters(), None)
        self.device = home if parameter is None else parameter.device
        # All subsets of the axes, the empty one first: 4 in 2D, 8 in 3D. Logits are averaged, not probabilities.
        axes = settings.mirror_axes
        self.flips = [c for n in range(len(axes) + 1) for c in combinations([a + 2 for a in axes], n)]
        self.at_once = max(1, settings.window_batch // len(self.flips))
        self._most = settings.window_batch

    def __call__(self, windows: Tensor) -> Tensor:
        if self.slices:
            windows = windows.squeeze(2)
        windows = windows.to(self.device, non_blocking=True)
        logits: Tensor | None = None
        # Mirrored copies are further entries of the batch, as many as it takes.
        for flips in batches(self.flips, max(1, self._most // len(windows))):
            out = self._run(torch.cat([windows.flip(flip) for flip in flips]))
            for flip, one in zip(flips, out.split(len(windows)), strict=True):
                # In place from the first on: with many classes a copy is the largest thing here.
                logits = one if logits is None else logits.add_(one.flip(flip))
        assert logits is not None  # the empty flip is always there
        logits = logits.div_(len(self.flips)).to(self.home)
        return logits.unsqueeze(2) if self.slices else logits

    def _run(self, entries: Tensor) -> Tensor:
        """Pass entries through the network together, or by halves where the memory is too small for that."""
        while True:
            try:
                parts = [self._network(part) for part in entries.split(self._most)]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except RuntimeError as error:
                if not is_shortage(error) or min(self._most, len(entries)) == 1:
                    raise
            # Outside of the handler: while that runs, the error's traceback holds the tensors.
            self._most = min(self._most, len(entries)) // 2
            torch.cuda.empty_cache()

    def _network(self, entries: Tensor) -> Tensor:
        if self.settings.channels_last:
            layout = torch.channels_last if entries.ndim == 4 else torch.channels_last_3d
            entries = entries.contiguous(memory_format=layout)
        with self._autocast():
            out = self.network(entries)
        return (out[0] if isinstance(out, tuple | list) else out).float()  # deep supervision: the finest one

    def _autocast(self) -> AbstractContextManager[object]:
        if self.settings.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.settings.dtype)


def batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in order, `size` at a time; the last list may be shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
