"""From a recipe to cases that can be trained on: data set, split, plan, preprocessing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from unetkit.data.cascade import stage_of, with_masks
from unetkit.data.cases import read_case
from unetkit.data.datasets import Dataset, open_dataset
from unetkit.data.loader import LazyCases
from unetkit.data.locations import find_locations
from unetkit.data.preprocess import Prepared, preprocess
from unetkit.data.soft_labels import soft_codes
from unetkit.data.splits import Split, make_split
from unetkit.data.store import (
    Names,
    Store,
    StoredCase,
    available_memory,
    gigabytes,
    open_store,
    packed,
    prepared_bytes,
    require_room,
    unpacked,
)
from unetkit.engine.distributed import ALONE, Group
from unetkit.engine.probe import sized_plan
from unetkit.errors import DataError
from unetkit.infer.device import pick_device
from unetkit.plan.fingerprint import Fingerprint, measure
from unetkit.plan.plan import Plan
from unetkit.plan.rules import decide
from unetkit.progress import case_bar
from unetkit.recipe.schema import Recipe
from unetkit.registry import model_info

# Each thread holds a case in several copies, so more of them cost memory rather than save time.
_MOST_THREADS = 8
# Cases of which a loader process keeps maps open (each takes two file handles), or copies where they are made anew.
_MAPPED, _MOST_KEPT, _KEPT_BYTES = 32, 8, 2**29
# Of the memory that is free; the rest is for loader processes, the network and the validation.
_MEMORY_SHARE = 0.25
Key = TypeVar("Key")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Preparation:
    """A data set with its split and the plan for it; `fingerprint` is what that was decided from, if just measured."""

    dataset: Dataset
    split: Split
    plan: Plan
    fingerprint: Fingerprint | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """A case to validate on: what the network gets, and the true labels [L, *S] on the image's own grid."""

    prepared: Prepared
    labels: np.ndarray


def open_for(recipe: Recipe) -> Dataset:
    """Open the data set as the recipe's task needs it. Raises as `open_dataset`."""
    return open_dataset(recipe.data, unlabelled=recipe.task == "pretrain")


def prepare_plan(recipe: Recipe, shown: bool = True) -> Preparation:
    """Open the data set, split it, measure the training cases (with a bar if `shown`) and decide the plan.

    Raises DataError for data that cannot be used, RecipeError or ModelError for a recipe that does not fit them.
    """
    info = model_info(recipe.model.name)
    dataset = open_for(recipe)
    split = make_split(dataset, recipe.data.split)
    fingerprint = measure(dataset, split.train, progress=case_bar("measure", shown))
    device = pick_device(recipe.train.device)
    plan = sized_plan(lambda asked, weigh: decide(fingerprint, asked, info, weigh), recipe, device)
    return Preparation(dataset, split, plan, fingerprint)


def training_cases(preparation: Preparation, recipe: Recipe, shown: bool, group: Group = ALONE) -> Sequence[Prepared]:
    """Return the preprocessed training cases where data.cache wants them: in memory, in a store, or made when asked.

    Their voxels are the same in each, as all of them are packed (see `data/store`). Raises DataError for a case that
    cannot be used, and for a disk without room.
    """
    ids = preparation.split.train
    preparation = _with_masks(preparation, ids, recipe)
    maker = _Maker(preparation.dataset, preparation.plan, _wants_soft(recipe))
    own = group.share.of(ids)
    match group.first(lambda: _cache(preparation, recipe, shown, group.beside)):
        case "none":
            return LazyCases(ids, maker.training, keep=_keep(preparation, recipe))
        case "memory":
            # every process needs all cases, but each prepares its share of them only: the rest it is sent
            with group.together():
                made = _in_threads(maker.training, own, "preprocess to train", shown)
            return group.exchange(made, len(ids))
    if group.world > 1:  # each fills its share of the store, and finds the rest there
        with group.together():
            _stored(preparation, recipe, own, shown)
    stored = _stored(preparation, recipe, ids, shown)
    return LazyCases(ids, partial(_opened, {case.id: case for case in stored}), keep=_MAPPED, ready=True)


