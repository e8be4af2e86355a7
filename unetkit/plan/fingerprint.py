"""What a data set measures: the only thing besides the recipe that a plan is decided from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import nibabel as nib
import numpy as np

from unetkit.data.cases import read_case
from unetkit.data.datasets import Dataset, require_trainable
from unetkit.data.preprocess import nonzero_box
from unetkit.errors import DataError
from unetkit.types import IGNORE, Case, Labels, Volume

_SAMPLES = 10_000_000
"""Foreground intensities kept per channel over all cases; every case gives the same number of them."""
_SAMPLES_OF_CASE = 100_000
_SEED = 1234
_SHOWN = 3


@dataclass(frozen=True)
class Intensity:
    """Foreground intensities of one channel, each case weighing the same: percentiles 0.5 and 99.5, and moments."""

    low: float
    high: float
    mean: float
    std: float
    median: float


@dataclass(frozen=True)
class Fingerprint:
    """What the training cases measure; sizes and spacings per case, volumes in the order of the RAS axes.

    `shapes` are in voxels, `cropped` the same after cutting the zero border, `spacings` in mm. `placed`: the files say
    how their axes lie in the body. `dtypes` counts cases by the type of their voxels; `voxels` counts labelled voxels
    by class.
    """

    dims: int
    channels: tuple[str, ...]
    labels: Labels
    cases: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    cropped: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, ...], ...]
    placed: bool
    intensities: tuple[Intensity, ...]
    dtypes: dict[str, int]
    voxels: dict[str, int]

    @property
    def crop_ratio(self) -> float:
        """Median share of the voxels that is left after cutting the zero border."""
        return float(np.median([np.prod(c) / np.prod(s) for c, s in zip(self.cropped, self.shapes, strict=True)]))

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Measured:
    shape: tuple[int, ...]
    cropped: tuple[int, ...]
    spacing: tuple[float, ...]
    placed: bool
    dtype: str
    counts: np.ndarray
    samples: np.ndarray


def measure(dataset: Dataset, case_ids: Iterable[str], threads: int = 2) -> Fingerprint:
    """Read the named cases (those that train) and return what they measure.

    Raises DataError, naming the cases, if any cannot be read, and if no voxel of any is labelled.
    """
    require_trainable(dataset)
    cases = [dataset.case(name) for name in case_ids]
    if not cases or dataset.labels is None:
        raise DataError(f"{dataset.name}: zero labelled training cases; add labels, or change data.split")
    # The same number from every case: percentiles weigh patients alike, not voxels (nnU-Net does too).
    number = min(_SAMPLES_OF_CASE, max(1, _SAMPLES // len(cases)))
    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(partial(_attempt, labels=dataset.labels, number=number), cases))
    # All cases are read before anything is said: one complaint about each fault, not one fault a run.
    faults = [r for r in results if isinstance(r, DataError)]
    if faults:
        more = f" (and {len(faults) - _SHOWN} more)" if len(faults) > _SHOWN else ""
        shown = "; ".join(str(fault) for fault in faults[:_SHOWN])
        raise DataError(f"{dataset.name}: {len(faults)} of {len(cases)} cases cannot be used: {shown}{more}")
    return _collect(dataset, dataset.labels, cases, [r for r in results if isinstance(r, _Measured)])


def _attempt(case: Case, labels: Labels, number: int) -> _Measured | DataError:
    try:
        image, label = read_case(case, labels)
        if label is None:
            return DataError(f"case {case.id}: no label; add one, or leave the case out")
    except DataError as error:
        return error
    foreground = np.asarray(((label.data > 0) & (label.data < IGNORE)).any(axis=0))
    order = _ras_order(image)
    box = nonzero_box(image.data)
    return _Measured(
        shape=tuple(image.shape[a] for a in order),
        cropped=tuple(box[a][1] - box[a][0] for a in order),
        spacing=tuple(float(image.spacing[a]) for a in order),
        placed=image.affine is not None,
        dtype=image.data.dtype.name,
        counts=_counts(label.data, labels),
        samples=_draw(image.data, foreground, number),
    )


def _ras_order(image: Volume) -> list[int]:
    """Return which array axis lies along right, anterior and superior; the array's own order where no file says."""
    if image.affine is None or image.dims != 3:
        return list(range(image.dims))
    # io_orientation gives the world axis of each array axis; sorting inverts that.
    return [int(a) for a in np.argsort(nib.orientations.io_orientation(image.affine)[:, 0])]


def _counts(encoded: np.ndarray, labels: Labels) -> np.ndarray:
    """Return the number of voxels of each class."""
    if labels.regions:
        return (encoded == 1).reshape(len(encoded), -1).sum(axis=1)
    # Index 0 is the background, 255 what is ignored; neither is a class.
    return np.bincount(encoded.ravel(), minlength=256)[1 : len(labels.classes) + 1]


def _draw(data: np.ndarray, foreground: np.ndarray, number: int) -> np.ndarray:
    """Draw foreground intensities [C, n] with replacement, so that a case with a small lesion weighs as much."""
    found = data[:, foreground].astype(np.float32)
    if found.shape[1] == 0:
        return found
    return found[:, np.random.default_rng(_SEED).integers(found.shape[1], size=number)]


def _collect(dataset: Dataset, labels: Labels, cases: Sequence[Case], measured: Sequence[_Measured]) -> Fingerprint:
    counts = np.sum([m.counts for m in measured], axis=0)
    if not counts.any():
        raise DataError(
            f"{dataset.name}: none of the {len(cases)} training cases has a labelled voxel; check data.classes "
            "against the values in the label files (`unetkit inspect`)"
        )
    samples = np.concatenate([m.samples for m in measured], axis=1)
    return Fingerprint(
        dims=dataset.dims,
        channels=dataset.channels,
        labels=labels,
        cases=tuple(case.id for case in cases),
        shapes=tuple(m.shape for m in measured),
        cropped=tuple(m.cropped for m in measured),
        spacings=tuple(m.spacing for m in measured),
        placed=all(m.placed for m in measured),
        intensities=tuple(_intensity(channel) for channel in samples),
        dtypes=dict(Counter(m.dtype for m in measured)),
        voxels={name: int(n) for name, n in zip(labels.classes, counts, strict=True)},
    )


def _intensity(values: np.ndarray) -> Intensity:
    low, median, high = (float(v) for v in np.percentile(values, (0.5, 50, 99.5)))
    return Intensity(low, high, float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)), median)
