"""What a study predicts with: the configuration, or pair of them, and the postprocessing, by cross-validation alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from unetkit.data.cases import read_case
from unetkit.data.datasets import Dataset
from unetkit.data.formats.files import replacing, stem_of
from unetkit.data.layouts.found import image_files
from unetkit.engine.result import VALIDATION, keeper
from unetkit.engine.run_folder import RunFolder
from unetkit.engine.study.crossval import pool
from unetkit.engine.study.decide import Study
from unetkit.engine.study.nodes import Node
from unetkit.errors import counted
from unetkit.evaluation import Evaluation, evaluate_cases, read_evaluation, write_evaluation
from unetkit.evaluation.choose import Mapped, RuleChoice, choose_rules
from unetkit.infer.ensemble import Ensemble
from unetkit.infer.predictor import Predictor
from unetkit.infer.study import CHOICE
from unetkit.metrics import case_mean
from unetkit.progress import case_bar
from unetkit.types import Labels

ENSEMBLES = "ensembles"
"""Folder of a study with what pairs of configurations predict for the validation cases."""
_TIE = 1e-6


@dataclass(frozen=True)
class Candidate:
    """One configuration, or several averaged: its scores, and where its label maps of validation cases lie."""

    configurations: tuple[str, ...]
    evaluation: Evaluation
    maps: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Configurations, joined by a plus."""
        return "+".join(self.configurations)


@dataclass(frozen=True)
class Chosen:
    """The outcome: Dice of every candidate on the cases that all share, the one taken, and its postprocessing."""

    dice: dict[str, float]
    configurations: tuple[str, ...]
    cases: int
    rules: RuleChoice

    def to_json(self) -> dict[str, object]:
        """Return plain values, as `infer/study` reads them."""
        return {
            "format": 1,
            "configurations": list(self.configurations),
            "postprocess": [rule.model_dump(mode="json", exclude_none=True) for rule in self.rules.rules],
            "candidates": dict(self.dice),
            "cases": self.cases,
            "dice_before_postprocessing": self.rules.before,
            "dice_after_postprocessing": self.rules.after,
            "reasons": list(self.rules.reasons),
        }

    def sentence(self) -> str:
        """Say what was chosen from what."""
        among = ", ".join(f"{name} {dice:.4f}" for name, dice in self.dice.items())
        steps = ", ".join(f"{r.rule} {' and '.join(r.classes or ['all'])}" for r in self.rules.rules) or "none"
        gain = f" ({self.rules.before:.4f} to {self.rules.after:.4f})" if self.rules.rules else ""
        where = f"{'+'.join(self.configurations)} on {counted(self.cases, 'case')}"
        return f"{where} (Dice: {among}); postprocessing: {steps}{gain}"


def choose(study: Study, pooled: Mapping[str, Evaluation], shown: bool = True) -> Chosen | None:
    """Compare the finished configurations, and pairs of them, choose postprocessing, and write choice.json.

    None if the recipe wants no choice, or there is nothing to choose from. Raises DataError if label maps or scores
    cannot be read or written.
    """
    setting = study.recipe.train.choose
    singles = [] if setting == "none" else list(_singles(study, pooled))
    shared = _shared(singles)
    if not shared:
        return None
    pairs = _pairs(study, singles, shown) if setting == "pairs" else []
    dice = {c.name: _mean(c.evaluation, shared) for c in [*singles, *pairs]}
    # of equal ones the first: single configurations stand before pairs
    top = max(dice.values())
    best = next(c for c in [*singles, *pairs] if dice[c.name] >= top - _TIE)
    labels = RunFolder(study.folder.of(study.folder.nodes[0])).read()[2].labels
    load = partial(_mapped, study.dataset, _maps(best, shared), labels)
    chosen = Chosen(
        dice, best.configurations, len(shared), choose_rules(load, labels, study.recipe.train.augment.left_right)
    )
    with replacing(study.folder.path / CHOICE) as temporary:
        temporary.write_text(json.dumps(chosen.to_json(), indent=1), encoding="utf-8")
    return chosen


def _singles(study: Study, pooled: Mapping[str, Evaluation]) -> Iterator[Candidate]:
    """Yield the configurations whose runs are all finished."""
    for name, nodes in study.folder.configurations().items():
        if all(study.folder.finished(node) for node in nodes):
            folders = [study.folder.of(node) for node in nodes]
            evaluation = pooled.get(name) or read_evaluation(folders[0])
            yield Candidate((name,), evaluation, tuple(folder / VALIDATION for folder in folders))


def _shared(candidates: Sequence[Candidate]) -> list[str]:
    """Return the cases that every candidate was scored on; the stage before a cascade may know more folds."""
    if not candidates:
        return []
    return [case for case in candidates[0].evaluation.rows if all(case in c.evaluation.rows for c in candidates)]


def _mean(evaluation: Evaluation, cases: Sequence[str]) -> float:
    values = [case_mean(evaluation.rows[case], "dice") for case in cases if case in evaluation.rows]
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else 0.0


def _pairs(study: Study, singles: Sequence[Candidate], shown: bool) -> list[Candidate]:
    """Predict the validation cases with every two configurations, fold by fold; what is there already is taken."""
    found = []
    by_fold = {name: {node.fold: node for node in nodes} for name, nodes in study.folder.configurations().items()}
    for first, second in combinations([c.configurations[0] for c in singles], 2):
        folder = study.folder.path / ENSEMBLES / f"{first}+{second}"
        if not (folder / "metrics.json").is_file():
            folds = sorted(set(by_fold[first]) & set(by_fold[second]))
            parts = [_pair(study, (by_fold[first][f], by_fold[second][f]), folder, shown) for f in folds]
            labels = RunFolder(study.folder.of(by_fold[first][folds[0]])).read()[2].labels
            write_evaluation(pool(parts, labels, [by_fold[first][f] for f in folds]), folder)
        found.append(Candidate((first, second), read_evaluation(folder), (folder / VALIDATION,)))
    return found


def _pair(study: Study, nodes: tuple[Node, Node], folder: Path, shown: bool) -> Evaluation:
    """Score two runs of one fold, averaged, on the cases that neither trained on."""
    members, splits, recipe = [], [], study.recipe
    for node in nodes:
        own, _, _, split = RunFolder(study.folder.of(node)).read()
        members.append(
            Predictor.from_checkpoint(study.folder.of(node), recipe.train.device, previous=own.data.previous)
        )
        splits.append(split)
    ensemble = Ensemble(members)
    title = f"predict with {nodes[0].configuration} and {nodes[1].configuration}, fold {nodes[0].fold}"
    return evaluate_cases(
        ensemble,
        study.dataset,
        [case for case in splits[0].val if case in splits[1].val],
        recipe,
        progress=case_bar(title, shown),
        sink=keeper(folder, ensemble),
    )


def _maps(candidate: Candidate, cases: Iterable[str]) -> dict[str, Path]:
    there = {stem_of(file): file for folder in candidate.maps for file in image_files(folder)}
    return {case: there[case] for case in cases if case in there}


def _mapped(dataset: Dataset, maps: Mapping[str, Path], labels: Labels) -> Iterator[Mapped]:
    """Read label maps and truth, one case at a time."""
    for name, file in maps.items():
        case = dataset.case(name)
        image, truth = read_case(case, labels)
        _, predicted = read_case(replace(case, label=file, roi=None), labels)
        if truth is not None and predicted is not None:
            yield Mapped(name, predicted.data, truth.data, image)