def validation_cases(
    preparation: Preparation, recipe: Recipe, shown: bool, group: Group = ALONE
) -> Sequence[Reference]:
    """Return the cases of validations within the training, true labels on their own grid; cached as those that train.

    Raises DataError for a case that cannot be used, and for a disk without room.
    """
    ids = group.share.of(_validating(preparation, recipe))
    preparation = _with_masks(preparation, ids, recipe)
    maker = _Maker(preparation.dataset, preparation.plan)
    match group.first(lambda: _cache(preparation, recipe, False, group.beside)):
        case "none":
            return _References(ids, maker.reference)
        case "memory":
            held = _in_threads(maker.reference, ids, "preprocess to validate", shown)
            return _References(ids, dict(zip(ids, held, strict=True)).__getitem__)
    stored = _stored(preparation, recipe, ids, shown, truth=True)
    return _References(ids, partial(_opened_reference, {case.id: case for case in stored}))


class _References(Sequence[Reference]):
    """References that are fetched, and their images brought to float32, whenever they are asked for."""

    def __init__(self, ids: Sequence[str], load: Callable[[str], Reference]) -> None:
        self.ids, self.load = ids, load

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Reference:  # type: ignore[override]
        found = self.load(self.ids[index])
        return replace(found, prepared=replace(found.prepared, data=unpacked(found.prepared.data)))


@dataclass(frozen=True)
class _Maker:
    """Prepares cases in memory; a class and no closure, as loader processes may get it pickled."""

    dataset: Dataset
    plan: Plan
    soft: bool = False

    def training(self, case_id: str) -> Prepared:
        """Return a case with packed image, label, soft labels if wanted, and the index of its foreground."""
        image, label = read_case(self.dataset.case(case_id), self.plan.labels)
        found = self._packed(preprocess(image, label, self.plan, case_id=case_id))
        if not self.soft or found.label is None:
            return found
        return replace(found, soft=soft_codes(found.label, self.plan.dims))

    def reference(self, case_id: str) -> Reference:
        """Return a case with packed image; its label stays on its own grid: Dice is measured where the user looks."""
        image, label = read_case(self.dataset.case(case_id), self.plan.labels)
        if label is None:
            raise DataError(f"case {case_id}: has no label to validate with; add one, or leave the case out")
        return Reference(self._packed(preprocess(image, None, self.plan, case_id=case_id)), label.data)

    def _packed(self, case: Prepared) -> Prepared:
        known = None if case.label is None else find_locations(case.label, regions=self.plan.labels.regions)
        previous = stage_of(self.dataset.case(case.id), case.geometry, self.plan)
        return replace(case, data=packed(case.data, self.plan.normalization), locations=known, previous=previous)


def _with_masks(preparation: Preparation, ids: Sequence[str], recipe: Recipe) -> Preparation:
    """Add to the cases what an earlier stage of a cascade made of them."""
    dataset = with_masks(preparation.dataset, ids, recipe.data.previous, preparation.plan)
    return replace(preparation, dataset=dataset)


def _wants_soft(recipe: Recipe) -> bool:
    return recipe.task == "segment" and recipe.train.loss.targets == "sauna"


def _opened(stored: Mapping[str, StoredCase], case_id: str) -> Prepared:
    return stored[case_id].open()


def _opened_reference(stored: Mapping[str, StoredCase], case_id: str) -> Reference:
    return Reference(stored[case_id].open(), stored[case_id].open_truth())


def _validating(preparation: Preparation, recipe: Recipe) -> tuple[str, ...]:
    return preparation.split.val[: recipe.train.validation_cases]


