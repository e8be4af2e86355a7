"""Which modules of a traced network are drawn as boxes, at which size of maps, and what feeds each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from unetkit.draw.trace import Call, feeds

MOST_BOXES = 40
"""More cannot be read on one page: modules are then shown as a whole instead of by their parts."""
_DEEPEST = 3
_PASSED_OVER = re.compile(r"(Norm|Norm[123]d|ReLU|GELU|SiLU|Sigmoid|Softmax|Identity|Dropout[123]?d?)$")
"""Layers that belong to what they follow."""


@dataclass(frozen=True)
class Box:
    """One module, or `times` equal ones in a row: its maps have `channels` and the spatial `size`.

    `sources` are the indices of the boxes it is fed from.
    """

    path: str
    kind: str
    channels: int
    size: tuple[int, ...]
    sources: tuple[int, ...] = ()
    times: int = 1


@dataclass(frozen=True)
class Map:
    """A map of features as read from a tensor's shape."""

    channels: int
    size: tuple[int, ...]


def find_boxes(root: Call, image: Sequence[int]) -> list[Box]:
    """Return the boxes of a traced network in the order of their calls, the input of size `image` first.

    A module whose maps are all of one size is a box; one whose maps differ is opened, as deep as the page allows.
    """
    sizes = _sizes(root, tuple(image))
    for depth in range(_DEEPEST, 0, -1):
        calls = list(_chosen(root.inner, sizes, tuple(image), depth))
        boxes = _joined([_input(root), *_linked(root, calls, sizes, tuple(image))])
        if len(boxes) <= MOST_BOXES:
            break
    return boxes


def _input(root: Call) -> Box:
    shape = root.shapes[0]
    return Box("input", "", shape[1], shape[2:])


def read_map(shape: Sequence[int], image: tuple[int, ...], sizes: Sequence[tuple[int, ...]]) -> Map | None:
    """Return the map that a tensor holds: [B, C, *S], [B, *S, C] or tokens [B, N, C] of a known size; else None."""
    if len(shape) == len(image) + 2:
        first, last = tuple(shape[2:]), tuple(shape[1:-1])
        # along all axes a map is smaller than the image by about the same factor
        channels_first = _stretch(first, image) <= _stretch(last, image)
        return Map(shape[1], first) if channels_first else Map(shape[-1], last)
    if len(shape) == 3:
        for size in sizes:
            if prod(size) in (shape[1], shape[1] - 1):  # a class token goes before the others
                return Map(shape[2], size)
    return None


def _stretch(size: tuple[int, ...], image: tuple[int, ...]) -> float:
    shares = [a / b for a, b in zip(size, image, strict=True)]
    return max(shares) / max(min(shares), 1e-9)


def _sizes(root: Call, image: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the sizes of all maps that keep their axes, finest first."""
    found = {
        m.size for call in root.within() for s in call.shapes if (m := read_map(s, image, ())) and prod(m.size) > 1
    }
    # networks of tokens alone: halvings of the image
    halved = {tuple(max(1, n >> i) for n in image) for i in range(8)}
    return sorted(found, key=prod, reverse=True) + sorted(halved - found, key=prod, reverse=True)


def _map_of(call: Call, sizes: Sequence[tuple[int, ...]], image: tuple[int, ...]) -> Map | None:
    maps = [m for m in (read_map(shape, image, sizes) for shape in call.shapes) if m is not None]
    return maps[-1] if maps else None


def _chosen(
    calls: Sequence[Call], sizes: Sequence[tuple[int, ...]], image: tuple[int, ...], depth: int
) -> Iterator[Call]:
    for call in calls:
        here = _map_of(call, sizes, image)
        inner = {m.size for c in call.within() if c is not call and (m := _map_of(c, sizes, image))}
        # pooled descriptors of one voxel are part of their module
        several = len({size for size in inner | ({here.size} if here else set()) if prod(size) > 1}) > 1
        if several and depth > 0:
            yield from _chosen(call.inner, sizes, image, depth - 1)
        elif here is not None and prod(here.size) > 1 and not call.idle:
            yield call


def _linked(
    root: Call, calls: Sequence[Call], sizes: Sequence[tuple[int, ...]], image: tuple[int, ...]
) -> Iterator[Box]:
    """Yield a box for each call with what feeds it; the input is number 0."""
    owners = dict.fromkeys(root.results, 0)
    for number, call in enumerate(calls, start=1):
        found = feeds(call, owners)
        for inner in call.within():
            for node in inner.results:
                owners.setdefault(node, number)
        here = _map_of(call, sizes, image)
        assert here is not None, "only calls with a map are chosen"
        # what is computed without gradients leaves no trace: it follows what ran before it
        yield Box(call.path, _kind(call), here.channels, here.size, tuple(sorted(found)) or (number - 1,))


def _kind(call: Call) -> str:
    """Return the class of a call, or of its parts if that tells no more than their order."""
    if call.kind != "Sequential" or not call.inner:
        return call.kind
    parts = [_kind(c) for c in call.inner if not _PASSED_OVER.search(c.kind)]
    return " + ".join(parts) if 0 < len(parts) <= 2 else call.kind


def _joined(boxes: Sequence[Box]) -> list[Box]:
    """Make one box of equal modules in a row, as the blocks of a transformer are, and pass over small layers."""
    joined: list[Box] = []
    place: dict[int, int] = {}
    branching = {s for number, box in enumerate(boxes) for s in box.sources if s != number - 1}
    for number, box in enumerate(boxes):
        last = joined[-1] if joined else None
        follows = last is not None and box.sources == (number - 1,) and box.size == last.size and number > 1
        alike = last is not None and (box.kind, box.channels) == (last.kind, last.channels)
        if last is not None and follows and alike and number - 1 not in branching:
            joined[-1] = replace(last, times=last.times + 1)
        elif not (follows and _PASSED_OVER.search(box.kind)):
            joined.append(replace(box, sources=tuple(sorted({place[s] for s in box.sources}))))
        place[number] = len(joined) - 1
    return joined
