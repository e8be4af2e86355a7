"""One file of a store: arrays that are mapped, not read, and what is to be known of them.

    array as .npy | further arrays, each at a multiple of 64 bytes | JSON | length of the JSON, 8 bytes | b"unetkit1"

The end of the file says that it is whole, so that a truncated one is told apart without reading it. `numpy.load` opens
the first array.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unetkit.data.formats.files import replacing

_END = struct.Struct("<Q8s")
_MAGIC = b"unetkit1"
_ALIGNED = 64


@dataclass(frozen=True)
class Span:
    """Where an array lies in its file: `offset` in bytes, `dtype` as numpy writes it, `shape`."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """A whole file of a store: its arrays by name and its facts (JSON)."""

    path: Path
    spans: Mapping[str, Span]
    facts: Mapping[str, Any]

    def mapped(self, name: str) -> np.ndarray:
        """Return an array without reading it; what is written to it stays in memory."""
        span = self.spans[name]
        if 0 in span.shape:  # nothing can be mapped then
            return np.zeros(span.shape, span.dtype)
        # Copy on write: torch wants arrays that it could write to.
        return np.memmap(self.path, span.dtype, "c", span.offset, span.shape)


def write_part(path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Write arrays and facts, whole or not at all. Raises DataError if the disk is full or refuses."""
    # Waiting for the disk would take most of the time over small cases: a part that a power failure cuts off lacks its
    # end, and is made anew.
    with replacing(path, sync=False) as temporary, temporary.open("wb") as file:
        spans: dict[str, Span] = {}
        for name, array in arrays.items():
            spans[name] = _write_array(file, array, npy=not spans)
        table = {name: [span.offset, span.dtype, span.shape] for name, span in spans.items()}
        text = json.dumps({"arrays": table, "facts": facts}).encode()
        file.write(text + _END.pack(len(text), _MAGIC))


def read_part(path: Path) -> Part | None:
    """Return a part, or None if it is not there, cut off or otherwise not what `write_part` wrote."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size - _END.size)
            length, magic = _END.unpack(file.read(_END.size))
            if magic != _MAGIC:
                return None
            file.seek(size - _END.size - length)
            tree = json.loads(file.read(length))
        spans = {name: Span(offset, dtype, tuple(shape)) for name, (offset, dtype, shape) in tree["arrays"].items()}
        return Part(path, spans, tree["facts"])
    # A damaged file may fail at any of these; whatever it is, the part is made anew.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None


def _write_array(file: BinaryIO, array: np.ndarray, npy: bool) -> Span:
    array = np.ascontiguousarray(array)
    if npy:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    else:
        file.write(b"\0" * (-file.tell() % _ALIGNED))
    offset = file.tell()
    # Not `tofile`, whose error over a full disk lacks the reason.
    file.write(array.reshape(-1).view(np.uint8).data)
    return Span(offset, array.dtype.str, array.shape)