def _cache(preparation: Preparation, recipe: Recipe, shown: bool, copies: int) -> str:
    """Settle data.cache=auto, by what the headers of all cases say they will take, in `copies` processes."""
    section = recipe.data
    if section.cache != "auto":
        return section.cache
    if section.store is not None:
        return "disk"
    validating = _validating(preparation, recipe)
    needed = sum(_sizes(preparation, recipe))
    needed += sum(prepared_bytes(preparation.dataset.case(name), preparation.plan) for name in validating)
    free = available_memory()
    if needed * copies <= _MEMORY_SHARE * free:
        return "memory"
    if shown:
        print(
            f"note: prepared cases take about {gigabytes(needed)}, and {gigabytes(free)} of memory are free: "
            f"they are kept in {_store_folder(recipe)} (data.store, data.cache)",
            file=sys.stderr,
        )
    return "disk"


def _store_folder(recipe: Recipe) -> Path:
    given = recipe.data.store
    return Path.home() / ".cache" / "unetkit" / "store" if given is None else Path(os.path.expanduser(given))


def _stored(
    preparation: Preparation, recipe: Recipe, ids: Sequence[str], shown: bool, *, truth: bool = False
) -> list[StoredCase]:
    """Make what the store lacks, after a look at the room on its disk."""
    plan, store = preparation.plan, open_store(_store_folder(recipe))
    if store.note is not None and shown:
        print(f"note: {store.note}", file=sys.stderr)
    names = _names(store, preparation, ids, shown, truth=truth, soft=_wants_soft(recipe) and not truth)
    # before the first case is made the last one must have its place, those that will validate included
    later = () if truth else _validating(preparation, recipe)
    wanted = [*names.items(), *_names(store, preparation, later, shown, truth=True).items()]
    missing = [(name, parts.soft is not None) for name, parts in wanted if parts.missing()]
    needed = sum(prepared_bytes(preparation.dataset.case(name), plan, soft=soft) for name, soft in missing)
    require_room(store.folder, needed, len(missing))
    title = f"preprocess to {'validate' if truth else 'train'}"
    return _in_threads(lambda name: store.add(preparation.dataset.case(name), plan, names[name]), ids, title, shown)


def _names(store: Store, preparation: Preparation, ids: Sequence[str], shown: bool, **parts: bool) -> dict[str, Names]:
    """Return where the parts of each case belong, for which its files are read once in the life of a store."""

    def named(case_id: str) -> Names:
        return store.names(preparation.dataset.case(case_id), preparation.plan, **parts)

    return dict(zip(ids, _in_threads(named, ids, "look for prepared cases", shown), strict=True))


def _keep(preparation: Preparation, recipe: Recipe) -> int:
    """Return how many cases a process keeps that are made when asked for."""
    return min(_MOST_KEPT, max(1, _KEPT_BYTES // max(1, *_sizes(preparation, recipe), 1)))


def _sizes(preparation: Preparation, recipe: Recipe) -> list[int]:
    """Return how many bytes each training case takes once it is prepared."""
    plan, soft = preparation.plan, _wants_soft(recipe)
    return [prepared_bytes(preparation.dataset.case(name), plan, soft=soft) for name in preparation.split.train]


def _in_threads(load: Callable[[Key], Item], keys: Sequence[Key], title: str, shown: bool) -> list[Item]:
    # threads, not processes: unpacking and resampling release the interpreter lock, and nothing has to be copied
    tick, found = case_bar(title, shown), []
    cores, inner = os.cpu_count() or 1, torch.get_num_threads()
    workers = max(1, min(cores, _MOST_THREADS, len(keys)))
    try:
        # the cores are shared out: torch would start as many threads as there are cores in every one of ours
        with ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(max(1, inner // workers),)
        ) as pool:
            # in order, whatever order they finish in: the sampler numbers the cases
            for item in pool.map(load, keys):
                found.append(item)
                tick(len(found), len(keys))
    finally:
        torch.set_num_threads(inner)
    return found
