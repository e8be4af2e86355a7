"""Label maps against the truth: files, folders, arrays or Volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from unetkit.data.declared import Declared, final_labels
from unetkit.data.formats.files import stem_of
from unetkit.data.geometry import difference, stored_like
from unetkit.data.labels import MAX_CLASSES, encode
from unetkit.data.labelscan import scan_labels
from unetkit.data.layouts.found import image_files, shown
from unetkit.data.layouts.matching import pair_up
from unetkit.data.volumes import read_volume
from unetkit.errors import DataError, ShapeError
from unetkit.evaluation.result import Evaluation
from unetkit.evaluation.tally import Tally
from unetkit.progress import Progress
from unetkit.recipe.schema import DataSection, EvaluateSection
from unetkit.types import Labels, Volume

LabelMap = str | Path | np.ndarray | Volume
Pairs = dict[str, tuple[LabelMap, LabelMap]]


def evaluate(
    predictions: LabelMap | Mapping[str, LabelMap],
    references: LabelMap | Mapping[str, LabelMap],
    *,
    classes: Labels | Mapping[str, int | list[int]] | Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
    rules: EvaluateSection | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score label maps against the truth; both hold the same label values on the same grid.

    Either side is a file, a folder (matched by case name), an array [*S], a Volume [1, *S], or a mapping from case
    name to one of these. `classes` names the foreground classes with their values, or in the order of the values
    1, 2, ...; without it the references are searched for values. `spacing` (mm per axis) is that of arrays.
    Raises DataError for what cannot be read or paired and for grids that differ, ShapeError for arrays that do not
    fit, RecipeError for classes that contradict each other.

    >>> truth = np.zeros((4, 4), np.uint8)
    >>> truth[1:3, 1:3] = 1
    >>> evaluate(truth, truth, classes=["disc"]).dice
    1.0
    """
    pairs = _pairs(predictions, references)
    labels = classes if isinstance(classes, Labels) else _labels(_section(classes), [ref for _, ref in pairs.values()])
    return _evaluate(pairs, labels, rules or EvaluateSection(), spacing, progress)


def evaluate_folders(
    predictions: Path,
    references: Path,
    *,
    data: DataSection,
    rules: EvaluateSection,
    progress: Progress | None = None,
) -> Evaluation:
    """Score the label maps of a folder or file as `evaluate`; a recipe's `data` section says what values mean.

    Raises DataError for what cannot be read or paired and for grids that differ, RecipeError for a section that
    contradicts itself.
    """
    pairs = _pairs(predictions, references)
    return _evaluate(pairs, _labels(data, [ref for _, ref in pairs.values()]), rules, None, progress)


def _evaluate(
    pairs: Pairs,
    labels: Labels,
    rules: EvaluateSection,
    spacing: Sequence[float] | None,
    progress: Progress | None,
) -> Evaluation:
    tally = Tally(labels, rules)
    for number, (name, (prediction, reference)) in enumerate(pairs.items(), start=1):
        pred, ref = (_open(item, spacing, name) for item in (prediction, reference))
        pred = stored_like(pred, ref)
        if apart := difference(pred, ref):
            raise DataError(
                f"case {name}: prediction and reference lie on different grids: the prediction has {apart} of the "
                "reference; resample one to the other"
            )
        one, two = (
            encode(v.data[0], labels, f"case {name}, {w}") for v, w in ((pred, "prediction"), (ref, "reference"))
        )
        tally.score(name, replace(ref, data=np.zeros_like(ref.data, dtype=np.uint8)), one, two)
        if progress:
            progress(number, len(pairs))
    return tally.result({"dataset": f"{len(pairs)} references"})


def _section(classes: Mapping[str, int | list[int]] | Sequence[str] | None) -> DataSection:
    if classes is not None and not isinstance(classes, Mapping):
        classes = {name: value for value, name in enumerate(classes, start=1)}
    return DataSection(classes=None if classes is None else dict(classes))


def _labels(section: DataSection, references: Sequence[LabelMap]) -> Labels:
    """Take the meaning of values from the section, or else from what the references hold."""
    paths = [Path(item) for item in references if isinstance(item, str | Path)]
    arrays = [
        item.data if isinstance(item, Volume) else item for item in references if not isinstance(item, str | Path)
    ]
    found, _ = final_labels(section, Declared(), lambda declared: scan_labels(paths, declared))
    if found is not None:
        return found
    values = sorted({int(value) for array in arrays for value in np.unique(array)} - {0})
    if not values or len(values) > MAX_CLASSES:
        raise DataError(
            f"the references hold {len(values)} label values beside 0; name the classes to score in `classes`"
        )
    return Labels(tuple(f"label_{value}" for value in values), tuple((value,) for value in values))


def _pairs(predictions: LabelMap | Mapping[str, LabelMap], references: LabelMap | Mapping[str, LabelMap]) -> Pairs:
    sides = predictions, references
    if all(isinstance(side, str | Path) and Path(side).is_dir() for side in sides):
        return _pair_folders(Path(str(predictions)), Path(str(references)))
    if all(not isinstance(side, Mapping) and not _is_folder(side) for side in sides):
        named = next((stem_of(Path(side)) for side in reversed(sides) if isinstance(side, str | Path)), "case")
        return {named: (predictions, references)}  # type: ignore[dict-item]
    given, wanted = (_named(side) for side in sides)
    missing = [name for name in wanted if name not in given]
    if missing or not wanted:
        raise DataError(
            f"no prediction for {shown(missing)} ({len(missing)} of {len(wanted)} references); give each reference a "
            "prediction of the same name, or leave it out"
        )
    return {name: (given[name], reference) for name, reference in wanted.items()}


def _is_folder(side: object) -> bool:
    return isinstance(side, str | Path) and Path(side).is_dir()


def _named(side: LabelMap | Mapping[str, LabelMap]) -> dict[str, LabelMap]:
    if isinstance(side, Mapping):
        return dict(side)
    if isinstance(side, str | Path):
        path = Path(side)
        return {stem_of(file): file for file in (image_files(path) if path.is_dir() else [path])}
    return {"case": side}


def _pair_folders(predictions: Path, references: Path) -> Pairs:
    files = {folder: image_files(folder) for folder in (predictions, references)}
    for folder, found in files.items():
        if not found:
            raise DataError(f"{folder}: holds no label map of a known format; check the path")
    pairing = pair_up(files[predictions], files[references])
    if pairing.lonely or not pairing.labels:
        raise DataError(
            f"{predictions}: no prediction for {shown([path.name for path in pairing.lonely])} "
            f"({len(pairing.lonely)} of {len(files[references])} references); predict them, or move them away"
        )
    return {name: (pairing.images[name][0], label) for name, label in pairing.labels.items()}


def _open(item: LabelMap, spacing: Sequence[float] | None, name: str) -> Volume:
    if isinstance(item, str | Path):
        return read_volume(item, label=True)
    if isinstance(item, np.ndarray):
        return Volume(item[None], tuple(float(s) for s in spacing or (1.0,) * item.ndim))
    if item.channels != 1:
        raise ShapeError(f"case {name}: a label map has one channel, this Volume has {item.channels}")
    return item
