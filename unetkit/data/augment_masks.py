"""Random changes to the masks of a cascade's earlier stage, so that the network learns not to trust them blindly.

Balls dilate and erode, components vanish (nnU-Net, doi:10.1038/s41592-020-01008-z). The same code runs in two and in
three dimensions, on any device, and gives the same voxels there: all of it is done in whole numbers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from unetkit.data.augment_draw import Draw, Morphology
from unetkit.data.augment_table import Masks


def change_masks(masks: Tensor, draw: Draw, table: Masks) -> Tensor:
    """Return masks bool [K, *P] after what was drawn for them; without regions, what one gains the others lose."""
    masks = masks.clone() if draw.morphology or draw.dropped else masks
    for change in draw.morphology:
        before = masks[change.channel].clone()
        after = apply_morphology(before, change)
        if not table.regions:
            masks &= ~(after & ~before)
        masks[change.channel] = after
    for channel, place in draw.dropped:
        masks[channel] = drop_component(masks[channel], place, table.drop.high)
    return masks


def apply_morphology(mask: Tensor, change: Morphology) -> Tensor:
    """Dilate, erode, open or close a mask bool [*P] by a ball; the border of the patch does not erode."""
    if not bool(mask.any()):
        return mask
    radius = change.radius
    # Beyond twice the radius around the mask no operation sees or changes anything.
    box = _box_around(mask, 2 * math.ceil(radius) + 1)
    part = mask[box]
    if change.operation in ("dilation", "closing"):
        part = dilated(part, radius)
    if change.operation in ("erosion", "closing", "opening"):
        part = ~dilated(~part, radius)
    if change.operation == "opening":
        part = dilated(part, radius)
    result = torch.zeros_like(mask)
    result[box] = part
    return result


def dilated(mask: Tensor, radius: float) -> Tensor:
    """Return where a bool mask [*P] has a voxel within `radius` (Euclidean, in voxels)."""
    reach, limit = int(radius), int(radius * radius)
    far = limit + 1
    # Squared distances one axis after the other: min over k of (d[x + k] + k^2) is exact for a bounded radius.
    squares = torch.where(mask, 0, far).to(torch.int16)
    for axis in range(mask.ndim):
        size = mask.shape[axis]
        nearest = squares.clone()
        for step in range(1, min(reach, size - 1) + 1):
            moved = squares + step * step
            ahead = nearest.narrow(axis, 0, size - step)
            torch.minimum(ahead, moved.narrow(axis, step, size - step), out=ahead)
            behind = nearest.narrow(axis, step, size - step)
            torch.minimum(behind, moved.narrow(axis, 0, size - step), out=behind)
        squares = nearest.clamp_max_(far)
    return squares <= limit


def drop_component(mask: Tensor, place: float, largest: float) -> Tensor:
    """Return a bool mask [*P] without one of its components; `place` in 0..1 says which, by the order of voxels.

    Those of `largest` times the patch or more stay. Voxels that touch at a corner belong together.
    """
    # Components need one pass in order, which is the work of a CPU.
    found, number = ndimage.label(mask.cpu().numpy(), ndimage.generate_binary_structure(mask.ndim, mask.ndim))
    sizes = np.bincount(found.ravel(), minlength=number + 1)[1:]
    small = np.flatnonzero(sizes < largest * mask.numel()) + 1
    if not len(small):
        return mask
    return mask & torch.from_numpy(found != small[int(place * len(small))]).to(mask.device)


def _box_around(mask: Tensor, margin: int) -> tuple[slice, ...]:
    """Return the box of a mask that is not empty, `margin` voxels wider on all sides where the patch has them."""
    box = []
    for axis in range(mask.ndim):
        used = mask.movedim(axis, 0).flatten(1).any(1).nonzero()
        low, high = int(used[0]), int(used[-1]) + 1
        box.append(slice(max(low - margin, 0), min(high + margin, mask.shape[axis])))
    return tuple(box)
