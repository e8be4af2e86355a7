"""Which cases are worth a picture: the best, the worst, and one in the middle."""

from __future__ import annotations

import math

import numpy as np

from unetkit.report import Picture, Shown, square_pixels

# The median is known only at the end; among so many kept pictures one lies near it.
_MOST = 64
_LARGE = 1000


class Gallery:
    """Keeps the pictures of the first cases, and of any later one that is better or worse than all kept."""

    def __init__(self) -> None:
        self._kept: list[Shown] = []
        self._scores: list[float] = []

    def add(self, case: str, dice: float, picture: Picture) -> None:
        """Consider a case; one without a defined Dice is not shown."""
        if math.isnan(dice):
            return
        extreme = not self._scores or dice > max(self._scores) or dice < min(self._scores)
        self._scores.append(dice)
        if extreme or len(self._kept) < _MOST:
            # A slide of 100 megapixels would be shown no larger than this; 64 of them would not fit into memory.
            large = max(picture.image.shape[:2]) > _LARGE
            self._kept.append(Shown(case, dice, square_pixels(picture) if large else picture))

    def join(self, other: Gallery) -> None:
        """Take over what another gallery kept."""
        self._kept += other._kept
        self._scores += other._scores

    def chosen(self) -> dict[str, Shown]:
        """Return best, median and worst case; the median is the kept one next to it. Fewer cases, fewer roles."""
        if not self._kept:
            return {}
        ranked = sorted(self._kept, key=lambda shown: shown.dice)
        chosen = {"best": ranked[-1]}
        if len(ranked) > 2:
            middle = float(np.median(self._scores))
            # Neither best nor worst once more: three roles show three cases.
            chosen["median"] = min(ranked[1:-1], key=lambda shown: abs(shown.dice - middle))
        if len(ranked) > 1:
            chosen["worst"] = ranked[0]
        return chosen
