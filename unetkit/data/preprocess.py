"""From a case's own grid to the network's; the same steps in training and prediction.

Steps: closest canonical (RAS) orientation, transpose by the plan, crop to nonzero, normalise, resample (or resize in
plane). `Geometry` remembers them for the way back, which `restore` goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
import torch

from unetkit.data.locations import Locations
from unetkit.data.normalize import normalize, object_mask
from unetkit.data.resample import resize, resize_labels, separate_axis, target_shape
from unetkit.errors import DataError, ShapeError
from unetkit.plan.plan import Plan
from unetkit.types import Volume


@dataclass(frozen=True, eq=False)
class Geometry:
    """How a prepared array [*P] came from an input [*S], with what is needed to go back.

    Prepared axis a runs along input axis `axes[a]`, reversed where `flips[a]`; `box` is the (start, stop) kept of each
    after that; `shape` and `spacing` (mm) are those of the prepared array. `separate` is the axis that was
    resampled to the nearest slice; `corners` says that `resize` matched corners rather than pixel areas.
    """

    input_shape: tuple[int, ...]
    input_spacing: tuple[float, ...]
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    box: tuple[tuple[int, int], ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    separate: int | None = None
    corners: bool = False
    affine: np.ndarray | None = None
    source: str | None = None
    header: Any = field(default=None, repr=False)

    @property
    def cropped_shape(self) -> tuple[int, ...]:
        """Size in voxels after crop and before resampling."""
        return tuple(stop - start for start, stop in self.box)

    @property
    def grid(self) -> Volume:
        """Where the input lies, as a volume [1, *S] whose voxels are one zero seen everywhere: it takes no memory."""
        return Volume(np.broadcast_to(np.int8(0), (1, *self.input_shape)), self.input_spacing, self.affine, self.source)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network sees it: `data` [C, *S], `label` encoded uint8 [L, *S] or None.

    `data` is float32, or what a store holds it in (see `data/store`), and then perhaps mapped from a file. `locations`
    says where the label's classes are, as far as somebody has looked already. `previous` is the label map of a
    cascade's earlier stage, encoded like the label, for plans that have one; `soft` holds the codes uint8 [L, *S] of
    soft labels (see `soft_labels`), for a loss that wants them.
    """

    id: str
    data: np.ndarray
    label: np.ndarray | None
    geometry: Geometry
    locations: Locations | None = None
    previous: np.ndarray | None = None
    soft: np.ndarray | None = None


def preprocess(
    image: Volume, label: Volume | None, plan: Plan, *, case_id: str | None = None, previous: Volume | None = None
) -> Prepared:
    """Bring an image [C, *S] and its encoded label [L, *S] to the orientation, intensities and grid of the plan.

    2D images keep their axes. Nothing is padded here: patches and windows do that. `previous` is the encoded label
    map [L, *S] of a cascade's earlier stage.

    Raises ShapeError if image, label and plan disagree in channels, axes or shape; DataError for NaN voxels or a
    broken affine.
    """
    data, geometry = prepare_image(image, plan)
    target = None if label is None else prepare_label(label, geometry, plan)
    earlier = None if previous is None else prepare_previous(previous, geometry, plan)
    return Prepared(case_id or image.source or "", data, target, geometry, previous=earlier)


def prepare_image(image: Volume, plan: Plan) -> tuple[np.ndarray, Geometry]:
    """Return the image float32 [C, *P] as the network sees it, and how it came to be. Raises as `preprocess`."""
    _check(image, plan)
    axes, flips = _orientation(image, plan.transpose)
    data = oriented(image.data, axes, flips)
    box = nonzero_box(data) if plan.crop_nonzero else tuple((0, n) for n in data.shape[1:])
    data = data[_inside(box)]
    geometry = _geometry(image, axes, flips, box, plan)
    masked = any(rule.scheme == "zscore_mask" for rule in plan.normalization)
    # Before resampling, as nnU-Net: interpolation would blur the zero border that masks rely on.
    data = normalize(data, plan.normalization, mask=object_mask(data) if masked else None)
    # `corners` is the Synapse protocol: cubic zoom of the image, nearest of the label.
    order = 3 if geometry.corners else int(plan.resampling["image"])
    data = resize(torch.from_numpy(data), geometry.shape, _orders(geometry, order), corners=geometry.corners).numpy()
    return np.ascontiguousarray(data), geometry


def expected_shape(image: Volume, plan: Plan) -> tuple[int, ...]:
    """Return the prepared size of an image before any crop, without looking at a voxel. Raises DataError."""
    axes, flips = _orientation(image, plan.transpose)
    return _geometry(image, axes, flips, tuple((0, image.shape[axis]) for axis in axes), plan).shape


def prepare_label(label: Volume, geometry: Geometry, plan: Plan) -> np.ndarray:
    """Bring an encoded label [L, *S] to the grid of its prepared image: uint8 [L, *P]. Raises ShapeError."""
    # Numbers of objects are two layers that have to stay together: each voxel takes those of one voxel.
    nearest = geometry.corners or plan.labels.instances
    return _on_network_grid(label, geometry, 0 if nearest else int(plan.resampling["label"]))


