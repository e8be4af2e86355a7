"""Pictures of what a pretraining sees and makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from unetkit.data.loader import Batch


def panels_of(batch: Batch, output: Sequence[Tensor], count: int) -> list[Mapping[str, np.ndarray]]:
    """Return pictures uint8 [H, W, 3] of the first samples by what they show: of volumes the middle slice.

    `output` is what MaskedImages (three tensors) or TwoViews (two) gives for the batch.
    """
    if len(output) == 2:
        views = len(batch.image) // 2
        pairs = zip(batch.image[:views], batch.image[views:], strict=True)
        return [_painted({"one view": a, "the other": b}) for a, b in list(pairs)[:count]]
    restored, images, masks = (one.float().cpu() for one in output)
    made = []
    for image, mask, found in list(zip(images, masks, restored, strict=True))[:count]:
        shown = {"original": image, "shown to the network": image * (1 - mask), "restored": found}
        made.append(_painted(shown | {"restored where hidden": found * mask + image * (1 - mask)}))
    return made


def _painted(arrays: Mapping[str, Tensor]) -> Mapping[str, np.ndarray]:
    """Return [C, *S] as pictures, all on the grey scale of the first."""
    planes = {name: _plane(array.detach().cpu().numpy()) for name, array in arrays.items()}
    low, high = np.percentile(next(iter(planes.values())), [0.5, 99.5])
    scale = 255 / max(float(high - low), 1e-12)
    return {name: np.clip((plane - low) * scale, 0, 255).astype(np.uint8) for name, plane in planes.items()}


def _plane(array: np.ndarray) -> np.ndarray:
    flat = array[:, array.shape[1] // 2] if array.ndim == 4 else array
    colours = flat if len(flat) == 3 else np.repeat(flat[:1], 3, axis=0)
    return np.moveaxis(colours, 0, -1)
