"""One case's share of a fingerprint: everything that is measured while its files are open."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np

from unetkit.data.cases import read_case
from unetkit.data.components import find_components
from unetkit.data.geometry import orientation
from unetkit.data.preprocess import nonzero_box
from unetkit.errors import DataError, counted
from unetkit.plan.histogram import Histogram, Moments, histogram, moments
from unetkit.types import IGNORE, Case, Labels, Volume

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """Smallest, largest, mean and standard deviation of one channel."""

    low: float
    high: float
    mean: float
    std: float


@dataclass(frozen=True)
class CaseFacts:
    """What one case shows besides its size.

    `orientation`: the directions in which the axes of the file grow, such as LPS, or None. `image` are all voxels of
    each channel, `foreground` those with a class (empty if there are none), `labelled` their share of what is not to
    be ignored. By class: `voxels`, the number of `components`, and the voxels of the `smallest` and the `middle`
    (median) of them; these three are None for a label map of noise, and sizes are 0 where the class is absent.
    """

    orientation: str | None
    dtype: str
    image: tuple[Spread, ...]
    foreground: tuple[Spread, ...]
    labelled: float
    voxels: tuple[int, ...]
    components: tuple[int, ...] | None
    smallest: tuple[int, ...] | None
    middle: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class Part:
    """One measured case: sizes in voxels and spacing in mm in the order of the RAS axes, and a histogram a channel."""

    shape: tuple[int, ...]
    cropped: tuple[int, ...]
    spacing: tuple[float, ...]
    placed: bool
    facts: CaseFacts
    histograms: tuple[Histogram, ...]


def measure_case(case: Case, labels: Labels, channels: int) -> Part:
    """Read one case and measure it.

    Raises DataError, naming the case, if it cannot be read, has no label, another number of channels, or a spacing
    that is no length.
    """
    image, label = read_case(case, labels)
    if label is None:
        raise DataError(f"case {case.id}: no label; add one, or leave the case out")
    _check(case, image, channels)
    image_data, encoded = _in_memory_order(image.data, label.data[: labels.class_layers])
    foreground = ((encoded > 0) & (encoded < IGNORE)).any(axis=0)
    known = int(np.count_nonzero(encoded[0] != IGNORE))
    histograms = tuple(histogram(channel[foreground]) for channel in image_data)
    voxels, components, smallest, middle = _classes(encoded, labels)
    order = _ras_order(image)
    box = nonzero_box(image.data)
    return Part(
        shape=tuple(image.shape[a] for a in order),
        cropped=tuple(box[a][1] - box[a][0] for a in order),
        spacing=tuple(float(image.spacing[a]) for a in order),
        placed=image.affine is not None,
        facts=CaseFacts(
            orientation=orientation(image),
            dtype=image.data.dtype.name,
            image=tuple(_spread(moments(channel)) for channel in image_data),
            foreground=tuple(_spread(of.moments) for of in histograms if of.moments.weight),
            labelled=int(np.count_nonzero(foreground)) / max(known, 1),
            voxels=voxels,
            components=components,
            smallest=smallest,
            middle=middle,
        ),
        histograms=histograms,
    )


def _check(case: Case, image: Volume, channels: int) -> None:
    if image.channels != channels:
        raise DataError(
            f"case {case.id}: {counted(image.channels, 'channel')} where the other cases have {channels}; "
            "give all cases the same"
        )
    if not all(np.isfinite(s) and s > 0 for s in image.spacing):
        raise DataError(
            f"case {case.id}: spacing {' x '.join(f'{s:g}' for s in image.spacing)} mm; repair the header: every axis "
            "needs a positive length"
        )


def _in_memory_order(image: np.ndarray, encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn [C, *S] and [L, *S] alike, so that picking foreground walks through memory from one end to the other."""
    axes = sorted(range(1, image.ndim), key=lambda axis: -abs(image.strides[axis]))
    return image.transpose(0, *axes), encoded.transpose(0, *axes)


def _ras_order(image: Volume) -> list[int]:
    """Return which array axis lies along right, anterior and superior; the array's own order where no file says."""
    if image.affine is None or image.dims != 3:
        return list(range(image.dims))
    # io_orientation gives the world axis of each array axis; sorting inverts that.
    return [int(a) for a in np.argsort(nib.orientations.io_orientation(image.affine)[:, 0])]


def _spread(found: Moments) -> Spread:
    return Spread(found.low, found.high, found.mean, found.std)


def _classes(encoded: np.ndarray, labels: Labels) -> tuple[Numbers, Numbers | None, Numbers | None, Numbers | None]:
    """Return voxels, number of components, and the size of the smallest and the median one of each class."""
    found = [find_components(np.where(layer < IGNORE, layer, np.uint8(0))) for layer in encoded]
    layers = [layer for layer in found if layer is not None]
    if len(layers) < len(found):
        return _voxels(encoded, labels), None, None, None
    if labels.regions:
        sizes = [layer.sizes for layer in layers]
    else:
        sizes = [layers[0].sizes[layers[0].labels == index] for index in range(1, len(labels.classes) + 1)]
    return (
        # the components of a class are all of it, so that nothing has to be counted a second time
        tuple(int(one.sum()) for one in sizes),
        tuple(len(one) for one in sizes),
        tuple(int(one.min()) if len(one) else 0 for one in sizes),
        tuple(int(np.median(one)) if len(one) else 0 for one in sizes),
    )


def _voxels(encoded: np.ndarray, labels: Labels) -> Numbers:
    if labels.regions:
        return tuple(int(np.count_nonzero(layer == 1)) for layer in encoded)
    # Index 0 is the background, 255 what is ignored; neither is a class.
    return tuple(np.bincount(encoded.ravel(order="K"), minlength=256)[1 : len(labels.classes) + 1].tolist())
