"""From a recipe to cases that can be trained on: data set, split, plan, preprocessing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from unetkit.data.cases import read_case
from unetkit.data.datasets import Dataset, open_dataset
from unetkit.data.loader import LazyCases
from unetkit.data.preprocess import Prepared, preprocess
from unetkit.data.splits import Split, make_split
from unetkit.errors import DataError
from unetkit.plan.fingerprint import measure
from unetkit.plan.plan import Plan
from unetkit.plan.rules import decide
from unetkit.progress import case_bar
from unetkit.recipe.schema import Recipe
from unetkit.registry import model_info

# Each thread holds a case in several copies, so more of them cost memory rather than save time.
_MOST_THREADS = 8
Item = TypeVar("Item")


@dataclass(frozen=True)
class Preparation:
    """A data set with its split and the plan for it."""

    dataset: Dataset
    split: Split
    plan: Plan


@dataclass(frozen=True, eq=False)
class Reference:
    """A case to validate on: what the network gets, and the true labels [L, *S] on the image's own grid."""

    prepared: Prepared
    labels: np.ndarray


def prepare_plan(recipe: Recipe) -> Preparation:
    """Open the data set, split it, measure the training cases and decide the plan.

    Raises DataError for data that cannot be used, RecipeError or ModelError for a recipe that does not fit them.
    """
    info = model_info(recipe.model.name)
    dataset = open_dataset(recipe.data)
    split = make_split(dataset, recipe.data.split)
    return Preparation(dataset, split, decide(measure(dataset, split.train), recipe, info))


def training_cases(preparation: Preparation, recipe: Recipe, shown: bool) -> Sequence[Prepared]:
    """Return the preprocessed training cases: all in memory, or read anew at each access (data.cache=none).

    Raises DataError for a case that cannot be used.
    """
    dataset, plan = preparation.dataset, preparation.plan

    def load(case_id: str) -> Prepared:
        image, label = read_case(dataset.case(case_id), plan.labels)
        return preprocess(image, label, plan, case_id=case_id)

    if recipe.data.cache == "none":
        return LazyCases(preparation.split.train, load)
    # threads, not processes: unpacking and resampling release the interpreter lock, and nothing has to be copied
    return _in_threads(load, preparation.split.train, "preprocess to train", shown)


def validation_cases(preparation: Preparation, recipe: Recipe, shown: bool) -> Sequence[Reference]:
    """Return the cases of validations within the training, true labels on their own grid; cached as those that train.

    Raises DataError for a case that cannot be used.
    """
    dataset, plan = preparation.dataset, preparation.plan
    ids = preparation.split.val[: recipe.train.validation_cases]

    def load(case_id: str) -> Reference:
        image, label = read_case(dataset.case(case_id), plan.labels)
        if label is None:
            raise DataError(f"case {case_id}: has no label to validate with; add one, or leave the case out")
        # the label stays on its own grid: Dice is measured where the user will look
        return Reference(preprocess(image, None, plan, case_id=case_id), label.data)

    return (
        _ReadAnew(ids, load) if recipe.data.cache == "none" else _in_threads(load, ids, "preprocess to validate", shown)
    )


class _ReadAnew(Sequence[Reference]):
    """References that are read whenever they are asked for."""

    def __init__(self, ids: Sequence[str], load: Callable[[str], Reference]) -> None:
        self.ids, self.load = ids, load

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Reference:  # type: ignore[override]
        return self.load(self.ids[index])


def _in_threads(load: Callable[[str], Item], ids: Sequence[str], title: str, shown: bool) -> list[Item]:
    tick, found = case_bar(title, shown), []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        # in order, whatever order they finish in: the sampler numbers the cases
        for item in pool.map(load, ids):
            found.append(item)
            tick(len(found), len(ids))
    return found
