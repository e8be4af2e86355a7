"""Who trains, who validates, who is only tested; a group (patient) is never divided.

Groups are put in an order that a hash of seed and name decides, so a split is the same on every machine, whatever
the order of the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unetkit.data.datasets import Dataset, require_trainable
from unetkit.data.layouts.found import natural, shown
from unetkit.errors import DataError, RecipeError, nearest
from unetkit.recipe.schema import SplitSection
from unetkit.types import Case


@dataclass(frozen=True)
class Split:
    """Ids of the cases that train, validate and test; `extra` holds further test sets by name; `how` explains."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    how: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return lists of ids."""
        extra = {name: list(ids) for name, ids in self.extra.items()}
        return {"train": list(self.train), "val": list(self.val), "test": list(self.test), **extra, "how": self.how}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Split:
        """Rebuild a split from `to_json`. Raises DataError if a list is missing."""
        try:
            sides = [tuple(str(name) for name in tree[key]) for key in ("train", "val", "test")]
        except (KeyError, TypeError) as error:
            raise DataError(f"a split needs lists train, val and test ({error}); write it anew") from error
        extra = {key: tuple(tree[key]) for key in tree if key.startswith("test_")}
        return cls(sides[0], sides[1], sides[2], extra, str(tree.get("how", "")))


@dataclass
class _Draft:
    """Cases on their way to a side; `val` is None until somebody decides."""

    train: list[Case]
    val: list[Case] | None
    test: list[Case]
    how: list[str]


def make_split(dataset: Dataset, section: SplitSection) -> Split:
    """Divide the labelled cases as recipe and data set say; what neither says is drawn by seed.

    A test list of the data set stays the test; without a stated validation part, `val_fraction` of the training
    groups validates. Raises DataError if the cases cannot be trained on, are too few, or if a stated split divides
    a group; RecipeError for ids that do not exist and settings that contradict the data.
    """
    require_trainable(dataset)
    if section.fold == "all":
        raise RecipeError("data.split.fold=all is a split for each fold, and here one is needed; give its number")
    cases = _usable(dataset)
    if section.train is not None or section.val is not None or section.test is not None:
        draft = _by_lists(cases, section)
    elif section.kind == "fixed" and not any(case.split for case in cases):
        raise RecipeError(
            "data.split.kind=fixed, but neither recipe nor data set lists the cases; give data.split.train, val and "
            "test, or use kind=random"
        )
    elif section.kind in ("auto", "fixed"):
        draft = _as_stated(cases, section)
    else:
        draft = _drawn(cases, section)
    if draft.val is None:
        _hold_out(draft, section)
    return _checked(dataset, draft, section)


def make_splits(dataset: Dataset, section: SplitSection, whole: bool = False) -> dict[int, Split]:
    """Return a split for each fold that the section asks for, all parts of one partition.

    `whole`: every fold, whichever the section names. Raises as `make_split`, and DataError for a case that
    validates in two folds.
    """
    require_trainable(dataset)
    folds = _folds(dataset, section) if whole or section.fold == "all" else (section.fold,)
    splits = {fold: make_split(dataset, section.model_copy(update={"fold": fold})) for fold in folds}
    owner: dict[str, int] = {}
    for fold, split in splits.items():
        for name in split.val:
            if owner.setdefault(name, fold) != fold:
                raise DataError(f"case {name} validates in fold {owner[name]} and in fold {fold}; keep it in one")
    return splits


def _folds(dataset: Dataset, section: SplitSection) -> tuple[int, ...]:
    """Return all folds: those that the data set states, or as many as the recipe draws."""
    pool = [case for case in _usable(dataset) if case.split != "test"]
    stated = {case.fold for case in pool if case.fold is not None}
    return tuple(sorted(stated)) if _states_folds(pool) else tuple(range(section.folds))


def _usable(dataset: Dataset) -> list[Case]:
    return [case for case in dataset.labelled if not (case.split or "").startswith("test_")]


def _states_folds(pool: Sequence[Case]) -> bool:
    """A data set that gives some cases a fold means the others to train in every one."""
    return any(case.fold is not None for case in pool)


