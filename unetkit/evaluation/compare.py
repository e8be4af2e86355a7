"""Label maps against the truth: files, folders, arrays or Volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from unetkit.data.cases import read_case
from unetkit.data.datasets import open_dataset
from unetkit.data.declared import Declared, final_labels
from unetkit.data.labels import MAX_CLASSES, encode
from unetkit.data.labelscan import scan_labels
from unetkit.data.splits import make_split
from unetkit.errors import DataError, UnetkitError
from unetkit.evaluation.cases import about_dataset, ids_of_side
from unetkit.evaluation.pairs import (
    LabelMap,
    Pairs,
    Side,
    on_grid_of,
    open_label,
    pair_sides,
    predictions_of,
    scores_of,
)
from unetkit.evaluation.result import Evaluation, require_scores
from unetkit.evaluation.tally import Tally
from unetkit.progress import Progress
from unetkit.recipe.schema import DataSection, EvaluateSection
from unetkit.types import Labels, Volume


def evaluate(
    predictions: Side,
    references: Side,
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
    pairs = pair_sides(predictions, references)
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
    pairs = pair_sides(predictions, references)
    return _evaluate(pairs, _labels(data, [ref for _, ref in pairs.values()]), rules, None, progress)


def evaluate_dataset(
    predictions: Path,
    side: str | None,
    *,
    data: DataSection,
    rules: EvaluateSection,
    progress: Progress | None = None,
) -> Evaluation:
    """Score the label maps of a folder against a data set's own labels: all of them, or a side of its split.

    `side` is train, val or test of `data.split`, or None. Values in the predictions mean what they mean in the data
    set's label files. A case that cannot be read is named in `failures` and the others go on.
    Raises DataError for data that cannot be used, a side without cases, cases without prediction, and if all cases
    fail; RecipeError for a section that contradicts itself.
    """
    dataset = open_dataset(data)
    cases = list(dataset.labelled)
    if side is not None:
        wanted = set(ids_of_side(make_split(dataset, data.split), side, dataset.name))
        cases = [case for case in cases if case.id in wanted]
    if not cases or dataset.labels is None:
        raise DataError(f"{dataset.name}: no labelled case to score against; add labels, or give references=FOLDER")
    files = predictions_of(predictions, cases)
    tally = Tally(dataset.labels, rules)
    for number, case in enumerate(cases, start=1):
        try:
            # The image comes too: it is shown behind the labels, and carries the region of interest.
            image, ref = read_case(case, dataset.labels)
            pred = on_grid_of(open_label(files[case.id], None, case.id), image, case.id)
            assert ref is not None  # labelled cases only
            encoded = encode(pred.data[0], dataset.labels, f"case {case.id}, prediction", image.spacing)
            tally.score(case.id, image, encoded, ref.data, scores_of(files[case.id], encoded, dataset.labels))
        except UnetkitError as error:
            tally.failures[case.id] = str(error)
        if progress:
            progress(number, len(cases))
    about = about_dataset(dataset) | {"title": f"{predictions.name} on {dataset.name}", "split": side or "all"}
    return require_scores(tally.result(about))


def _evaluate(
    pairs: Pairs,
    labels: Labels,
    rules: EvaluateSection,
    spacing: Sequence[float] | None,
    progress: Progress | None,
) -> Evaluation:
    tally = Tally(labels, rules)
    for number, (name, (prediction, reference)) in enumerate(pairs.items(), start=1):
        ref = open_label(reference, spacing, name)
        pred = on_grid_of(open_label(prediction, spacing, name), ref, name)
        one, two = (
            encode(v.data[0], labels, f"case {name}, {w}") for v, w in ((pred, "prediction"), (ref, "reference"))
        )
        # There is no image to show behind the labels; a black one has their grid.
        black = replace(ref, data=np.zeros_like(ref.data, dtype=np.uint8))
        tally.score(name, black, one, two, scores_of(prediction, one, labels))
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
    # Nothing names the values of arrays: as with files of unknown origin, each value beside 0 is a class.
    values = sorted({int(value) for array in arrays for value in np.unique(array)} - {0})
    if not values or len(values) > MAX_CLASSES:
        raise DataError(
            f"the references hold {len(values)} label values beside 0; name the classes to score in `classes`"
        )
    return Labels(tuple(f"label_{value}" for value in values), tuple((value,) for value in values))
