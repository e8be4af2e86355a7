"""Splits: honest towards patients, the same everywhere."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from unetkit.data.datasets import Dataset
from unetkit.data.splits import Split, group_of, make_split, make_splits
from unetkit.errors import DataError, RecipeError
from unetkit.recipe.schema import SplitSection
from unetkit.types import Case, Labels


def dataset(cases, **keys) -> Dataset:
    labels = Labels(("a",), ((1,),))
    return Dataset("set", Path(), "paired", tuple(cases), 2, labels, ("grey",), **keys)


def case(name: str, group: str | None = None, split: str | None = None, fold: int | None = None) -> Case:
    return Case(name, (Path(f"{name}.png"),), Path(f"{name}_mask.png"), group, split=split, fold=fold)


TEN = [case(f"c{n}") for n in range(10)]


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("kind", ["auto", "random", "kfold"])
def test_no_split_divides_a_group(seed, kind):
    draw = np.random.default_rng(seed)
    groups = draw.integers(0, draw.integers(6, 20), 40)
    fraction = float(draw.choice([0.0, 0.1, 0.3]))
    section = SplitSection(kind=kind, seed=seed, folds=3, fold=seed % 3, test_fraction=fraction)
    cases = [case(f"c{n}", f"patient{g}") for n, g in enumerate(groups)]
    split = make_split(dataset(cases), section)
    sides = [split.train, split.val, split.test]
    owners = [{group_of(c) for c in cases if c.id in side} for side in sides]
    assert sum(len(owner) for owner in owners) == len(set().union(*owners))
    assert sorted(chain(*sides)) == sorted(c.id for c in cases)
    assert split.train
    assert split.val


@pytest.mark.parametrize("kind", ["random", "kfold"])
def test_the_order_of_the_files_changes_nothing(kind):
    section = SplitSection(kind=kind, test_fraction=0.2, folds=4)
    assert make_split(dataset(TEN), section) == make_split(dataset(TEN[::-1]), section)


def test_a_seed_gives_the_same_split_on_any_machine():
    split = make_split(dataset(TEN), SplitSection(kind="random", val_fraction=0.3, test_fraction=0.2, seed=7))
    assert (split.val, split.test) == (("c1", "c6"), ("c3", "c8"))
    other = make_split(dataset(TEN), SplitSection(kind="random", val_fraction=0.3, test_fraction=0.2, seed=8))
    assert other != split


def test_folds_cover_all_cases_once():
    validated = [make_split(dataset(TEN), SplitSection(kind="kfold", folds=4, fold=f)).val for f in range(4)]
    assert sorted(chain(*validated)) == sorted(c.id for c in TEN)
    assert {len(ids) for ids in validated} == {2, 3}


def test_a_stated_test_stays_the_test():
    cases = [case(f"c{n}", split="test" if n < 3 else "train") for n in range(10)]
    for kind in ("auto", "fixed", "random", "kfold"):
        split = make_split(dataset(cases), SplitSection(kind=kind))
        assert split.test == ("c0", "c1", "c2")
        assert len(split.train) + len(split.val) == 7
        assert split.val
    with pytest.raises(RecipeError, match="states its own 3 test cases; drop test_fraction"):
        make_split(dataset(cases), SplitSection(kind="random", test_fraction=0.2))


def test_a_stated_validation_is_used_and_none_can_be_asked_for():
    cases = [case(f"c{n}", split=("train", "val", "test")[n % 3]) for n in range(9)]
    assert make_split(dataset(cases), SplitSection()).val == ("c1", "c4", "c7")
    trained = [case(f"c{n}", split="train") for n in range(4)]
    assert make_split(dataset(trained), SplitSection(val_fraction=0.0)).val == ()


def test_stated_folds_decide_who_validates():
    cases = [case(f"c{n}", fold=n % 2) for n in range(6)]
    assert make_split(dataset(cases), SplitSection(kind="kfold", folds=2, fold=1)).val == ("c1", "c3", "c5")
    assert make_split(dataset(cases), SplitSection()).val == ("c0", "c2", "c4")
    with pytest.raises(RecipeError, match=r"fold=3: the data set states folds \[0, 1\]"):
        make_split(dataset(cases), SplitSection(kind="kfold", fold=3))


@pytest.mark.parametrize("folds", [None, 3])
def test_all_folds_are_parts_of_one_partition(folds):
    cases = [case(f"c{n}", f"p{n // 2}", fold=folds and n // 2 % folds) for n in range(16)]
    found = make_splits(dataset(cases), SplitSection(kind="kfold", fold="all", test_fraction=0.1))
    assert list(found) == list(range(folds or 5))
    assert {split.test for split in found.values()} == {found[0].test}
    kept = [c.id for c in cases if c.id not in found[0].test]
    assert sorted(chain(*(split.val for split in found.values()))) == sorted(kept)
    assert all(set(split.train) == set(kept) - set(split.val) for split in found.values())


def test_one_fold_is_one_split_unless_the_whole_is_asked_for():
    section = SplitSection(kind="kfold", fold=2)
    assert make_splits(dataset(TEN), section) == {2: make_split(dataset(TEN), section)}
    assert list(make_splits(dataset(TEN), section, whole=True)) == [0, 1, 2, 3, 4]
    with pytest.raises(RecipeError, match="fold=all is a split for each fold"):
        make_split(dataset(TEN), SplitSection(kind="kfold", fold="all"))


def test_further_test_sets_are_kept_apart():
    cases = [*TEN, case("other1", split="test_other_site"), case("other2", split="test_other_site")]
    split = make_split(dataset(cases), SplitSection())
    assert split.extra == {"test_other_site": ("other1", "other2")}
    assert len(split.train) + len(split.val) == 10


def test_lists_of_the_recipe_name_cases_or_groups():
    cases = [case(f"c{n}", f"p{n // 2}") for n in range(8)]
    split = make_split(dataset(cases), SplitSection(kind="fixed", train=["p0", "p1"], val=["c4", "c5"], test=["p3"]))
    assert split == Split(("c0", "c1", "c2", "c3"), ("c4", "c5"), ("c6", "c7"), how="lists of the recipe")
    rest = make_split(dataset(cases), SplitSection(kind="fixed", test=["p3"], val=["p0"]))
    assert rest.train == ("c2", "c3", "c4", "c5")


@pytest.mark.parametrize(
    ("lists", "error", "message"),
    [
        ({"train": ["c0", "cx"]}, RecipeError, "data.split.train: 'cx' is neither a labelled case nor a group"),
        ({"train": ["c0"], "val": ["c0"]}, RecipeError, "share c0; keep each in one"),
        ({"train": ["c0"], "val": ["c1"]}, DataError, r"group 'p0' is in both train \(c0\) and val \(c1\)"),
    ],
)
def test_lists_that_cannot_be_followed_are_named(lists, error, message):
    cases = [case(f"c{n}", f"p{n // 2}") for n in range(8)]
    with pytest.raises(error, match=message):
        make_split(dataset(cases), SplitSection(kind="fixed", **lists))


def test_a_stated_split_that_divides_a_patient_is_refused():
    cases = [case("a", "p1", "train"), case("b", "p1", "test"), case("c", "p2", "train"), case("d", "p3", "train")]
    with pytest.raises(DataError, match="group 'p1' is in both"):
        make_split(dataset(cases), SplitSection())


def test_too_few_cases_are_named():
    with pytest.raises(DataError, match="only one labelled case 'c0' to train on"):
        make_split(dataset(TEN[:1]), SplitSection())
    with pytest.raises(DataError, match="only one labelled group 'p' to train on"):
        make_split(dataset([case("a", "p"), case("b", "p")]), SplitSection())
    with pytest.raises(DataError, match="5 folds of 3 groups"):
        make_split(dataset(TEN[:3]), SplitSection(kind="kfold"))
    with pytest.raises(DataError, match="no labelled case is left to train on"):
        make_split(dataset([replace(c, split="test") for c in TEN]), SplitSection())
    with pytest.raises(RecipeError, match="kind=fixed, but neither"):
        make_split(dataset(TEN), SplitSection(kind="fixed"))


def test_two_cases_are_enough():
    split = make_split(dataset(TEN[:2]), SplitSection())
    assert (len(split.train), len(split.val)) == (1, 1)


def test_unlabelled_cases_belong_nowhere():
    cases = [*TEN, Case("bare", (Path("bare.png"),), None, split="test")]
    split = make_split(dataset(cases), SplitSection())
    assert "bare" not in (*split.train, *split.val, *split.test)


def test_a_limit_holds_for_each_side():
    cases = [case(f"c{n}", split="test" if n < 8 else "train") for n in range(30)]
    split = make_split(dataset(cases, limit=3), SplitSection())
    assert (len(split.train), len(split.val), len(split.test)) == (3, 3, 3)


def test_faults_of_the_data_set_forbid_training():
    with pytest.raises(DataError, match="set: channels differ"):
        make_split(dataset(TEN, faults=("channels differ",)), SplitSection())


def test_splits_survive_json():
    split = Split(("a",), ("b",), (), {"test_far": ("c",)}, "drawn")
    assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split
    with pytest.raises(DataError, match="needs lists train, val and test"):
        Split.from_json({"train": []})


def test_a_side_that_no_list_names_is_the_stated_one():
    cases = [case(f"c{n}", split=("train", "val", "test")[n % 3]) for n in range(9)]
    split = make_split(dataset(cases), SplitSection(test=["c2"]))
    assert (split.val, split.test) == (("c1", "c4", "c7"), ("c2",))
    assert split.train == ("c0", "c3", "c5", "c6", "c8")
    assert make_split(dataset(cases), SplitSection(val=[])).val == ()


def test_a_test_fraction_that_nothing_follows_is_refused():
    stated = [case(f"c{n}", split="test" if n < 3 else None) for n in range(10)]
    with pytest.raises(RecipeError, match="states its own 3 test cases; drop test_fraction"):
        make_split(dataset(stated), SplitSection(test_fraction=0.2))
    with pytest.raises(RecipeError, match=r"test_fraction=0.2 is not used beside lists"):
        make_split(dataset(TEN), SplitSection(val=["c1"], test_fraction=0.2))


def test_cases_on_no_stated_side_are_told_of():
    cases = [case(f"c{n}", split="train" if n < 5 else None) for n in range(6)]
    split = make_split(dataset(cases), SplitSection())
    assert "c5" not in (*split.train, *split.val, *split.test)
    assert "no side is stated for c5: left out" in split.how
