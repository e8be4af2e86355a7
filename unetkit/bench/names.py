"""Where the names of a plot's marks go, so that none covers another name or a mark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HEIGHT = 13.0
_LETTER = 7.3
"""Mean width of a letter of 12 px in the widest of the usual fonts."""
_RADIUS = 7.0
_APART = 4.0
"""What is left free beside a name, so that it is not read as one with the next."""
_GAPS = (9.0, 15.0, 24.0, 36.0, 50.0, 66.0)
_FAR = 13.0
"""From this gap on a line leads from the name to its mark."""

Box = tuple[float, float, float, float]
"""left, top, right, bottom."""


@dataclass(frozen=True)
class Place:
    """Where a name is written (`x`, `y`: its baseline, at the `anchor`), and whether a line must lead to it."""

    x: float
    y: float
    anchor: str
    led: bool
    box: Box


def place_names(names: Sequence[str], marks: Sequence[tuple[float, float]], frame: Box) -> list[Place]:
    """Return a place for each name beside its mark, within the frame; earlier names choose first.

    A name takes the nearest place that covers no mark and no name placed before it; where there is none, the one that
    covers least.
    """
    dots = [(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in marks]
    taken: list[Place] = []
    for name, (x, y) in zip(names, marks, strict=True):
        width = _LETTER * len(name)
        found = [(_cost(place.box, dots, taken, frame), n, place) for n, place in enumerate(_around(x, y, width))]
        taken.append(min(found, key=lambda one: one[:2])[2])
    return taken


def overlap(a: Box, b: Box) -> float:
    """Return the area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _around(x: float, y: float, width: float) -> Iterator[Place]:
    """Give the places around a mark, the nearest first; right and above before the rest."""
    for gap in _GAPS:
        for across, down in ((1, -1), (1, 0), (0, -1), (1, 1), (0, 1), (-1, -1), (-1, 0), (-1, 1)):
            # straight above and below, the mark is in the way
            middle = y + down * (gap if across else gap + _RADIUS)
            at = x + across * gap
            left = (at - width / 2, at, at - width)[across]
            box = (left, middle - HEIGHT / 2, left + width, middle + HEIGHT / 2)
            yield Place(at, middle + 4, ("middle", "start", "end")[across], gap > _FAR, box)


def _cost(box: Box, dots: Sequence[Box], taken: Sequence[Place], frame: Box) -> float:
    """Return what a place covers; to leave the frame is worse than to cover anything."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    outside = area - overlap(box, frame)
    apart = (box[0] - _APART, box[1], box[2] + _APART, box[3])
    return 10 * outside + sum(overlap(box, dot) for dot in dots) + sum(overlap(apart, one.box) for one in taken)