def prepare_previous(label: Volume, geometry: Geometry, plan: Plan) -> np.ndarray:
    """Bring the encoded label map [L, *S] of a cascade's earlier stage to the grid of its prepared image.

    Returns uint8 [L, *P], the nearest voxel. Raises ShapeError if the shapes differ, or the plan has no such stage.
    """
    if not plan.previous:
        raise ShapeError(
            f"{geometry.source or 'the image'}: a label map of an earlier stage, but the network sees the image alone; "
            "drop it, or use the network of a cascade"
        )
    return _on_network_grid(label, geometry, 0)


def _on_network_grid(label: Volume, geometry: Geometry, order: int) -> np.ndarray:
    if label.shape != geometry.input_shape:
        raise ShapeError(
            f"{geometry.source or 'the image'}: image {geometry.input_shape} and label {label.shape} differ in shape; "
            "resave them alike"
        )
    # Flips are views with negative strides, which torch refuses.
    cut = np.ascontiguousarray(oriented(label.data, geometry.axes, geometry.flips)[_inside(geometry.box)])
    orders = _orders(geometry, order)
    return resize_labels(torch.from_numpy(cut), geometry.shape, orders, corners=geometry.corners).numpy()


def _check(image: Volume, plan: Plan) -> None:
    where = image.source or "the image"
    if image.channels != len(plan.channels):
        raise ShapeError(
            f"{where}: {image.channels} channel(s), the plan has {len(plan.channels)} ({', '.join(plan.channels)}); "
            "give the same channels as in training"
        )
    if image.dims < plan.dims or (plan.transpose and len(plan.transpose) != image.dims):
        needed = len(plan.transpose) or plan.dims
        raise ShapeError(f"{where}: an image of {image.dims} axes, the plan is for {needed}; give data of that kind")


def _orientation(image: Volume, transpose: Sequence[int]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return for each prepared axis the input axis and whether it is reversed."""
    order = tuple(transpose) or tuple(range(image.dims))
    if image.affine is None or image.dims < 3:
        return order, (False,) * image.dims
    # Row per array axis: the world axis it runs along, and +1 or -1 for the direction.
    found = nib.orientations.io_orientation(image.affine)
    if not np.isfinite(found).all():
        raise DataError(f"{image.source or 'image'}: its affine maps an axis to nothing; repair the header")
    source = {int(world): (axis, bool(sign < 0)) for axis, (world, sign) in enumerate(found)}
    return tuple(source[world][0] for world in order), tuple(source[world][1] for world in order)


def oriented(data: np.ndarray, axes: Sequence[int], flips: Sequence[bool]) -> np.ndarray:
    """Return a view of [C, *S] whose axes are those of a prepared array; see `Geometry`."""
    # [C, i, j, k] -> [C, *prepared], through-plane axis first.
    turned = data.transpose(0, *(1 + axis for axis in axes))
    return np.flip(turned, tuple(1 + axis for axis, flip in enumerate(flips) if flip))


def nonzero_box(data: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the (start, stop) per axis around voxels that are nonzero in any channel; everything if none is."""
    nonzero = (data != 0).any(axis=0)
    box = []
    for axis in range(nonzero.ndim):
        used = np.flatnonzero(nonzero.any(axis=tuple(a for a in range(nonzero.ndim) if a != axis)))
        box.append((int(used[0]), int(used[-1]) + 1) if len(used) else (0, nonzero.shape[axis]))
    return tuple(box)


def _geometry(
    image: Volume, axes: tuple[int, ...], flips: tuple[bool, ...], box: tuple[tuple[int, int], ...], plan: Plan
) -> Geometry:
    old = tuple(float(image.spacing[axis]) for axis in axes)
    size = tuple(stop - start for start, stop in box)
    shape, new = size, old
    if plan.resize is not None:
        # Only the plane (the last two axes) is resized; the slices stay as many.
        shape = (*size[:-2], *plan.resize)
        new = tuple(width * a / b for width, a, b in zip(old, size, shape, strict=True))
    elif plan.spacing is not None:
        # A spacing for the plane alone leaves the slices of a volume where they are.
        new = (*old[: len(old) - len(plan.spacing)], *map(float, plan.spacing))
        shape = target_shape(size, old, new)
    return Geometry(
        input_shape=image.shape,
        input_spacing=tuple(map(float, image.spacing)),
        axes=axes,
        flips=flips,
        box=box,
        shape=shape,
        spacing=new,
        # Resizing works within planes, so that no slice is ever interpolated there.
        separate=separate_axis(old, new, plan.resampling["separate_z"]) if plan.resize is None else None,
        corners=plan.resize is not None,
        affine=image.affine,
        source=image.source,
        header=image.header,
    )


def _inside(box: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    """All channels of a box."""
    return (slice(None), *(slice(start, stop) for start, stop in box))


def _orders(geometry: Geometry, order: int) -> tuple[int, ...]:
    return tuple(0 if axis == geometry.separate else order for axis in range(len(geometry.shape)))
