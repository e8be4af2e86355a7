"""Which part of a work falls to one of several processes that train together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """The part of process `rank`, 0 to `world` - 1; a process that works alone has it all.

    `beside` of the processes are on this machine and divide its memory and cores.
    """

    rank: int = 0
    world: int = 1
    beside: int = 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Return every `world`-th item, from the `rank`-th on."""
        # in turns, not in blocks: neighbours in a list of cases are often of one size
        return list(items[self.rank :: self.world])

    def rows(self, count: int) -> range:
        """Return the places of this process's `count` samples within the batch of all processes."""
        return range(self.rank * count, (self.rank + 1) * count)


def merged(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """Return the items of all processes, by rank, in the order that `Share.of` took them from."""
    longest = max(map(len, parts), default=0)
    return [part[turn] for turn in range(longest) for part in parts if turn < len(part)]
