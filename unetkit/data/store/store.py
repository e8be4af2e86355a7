"""A folder of prepared cases: made once for a data set and its settings, then read patch by patch.

    STORE/store.json                what this is, and of which version
    STORE/v1/image/NAME.npy         intensities on the network's grid, and how they came there
    STORE/v1/label/NAME.npy         encoded labels on that grid, and the index of their foreground
    STORE/v1/truth/NAME.npy         encoded labels on the image's own grid, for validation
    STORE/v1/soft/NAME.npy          codes of soft labels on the network's grid, for a loss that asks for them
    STORE/v1/previous/NAME.npy      encoded label maps of a cascade's earlier stage, on the network's grid
    STORE/v1/source/NAME.json       digests of source files, not to read them for that again

NAME follows from contents and settings (see keys.py). Parts are whole or not there: whoever is interrupted goes on
where it was, runs at the same time may write the same part, and the folder may be deleted whenever no run uses it.

Plain memory-mapped arrays: a patch of 128^3 from 200 x 320 x 320 in float16 comes twelve times as fast from them as
from the Blosc2 file that nnU-Net writes (2.3 ms against 28 ms, both from memory; lz4 11 ms; from disk about alike),
and is written 50 times as fast, for 1.8 times the bytes.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unetkit.data.cascade import stage_of
from unetkit.data.cases import encode_label, read_label, require_finite
from unetkit.data.formats.files import replacing
from unetkit.data.locations import Locations, find_locations
from unetkit.data.preprocess import Geometry, Prepared, prepare_image, prepare_label
from unetkit.data.soft_labels import soft_codes
from unetkit.data.store.geometry import geometry_from_json, geometry_to_json
from unetkit.data.store.keys import case_sources, digest, image_key, label_key, previous_key, soft_key, truth_key
from unetkit.data.store.packing import packed
from unetkit.data.store.part import Part, read_part, write_part
from unetkit.data.store.room import full_disk, gigabytes
from unetkit.data.volumes import read_images
from unetkit.errors import DataError
from unetkit.plan.plan import Plan
from unetkit.types import Case, Volume

VERSION = 1
_SIGN, _KIND = "store.json", "unetkit store of prepared cases; it may be deleted at any time"
_STALE = 3600.0  # seconds
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Names:
    """The files of a case's parts; None are those not asked for, and `previous` where there is no such map."""

    image: Path
    label: Path | None
    truth: Path | None
    previous: Path | None = None
    soft: Path | None = None

    def missing(self) -> bool:
        """Tell whether any part has to be made."""
        return any(path is not None and read_part(path) is None for path in vars(self).values())


@dataclass(frozen=True)
class StoredCase:
    """A case whose parts are all there; opening it reads no voxel."""

    id: str
    geometry: Geometry
    image: Part
    label: Part | None
    truth: Part | None
    previous: Part | None = None
    soft: Part | None = None

    def open(self) -> Prepared:
        """Return the case with its arrays mapped, `data` packed."""
        data = self.image.mapped("data")
        label, soft = (None if part is None else part.mapped("data") for part in (self.label, self.soft))
        known = None if self.label is None else _locations(self.label)
        previous = None if self.previous is None else self.previous.mapped("data")
        return Prepared(self.id, data, label, self.geometry, known, previous, soft)

    def open_truth(self) -> np.ndarray:
        """Return the encoded label [L, *S] on the image's own grid, mapped. Raises DataError if it was not added."""
        if self.truth is None:
            raise DataError(f"case {self.id}: its label on the image's grid was not put into the store; add it")
        return self.truth.mapped("data")


