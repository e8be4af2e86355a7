"""One case from its files, checked and encoded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unetkit.data.geometry import difference, stored_like
from unetkit.data.labels import encode
from unetkit.data.volumes import read_images, read_volume
from unetkit.errors import DataError
from unetkit.types import IGNORE, Case, Labels, Volume


def read_case(case: Case, labels: Labels | None) -> tuple[Volume, Volume | None]:
    """Return the image [C, *S] and the encoded label uint8 [L, *S], both on the grid of the image file.

    Voxels outside the region of interest become IGNORE. Without labels, or without a label file, the second is None.
    Raises DataError, naming case and file, for NaN or infinite voxels, for a label on another grid, and for values
    outside the declared set.
    """
    image = read_images(case)
    require_finite(case, image)
    if labels is None or case.label is None:
        return image, None
    return image, encode_label(case, image, read_label(case, image), labels)


def encode_label(case: Case, image: Volume, raw: Volume, labels: Labels) -> Volume:
    """Return file values [1, *S] as encoded label uint8 [L, *S], ignored outside the region of interest.

    Raises DataError for values outside the declared set.
    """
    encoded = encode(raw.data[0], labels, f"case {case.id}: {_name(raw)}", raw.spacing)
    if case.roi is not None:
        # The region may cover labelled voxels; outside of it they are as unknown as the rest.
        encoded[:, ~read_roi(case, image)] = IGNORE
    return replace(raw, data=encoded)


def read_label(case: Case, image: Volume) -> Volume:
    """Return the label's file values [1, *S] on the grid of the image, all 1 for a case without labels.

    Raises DataError if it lies elsewhere.
    """
    if case.label is None:
        raise DataError(f"case {case.id}: has no label file; add one, or leave the case out")
    if case.unlabelled:
        return replace(image, data=np.ones((1, *image.shape), np.uint8))
    return _on_grid(case, image, read_volume(case.label, label=True), "label")


def read_roi(case: Case, image: Volume) -> np.ndarray:
    """Return where results count, as bool [*S]. Raises DataError if the mask lies on another grid."""
    if case.roi is None:
        return np.ones(image.shape, dtype=bool)
    mask: np.ndarray = _on_grid(case, image, read_volume(case.roi, label=True), "region of interest").data[0] > 0
    return mask


def _on_grid(case: Case, image: Volume, mask: Volume, what: str) -> Volume:
    # A mask without geometry (PNG stack, npz) beside a placed image can only mean the same grid.
    if mask.affine is None and image.affine is not None and mask.shape == image.shape:
        return replace(mask, affine=image.affine, spacing=image.spacing)
    # Annotation tools save masks in their own axis order; by affine that is the same grid.
    turned = stored_like(mask, image)
    if apart := difference(turned, image):
        raise DataError(
            f"case {case.id}: {what} and image lie on different grids: {_name(mask)} has {apart} of {_name(image)}; "
            "resample one to the other, or correct the wrong header"
        )
    return turned


def require_finite(case: Case, image: Volume) -> None:
    """Raise DataError, with their number, if voxels are NaN or infinite."""
    # A sum is finite only if all its terms are; counting them is left to the rare case that it is not.
    if image.data.dtype.kind != "f" or np.isfinite(image.data.sum(dtype=np.float64)):
        return
    bad = int(image.data.size - np.isfinite(image.data).sum())
    if bad:
        raise DataError(
            f"case {case.id}: {_name(image)} holds {bad} NaN or infinite voxels of {image.data.size}; "
            "replace them or leave the case out"
        )


def _name(volume: Volume) -> str:
    return (volume.source or "volume").replace("\\", "/").rsplit("/", 1)[-1]
