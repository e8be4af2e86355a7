"""From a recipe to a study on the disk: data measured once, each configuration planned once, every run written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unetkit.data.datasets import Dataset, open_dataset
from unetkit.data.splits import Split, make_splits
from unetkit.engine.estimate import StepEstimate
from unetkit.engine.prepare import Preparation
from unetkit.engine.probe import sized_plan
from unetkit.engine.run_folder import RunFolder, new_run_folder
from unetkit.engine.study.folder import StudyFolder, make_run, read_study
from unetkit.engine.study.nodes import (
    CASCADE,
    OUT_OF_FOLD,
    Node,
    build_nodes,
    needs_stage,
    recipe_of,
    require_folds,
)
from unetkit.engine.task import check_task, run_title
from unetkit.infer.device import pick_device
from unetkit.plan.fingerprint import Fingerprint, measure
from unetkit.plan.plan import Plan
from unetkit.plan.rules import configurations_for, decide
from unetkit.progress import case_bar
from unetkit.recipe.merge import FREE, resumed
from unetkit.recipe.schema import Recipe
from unetkit.registry import model_info

_MEASURED = (
    "measured once for all folds, over their training and validation cases and not over the test cases, as nnU-Net "
    "does: every fold has the same plan, and what a fold learns of its validation cases in advance are sizes, spacings "
    "and the range of intensities"
)


@dataclass(frozen=True)
class Study:
    """Several runs with one data set and one recipe; `origins` says of each key where its value is from."""

    recipe: Recipe
    origins: Mapping[str, str]
    folder: StudyFolder
    dataset: Dataset


@dataclass(frozen=True)
class Decided:
    """What the runs of a study go by: splits by fold, plans by configuration, and what they were decided from."""

    dataset: Dataset
    fingerprint: Fingerprint
    splits: Mapping[int, Split]
    plans: Mapping[str, Plan]
    nodes: tuple[Node, ...]
    notes: tuple[str, ...]


def start_study(
    recipe: Recipe, origins: Mapping[str, str], source: str | None = None, *, shown: bool = True
) -> Study | Recipe:
    """Make the folder, decide everything and write it; if that fails, nothing is left on the disk.

    Where all that suits turns out to be a single run, nothing is kept either, and the recipe of that run comes back.
    Raises a UnetkitError for what recipe, data or machine do not allow.
    """
    pick_device(recipe.train.device)
    made = new_run_folder(recipe, run_title(recipe, source))
    with made.kept_on_success():
        # before anything is measured: from here on a killed study can be gone on with
        made.write_recipe(recipe, origins)
        StudyFolder(made.path).write()
        decided = decide_study(recipe, shown)
        if len(decided.nodes) == 1:
            made.discard()
            plan = recipe.plan.model_copy(update={"configuration": decided.nodes[0].configuration})
            return recipe.model_copy(update={"plan": plan})
        return _written(Study(recipe, origins, StudyFolder(made.path), decided.dataset), decided)


def reopen_study(path: Path, changes: Mapping[str, Any], *, shown: bool = True) -> Study:
    """Take recipe and runs from a study's folder, and decide them if it was killed before that.

    `changes` holds new values of keys in FREE and of train.jobs. Raises CheckpointError if the folder is no study or
    damaged, RecipeError for any other key.
    """
    recipe, origins = RunFolder(path).read_recipe()
    recipe, folder = resumed(recipe, changes, (*FREE, "train.jobs")), read_study(path)
    if folder.nodes:
        return Study(recipe, origins, folder, open_dataset(recipe.data))
    decided = decide_study(recipe, shown)
    return _written(Study(recipe, origins, folder, decided.dataset), decided)


def decide_study(recipe: Recipe, shown: bool = True) -> Decided:
    """Open and measure the data, and decide the runs and the plan of each configuration; nothing is written.

    `shown` draws a bar while measuring. Raises RecipeError, ModelError or DataError.
    """
    asked = recipe.plan.configuration
    if asked is not None and needs_stage(recipe, asked):
        require_folds(recipe)  # before the data are measured
    info, section = model_info(recipe.model.name), recipe.data.split
    dataset = open_dataset(recipe.data)
    splits = make_splits(dataset, section)
    # the stage before a cascade trains on every fold, whichever are asked for
    every = make_splits(dataset, section, whole=True) if section.kind == "kfold" else splits
    cases = dict.fromkeys(name for split in every.values() for name in (*split.train, *split.val))
    fingerprint = measure(dataset, cases, progress=case_bar("measure", shown))
    device = pick_device(recipe.train.device)

    def sized(wanted: Recipe) -> Plan:
        return sized_plan(lambda each, weigh: decide(fingerprint, each, info, weigh), wanted, device)

    if asked is None:
        plan = sized(recipe)
        nodes = build_nodes(recipe, (plan.configuration,), tuple(splits), tuple(every))
        return Decided(dataset, fingerprint, every, {plan.configuration: plan}, nodes, ())
    if asked == "all":
        names, notes = _possible(recipe, configurations_for(fingerprint, recipe, info, StepEstimate(recipe, device)))
    else:
        names, notes = [*asked] if isinstance(asked, list) else [str(asked)], ()
    nodes = build_nodes(recipe, names, tuple(splits), tuple(every))
    plans = {
        node.configuration: sized(recipe_of(recipe, node, section.folds, OUT_OF_FOLD))
        for node in {node.configuration: node for node in nodes}.values()
    }
    return Decided(dataset, fingerprint, every, plans, nodes, notes)


def _possible(recipe: Recipe, suited: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the configurations that data and model allow and the split too, and a note on those it does not."""
    if needs_stage(recipe, suited) and recipe.data.split.kind != "kfold":
        rest = [name for name in suited if name != CASCADE]
        return rest, (f"{CASCADE} would suit the data, but needs data.split.kind=kfold; left out",)
    return list(suited), ()


def _written(study: Study, decided: Decided) -> Study:
    """Write the runs' folders, study.json last: a study that names its runs has them all."""
    previous = str((study.folder.path / OUT_OF_FOLD).resolve())
    folds = max(study.recipe.data.split.folds, *(fold + 1 for fold in decided.splits))
    about = {
        "configurations": {name: plan.reasons.get("configuration", "") for name, plan in decided.plans.items()},
        "folds": {str(fold): split.how for fold, split in decided.splits.items()},
        "fingerprint": {"cases": len(decided.fingerprint.cases), "of": _MEASURED},
        "notes": [*decided.notes, *decided.fingerprint.notes],
    }
    folder = StudyFolder(study.folder.path, decided.nodes, about)
    recipes = {node: recipe_of(study.recipe, node, folds, previous) for node in decided.nodes}
    for node, recipe in recipes.items():
        check_task(recipe, Preparation(decided.dataset, decided.splits[node.fold], decided.plans[node.configuration]))
    RunFolder(folder.path).write_fingerprint(decided.fingerprint.to_json())
    for node, recipe in recipes.items():
        own = dict.fromkeys(("plan.configuration", "data.split.fold", "data.previous"), "study")
        split, plan = decided.splits[node.fold], decided.plans[node.configuration]
        make_run(folder, node).write(recipe, {**study.origins, **own}, plan, split)
    folder.write()
    return replace(study, folder=folder)
