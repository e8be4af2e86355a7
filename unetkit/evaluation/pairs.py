"""Which prediction belongs to which reference, and whether the two lie on one grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from unetkit.data.formats.files import stem_of
from unetkit.data.geometry import difference, stored_like
from unetkit.data.layouts.found import image_files, shown
from unetkit.data.layouts.matching import pair_up
from unetkit.data.volumes import read_volume
from unetkit.errors import DataError, ShapeError
from unetkit.infer.scores import read_scores
from unetkit.types import Case, Labels, Volume, instance_numbers

LabelMap = str | Path | np.ndarray | Volume
Side = LabelMap | Mapping[str, LabelMap]
Pairs = dict[str, tuple[LabelMap, LabelMap]]
"""Case name to prediction and reference."""


def pair_sides(predictions: Side, references: Side) -> Pairs:
    """Match files, folders, arrays, Volumes, or mappings from case name to one of these.

    Raises DataError for a reference without prediction and for a folder without label maps.
    """
    sides = predictions, references
    if _is_folder(predictions) and _is_folder(references):
        return _pair_folders(Path(str(predictions)), Path(str(references)))
    if all(not isinstance(side, Mapping) and not _is_folder(side) for side in sides):
        # One of each: they belong together whatever they are called. The reference's name is the case's.
        named = next((stem_of(Path(side)) for side in reversed(sides) if isinstance(side, str | Path)), "case")
        return {named: (predictions, references)}  # type: ignore[dict-item]
    given, wanted = (_named(side) for side in sides)
    _require_all([name for name in wanted if name not in given], len(wanted), "references")
    return {name: (given[name], reference) for name, reference in wanted.items()}


def predictions_of(folder: Path, cases: Sequence[Case]) -> dict[str, Path]:
    """Return for each case id the label map in a folder (or the one file) that has its name, or its image's.

    Raises DataError if cases have none.
    """
    files = {stem_of(file): file for file in (image_files(folder) if folder.is_dir() else [folder])}
    # `unetkit predict split=...` names files by case, `input=FOLDER` by image, and the two may differ.
    names = {case.id: (case.id, *(stem_of(image) for image in case.images)) for case in cases}
    found = {
        case: next((files[name] for name in candidates if name in files), None) for case, candidates in names.items()
    }
    _require_all([case for case, file in found.items() if file is None], len(cases), f"cases in {folder}")
    return {case: file for case, file in found.items() if file is not None}


def open_label(item: LabelMap, spacing: Sequence[float] | None, case: str) -> Volume:
    """Return a label map as Volume [1, *S]; `spacing` is that of arrays. Raises ShapeError for several channels."""
    if isinstance(item, str | Path):
        return read_volume(item, label=True)
    if isinstance(item, np.ndarray):
        return Volume(item[None], tuple(float(s) for s in spacing or (1.0,) * item.ndim))
    if item.channels != 1:
        raise ShapeError(f"case {case}: a label map has one channel, this Volume has {item.channels}; give that one")
    return item


def scores_of(item: LabelMap, encoded: np.ndarray, labels: Labels) -> np.ndarray | None:
    """Return the scores [N] of the objects of a label map that lie beside its file; None where there are none.

    `encoded` is the map itself. Raises DataError for scores that do not fit it.
    """
    if not labels.instances or not isinstance(item, str | Path):
        return None
    return read_scores(Path(item), instance_numbers(encoded))


def on_grid_of(prediction: Volume, reference: Volume, case: str) -> Volume:
    """Return the prediction in the axis order of the reference. Raises DataError if it lies elsewhere."""
    # Other tools reorient what they write: the same voxels with flipped axes are not an error.
    turned = stored_like(prediction, reference)
    if apart := difference(turned, reference):
        raise DataError(
            f"case {case}: prediction and reference lie on different grids: the prediction has {apart} of the "
            "reference; resample one to the other"
        )
    return turned


def _is_folder(side: object) -> bool:
    return isinstance(side, str | Path) and Path(side).is_dir()


def _named(side: Side) -> dict[str, LabelMap]:
    if isinstance(side, Mapping):
        return dict(side)
    if isinstance(side, str | Path):
        path = Path(side)
        return {stem_of(file): file for file in (image_files(path) if path.is_dir() else [path])}
    return {"case": side}


def _pair_folders(predictions: Path, references: Path) -> Pairs:
    files = {folder: image_files(folder) for folder in (predictions, references)}
    if not files[predictions]:
        raise DataError(f"{predictions}: holds no label map of a known format; check the path")
    if not files[references]:
        raise DataError(
            f"{references}: holds no label map of a known format; give the folder of the label files themselves, or "
            "name the data set they belong to with data.root= in place of references="
        )
    pairing = pair_up(files[predictions], files[references])
    # Predictions beyond the references are no fault: a test set may be labelled in part.
    _require_all([path.name for path in pairing.lonely], len(files[references]), f"references in {predictions}")
    return {name: (pairing.images[name][0], label) for name, label in pairing.labels.items()}


def _require_all(missing: Iterable[str], wanted: int, what: str) -> None:
    """A mean over the cases that happen to be predicted would flatter: refuse as soon as one is missing."""
    missing = list(missing)
    if missing or not wanted:
        raise DataError(
            f"no prediction for {shown(missing)} ({len(missing)} of {wanted} {what}); predict each under the same "
            "name, or leave it out"
        )
