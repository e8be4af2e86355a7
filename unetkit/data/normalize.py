"""Intensities to network input, one rule per channel."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from unetkit.errors import DataError, ShapeError
from unetkit.plan.plan import Normalization

_BYTE, _WORD = 255.0, 65535.0


def normalize(data: np.ndarray, rules: Sequence[Normalization], *, mask: np.ndarray | None = None) -> np.ndarray:
    """Return [C, *S] as float32, each channel by its rule; finite whatever the input's range.

    `mask` [*S] is what "zscore_mask" counts as object (see `object_mask`); voxels outside become 0 there.

    Raises ShapeError if there is not one rule per channel, DataError for NaN or infinite voxels and unknown rules.
    """
    if len(data) != len(rules):
        raise ShapeError(f"the image has {len(data)} channel(s), the plan was made for {len(rules)}; give as many")
    if data.dtype.kind in "fc" and not np.isfinite(data).all():
        raise DataError(f"the image has {int((~np.isfinite(data)).sum())} NaN or infinite voxels; repair the file")
    # White is that of the whole picture: a dark channel must not be brightened against the others.
    white = _full_scale(data) if any(rule.scheme == "rgb" for rule in rules) else 1.0
    out = np.empty(data.shape, np.float32)
    for channel, (values, rule) in enumerate(zip(data, rules, strict=True)):
        out[channel] = _one_channel(values, rule, mask, white)
    return out


def object_mask(data: np.ndarray) -> np.ndarray:
    """Return [*S], true where any channel of [C, *S] is nonzero, holes filled."""
    return ndimage.binary_fill_holes((data != 0).any(axis=0))


def _one_channel(values: np.ndarray, rule: Normalization, mask: np.ndarray | None, white: float) -> np.ndarray:
    match rule.scheme:
        case "ct":
            # (min(max(x, low), high) - mean) / std, all four from the foreground of the training set (nnU-Net).
            clipped = np.clip(values.astype(np.float32), rule.low, rule.high)
            return _scaled(clipped, rule.mean or 0.0, rule.std or 1.0)
        case "clip_minmax":
            return _to_unit(values, rule.low or 0.0, 1.0 if rule.high is None else rule.high)
        case "percentile":
            # Single hot voxels of MR would otherwise set the scale of the whole case.
            low, high = np.percentile(values, (0.5, 99.5))
            return _to_unit(values, float(low), float(high))
        case "minmax":
            return _to_unit(values, float(values.min()), float(values.max()))
        case "zscore":
            return _zscore(values, values)
        case "zscore_mask":
            inside = object_mask(values[None]) if mask is None else mask
            # Outside stays 0, the mean of what is inside: the border between the two is no edge to learn from.
            return np.where(inside, _zscore(values, values[inside] if inside.any() else values), 0)
        case "rgb":
            return values.astype(np.float32) / np.float32(white)
        case "none":
            return values.astype(np.float32)
    raise DataError(
        f"normalization scheme '{rule.scheme}' in the plan is unknown; make the plan anew with this version"
    )


def _zscore(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return _scaled(values.astype(np.float32), float(reference.mean(dtype=np.float64)), _deviation(reference))


def _deviation(values: np.ndarray) -> float:
    # float64: sums over 1e8 voxels lose digits in float32.
    return float(values.std(dtype=np.float64))


def _scaled(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    # A constant image has a deviation of rounding errors; dividing by it would make noise out of nothing.
    return (values - np.float32(mean)) / np.float32(std if std > 1e-6 * max(1.0, abs(mean)) else 1.0)


def _to_unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    span = high - low if high > low else 1.0
    return np.clip((values.astype(np.float32) - np.float32(low)) / np.float32(span), 0, 1)


def _full_scale(values: np.ndarray) -> float:
    """Value of white: by the file's type, or by the range where an array has been converted to float."""
    if values.dtype == np.bool_:
        return 1.0
    if values.dtype == np.uint8:
        return _BYTE
    if values.dtype == np.uint16:
        return _WORD
    largest = float(values.max(initial=0))
    return _WORD if largest > _BYTE else _BYTE if largest > 1 else 1.0