def group_of(case: Case) -> str:
    """Return whom the case belongs to: its group, or itself."""
    return case.group or case.id


def _by_lists(cases: Sequence[Case], section: SplitSection) -> _Draft:
    """Follow the recipe's lists; a list that is not given falls back to what the data set states."""
    if section.test_fraction:
        raise RecipeError(
            f"data.split.test_fraction={section.test_fraction:g} is not used beside lists of cases; drop it, or list "
            "the test cases in data.split.test"
        )
    chosen = {key: _named(cases, getattr(section, key), key) for key in ("train", "val", "test")}
    _require_apart({key: [case.id for case in found] for key, found in chosen.items() if found is not None})
    free = _without(cases, [case for found in chosen.values() for case in found or ()])
    for side in ("val", "test"):
        if chosen[side] is None:
            chosen[side] = [case for case in free if case.split == side]
    val, test = chosen["val"] or [], chosen["test"] or []
    train = _without(free, [*val, *test]) if chosen["train"] is None else chosen["train"]
    # An empty list is a wish to go without; where nobody says who validates, a share of the training does.
    return _Draft(train, val if val or section.val is not None else None, test, ["lists of the recipe"])


def _named(cases: Sequence[Case], names: Sequence[str] | None, key: str) -> list[Case] | None:
    if names is None:
        return None
    known = {case.id for case in cases} | {group_of(case) for case in cases}
    for name in names:
        if name not in known:
            raise RecipeError(
                f"data.split.{key}: '{name}' is neither a labelled case nor a group{nearest(name, known)}; correct it"
            )
    wanted = set(names)
    return [case for case in cases if case.id in wanted or group_of(case) in wanted]


def _as_stated(cases: Sequence[Case], section: SplitSection) -> _Draft:
    sides: dict[str | None, list[Case]] = {side: [c for c in cases if c.split == side] for side in _SIDES}
    how = ["stated by the data set" if any(case.split for case in cases) else "drawn"]
    # With a training list, cases on no list belong to nobody; without one, they are what may be trained on.
    pool = sides["train"] or sides[None]
    if sides["train"] and sides[None]:
        how.append(f"no side is stated for {shown([case.id for case in sides[None]])}: left out")
    test = _test_side(sides["test"], pool, section, how)
    train = _without(pool, test)
    if sides["val"]:
        return _Draft(train, sides["val"], test, how)
    if _states_folds(train):
        return _by_fold(train, test, section, how)
    return _Draft(train, None, test, how)


_SIDES = ("train", "val", "test", None)


def _by_fold(pool: Sequence[Case], test: list[Case], section: SplitSection, how: list[str]) -> _Draft:
    folds = sorted({case.fold for case in pool if case.fold is not None})
    if section.fold not in folds:
        raise RecipeError(f"data.split.fold={section.fold}: the data set states folds {folds}; give one of them")
    val = [case for case in pool if case.fold == section.fold]
    return _Draft([c for c in pool if c.fold != section.fold], val, test, [*how, f"fold {section.fold} as stated"])


def _drawn(cases: Sequence[Case], section: SplitSection) -> _Draft:
    how = [f"{section.kind}, seed {section.seed}"]
    test = _test_side([case for case in cases if case.split == "test"], cases, section, how)
    pool = _without(cases, test)
    if section.kind != "kfold":
        return _Draft(pool, None, test, how)
    if _states_folds(pool):
        return _by_fold(pool, test, section, how)
    groups = shuffled({group_of(case) for case in pool}, section.seed)
    if len(groups) < section.folds:
        raise DataError(
            f"{section.folds} folds of {len(groups)} groups; a fold needs at least one: lower data.split.folds"
        )
    # Every n-th of the shuffled groups: folds differ by one group at most.
    held = set(groups[int(section.fold) :: section.folds])
    val = [case for case in pool if group_of(case) in held]
    how.append(f"fold {section.fold} of {section.folds} validates")
    return _Draft(_without(pool, val), val, test, how)