class Store:
    """The parts below a folder; see `open_store`. `note` says what was found odd about the folder, or is None."""

    def __init__(self, folder: Path, note: str | None = None) -> None:
        self.folder, self.note = folder, note
        self.parts = folder / f"v{VERSION}"

    def names(self, case: Case, plan: Plan, *, truth: bool = False, soft: bool = False) -> Names:
        """Return where the parts of a case belong: label on the network's grid or (`truth`) on the image's own.

        `soft`: the first comes with the codes of soft labels.

        Raises DataError if a source file cannot be read.
        """
        images, everything = case_sources(case, self.parts / "source")
        image = self._path("image", image_key(images, plan))
        previous = None
        if case.previous is not None:
            key = previous_key(images, digest((case.previous,), self.parts / "source"), plan)
            previous = self._path("previous", key)
        if truth:
            return Names(image, None, self._path("truth", truth_key(everything, plan)), previous)
        codes = self._path("soft", soft_key(everything, plan)) if soft else None
        return Names(image, self._path("label", label_key(everything, plan)), None, previous, codes)

    def add(self, case: Case, plan: Plan, names: Names) -> StoredCase:
        """Prepare what is not there yet. Raises DataError, naming the case, if it cannot be used or stored."""
        source = str(case.images[0])
        image = read_part(names.image) or self._image(names.image, case, plan)
        geometry = geometry_from_json(image.facts["geometry"], source)
        label = truth = previous = soft = None
        if names.label is not None:
            label = read_part(names.label) or self._label(names.label, case, plan, geometry)
        if names.truth is not None:
            truth = read_part(names.truth) or self._truth(names.truth, case, plan, geometry)
        if names.previous is not None:
            previous = read_part(names.previous) or self._previous(names.previous, case, plan, geometry)
        if names.soft is not None and label is not None:
            soft = read_part(names.soft) or self._soft(names.soft, label, plan)
        return StoredCase(case.id, geometry, image, label, truth, previous, soft)

    def _image(self, path: Path, case: Case, plan: Plan) -> Part:
        volume = read_images(case)
        require_finite(case, volume)
        data, geometry = prepare_image(volume, plan)
        arrays = {"data": packed(data, plan.normalization)}
        return self._write(path, arrays, {"geometry": geometry_to_json(geometry)})

    def _label(self, path: Path, case: Case, plan: Plan, geometry: Geometry) -> Part:
        data = prepare_label(_encoded(case, plan, geometry), geometry, plan)
        arrays, facts = _located(find_locations(data, regions=plan.labels.regions))
        return self._write(path, {"data": data, **arrays}, facts)

    def _soft(self, path: Path, label: Part, plan: Plan) -> Part:
        return self._write(path, {"data": soft_codes(label.mapped("data"), plan.dims)}, {})

    def _truth(self, path: Path, case: Case, plan: Plan, geometry: Geometry) -> Part:
        return self._write(path, {"data": _encoded(case, plan, geometry).data}, {})

    def _previous(self, path: Path, case: Case, plan: Plan, geometry: Geometry) -> Part:
        data = stage_of(case, geometry, plan)
        assert data is not None  # names has a path for cases with such a map alone
        return self._write(path, {"data": data}, {})

    def _path(self, kind: str, key: str) -> Path:
        return self.parts / kind / f"{key}.npy"

    def _write(self, path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Part:
        try:
            write_part(path, arrays, facts)
        except DataError as error:
            if getattr(error.__cause__, "errno", None) not in _FULL:
                raise
            size = gigabytes(sum(array.nbytes for array in arrays.values()))
            free = shutil.disk_usage(self.folder).free
            raise DataError(full_disk(self.folder, f"the disk is full: the next case takes {size}", free)) from error
        part = read_part(path)
        if part is None:
            raise DataError(f"{path}: vanished or changed while it was written; let nothing else touch {self.folder}")
        return part


def open_store(folder: Path) -> Store:
    """Return the store in a folder, which is made if need be.

    Parts of an older version stay untouched beside the new ones. Raises DataError for a folder that holds anything
    else, that a newer version wrote, that is damaged or cannot be written.
    """
    sign, note = folder / _SIGN, None
    version = _version(sign)
    if version is None and folder.is_dir():
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        # Another run may have signed the folder meanwhile.
        if others and not sign.exists():
            raise DataError(
                f"data.store={folder}: the folder holds other files ({others[0]}, ...); name an empty or a new one"
            )
    if version is not None and version > VERSION:
        raise DataError(
            f"data.store={folder}: made by a newer unetkit (store version {version}, this one writes {VERSION}); "
            "update unetkit or name another folder"
        )
    if version is not None and version < VERSION:
        note = (
            f"{folder}: a store of version {version}; cases are prepared anew beside it, "
            f"and what is not in v{VERSION} may be deleted"
        )
    if version != VERSION:
        with replacing(sign) as temporary:
            temporary.write_text(json.dumps({"kind": _KIND, "version": VERSION}), encoding="utf-8")
    _sweep(folder)
    return Store(folder, note)


def _sweep(folder: Path) -> None:
    """Take away what processes that were killed left half-written; what is young may be another run's work."""
    latest = time.time() - _STALE
    for draft in (*folder.glob(".*"), *folder.glob("v*/*/.*")):
        with suppress(OSError):
            if draft.stat().st_mtime < latest:
                draft.unlink()


def _version(sign: Path) -> int | None:
    """Return the version that a folder's sign states, None without sign. Raises DataError if it is damaged."""
    try:
        return int(json.loads(sign.read_text(encoding="utf-8"))["version"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"data.store={sign.parent}: {sign.name} is damaged; delete the folder, as all in it can be made anew, or "
            "name another one"
        ) from error


def _encoded(case: Case, plan: Plan, geometry: Geometry) -> Volume:
    """Return the encoded label [L, *S] on the image's own grid, without reading the image."""
    return encode_label(case, geometry.grid, read_label(case, geometry.grid), plan.labels)


def _located(known: Locations) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return an index as arrays and facts: the voxels of all classes in a row, and where each class ends."""
    rows = list(known.voxels.values())
    voxels = np.concatenate(rows) if rows else np.zeros(0, np.uint32)
    facts = {
        "shape": known.shape,
        "classes": [[number, len(known.voxels[number]), known.counts[number]] for number in known.voxels],
    }
    arrays = {"voxels": voxels}
    if known.annotated is not None:
        arrays["annotated"] = known.annotated
    return arrays, facts


def _locations(part: Part) -> Locations:
    voxels, start = part.mapped("voxels"), 0
    found, counts = {}, {}
    for number, kept, count in part.facts["classes"]:
        found[number], counts[number] = voxels[start : start + kept], count
        start += kept
    annotated = part.mapped("annotated") if "annotated" in part.spans else None
    return Locations(tuple(part.facts["shape"]), found, counts, annotated)
