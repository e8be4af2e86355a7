"""The catalogue: every entry is complete, fills in recipes, and is told in one line when its files are absent."""

import subprocess
import sys

import pytest

from unetkit.data.catalog import DATASETS, known_dataset, missing_message
from unetkit.data.phantoms.options import GENERATORS, read_options
from unetkit.data.phantoms.torso import ORGANS
from unetkit.errors import RecipeError
from unetkit.recipe import DataSection


def test_names_and_generators_agree() -> None:
    assert {name for name, entry in DATASETS.items() if entry.generated} == set(GENERATORS)
    assert all(name == entry.name for name, entry in DATASETS.items())
    for name in GENERATORS:
        read_options(name, {})


def test_phantoms_state_the_organs_that_are_drawn() -> None:
    for name in ("phantom2d", "phantom3d"):
        assert {value: organ for organ, value in DATASETS[name].classes.items()} == ORGANS


@pytest.mark.parametrize("name", [n for n, e in DATASETS.items() if not e.generated])
def test_missing_files_are_told_in_one_line(name: str) -> None:
    line, entry = missing_message(name), DATASETS[name]
    assert "\n" not in line
    assert entry.obtain in line
    assert all(layout in line for layout in entry.layouts)
    assert f"data.dataset={entry.try_with}" in line
    assert DATASETS[entry.try_with].generated


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"data.dataset=phantom3: .*did you mean 'phantom3d'"):
        known_dataset("phantom3")


@pytest.mark.parametrize(
    ("name", "case", "side"),
    [
        ("synapse", "img0005", "train"),
        ("synapse", "case0008", "test"),
        ("synapse", "case0040_slice017", "train"),
        ("synapse", "sabs_05", None),
        ("synapse", "img0099", None),
        ("drive", "21_training", "train"),
        ("drive", "01_test", "test"),
        ("drive", "picture_21", None),
        ("msd_hippocampus", "hippocampus_003", None),
    ],
)
def test_published_sides(name: str, case: str, side: str | None) -> None:
    assert DATASETS[name].side(case) == side


def test_synapse_has_the_published_sides_whole() -> None:
    entry = DATASETS["synapse"]
    assert (len(set(entry.train)), len(set(entry.test))) == (18, 12)
    assert not set(entry.train) & set(entry.test)
    assert list(entry.classes.values()) == [8, 4, 3, 2, 6, 11, 1, 7]


def test_known_labels_fill_in_what_the_recipe_leaves_open() -> None:
    filled = DATASETS["synapse"].fill_in(DataSection(dataset="synapse", root="somewhere"))
    assert filled.classes == DATASETS["synapse"].classes
    assert filled.strict is False
    assert filled.channels == ["CT"]
    assert DATASETS["kvasir_seg"].fill_in(DataSection(dataset="kvasir_seg")).threshold == 127


def test_the_recipe_has_the_last_word() -> None:
    own = DataSection(dataset="synapse", classes={"liver": 6}, channels=["T1"])
    assert DATASETS["synapse"].fill_in(own) == own
    phantom = DataSection(dataset="phantom2d")
    assert DATASETS["phantom2d"].fill_in(phantom) == phantom


def test_catalogue_needs_nothing_heavy() -> None:
    code = "import sys, unetkit.data.catalog; print(sorted({'numpy', 'torch', 'scipy', 'nibabel'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", DATASETS)
def test_a_root_goes_with_what_is_not_generated(name: str) -> None:
    if DATASETS[name].generated:
        with pytest.raises(ValueError, match="contradict each other"):
            DataSection(dataset=name, root="somewhere")
    else:
        assert DataSection(dataset=name, root="somewhere").root == "somewhere"
