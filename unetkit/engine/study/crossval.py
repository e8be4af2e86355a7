"""What the folds of a configuration come to together: every case scored once, by the run that did not train on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unetkit.checkpoint import versions
from unetkit.data.cases import read_case
from unetkit.data.datasets import Dataset
from unetkit.data.formats.files import stem_of
from unetkit.data.layouts.found import image_files, natural
from unetkit.engine.result import VALIDATION
from unetkit.engine.run_folder import RunFolder
from unetkit.engine.study.decide import Study
from unetkit.engine.study.nodes import Node
from unetkit.errors import DataError
from unetkit.evaluation import Evaluation, read_evaluation, write_evaluation
from unetkit.evaluation.gallery import Gallery
from unetkit.metrics import Scores, aggregate, case_mean
from unetkit.report import take_picture
from unetkit.types import Labels

CROSSVAL = "crossval"
"""Folder of a configuration with the scores of all its folds together."""


def cross_validate(study: Study) -> dict[str, Evaluation]:
    """Pool the scores of each configuration whose folds are all finished, write them, and return them.

    A configuration of one fold has nothing to pool. Raises DataError if a case was scored in two folds, or the scores
    cannot be read or written.
    """
    found = {}
    for name, nodes in study.folder.configurations().items():
        if len(nodes) > 1 and all(study.folder.finished(node) for node in nodes):
            folders = [study.folder.of(node) for node in nodes]
            plan = RunFolder(folders[0]).read()[2]
            evaluation = pool([read_evaluation(folder) for folder in folders], plan.labels, nodes)
            title = f"{study.folder.path.name}: {name}, cross-validation"
            about = {**evaluation.about, "title": title, "run": str(study.folder.path / name)}
            pictures = _pictures(study.dataset, folders, evaluation.rows, plan.labels)
            evaluation = replace(evaluation, about=about, pictures=pictures)
            report = replace(evaluation.report(), reasons=plan.reasons, versions=versions())
            report = replace(report, facts={"Folds": str(len(nodes)), "Spread of the folds": _spread(evaluation)})
            write_evaluation(evaluation, study.folder.path / name / CROSSVAL, report)
            found[name] = evaluation
    return found


def pool(parts: Sequence[Evaluation], labels: Labels, nodes: Sequence[Node]) -> Evaluation:
    """Join evaluations of disjoint cases; `summary["folds"]` has the mean of each, and their mean and spread."""
    rows: dict[str, Scores] = {}
    for node, part in zip(nodes, parts, strict=True):
        if twice := set(rows) & set(part.rows):
            raise DataError(f"{node.name}: {min(twice)} was scored in another fold too; train the study anew")
        rows |= part.rows
    dice = [part.dice for part in parts]
    defined = [value for value in dice if math.isfinite(value)]
    folds: dict[str, Any] = {
        "dice": {str(node.fold): value for node, value in zip(nodes, dice, strict=True)},
        "mean": float(np.mean(defined)) if defined else math.nan,
        # of the sample, n - 1: how far another fold would lie off
        "std": float(np.std(defined, ddof=1)) if len(defined) > 1 else math.nan,
    }
    ordered = {case: rows[case] for case in sorted(rows, key=natural)}
    return Evaluation(
        rows=ordered,
        summary={**aggregate(ordered), "folds": folds},
        definitions=parts[0].definitions,
        classes=labels.classes,
        failures={case: why for part in parts for case, why in part.failures.items()},
        about=parts[0].about,
    )


def _spread(evaluation: Evaluation) -> str:
    folds = evaluation.summary["folds"]
    return f"{folds['mean']:.4f} ± {folds['std']:.4f}" if math.isfinite(folds["std"]) else "n/a"


def _pictures(dataset: Dataset, folders: Sequence[Path], rows: Mapping[str, Scores], labels: Labels) -> dict[str, Any]:
    """Draw best, median and worst case from the label maps that the runs have written."""
    maps = {stem_of(file): file for folder in folders for file in image_files(folder / VALIDATION)}
    scored = {case: case_mean(scores, "dice") for case, scores in rows.items() if case in maps}
    ranked = sorted((case for case, dice in scored.items() if math.isfinite(dice)), key=scored.__getitem__)
    gallery = Gallery()
    for name in dict.fromkeys(ranked[i] for i in (0, len(ranked) // 2, -1) if ranked):
        case = dataset.case(name)
        image, truth = read_case(case, labels)
        _, predicted = read_case(replace(case, label=maps[name]), labels)
        if truth is not None and predicted is not None:
            seen, true = (found.data[: labels.class_layers] for found in (predicted, truth))
            gallery.add(name, scored[name], take_picture(image, seen, true))
    return gallery.chosen()
