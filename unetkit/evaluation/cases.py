"""A trained network on the cases of a data set: predicted, scored on their own grid, best and worst kept to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from unetkit.checkpoint import read_recipe
from unetkit.data.cases import read_case
from unetkit.data.catalog import DATASETS
from unetkit.data.datasets import Dataset, open_dataset
from unetkit.data.splits import Split, make_split
from unetkit.errors import DataError, RecipeError, UnetkitError
from unetkit.evaluation.result import Evaluation, require_scores
from unetkit.evaluation.tally import Peers, Tally
from unetkit.infer.load import load
from unetkit.infer.segmenter import Segmenter
from unetkit.infer.study import holds_study, read_choice, runs_of
from unetkit.progress import Progress
from unetkit.recipe import explain_faults
from unetkit.recipe.schema import DataSection, Recipe, Section
from unetkit.types import Case, Volume

AnySection = TypeVar("AnySection", bound=Section)
Sink = Callable[[str, Volume, np.ndarray], None]
"""Called with case id, image and predicted labels uint8 [L, *S] on its grid, so that none is predicted twice."""


def evaluate_cases(
    predictor: Segmenter,
    dataset: Dataset,
    case_ids: Sequence[str],
    recipe: Recipe,
    *,
    progress: Progress | None = None,
    about: Mapping[str, str] | None = None,
    sink: Sink | None = None,
    peers: Peers | None = None,
) -> Evaluation:
    """Predict cases of a data set and score them on their own grid, by the recipe's `evaluate` section.

    A case that fails is named in `failures` and the others go on; `require_scores` tells whether any is left.
    `progress` is called with (cases, of all); `about` adds to what is known of model and data set; `sink` gets every
    prediction, before its case counts as scored. With `peers` each process predicts its share of the cases and gets
    the evaluation of all.
    """
    tally = Tally(predictor.plan.labels, recipe.evaluate)
    own = case_ids if peers is None else peers.share.of(case_ids)
    for number, case_id in enumerate(own, start=1):
        try:
            _score(predictor, dataset.case(case_id), tally, sink)
        # What is the fault of one case's files or size ends that case; anything else is a bug and ends the run.
        except (UnetkitError, MemoryError) as error:
            tally.failures[case_id] = str(error) if isinstance(error, UnetkitError) else "not enough memory"
        if progress:
            progress(number, len(own))
    tally = tally.joined(peers, case_ids)
    return tally.result({"model": recipe.model.name, **about_dataset(dataset), **(about or {})})


def about_dataset(dataset: Dataset) -> dict[str, str]:
    """Return a data set's name, and whether it is generated: a report must not pass phantoms off as patients."""
    known = DATASETS.get(dataset.name)
    return {"dataset": dataset.name, "generated": "yes" if known is not None and known.generated else "no"}


def _score(predictor: Segmenter, case: Case, tally: Tally, sink: Sink | None) -> None:
    # The label goes a way of its own: only the network's output passes through preprocessing and back, so that what
    # resampling loses is counted against the prediction.
    image, label = read_case(case, tally.labels)
    if label is None:
        raise DataError(f"case {case.id}: has no label to score against; add one, or leave the case out")
    found = predictor.segment(predictor.prepare(image, case.id))
    if sink is not None:
        sink(case.id, image, found.encoded)
    tally.score(case.id, image, found.encoded, label.data, found.scores)


def evaluate_run(
    run: Path,
    split: str,
    settings: Mapping[str, Mapping[str, Any]],
    *,
    device: str = "auto",
    progress: Progress | None = None,
    foreign: bool = False,
) -> Evaluation:
    """Predict and score a split (train, val, test) of a run's data, or of other data.

    `settings` holds changed keys of the recipe's sections `data`, `infer` and `evaluate`, and for a study under
    `study` the configurations and folds to predict with. `foreign`: the data hold none of the run's cases, even if some
    are called the same.
    Raises CheckpointError for a run that cannot be loaded, DataError for data that cannot be used, a split without
    cases and if all cases fail, RecipeError for a setting that is not possible.
    """
    member = _member(run, split)
    recipe = read_recipe(member)
    previous = None if member != run else settings.get("data", {}).get("previous", recipe.data.previous)
    predictor = load(run, device, previous=previous, **settings.get("study", {}), **settings.get("infer", {}))
    rules = _changed(recipe.evaluate, settings.get("evaluate", {}), "evaluate")
    dataset, ids = _split_of_run(member, recipe, split, settings.get("data", {}), foreign)
    evaluation = evaluate_cases(
        predictor,
        dataset,
        ids,
        recipe.model_copy(update={"evaluate": rules}),
        progress=progress,
        about={"title": f"{run.stem}: {split}", "split": split, "run": str(run)},
    )
    return require_scores(evaluation)


