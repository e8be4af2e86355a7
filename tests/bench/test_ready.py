"""Data that cannot be used are named before a benchmark begins."""

import pytest

from unetkit.bench.folder import open_bench
from unetkit.bench.ready import require_data
from unetkit.data.datasets import open_dataset
from unetkit.data.splits import make_split
from unetkit.errors import DataError
from unetkit.evaluation.cases import other_data
from unetkit.recipe import DataSection, SplitSection
from unetkit.recipe.bench import checked_bench, read_bench
from unetkit.recipe.find import list_benches

CELLS = {"dataset": "phantom2d", "cases": 5, "generator": {"size": [32, 32]}}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # generated data are kept below the user's home


def bench(tmp_path, datasets, **changed):
    tree = {"models": ["unet"], "datasets": {name: {"data": data} for name, data in datasets.items()}}
    tree |= {"budget": {"steps": 1}, "output": str(tmp_path)}
    return open_bench(checked_bench({**tree, **changed}), "b")


@pytest.mark.parametrize("name", list_benches())
def test_a_recipe_that_comes_with_unetkit_has_its_data_or_says_which_it_wants(name, tmp_path):
    recipe, _ = read_bench([f"recipe={name}", f"output={tmp_path}", f"data_root={tmp_path / 'data'}"])
    roots = [keys["data"].get("root") for keys in recipe.datasets.values()]
    if not any(roots):
        require_data(open_bench(recipe, name))
        return
    with pytest.raises(DataError) as found:
        require_data(open_bench(recipe, name))
    assert all(str(tmp_path / "data" / root) in str(found.value) for root in roots)


def test_every_fault_is_named_at_once(tmp_path):
    transfers = {
        "there": {"source": "cells", "data": {"root": str(tmp_path / "nowhere")}},
        "wrong": {"source": "other", "data": {"dataset": "phantom2d", "generator": {"contrast": "hard"}}},
    }
    other = {**CELLS, "split": {"kind": "fixed", "train": ["train_000"], "val": ["train_001"], "test": []}}
    with pytest.raises(DataError) as found:
        require_data(bench(tmp_path, {"cells": CELLS, "other": other}, zero_shot=transfers))
    faults = str(found.value).split("; ")
    assert any(part.startswith("zero_shot of cells") and "nowhere" in part for part in faults)
    assert any(part.startswith("datasets.other") and "test split has no case" in part for part in faults)
    assert any("contrast" in part for part in faults)


def test_images_that_were_trained_on_are_found_in_other_folders_too(tmp_path):
    generated = open_dataset(DataSection(**CELLS))
    split = make_split(generated, SplitSection())
    links = tmp_path / "links"
    for case in generated.labelled:
        for kind, file in (("images", case.images[0]), ("masks", case.label)):
            (links / kind).mkdir(parents=True, exist_ok=True)
            (links / kind / f"{case.id}{file.suffix}").symlink_to(file)
    far = {"far": {"source": "cells", "data": {"root": str(links), "strict": False}}}
    folder = bench(tmp_path, {"cells": CELLS}, zero_shot=far)
    used = len(split.train) + len(split.val)
    said = f"zero_shot of cells: far: {used} of its {used + len(split.test)} cases, .* are images that cells trains on"
    with pytest.raises(DataError, match=said):
        require_data(folder)
    for name in (*split.train, *split.val):
        for file in links.glob(f"*/{name}.*"):
            file.unlink()
    require_data(folder)  # what is left is its test part, unseen


def test_what_is_done_is_not_asked_for_its_data_again(tmp_path):
    folder = bench(tmp_path, {"cells": {"root": str(tmp_path / "gone")}}, seeds=[0])
    with pytest.raises(DataError, match="gone"):
        require_data(folder)
    folder.write_failure(folder.jobs[0], "no data")
    require_data(folder)
    with pytest.raises(DataError, match="gone"):
        require_data(folder, retry=True)
    folder.write_result(folder.jobs[0], {"model": "unet"})
    require_data(folder, retry=True)


def test_sizes_of_other_data_are_lists_as_in_a_recipe():
    changed = {"root": "there", "resize": [96, 64], "channels": ["red", "green", "blue"]}
    found = other_data(DataSection(dataset="phantom2d", generator={"size": [32, 32]}), changed)
    assert (found.root, found.dataset, found.resize, found.generator) == ("there", None, (96, 64), {})
