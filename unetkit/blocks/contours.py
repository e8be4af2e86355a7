"""Closed contours of a fixed number of points, and their drawing as logits.

Points are (x, y) in shares of the image's width and height: pixel i of n has its centre at (i + 1/2) / n. A contour
runs clockwise as one sees it, from its topmost point over its centre. `rings` says how many points there are: for
each class a tuple with a number for each of its contours.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unetkit.errors import ModelError
from unetkit.types import TaskShape

FEWEST = 6
"""Points of a contour: pooled by two, a ring of three is left."""

Rings = tuple[tuple[int, ...], ...]

# Numbers of one intermediate map when pixels look for their nearest edge.
_AT_ONCE = 2**20
_TINY = 1e-12


class Landmarks(NamedTuple):
    """What a network of contours says of images.

    `positions` [B, N, 2] of all points, the result first, then intermediate ones; those of rings pooled by two are
    fewer. `distances` [B, M]: how far outside of the first M points those of a further contour lie, which the
    positions lack. `latent`: mean and logarithm of the variance [B, Z] of the vector that positions were decoded from.
    """

    positions: tuple[Tensor, ...]
    distances: Tensor | None = None
    latent: tuple[Tensor, Tensor] | None = None


class ContourNetwork(nn.Module, ABC):
    """A network that finds contours: `landmarks` as published, drawn by `forward` as logits [B, K, H, W].

    With `regions` there is an output for each class, else one of the background before them.
    """

    def __init__(self, rings: Rings, regions: bool) -> None:
        super().__init__()
        self.rings, self.regions = rings, regions

    @abstractmethod
    def landmarks(self, image: Tensor) -> Landmarks:
        """Return the points that the network finds in images [B, C, H, W]."""

    def outline(self, found: Landmarks) -> Tensor:
        """Return the points [B, N, 2] of all rings."""
        return found.positions[0]

    def forward(self, image: Tensor) -> Tensor:
        """Return how many pixels each pixel lies within a contour of each class, negative outside."""
        return draw(self.outline(self.landmarks(image)), self.rings, image.shape[2:], self.regions)


def ring_sizes(rings: Rings) -> tuple[int, ...]:
    """Return the points of every contour, those of the first class first."""
    return tuple(size for one in rings for size in one)


def rings_for(
    task: TaskShape, given: Sequence[int | Sequence[int]] | None, usual: Sequence[int], regions: bool
) -> Rings:
    """Return the rings that a model's option gives (a number, or a list of them, for each class), or the usual ones.

    Raises ModelError if there are not as many as classes, or a contour has fewer than FEWEST points.
    """
    classes = task.num_classes - (not regions)
    if classes < 1:
        raise ModelError(
            f"num_classes={task.num_classes}: no class but the background; give 2 or more, or regions=true"
        )
    asked = usual if given is None else given
    rings = tuple((one,) if isinstance(one, int) else tuple(one) for one in asked)
    if len(rings) != classes:
        raise ModelError(
            f"rings={list(asked)} are contours of {len(rings)} classes, and there are {classes} without the "
            "background; give points for each class, or a list of them for a class of several parts"
        )
    if not all(rings) or min(ring_sizes(rings)) < FEWEST:
        raise ModelError(f"rings={list(asked)}: a contour has {FEWEST} points or more; give larger numbers")
    return rings


def draw(points: Tensor, rings: Rings, size: Sequence[int], regions: bool) -> Tensor:
    """Return contours [B, N, 2] as logits [B, K, H, W]: the signed distance to each class, in pixels, above 0 inside.

    A class of several contours is what lies in any of them; the background is what lies in none.
    """
    contours = iter(points.split(ring_sizes(rings), 1))
    classes = []
    for one in rings:
        parts = torch.stack([signed_distance(next(contours), size) for _ in one])
        classes.append(parts.amax(0))
    logits = torch.stack(classes, 1)
    return logits if regions else torch.cat((-logits.amax(1, keepdim=True), logits), 1)


def signed_distance(points: Tensor, size: Sequence[int]) -> Tensor:
    """Return the distance [B, H, W] of each pixel to a closed polygon [B, N, 2] in pixels, above 0 inside it.

    Where a polygon crosses itself, what lies within an even number of its turns is outside. Gradients reach the two
    points of the edge that is nearest to a pixel.
    """
    height, width = size
    # distances of a fraction of a pixel are beyond bf16
    exact = torch.promote_types(points.dtype, torch.float32)
    start = points.to(exact) * torch.tensor([width, height], dtype=exact, device=points.device)
    end = start.roll(-1, 1)
    x = torch.arange(width, device=points.device, dtype=exact) + 0.5
    y = torch.arange(height, device=points.device, dtype=exact) + 0.5
    rows = max(1, _AT_ONCE // (start.shape[0] * start.shape[1] * width))
    with torch.no_grad():
        found = [_nearest_edge(start, end, x, some) for some in y.split(rows)]
    edge, inside = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    ends = [one.gather(1, edge.flatten(1)[..., None].expand(-1, -1, 2)).view(*edge.shape, 2) for one in (start, end)]
    pixels = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), -1)
    distance = (_offset(pixels, *ends).square().sum(-1) + _TINY).sqrt()
    return torch.where(inside, distance, -distance)


def _nearest_edge(start: Tensor, end: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return of pixels at [R] x [W] the number of the nearest edge and whether they lie inside, [B, R, W] each."""
    (ax, ay), (bx, by) = start[:, None].unbind(-1), end[:, None].unbind(-1)
    lx, ly = bx - ax, by - ay
    squared = (lx * lx + ly * ly).clamp(min=_TINY)
    # x and y apart, [B, W, N] and [B, R, N], as far as that goes: the maps of all pixels and edges are what costs
    dx, dy = x[:, None] - ax, y[:, None] - ay
    share = ((dx * (lx / squared))[:, None] + (dy * (ly / squared))[:, :, None]).clamp_(0, 1)
    distance = torch.addcmul(dx[:, None], share, lx[:, None], value=-1).square_()
    distance += torch.addcmul(dy[:, :, None], share, ly[:, None], value=-1).square_()
    # even-odd rule: edges that a ray to the right crosses, each at one place of a row
    spans = (ay > y[:, None]) != (by > y[:, None])
    places = ax + dy * lx / torch.where(spans, ly, 1)
    places = places.masked_fill(~spans, -torch.inf)
    crossed = (x[:, None] < places[:, :, None]).sum(-1)
    return distance.argmin(-1), crossed % 2 == 1