def cases_of_run(run: Path, split: str, data: Mapping[str, Any]) -> list[Case]:
    """Return the cases of a split (train, val, test) of a run's data; `data` holds changed keys of that section.

    Raises CheckpointError for a run that cannot be loaded, DataError for data that cannot be used or a split
    without cases, RecipeError for a key that is not possible.
    """
    member = _member(run, split)
    dataset, ids = _split_of_run(member, read_recipe(member), split, data)
    return [dataset.case(name) for name in ids]


def _member(run: Path, split: str) -> Path:
    """Return the run itself, or one of a study's that knows its recipe and its test cases."""
    if not holds_study(run):
        return run
    if split != "test":
        raise RecipeError(
            f"split={split}: every fold of {run} trained on other cases, which were scored in CONFIGURATION/crossval; "
            "choose split=test, or a run of the study"
        )
    runs = runs_of(run)
    return next(iter(runs[read_choice(run, runs).configurations[0]].values()))


def _split_of_run(
    run: Path, recipe: Recipe, split: str, changed: Mapping[str, Any], foreign: bool = False
) -> tuple[Dataset, tuple[str, ...]]:
    """Open the run's data and find the cases of its split; of data new to it take all, or the side they state."""
    section = recipe.data
    if "split" in changed:
        raise RecipeError(
            f"data.split: {run} has divided its cases already (split.json), and another split would score cases that "
            "it trained on; drop the key"
        )
    dataset = open_dataset(other_data(section, changed))
    own = _stored_split(run) or make_split(dataset, recipe.data.split)
    if not foreign and {*own.train, *own.val, *own.test} & {case.id for case in dataset.cases}:
        # The same cases, perhaps in another place: those that trained must not be scored as unseen.
        return dataset, ids_of_side(own, split, f"{run}, {dataset.name}")
    return dataset, cases_of_other(dataset, split)


def other_data(section: DataSection, changed: Mapping[str, Any]) -> DataSection:
    """Return a recipe's section `data` with changed keys. Raises RecipeError for a key that is not possible."""
    if {"root", "dataset"} & set(changed):
        # Where the data lie is said by both keys together: a new one must not meet the other of training.
        section = section.model_copy(update={"root": None, "dataset": None, "generator": {}})
    return _changed(section, changed, "data")


def cases_of_other(dataset: Dataset, side: str) -> tuple[str, ...]:
    """Return ids of the labelled cases of data new to a network: all, or those of the side (train, val, test) stated.

    Raises DataError where there is none.
    """
    ids = tuple(case.id for case in dataset.labelled if case.split in (None, side))
    if not ids:
        raise DataError(f"{dataset.name}: no labelled case in its {side} split; add labels, or choose another split=")
    return ids


def ids_of_side(split: Split, side: str, where: str) -> tuple[str, ...]:
    """Return the case ids of a side (train, val, test) of a split. Raises DataError, naming the others, for none."""
    ids: tuple[str, ...] = getattr(split, side)
    if not ids:
        filled = " or ".join(name for name in ("train", "val", "test") if getattr(split, name))
        raise DataError(f"{where}: the {side} split has no case; choose split={filled}")
    return ids


def _stored_split(run: Path) -> Split | None:
    # Beside a checkpoint that was copied out of its run there is none.
    path = (run if run.is_dir() else run.parent) / "split.json"
    try:
        return Split.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore it, or delete it to split anew") from error


def _changed(section: AnySection, changes: Mapping[str, Any], name: str) -> AnySection:
    kind = type(section)
    try:
        # Through JSON, in which lists are what the schema takes for sizes.
        tree = {**section.model_dump(mode="json", exclude_unset=True), **changes}
        return kind.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        faults = [f"{name}.{fault}" for fault in explain_faults(error, kind)]
        raise RecipeError("; ".join(faults), faults) from error
