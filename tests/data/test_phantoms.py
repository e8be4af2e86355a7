"""Generated data sets: what they promise about cases, files and folders."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from unetkit.data.datasets import open_dataset, read_case
from unetkit.data.phantoms import generate
from unetkit.data.phantoms.options import GENERATORS, read_options
from unetkit.data.phantoms.write import case_generator
from unetkit.errors import DataError, RecipeError
from unetkit.recipe import DataSection
from unetkit.types import IGNORE

SMALL_2D = {"size": [64, 64]}
SMALL_3D = {"size": [32, 32, 24]}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.*z")) + sorted(folder.rglob("*.png"))
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("phantom2d", SMALL_2D),
        ("phantom2d", SMALL_2D | {"family": "cells"}),
        ("phantom2d", SMALL_2D | {"family": "vessels", "channels": 3}),
        ("phantom3d", SMALL_3D | {"contrast": "random", "lesion": True, "channels": 2}),
        ("shapes", {"size": [48, 48]}),
    ],
)
def test_a_case_is_the_same_whatever_the_number_of_cases_and_workers(
    name: str, options: dict[str, object], tmp_path: Path
) -> None:
    few = files_of(generate(name, options, 3, tmp_path / "one", workers=1))
    many = files_of(generate(name, options, 8, tmp_path / "more", workers=3))
    assert few
    assert few.items() <= many.items()


def test_case_generators_are_the_children_of_the_seed() -> None:
    child = np.random.SeedSequence(7).spawn(2)[1].spawn(4)[3]
    assert case_generator(7, "test", 3).integers(1 << 62) == np.random.default_rng(child).integers(1 << 62)


def test_seed_changes_every_case(tmp_path: Path) -> None:
    one, other = (files_of(generate("phantom2d", SMALL_2D | {"seed": s}, 3, tmp_path)) for s in (0, 1))
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())


def test_a_set_is_made_once_and_found_again(tmp_path: Path) -> None:
    folder = generate("phantom2d", SMALL_2D, 2, tmp_path)
    before = (folder / "manifest.json").stat().st_mtime_ns
    # defaults that are written out mean the same set
    assert generate("phantom2d", SMALL_2D | {"family": "torso", "seed": 0}, 2, tmp_path) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    assert generate("phantom2d", SMALL_2D, 3, tmp_path) != folder
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("count", "train", "test"), [(None, 48, 16), (1, 1, 0), (2, 1, 1), (8, 6, 2)], ids=["usual", "one", "two", "eight"]
)
def test_counts(count: int | None, train: int, test: int, tmp_path: Path) -> None:
    folder = generate("phantom2d", {"size": [24, 24]}, count, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (len(manifest["train"]), len(manifest["test"])) == (train, test)
    assert list(manifest["cases"]) == manifest["train"] + manifest["test"]
    assert len({case["group"] for case in manifest["cases"].values()}) == train + test


def test_a_set_is_an_ordinary_data_set(tmp_path: Path) -> None:
    section = DataSection(dataset="phantom3d", generator=SMALL_3D | {"missing": 1.0}, cases=2)
    dataset = open_dataset(section, tmp_path)
    assert dataset.labels is not None
    assert dataset.labels.classes[:2] == ("liver", "gallbladder")
    image, label = read_case(dataset.case("train_000"), dataset.labels)
    assert label is not None
    assert image.data.dtype == np.int16
    assert image.shape == (32, 32, 24) == label.shape
    present = np.unique(label.data)
    assert present.tolist() == [0, 1, 3, 4, 5, 6, 7, 8]


def test_header_has_the_geometry(tmp_path: Path) -> None:
    folder = generate("phantom3d", {"size": [32, 32, 24], "thick_slices": 2}, 1, tmp_path)
    image, label = (nib.load(folder / kind / "train_000.nii.gz") for kind in ("images", "labels"))
    assert image.shape == label.shape == (32, 32, 12)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(image.affine, label.affine)
    spacing = image.header.get_zooms()
    assert spacing[0] == spacing[1]
    assert spacing[2] / spacing[0] == pytest.approx(2 * (360 / 24) / (288 / 32), rel=0.01)
    np.testing.assert_array_equal(np.diag(image.affine)[:3], spacing)
    centre = image.affine @ [15.5, 15.5, 5.5, 1]
    np.testing.assert_allclose(centre[:3], 0, atol=1e-4)
    given = generate("phantom3d", {"size": [32, 32, 24], "spacing": [1.5, 1.25, 4.0]}, 1, tmp_path)
    assert nib.load(given / "images" / "train_000.nii.gz").header.get_zooms() == (1.5, 1.25, 4.0)


def test_vessels_count_inside_the_field_of_view_only(tmp_path: Path) -> None:
    section = DataSection(dataset="phantom2d", generator={"family": "vessels", "size": [96, 96]}, cases=1)
    dataset = open_dataset(section, tmp_path)
    _, label = read_case(dataset.cases[0], dataset.labels)
    assert label is not None
    assert label.data[0, 0, 0] == IGNORE
    assert label.data[0, 48, 48] != IGNORE


def test_cells_come_with_instances_and_borders(tmp_path: Path) -> None:
    folder = generate("phantom2d", {"family": "cells", "size": [128, 128]}, 1, tmp_path)
    maps = {k: np.asarray(Image.open(folder / k / "train_000.png")) for k in ("labels", "instances", "borders")}
    assert maps["instances"].dtype == np.uint16
    np.testing.assert_array_equal(maps["labels"] > 0, maps["instances"] > 0)
    np.testing.assert_array_equal(maps["labels"] > 0, maps["borders"] > 0)
    bordered = generate("phantom2d", {"family": "cells", "size": [128, 128], "target": "border"}, 1, tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(bordered / "labels" / "train_000.png")), maps["borders"])
    assert json.loads((bordered / "manifest.json").read_text())["labels"]["2"] == "border"


def test_nothing_is_left_of_a_set_that_failed(tmp_path: Path) -> None:
    # identical greys at a distance: no case can be drawn
    options = SMALL_2D | {"min_distance": 0.2, "jitter": 0.0}
    with pytest.raises(RecipeError, match=r"min_distance=0\.2: no greys of .* lower min_distance"):
        generate("phantom2d", options, 2, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written to .*file .*another one as home"):
        generate("phantom2d", SMALL_2D, 1, blocked)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("phantom2d", {"contrst": "random"}, r"unknown key 'contrst' \(did you mean 'contrast'\?\)"),
        ("phantom2d", {"contrast": "rndom"}, r"contrast=rndom: expected one of fixed, random \(did you mean 'random'"),
        ("phantom2d", {"family": "cell"}, r"family=cell: expected one of torso, cells, vessels \(did you mean 'cells'"),
        ("phantom2d", {"family": "vessels", "missing": 0.5}, "unknown key 'missing'.*of family vessels takes"),
        ("phantom2d", {"size": [64, 64, 64]}, "size="),
        ("phantom3d", {"noise": True, "blr": 1}, r"noise=true: expected a number.*unknown key 'blr'"),
        ("shapes", {"dims": 3, "size": [64, 64]}, r"size \[64, 64\] has 2 numbers, dims=3 needs 3"),
        ("shapes", {"contrast": "fixed"}, "contrast=fixed: expected one of random"),
        ("phantom", {}, r"no generator 'phantom' \(did you mean"),
    ],
)
def test_wrong_options_are_told_in_one_line(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        read_options(name, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_has_valid_defaults(name: str) -> None:
    train, test = read_options(name, {}).counts
    assert train > test > 0