def _offset(pixels: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the way from the nearest point of each edge to each pixel, [..., 2]."""
    along = end - start
    share = ((pixels - start) * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True).clamp(min=_TINY)
    return pixels - start - share.clamp(0, 1) * along


def outward_normals(points: Tensor) -> Tensor:
    """Return unit vectors [B, N, 2] that point outwards at each point of a clockwise contour [B, N, 2]."""
    along = points.roll(-1, 1) - points.roll(1, 1)
    # y points down: a quarter turn to the left
    outward = torch.stack((along[..., 1], -along[..., 0]), -1)
    return outward / (outward.square().sum(-1, keepdim=True) + _TINY).sqrt()


def pool_rings(values: Tensor, rings: Rings) -> Tensor:
    """Return the means of neighbouring pairs of points [B, N, C] of each ring; the last one of an odd ring stays."""
    parts = []
    for ring in values.split(ring_sizes(rings), 1):
        pairs = ring[:, : ring.shape[1] // 2 * 2].unflatten(1, (-1, 2)).mean(2)
        parts.append(torch.cat((pairs, ring[:, -1:]), 1) if ring.shape[1] % 2 else pairs)
    return torch.cat(parts, 1)


def pooled_rings(rings: Rings) -> Rings:
    """Return how many points `pool_rings` leaves."""
    return tuple(tuple(-(-size // 2) for size in one) for one in rings)


def unpool_rings(values: Tensor, rings: Rings) -> Tensor:
    """Return the points [B, N, C] of `rings` from pooled ones: those kept, and between two of them their mean.

    The last point of an even ring is a copy of the one before it, as HybridGNet has it.
    """
    parts = []
    for ring, size in zip(values.split(ring_sizes(pooled_rings(rings)), 1), ring_sizes(rings), strict=True):
        between = torch.cat(((ring[:, :-1] + ring[:, 1:]) / 2, ring[:, -1:]), 1)
        parts.append(torch.stack((ring, between), 2).flatten(1, 2)[:, :size])
    return torch.cat(parts, 1)
