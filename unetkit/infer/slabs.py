"""A case's segmentation from slabs of logits: at no time are all classes of the whole case in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor

from unetkit.data.preprocess import Geometry
from unetkit.data.restore import Band, ChanceMap, LabelMap, Writer, bands
from unetkit.infer.segmenter import Segmentation
from unetkit.plan.plan import Plan


@dataclass(frozen=True)
class Layout:
    """How a case is cut: rows of prepared axis `axis` one after the other, within each of `bands` (None: all of it)."""

    axis: int
    bands: Sequence[Band | None]


Stream = Callable[[int, Band | None], Iterator[Tensor]]
"""Takes an axis and a band to the slabs of logits fp32 [K, rows, *rest] there, in order; see `window_slabs`."""


def choose_layout(geometry: Geometry, window: Sequence[int], row_bytes: int, limit: float) -> Layout:
    """Return how to cut a case so that the logits held at a time are few, and no more than `limit` bytes if possible.

    `window` is the network's, one voxel thick where it sees slices; `row_bytes` are the bytes of one voxel's logits.
    Bands cost time, since windows at their borders are computed twice: there are more than one only for the limit.
    """
    spans = [n / w for n, w in zip(geometry.shape, window, strict=True)]
    # Windows of slices are planes: anything but the slices themselves would hold all of them.
    axis = 0 if window[0] == 1 else max(range(len(spans)), key=lambda a: (spans[a], -a))
    others = [a for a in range(len(spans)) if a != axis]
    held = row_bytes * min(window[axis], geometry.shape[axis]) * prod(geometry.shape[a] for a in others)
    widest = max(others, key=lambda a: spans[a])
    count = min(ceil(held / max(limit, 1)), ceil(spans[widest]))
    return Layout(axis, bands(geometry, widest, count) if count > 1 else (None,))


def segment_slabs(
    stream: Stream,
    layout: Layout,
    geometry: Geometry,
    plan: Plan,
    *,
    nearest: bool = False,
    probabilities: bool = False,
) -> Segmentation:
    """Turn the slabs of a case into its segmentation as they come; `nearest` as in `LabelMap`, of the labels alone."""
    labels = LabelMap(geometry, plan, axis=layout.axis, nearest=nearest)
    chances = ChanceMap(geometry, plan, axis=layout.axis) if probabilities else None
    for band in layout.bands:
        writers = [made.writer(band) for made in (labels, chances) if made is not None]
        for slab in stream(layout.axis, band):
            for writer in writers:
                _spilling(writer, slab)
    return Segmentation(labels.result, None if chances is None else chances.result)


def _spilling(writer: Writer, slab: Tensor) -> None:
    """Have a slab written where it lies, or in the host's memory if the GPU's does not suffice."""
    try:
        writer.add(slab)
        return
    except torch.OutOfMemoryError:
        # Outside of the handler, whose traceback holds tensors. Rows that are written stay so.
        torch.cuda.empty_cache()
    writer.add(slab.cpu())
