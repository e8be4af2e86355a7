"""Where volumes lie: do two share a grid, and how is one stored in the axis order of the other."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np

from unetkit.types import Volume

_SHARE_OF_VOXEL = 0.01
_FLOOR_MM = 1e-3


def orientation(volume: Volume) -> str | None:
    """Return the three letters of the directions in which the array axes grow, such as LPS, or None without affine."""
    return None if volume.affine is None else "".join(nib.aff2axcodes(volume.affine))


def stored_like(volume: Volume, reference: Volume) -> Volume:
    """Return the volume with its axes permuted and flipped to the reference's order; voxels stay where they are."""
    if volume.affine is None or reference.affine is None or orientation(volume) == orientation(reference):
        return volume
    change = nib.orientations.ornt_transform(nib.io_orientation(volume.affine), nib.io_orientation(reference.affine))
    # apply_orientation moves axes from the first on, so each channel [*S] goes alone.
    data = np.stack([nib.orientations.apply_orientation(channel, change) for channel in volume.data])
    affine = volume.affine @ nib.orientations.inv_ornt_aff(change, volume.shape)
    spacing = tuple(float(s) for s in nib.affines.voxel_sizes(affine))
    return replace(volume, data=data, affine=affine, spacing=spacing, header=None)


def difference(volume: Volume, reference: Volume) -> str | None:
    """Say in words how two grids differ, or None if they are the same up to the noise of headers.

    Corners may lie apart by a hundredth of a voxel, or by 0.001 mm where that is more.
    """
    if volume.shape != reference.shape:
        return f"shape {_times(volume.shape)} against {_times(reference.shape)}"
    if volume.affine is None or reference.affine is None:
        return None
    # Corners tell more than matrices: a direction off by 1e-4 matters over 500 voxels, not over 5.
    apart = corner_distance(volume.affine, reference.affine, volume.shape)
    if apart <= max(_FLOOR_MM, _SHARE_OF_VOXEL * min(reference.spacing)):
        return None
    if orientation(volume) != orientation(reference):
        return f"orientation {orientation(volume)} against {orientation(reference)}"
    if not np.allclose(volume.spacing, reference.spacing, rtol=1e-3):
        return f"spacing {_numbers(volume.spacing)} against {_numbers(reference.spacing)} mm"
    origins = _numbers(volume.affine[:3, 3]), _numbers(reference.affine[:3, 3])
    what = f"origin {origins[0]} against {origins[1]} mm" if origins[0] != origins[1] else "direction of the axes"
    return f"{what} (up to {apart:.3g} mm apart)"


def corner_distance(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the largest distance in mm between the same corner voxel under two 4x4 affines."""
    # [8, 3] index triples; an affine map is largest in effect at a corner.
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), -1).reshape(-1, 3)
    moved = nib.affines.apply_affine(first, corners) - nib.affines.apply_affine(second, corners)
    return float(np.linalg.norm(moved, axis=1).max())


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _numbers(values: np.ndarray | tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{float(v):.4g}" for v in values) + ")"
