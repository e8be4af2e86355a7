"""Change the grid of images, labels and scores: separable, in torch, on any device, blockwise along each axis.

An output sample is a weighted sum of input samples of its row, so resizing an axis is a product with a banded matrix.
Linear and cubic equal `skimage.transform.resize(mode="edge", anti_aliasing=False)` (pixel areas match, like
align_corners=False); with `corners` the first and last samples match instead, as in `scipy.ndimage.zoom`.
"""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from scipy.linalg import solve_banded
from torch import Tensor

_BLOCK = 64
_SEAM = 2**18  # places between classes that are decided at once
_EDGE = 12  # samples the cubic spline needs beyond the border until its boundary condition no longer shows (1e-7)
_ANISOTROPY = 3.0


def target_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Return the size in voxels that keeps the extent in mm when `spacing` becomes `target`; at least 1 per axis."""
    return tuple(max(1, round(n * old / new)) for n, old, new in zip(shape, spacing, target, strict=True))


def separate_axis(spacing: Sequence[float], target: Sequence[float], rule: object = "auto") -> int | None:
    """Return the axis that is resampled to the nearest slice while the others are interpolated, or None.

    The axis of largest spacing if that is more than 3 times the smallest, asked of the current spacing first and then
    of the target; none if several axes are tied (nnU-Net, doi:10.1038/s41592-020-01008-z). `rule` True demands the
    axis of largest spacing, False forbids it.
    """
    if rule is False or len(spacing) < 3:
        return None
    for grid in (spacing, target):
        # Two equally coarse axes make no stack of slices.
        largest = [axis for axis, width in enumerate(grid) if width == max(grid)]
        if rule is True or max(grid) / min(grid) > _ANISOTROPY:
            return largest[0] if len(largest) == 1 else None
    return None


def resize(data: Tensor, shape: Sequence[int], orders: Sequence[int], *, corners: bool = False) -> Tensor:
    """Return [C, *S] on the grid [C, *shape], with spline order 0, 1 or 3 per axis; float unless all orders are 0.

    Cubic results are clipped to the range of their channel.
    """
    axes = [axis for axis, n in enumerate(shape) if n != data.shape[axis + 1]]
    out = data
    for axis in sorted(axes, key=lambda a: shape[a] / data.shape[a + 1]):  # shrink first: less work for the others
        if orders[axis] == 0:
            at = torch.from_numpy(nearest_index(data.shape[axis + 1], shape[axis], corners))
            out = out.index_select(axis + 1, at.to(data.device))
        else:
            weights = spline_weights(orders[axis], data.shape[axis + 1], shape[axis], corners)
            out = _along(out.float(), axis + 1, weights)
    if any(orders[axis] == 3 for axis in axes):
        # Cubic splines overshoot at edges; the input's range holds, as skimage's clip does.
        flat = data.float().flatten(1)
        view = (-1,) + (1,) * len(shape)
        out = torch.minimum(torch.maximum(out, flat.amin(1).view(view)), flat.amax(1).view(view))
    return out


def resize_labels(labels: Tensor, shape: Sequence[int], orders: Sequence[int], *, corners: bool = False) -> Tensor:
    """Return encoded labels uint8 [L, *S] on the grid [L, *shape].

    Order 0 takes the nearest voxel; order 1 interpolates a mask per value and keeps the value with the largest share,
    the smaller value where two are equal.
    """
    if tuple(labels.shape[1:]) == tuple(shape):
        return labels
    if max(orders) == 0:
        return resize(labels, shape, orders, corners=corners)
    return torch.stack([_vote(channel, shape, orders, corners) for channel in labels])


def _vote(labels: Tensor, shape: Sequence[int], orders: Sequence[int], corners: bool) -> Tensor:
    # Interpolating class numbers would invent classes between 1 and 3; shares of each are compared instead. Where all
    # voxels around a sample are of one value that is settled at once, which leaves the seams between classes.
    taps = [
        _label_taps(order, size, new, corners, labels.device)
        for order, size, new in zip(orders, labels.shape, shape, strict=True)
    ]
    low = high = labels
    for axis, around in enumerate(taps):
        if labels.shape[axis] != shape[axis]:
            low, high = (
                _reduced(values, axis, around, of) for values, of in ((low, torch.minimum), (high, torch.maximum))
            )
    for seam in torch.nonzero(low != high).split(_SEAM):
        low[seam.unbind(1)] = _largest_share(labels, seam, taps)
    return low


def _label_taps(
    order: int, size: int, new_size: int, corners: bool, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Return the input samples [new_size] around each sample, one or two, and the share of each."""
    if order == 0:
        nearest = torch.from_numpy(nearest_index(size, new_size, corners)).to(device)
        return [(nearest, torch.ones(new_size, device=device))]
    low, high, share = (torch.from_numpy(values).to(device) for values in linear_taps(size, new_size, corners))
    return [(low, 1 - share.float()), (high, share.float())]


def _reduced(values: Tensor, axis: int, around: Sequence[tuple[Tensor, Tensor]], of: Callable[..., Tensor]) -> Tensor:
    """Take the smallest or largest of the samples around each place of an axis."""
    found = [values.index_select(axis, place) for place, _ in around]
    return found[0] if len(found) == 1 else of(*found)


