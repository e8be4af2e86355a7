"""Where boxes and lines go: a row for each size of maps, finest on top, what is fed to the right of what feeds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from unetkit.draw.boxes import Box

BOX_HEIGHT, GUTTER, MARGIN, HEADER, LABEL = 50, 30, 24, 64, 96
"""Of a box, between columns, around the page, for the title, and of the sizes on the left, in pixels."""
_LANE, _GAP = 9, 26
_LETTER = 6.7
"""Width of a letter of the boxes' font, in pixels."""
_LONGEST = 24

Point = tuple[float, float]


@dataclass(frozen=True)
class Place:
    """A box on the page, its upper left corner at `x`, `y`; `coarse`: it has seen coarser maps than its own."""

    box: Box
    x: float
    y: float
    width: float
    coarse: bool

    @property
    def middle(self) -> Point:
        """The centre."""
        return self.x + self.width / 2, self.y + BOX_HEIGHT / 2


@dataclass(frozen=True)
class Layout:
    """A page of `width` x `height`: `places` of boxes, `lines` through points, and a label (text, y) for each row.

    `skips` says of each line whether it passes over other boxes of its row.
    """

    width: float
    height: float
    places: list[Place]
    lines: list[list[Point]]
    skips: list[bool]
    rows: list[tuple[str, float]]


def lines_of(box: Box) -> list[str]:
    """Return the text of a box: where the module is, what it is, its channels and size."""
    kind = f"{box.times} x {box.kind}" if box.times > 1 else box.kind
    name = box.path.removeprefix("network.") or "network"
    return [_short(name, keep_end=True), _short(kind), _short(f"{box.channels} · {size_text(box.size)}")]


def size_text(size: Sequence[int]) -> str:
    """Return a size as it is written on the page; equal sides of a volume once."""
    return f"{size[0]}³" if len(size) == 3 and len(set(size)) == 1 else " x ".join(map(str, size))


def _short(text: str, keep_end: bool = False) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"…{text[1 - _LONGEST :]}" if keep_end else f"{text[: _LONGEST - 1]}…"


def place_boxes(boxes: Sequence[Box]) -> Layout:
    """Return the page of a network's boxes, each of which is fed by earlier ones."""
    sizes = sorted({box.size for box in boxes}, key=prod, reverse=True)
    rows = [sizes.index(box.size) for box in boxes]
    columns = _columns(boxes, rows)
    lanes = _lanes(boxes, rows, columns)
    width = max(len(line) for box in boxes for line in lines_of(box)) * _LETTER + 14
    tops, y = [], float(HEADER)
    for row in range(len(sizes)):
        # lines that pass over a row's boxes run above it
        y += _GAP + _LANE * (1 + max((lane for (_, b), lane in lanes.items() if rows[b] == row), default=-1))
        tops.append(y)
        y += BOX_HEIGHT
    coarse = _coarser_before(boxes, rows)
    places = [
        Place(box, MARGIN + LABEL + column * (width + GUTTER), tops[row], width, seen)
        for box, row, column, seen in zip(boxes, rows, columns, coarse, strict=True)
    ]
    edges = [(a, b) for b, box in enumerate(boxes) for a in box.sources]
    lines = [_route(places, (a, b), (rows[a], rows[b]), (columns[a], columns[b]), lanes) for a, b in edges]
    page = MARGIN + LABEL + (max(columns) + 1) * (width + GUTTER) + MARGIN
    labels = [(size_text(size), top + BOX_HEIGHT / 2) for size, top in zip(sizes, tops, strict=True)]
    return Layout(page, y + _GAP + MARGIN, places, lines, [edge in lanes for edge in edges], labels)


def _columns(boxes: Sequence[Box], rows: Sequence[int]) -> list[int]:
    """Put each box right of what feeds it in its own row, and not left of what feeds it from other rows."""
    columns: list[int] = []
    ends: dict[int, int] = {}
    for number, box in enumerate(boxes):
        least = [columns[s] + (rows[s] == rows[number]) for s in box.sources]
        columns.append(max([0, ends.get(rows[number], -1) + 1, *least]))
        ends[rows[number]] = columns[-1]
    return columns


def _coarser_before(boxes: Sequence[Box], rows: Sequence[int]) -> list[bool]:
    """Say of each box whether anything before it was coarser than it is: then it is on the way up."""
    coarsest: list[int] = []
    for box, row in zip(boxes, rows, strict=True):
        coarsest.append(max([row, *(coarsest[s] for s in box.sources)]))
    return [deep > row for deep, row in zip(coarsest, rows, strict=True)]


def _lanes(boxes: Sequence[Box], rows: Sequence[int], columns: Sequence[int]) -> dict[tuple[int, int], int]:
    """Number the lanes above a row for the lines within it that pass over boxes, so that none lies on another."""
    lanes: dict[tuple[int, int], int] = {}
    taken: dict[tuple[int, int], list[tuple[int, int]]] = {}
    edges = [(a, b) for b, box in enumerate(boxes) for a in box.sources if rows[a] == rows[b]]
    for a, b in sorted(edges, key=lambda edge: columns[edge[1]] - columns[edge[0]]):
        if columns[b] - columns[a] == 1:
            continue
        lane = 0
        while any(first < columns[b] and columns[a] < last for first, last in taken.get((rows[a], lane), ())):
            lane += 1
        taken.setdefault((rows[a], lane), []).append((columns[a], columns[b]))
        lanes[a, b] = lane
    return lanes


def _route(
    places: Sequence[Place],
    edge: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
    lanes: dict[tuple[int, int], int],
) -> list[Point]:
    """Return the corners of a line that touches no box but its own two."""
    source, target = places[edge[0]], places[edge[1]]
    (x0, y0), (x1, y1) = source.middle, target.middle
    if edge in lanes:
        over = source.y - 10 - _LANE * lanes[edge]
        # it leaves and arrives beside the middle, where lines to other rows do
        return [(x0 + 18, source.y), (x0 + 18, over), (x1 - 18, over), (x1 - 18, target.y)]
    if rows[0] == rows[1]:
        return [(source.x + source.width, y0), (target.x, y1)]
    down = rows[1] > rows[0]
    start, end = (source.y + BOX_HEIGHT, target.y) if down else (source.y, target.y + BOX_HEIGHT)
    if columns[0] == columns[1] and abs(rows[0] - rows[1]) == 1:
        return [(x0, start), (x1, end)]
    # along the gutter behind the source, then through the gap before the target's row
    gutter = source.x + source.width + 6 + (5 * edge[1]) % (GUTTER - 12)
    gap = end - 6 if down else end + 6
    return [(source.x + source.width, y0 + 8), (gutter, y0 + 8), (gutter, gap), (x1, gap), (x1, end)]
