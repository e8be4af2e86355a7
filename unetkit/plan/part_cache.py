"""Measured cases kept on disk, so that what was measured once is not read again.

A part is found by what it was made of: the case's files (path, size, time of change), what its label values mean, and
the version of the measurement. The files hold numbers and JSON; nothing in them is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from unetkit.data.formats.files import stem_of
from unetkit.plan.histogram import Histogram, Moments
from unetkit.plan.part import CaseFacts, Part, Spread
from unetkit.types import Case, Labels

VERSION = 1
"""Of what is measured and how it is written: to be raised with any change of either, so that old parts are left."""

_KEPT_SECONDS = 90 * 24 * 3600.0
# what lies beside a file and belongs to it: the voxels of a detached header, the spacing of a TIFF
_SIDE_FILES = (".raw", ".zraw", ".json")
_ARRAYS = ("bins", "weights", "lows", "highs")


class PartCache:
    """Parts below a folder; one that cannot be written, or a part that is damaged, is as if there were none.

    `fault` says why the folder cannot be written, once that has shown.
    """

    def __init__(self, home: Path | None = None) -> None:
        home = Path.home() / ".cache" / "unetkit" if home is None else home
        self.folder = home / f"fingerprint-v{VERSION}"
        self.fault: str | None = None

    def find(self, key: str) -> Part | None:
        """Return the part of that key, if it is there and whole."""
        path = self.folder / f"{key}.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                part = _from_arrays({name: arrays[name] for name in arrays.files})
        # zlib and zipfile raise many kinds over damaged bytes; whatever it is, the case is measured anew
        except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
            return None
        with suppress(OSError):
            os.utime(path)  # still in use: not to be swept away
        return part

    def keep(self, key: str, part: Part) -> None:
        """Write a part, whole or not at all."""
        if self.fault is not None:
            return
        temporary = self.folder / f".{uuid4().hex}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Not synced to the disk: a part that a crash cuts off is found damaged, and measured anew.
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **_to_arrays(part))
            temporary.replace(self.folder / f"{key}.npz")
        except OSError as error:
            self.fault = f"{self.folder} ({error.strerror or error})"
        finally:
            with suppress(OSError):
                temporary.unlink()

    def sweep(self) -> None:
        """Remove parts that nobody asked for in three months, and what killed processes left."""
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.suffix in (".npz", ".part") and time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                    path.unlink(missing_ok=True)


def part_key(case: Case, labels: Labels, channels: int) -> str | None:
    """Return the digest of all that a part depends on, or None if a file is not there."""
    try:
        images, label, roi = ([_identity(file) for file in files] for files in _files(case))
    except OSError:
        return None
    content = {"files": [images, label, roi], "labels": asdict(labels), "channels": channels, "version": VERSION}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]


def _files(case: Case) -> Iterator[list[Path]]:
    for paths in (case.images, (case.label,), (case.roi,)):
        yield [file for path in paths if path is not None for file in _with_side_files(path)]


def _with_side_files(path: Path) -> list[Path]:
    if "*" in path.name:  # a pattern of slices
        return sorted(path.parent.glob(path.name))
    beside = (path.with_name(stem_of(path) + suffix) for suffix in _SIDE_FILES)
    return [path, *(file for file in beside if file.is_file())]


def _identity(path: Path) -> list[Any]:
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def _to_arrays(part: Part) -> dict[str, np.ndarray]:
    tree = {
        "shape": part.shape,
        "cropped": part.cropped,
        "spacing": part.spacing,
        "placed": part.placed,
        "facts": asdict(part.facts),
        "moments": [asdict(one.moments) for one in part.histograms],
    }
    arrays = {"tree": np.frombuffer(json.dumps(tree).encode(), np.uint8)}
    for channel, one in enumerate(part.histograms):
        arrays |= {f"{name}_{channel}": getattr(one, name) for name in _ARRAYS}
    return arrays


def _from_arrays(arrays: dict[str, np.ndarray]) -> Part:
    tree = json.loads(arrays["tree"].tobytes())
    histograms = tuple(
        Histogram(moments=Moments(**of_channel), **{name: arrays[f"{name}_{channel}"] for name in _ARRAYS})
        for channel, of_channel in enumerate(tree["moments"])
    )
    sizes: dict[str, Any] = {name: tuple(tree[name]) for name in ("shape", "cropped", "spacing")}
    return Part(placed=bool(tree["placed"]), facts=facts_from_json(tree["facts"]), histograms=histograms, **sizes)


def facts_from_json(tree: dict[str, Any]) -> CaseFacts:
    """Rebuild facts from what `asdict` and JSON made of them. Raises TypeError or KeyError for another tree."""
    spreads = {name: tuple(Spread(**one) for one in tree[name]) for name in ("image", "foreground")}
    rest: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()}
    return CaseFacts(**rest | spreads)
