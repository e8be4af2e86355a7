"""Names of parts by what they are made of: the bytes of the source files and the settings that shape the result.

What is not listed here does not touch a part: other patch sizes, networks or class names find the parts that are
there, and new classes or another normalisation redo labels or images alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unetkit.data.formats.arrays import slices
from unetkit.data.formats.files import replacing, suffix_of
from unetkit.errors import DataError
from unetkit.plan.plan import Plan
from unetkit.types import Case, Labels

RECIPE_VERSION = 1
"""To be raised when preprocessing gives other voxels for the same plan."""

# Files that a reader opens beside the one that it is given.
_BESIDE = {".mhd": (".raw", ".zraw"), ".tif": (".json",), ".tiff": (".json",)}


def image_key(sources: str, plan: Plan) -> str:
    """Name the image part of the files that `sources` stands for."""
    rules = [asdict(rule) for rule in plan.normalization]
    return _hashed("image", sources, _grid(plan), rules, plan.resampling["image"])


def label_key(sources: str, plan: Plan) -> str:
    """Name the label part; `sources` stands for image and label files, as a crop follows the image."""
    return _hashed("label", sources, _grid(plan), _meaning(plan.labels), plan.resampling["label"])


def soft_key(sources: str, plan: Plan) -> str:
    """Name the part with the codes of soft labels."""
    return _hashed("soft", label_key(sources, plan))


def truth_key(sources: str, plan: Plan) -> str:
    """Name the label part on the image's own grid."""
    return _hashed("truth", sources, _meaning(plan.labels))


def previous_key(images: str, label_map: str, plan: Plan) -> str:
    """Name the part with the map of a cascade's earlier stage, by the digests of the images and of the map."""
    return _hashed("previous", images, label_map, _grid(plan), _meaning(plan.labels))


def digest(paths: tuple[Path, ...], known: Path) -> str:
    """Return a name for the bytes of files, wherever they lie.

    The folder `known` remembers each file by place, size and time, so that a data set is read for this once.
    Raises DataError if one cannot be read.
    """
    files = [file for path in paths for file in _files(path)]
    return _hashed(*(_file_digest(file.absolute(), known) for file in files))


def case_sources(case: Case, known: Path) -> tuple[str, str]:
    """Return names for the image files of a case, and for all its files. Raises DataError if one cannot be read."""
    images = digest(case.images, known)
    marks = tuple(path for path in (case.label, case.roi) if path is not None)
    # A label and a region of interest must not be taken for each other.
    return images, _hashed(images, digest(marks, known), case.label is None, case.roi is None, case.unlabelled)


def _grid(plan: Plan) -> list[Any]:
    separate = plan.resampling["separate_z"]
    return [plan.dims, plan.spacing, plan.transpose, plan.resize, plan.crop_nonzero, separate]


def _meaning(labels: Labels) -> dict[str, Any]:
    # How classes are called is nothing to the voxels.
    return {name: value for name, value in asdict(labels).items() if name != "classes"}


def _files(path: Path) -> list[Path]:
    if "*" in path.name:
        return slices(path)
    beside = (path.with_suffix(suffix) for suffix in _BESIDE.get(suffix_of(path), ()))
    return [path, *(file for file in beside if file.is_file())]


def _file_digest(file: Path, known: Path) -> str:
    note = known / f"{_hashed(os.fspath(file))}.json"
    try:
        now = file.stat()
        stamp = [now.st_size, now.st_mtime_ns]
        remembered = _remembered(note, stamp)
        if remembered is not None:
            return remembered
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{file}: cannot be read ({reason}); check the path, or leave the case out") from error
    with suppress(DataError), replacing(note, sync=False) as temporary:
        temporary.write_text(json.dumps([*stamp, found]), encoding="utf-8")
    return found


def _remembered(note: Path, stamp: list[int]) -> str | None:
    try:
        size, time, found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # none yet, or damaged
        return None
    return str(found) if [size, time] == stamp else None


def _hashed(*facts: Any) -> str:
    text = json.dumps([RECIPE_VERSION, *facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
