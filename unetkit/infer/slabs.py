"""A case's segmentation from slabs of logits: at no time are all classes of the whole case in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor

from unetkit.data.preprocess import Geometry
from unetkit.data.restore import Band, ChanceMap, LabelMap, Writer, bands
from unetkit.infer.segmenter import Segmentation
from unetkit.infer.shortage import free_memory
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
    beside: bool = False,
) -> Segmentation:
    """Turn the slabs of a case into its segmentation as they come; `nearest` as in `LabelMap`, of the labels alone.

    `beside`: one slab is restored while the next one is computed, which pays if that is done on another device.
    Raises MemoryError if the probabilities would not fit into the host's memory.
    """
    if probabilities:
        _require_room(4 * plan.labels.num_outputs * prod(geometry.input_shape))
    labels = LabelMap(geometry, plan, axis=layout.axis, nearest=nearest)
    chances = ChanceMap(geometry, plan, axis=layout.axis) if probabilities else None
    for band in layout.bands:
        writers = [made.writer(band) for made in (labels, chances) if made is not None]
        slabs = stream(layout.axis, band)
        if beside:
            _write_beside(slabs, writers)
        else:
            for slab in slabs:
                _write(writers, slab)
    return Segmentation(labels.result, None if chances is None else chances.result)


def _require_room(needed: int) -> None:
    # Linux promises more memory than there is, and kills the process that takes it: ask before.
    if needed > free_memory(torch.device("cpu")):
        raise MemoryError(f"{needed} bytes")


def _write_beside(slabs: Iterable[Tensor], writers: Sequence[Writer]) -> None:
    written: Future[None] | None = None
    # A thread: torch lets go of the interpreter, and no slab has to be sent anywhere.
    with ThreadPoolExecutor(1) as pool:
        for slab in slabs:
            if written is not None:
                written.result()  # at most one slab waits
            written = pool.submit(_write, writers, slab.clone())
    if written is not None:
        written.result()


def _write(writers: Sequence[Writer], slab: Tensor) -> None:
    """Have a slab written where it lies, or in the host's memory if the GPU's does not suffice."""
    for writer in writers:
        with suppress(torch.OutOfMemoryError):
            writer.add(slab)
            continue
        # Outside of the handler, whose traceback holds tensors. Rows that are written stay so.
        torch.cuda.empty_cache()
        writer.add(slab.cpu())
