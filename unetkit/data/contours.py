"""Contours of a fixed number of points from label maps: what networks that learn contours are compared with.

A contour is the outer border of a part of a class, between pixels, resampled to equidistant points. It starts where
the border is topmost over the part's centre and runs clockwise, so that point i is about the same place in every image.
Points are (x, y) in shares of width and height; holes of a part are not seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.measure import find_contours

LEAST_SHARE = 0.05
"""Part of a class's largest area below which a piece is a speck and no part."""


def contour_points(
    labels: np.ndarray, rings: Sequence[Sequence[int]], *, regions: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the contours of encoded labels uint8 [L, H, W] as points float32 [N, 2], and which are known, bool [N].

    `rings` holds for each class the points of each of its contours: of one it is that of the largest part, of several
    those of as many largest parts, from left to right. A class that is absent, or has fewer parts than contours, is
    not known: its points are 0, and no loss may look at them.
    """
    points, known = [], []
    for index, counts in enumerate(rings):
        mask = labels[index] == 1 if regions else labels[0] == index + 1
        parts = largest_parts(mask, len(counts))
        for number, count in enumerate(counts):
            found = parts is not None
            points.append(resampled(outer_border(parts[number]), count) if parts else np.zeros((count, 2)))
            known.append(np.full(count, found))
    scale = np.array(labels.shape[:0:-1])
    return (np.concatenate(points) / scale).astype(np.float32), np.concatenate(known)


def largest_parts(mask: np.ndarray, count: int) -> list[np.ndarray] | None:
    """Return masks of the largest connected parts (by edges) from left to right; None if there are not as many."""
    numbered, _ = ndimage.label(mask)
    areas = np.bincount(numbered.ravel())[1:]
    order = np.argsort(-areas, kind="stable")[:count]
    if len(order) < count or areas[order[-1]] < LEAST_SHARE * areas[order[0]]:
        return None
    parts = [numbered == number + 1 for number in order]
    return sorted(parts, key=lambda part: float(np.nonzero(part.any(0))[0].mean()))


def outer_border(mask: np.ndarray) -> np.ndarray:
    """Return the outer border of one connected part as a closed clockwise polygon, (x, y) in pixels, first = last.

    Pixel i reaches from i to i + 1. Where the part meets the image's edge, that is its border.
    """
    rows, columns = (np.nonzero(mask.any(axis))[0] for axis in (1, 0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # the longest is the outer one; a frame of 0 closes what the image cuts
    lines = find_contours(np.pad(box, 1).astype(np.float32), 0.5, fully_connected="low")
    line = max(lines, key=lambda one: np.ptp(one, axis=0).prod())
    border = line[:, ::-1] + (columns[0] - 0.5, rows[0] - 0.5)
    return border if _area(border) > 0 else border[::-1]


def _area(border: np.ndarray) -> float:
    """Return the signed area of a closed polygon [M, 2], above 0 if it is clockwise as seen (y points down)."""
    (x, y), (x_next, y_next) = border[:-1].T, border[1:].T
    return float((x * y_next - x_next * y).sum() / 2)


def _centre(border: np.ndarray) -> float:
    """Return the x of the centre of mass of a closed polygon."""
    (x, y), (x_next, y_next) = border[:-1].T, border[1:].T
    cross = x * y_next - x_next * y
    return float(((x + x_next) * cross).sum() / (3 * cross.sum()))


def resampled(border: np.ndarray, count: int) -> np.ndarray:
    """Return `count` points [count, 2] at equal distances along a closed clockwise polygon [M, 2].

    The first lies where the polygon is topmost over its centre of mass.
    """
    middle = _centre(border)
    (x, y), (x_next, y_next) = border[:-1].T, border[1:].T
    length = np.hypot(x_next - x, y_next - y)
    along = np.concatenate(([0.0], np.cumsum(length)))
    # a closed line passes every x between its ends
    share = (middle - x) / np.where(x == x_next, 1, x_next - x)
    crosses = ((x <= middle) != (x_next <= middle)) & (x != x_next)
    height = np.where(crosses, y + share * (y_next - y), np.inf)
    first = int(height.argmin())
    places = along[first] + share[first] * length[first] + along[-1] * np.arange(count) / count
    return np.stack([np.interp(places % along[-1], along, axis) for axis in border.T], 1)


def outward_distances(inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Return how far from each point of a clockwise contour [N, 2] another one [M, 2] is along its normal, float32 [N].

    Points of whose normal the other contour is not in the way get the distance to its nearest point.
    """
    tangent = np.roll(inner, -1, 0) - np.roll(inner, 1, 0)
    normal = np.stack((tangent[:, 1], -tangent[:, 0]), 1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    edge = np.roll(outer, -1, 0) - outer
    way = outer - inner[:, None]  # [N, M, 2]
    # inner + t normal = outer + s edge
    across = normal[:, None, 0] * edge[:, 1] - normal[:, None, 1] * edge[:, 0]
    safe = np.where(across == 0, 1, across)
    t = (way[..., 0] * edge[:, 1] - way[..., 1] * edge[:, 0]) / safe
    s = (way[..., 0] * normal[:, None, 1] - way[..., 1] * normal[:, None, 0]) / safe
    hit = (across != 0) & (t >= 0) & (s >= 0) & (s <= 1)
    straight = np.where(hit, t, np.inf).min(1)
    nearest = np.linalg.norm(way, axis=2).min(1)
    return np.where(np.isfinite(straight), straight, nearest).astype(np.float32)