def _test_side(stated: list[Case], pool: Sequence[Case], section: SplitSection, how: list[str]) -> list[Case]:
    """Return the stated test cases, or a share of the pool. Raises RecipeError if both are wanted."""
    if stated and section.test_fraction:
        raise RecipeError(
            f"data.split.test_fraction={section.test_fraction:g}: the data set states its own {len(stated)} test "
            "cases; drop test_fraction"
        )
    return stated or _take(pool, section.test_fraction, section.seed, how, "test")


def _without(cases: Sequence[Case], taken: Sequence[Case]) -> list[Case]:
    held = set(taken)
    return [case for case in cases if case not in held]


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Return names in an order that depends on the names and the seed alone."""
    # Adding a case to a random shuffle reorders all; by hash, the others keep their order among each other.
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}:{name}".encode()).digest(), name))


def _take(cases: Sequence[Case], fraction: float, seed: int, how: list[str], what: str) -> list[Case]:
    """Take a share of the groups: at least one, never all."""
    groups = shuffled({group_of(case) for case in cases}, seed)
    if not fraction or len(groups) < 2:
        return []
    # A share that is asked for is at least one group, and never all of them.
    number = min(max(1, round(fraction * len(groups))), len(groups) - 1)
    held = set(groups[:number])
    how.append(f"{what}: {number} of {len(groups)} groups by seed {seed}")
    return [case for case in cases if group_of(case) in held]


def _hold_out(draft: _Draft, section: SplitSection) -> None:
    """Move a share of the training groups to the validation."""
    groups = {group_of(case) for case in draft.train}
    if section.val_fraction and len(groups) == 1:
        one = f"group '{next(iter(groups))}'" if len(draft.train) > 1 else f"case '{draft.train[0].id}'"
        raise DataError(
            f"only one labelled {one} to train on, so none is left to validate; add cases, or set "
            "data.split.val_fraction=0 to train without validation"
        )
    val = _take(draft.train, section.val_fraction, section.seed, draft.how, "val")
    draft.val = val
    draft.train = _without(draft.train, val)


def _checked(dataset: Dataset, draft: _Draft, section: SplitSection) -> Split:
    if not draft.train:
        raise DataError(f"{dataset.name}: no labelled case is left to train on; add cases or change data.split")
    sides = {"train": draft.train, "val": draft.val or [], "test": draft.test}
    extra: dict[str, list[Case]] = {}
    for case in dataset.labelled:
        if case.split and case.split.startswith("test_"):
            extra.setdefault(case.split, []).append(case)
    require_no_leak({**sides, **extra})
    ids = {side: _limited(found, dataset.limit, section.seed) for side, found in {**sides, **extra}.items()}
    how = "; ".join(draft.how) + (f"; at most {dataset.limit} cases of each" if dataset.limit else "")
    return Split(ids["train"], ids["val"], ids["test"], {name: ids[name] for name in extra}, how)


def require_no_leak(sides: Mapping[str, Sequence[Case]]) -> None:
    """Raise DataError if a group has cases on two sides."""
    owner: dict[str, tuple[str, str]] = {}
    for side, cases in sides.items():
        for case in cases:
            other, first = owner.setdefault(group_of(case), (side, case.id))
            if other != side:
                raise DataError(
                    f"group '{group_of(case)}' is in both {other} ({first}) and {side} ({case.id}); "
                    "keep all its cases on one side"
                )


def _require_apart(lists: Mapping[str, Sequence[str]]) -> None:
    for key, names in lists.items():
        for other, others in lists.items():
            if key < other and (both := sorted(set(names) & set(others))):
                raise RecipeError(f"data.split.{key} and data.split.{other} share {shown(both)}; keep each in one")


def _limited(cases: Sequence[Case], limit: int | None, seed: int) -> tuple[str, ...]:
    """Return ids in natural order; with a limit, those that the seed puts first."""
    names = [case.id for case in cases]
    # By the same hash as splits: a larger limit keeps all cases of a smaller one.
    kept = names if limit is None else shuffled(names, seed)[:limit]
    return tuple(sorted(kept, key=natural))