def _largest_share(labels: Tensor, at: Tensor, taps: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> Tensor:
    """Return for places `at` [N, axes] the value of the largest share among the voxels around, the smaller on ties."""
    # [2 ** axes, N]: value and share of each corner of the cell around a place.
    cells = list(
        product(*([(place[a], share[a]) for place, share in pair] for pair, a in zip(taps, at.T, strict=True)))
    )
    values = torch.stack([labels[tuple(place for place, _ in cell)] for cell in cells])
    shares = torch.stack([torch.stack([share for _, share in cell]).prod(0) for cell in cells])
    totals = torch.stack([(shares * (values == value)).sum(0) for value in values])
    # A tie is a tie even after rounding.
    leading = totals > totals.amax(0) - 1e-6
    return torch.where(leading, values, values.amax(0)).amin(0)


def nearest_index(size: int, new_size: int, corners: bool = False) -> np.ndarray:
    """Return for each of `new_size` samples the input sample 0..size-1 whose pixel it falls into."""
    if corners:
        return np.floor(_positions(size, new_size, True) + 0.5).astype(np.int64)
    # floor((i + 1/2) size / new_size) in whole numbers, free of rounding.
    return (2 * np.arange(new_size) + 1) * size // (2 * new_size)


def linear_taps(size: int, new_size: int, corners: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each of `new_size` samples the two of 0..size-1 it lies between, and the share of the second.

    Where the share is 0 both are the same.
    """
    positions = _positions(size, new_size, corners).clip(0, size - 1)
    low = np.floor(positions).astype(np.int64)
    share = positions - low
    return low, low + (share > 0), share


def spline_weights(order: int, size: int, new_size: int, corners: bool = False) -> np.ndarray:
    """Return the float64 matrix [new_size, size] that interpolates one axis with a spline of order 1 or 3."""
    positions = _positions(size, new_size, corners)
    if order == 1:
        positions = positions.clip(0, size - 1)
        return evaluation_matrix(positions, size, 1)
    # Edge mode repeats the border sample; with matching corners nothing is asked beyond it.
    edge = 0 if corners else _EDGE
    padded = np.eye(size)[np.arange(-edge, size + edge).clip(0, size - 1)]
    return evaluation_matrix(positions + edge, len(padded), 3) @ _spline_coefficients(padded)


def evaluation_matrix(positions: np.ndarray, size: int, degree: int) -> np.ndarray:
    """Return [len(positions), size]: B-spline basis of degree 1 or 3 at each position; mirrored beyond the border."""
    # Degree 1 touches 2 samples, degree 3 touches 4, from one before the position's cell.
    first = np.floor(positions).astype(int) - (degree - 1) // 2
    matrix = np.zeros((len(positions), size))
    for tap in range(degree + 1):
        distance = np.abs(positions - (first + tap))
        weight = np.maximum(1 - distance, 0) if degree == 1 else _cubic(distance)
        np.add.at(matrix, (np.arange(len(positions)), _mirrored(first + tap, size)), weight)
    return matrix


def _positions(size: int, new_size: int, corners: bool) -> np.ndarray:
    if corners:
        return np.arange(new_size) * ((size - 1) / (new_size - 1) if new_size > 1 else 1.0)
    return (np.arange(new_size) + 0.5) * (size / new_size) - 0.5


def _cubic(distance: np.ndarray) -> np.ndarray:
    # B3(d) = 2/3 - d^2 + d^3/2 within 1, (2 - d)^3 / 6 up to 2.
    near = 2 / 3 - distance**2 + distance**3 / 2
    return np.where(distance < 1, near, np.maximum(2 - distance, 0) ** 3 / 6)


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    if size == 1:
        return np.zeros_like(index)
    # Mirroring at sample centres has the period 2 n - 2.
    index = np.abs(index) % (2 * size - 2)
    return np.minimum(index, 2 * size - 2 - index)


def _spline_coefficients(samples: np.ndarray) -> np.ndarray:
    """Solve for the cubic B-spline coefficients [n, m] whose curve passes through `samples` [n, m]."""
    n = len(samples)
    if n == 1:
        return samples
    # Interpolation condition: (c[i-1] + 4 c[i] + c[i+1]) / 6 = sample[i], a tridiagonal system.
    bands = np.array([np.full(n, 1 / 6), np.full(n, 4 / 6), np.full(n, 1 / 6)])
    bands[0, 1] = bands[2, n - 2] = 2 / 6  # mirrored at both ends
    return solve_banded((1, 1), bands, samples)


def _along(data: Tensor, axis: int, weights: np.ndarray) -> Tensor:
    """Multiply one axis of `data` with a banded matrix, block of rows by block of rows."""
    before, after = data.shape[:axis], data.shape[axis + 1 :]
    rows = data.reshape(before.numel(), data.shape[axis], after.numel())
    out = data.new_empty(before.numel(), len(weights), after.numel())
    for start in range(0, len(weights), _BLOCK):
        block = weights[start : start + _BLOCK]
        # Cubic weights fade by a factor of 0.27 a sample: a block needs its neighbourhood only.
        used = np.flatnonzero((np.abs(block) > 1e-9).any(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        matrix = torch.from_numpy(np.ascontiguousarray(block[:, first:last])).to(data)
        out[:, start : start + _BLOCK] = _product(matrix, rows[:, first:last])
    return out.reshape(*before, len(weights), *after)


def _product(matrix: Tensor, rows: Tensor) -> Tensor:
    if rows.shape[2] == 1:  # last axis: one large product instead of many with a single column
        return (rows[:, :, 0] @ matrix.T)[:, :, None]
    return torch.matmul(matrix, rows)
