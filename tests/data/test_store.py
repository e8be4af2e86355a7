"""The store of prepared cases: same voxels, redone no more than needed, whole or not there."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from store_children import fill, large_case, two_cases
from stored import PLAN, make_case, parts

from unetkit.data.cases import read_case
from unetkit.data.locations import find_locations
from unetkit.data.preprocess import Prepared, preprocess
from unetkit.data.store import open_store, packed, prepared_bytes, require_room, unpacked
from unetkit.data.store.part import read_part, write_part
from unetkit.errors import DataError
from unetkit.plan.plan import Normalization
from unetkit.types import Case, Labels


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return two_cases(tmp_path / "data")


@pytest.fixture
def filled(tmp_path: Path, cases: list[Case]) -> Path:
    fill(tmp_path / "store", cases)
    return tmp_path / "store"


def test_packing_keeps_eleven_bits_or_everything() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, s, 5000) for s in (1e-6, 0.1, 3, 1e4)]).astype(np.float32)[None]
    half = packed(values, [Normalization("zscore")])
    assert half.dtype == np.float16
    assert (np.abs(half.astype(np.float64) - values) <= np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)).all()
    whole = np.array([[-32767, 2049, 32767]], np.float32)
    raw = packed(whole, [Normalization("none")])
    assert raw.dtype == np.int16
    assert unpacked(raw).dtype == np.float32
    np.testing.assert_array_equal(unpacked(raw), whole)
    for far in (np.array([[0, 7e4]], np.float32), np.array([[0.5, -1e30]], np.float32)):
        np.testing.assert_array_equal(packed(far, [Normalization("none")]), far)


def test_parts_come_back_whole_or_not_at_all(tmp_path: Path) -> None:
    arrays = {
        "data": np.arange(24, dtype=np.float16).reshape(2, 3, 4).transpose(2, 1, 0),
        "voxels": np.arange(5, dtype=np.uint32),
        "none": np.zeros(0, np.uint32),
    }
    path = tmp_path / "a" / "part.npy"
    assert read_part(path) is None
    write_part(path, arrays, {"shape": [1, 2]})
    found = read_part(path)
    assert found.facts == {"shape": [1, 2]}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.mapped(name), array)
    np.testing.assert_array_equal(np.load(path), arrays["data"])
    found.mapped("data")[:] = 7  # in memory only
    assert np.load(path).max() == 23
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        assert read_part(path) is None


def test_a_stored_case_is_the_prepared_one(tmp_path: Path, cases: list[Case]) -> None:
    for stored, case in zip(fill(tmp_path / "store", cases), cases, strict=True):
        expected = preprocess(*read_case(case, PLAN.labels), PLAN, case_id=case.id)
        found = stored.open()
        assert isinstance(found.data, np.memmap)
        np.testing.assert_array_equal(found.data, packed(expected.data, PLAN.normalization))
        np.testing.assert_array_equal(found.label, expected.label)
        for name in ("input_shape", "input_spacing", "axes", "flips", "box", "shape", "spacing", "separate", "source"):
            assert getattr(found.geometry, name) == getattr(expected.geometry, name), name
        np.testing.assert_array_equal(found.geometry.affine, expected.geometry.affine)
        known = find_locations(expected.label)
        assert found.locations.counts == known.counts
        assert found.locations.shape == known.shape
        np.testing.assert_array_equal(found.locations.annotated, known.annotated)
        for number, voxels in known.voxels.items():
            np.testing.assert_array_equal(found.locations.voxels[number], voxels)
        with pytest.raises(DataError, match="was not put into the store"):
            stored.open_truth()


def test_truth_lies_on_the_grid_of_the_image(tmp_path: Path, cases: list[Case]) -> None:
    stored = fill(tmp_path / "store", cases, truth=True)
    np.testing.assert_array_equal(stored[1].open_truth(), read_case(cases[1], PLAN.labels)[1].data)
    assert stored[1].open().label is None
    assert not list((tmp_path / "store").glob("v*/label/*"))


def test_other_processes_get_paths_and_no_voxels(tmp_path: Path) -> None:
    case = make_case(tmp_path, "large", (60, 60, 40))
    stored = fill(tmp_path / "store", [case])[0]
    sent = pickle.dumps(stored)
    assert len(sent) < 5000
    np.testing.assert_array_equal(pickle.loads(sent).open().data, stored.open().data)


CHANGES = {
    "patch and batch": (replace(PLAN, patch_size=(8, 8, 8), batch_size=7), 0, 0),
    "names of classes": (replace(PLAN, labels=replace(PLAN.labels, classes=("x", "y"))), 0, 0),
    "classes": (replace(PLAN, labels=Labels(("all",), ((1, 2),), ignore=(9,))), 0, 1),
    "normalization": (replace(PLAN, normalization=(Normalization("none"),)), 1, 0),
    "order of images": (replace(PLAN, resampling=PLAN.resampling | {"image": 1}), 1, 0),
    "order of labels": (replace(PLAN, resampling=PLAN.resampling | {"label": 0}), 0, 1),
    "spacing": (replace(PLAN, spacing=(2.0, 1.0, 1.0)), 1, 1),
    "crop": (replace(PLAN, crop_nonzero=False), 1, 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_plan_redoes_only_what_it_touches(filled: Path, cases: list[Case], change: str) -> None:
    plan, images, labels = CHANGES[change]
    before = parts(filled)
    fill(filled, cases, plan)
    after = parts(filled)
    assert {path: after[path] for path in before} == before
    new = [Path(path).parent.name for path in after if path not in before]
    assert (new.count("image"), new.count("label")) == (2 * images, 2 * labels)


def test_contents_count_and_not_places(tmp_path: Path, filled: Path, cases: list[Case]) -> None:
    before = parts(filled)
    moved = Path(shutil.copytree(tmp_path / "data", tmp_path / "elsewhere"))
    there = [replace(case, images=(moved / case.images[0].name,), label=moved / case.label.name) for case in cases]
    assert fill(filled, there)[0].geometry.source == str(there[0].images[0])
    os.utime(cases[0].images[0])
    fill(filled, cases)
    assert parts(filled) == before
    make_case(tmp_path / "data", "third")
    (tmp_path / "data" / "third.nii.gz").replace(cases[0].images[0])
    fill(filled, cases)
    new = [Path(path).parent.name for path in parts(filled) if path not in before]
    assert sorted(new) == ["image", "label"]  # the crop of the label follows the image


def test_a_damaged_part_is_made_anew(filled: Path, cases: list[Case]) -> None:
    before = parts(filled)
    victim = filled / next(path for path in before if "/image/" in path)
    victim.write_bytes(victim.read_bytes()[:-100])
    (next(filled.glob("v*/source/*"))).write_text("{")
    fill(filled, cases)
    after = parts(filled)
    assert [path for path in after if after[path] != before[path]] == [str(victim.relative_to(filled))]
    assert read_part(victim) is not None


def test_versions_and_foreign_folders(tmp_path: Path, filled: Path, cases: list[Case]) -> None:
    sign = filled / "store.json"
    sign.write_text(json.dumps({"version": 0}))
    store = open_store(filled)
    assert "a store of version 0; cases are prepared anew beside it" in store.note
    assert open_store(filled).note is None
    sign.write_text(json.dumps({"version": 99}))
    with pytest.raises(DataError, match=r"made by a newer unetkit \(store version 99"):
        open_store(filled)
    sign.write_text('{"version"')
    with pytest.raises(DataError, match=r"store\.json is damaged; delete the folder"):
        open_store(filled)
    with pytest.raises(DataError, match="holds other files"):
        open_store(tmp_path / "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        open_store(tmp_path / "file" / "store")


def test_unusable_cases_are_named(tmp_path: Path, cases: list[Case]) -> None:
    with pytest.raises(DataError, match="case first: has no label file"):
        fill(tmp_path / "store", [replace(cases[0], label=None)])
    with pytest.raises(DataError, match=r"gone.nii.gz: cannot be read \(No such file"):
        fill(tmp_path / "store", [replace(cases[0], images=(tmp_path / "gone.nii.gz",))])


def test_room_is_asked_for_before_any_work(tmp_path: Path, cases: list[Case]) -> None:
    prepared: Prepared = preprocess(*read_case(cases[0], PLAN.labels), replace(PLAN, crop_nonzero=False))
    assert prepared_bytes(cases[0], PLAN) == prepared.label.size * 3
    assert prepared_bytes(cases[0], PLAN, soft=True) == prepared.label.size * 4  # a byte more, as for the label
    assert prepared_bytes(cases[0], replace(PLAN, previous=True)) == prepared.label.size * 4
    assert prepared_bytes(replace(cases[0], images=(tmp_path / "gone.nii.gz",)), PLAN, soft=True) == 0
    require_room(tmp_path, 1000, 2)
    with pytest.raises(DataError, match=r"2 prepared cases take about 1e\+09 GB, and .* are free there; make room"):
        require_room(tmp_path, 10**18, 2)


@pytest.fixture(scope="module")
def children(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes of store_children.py left behind."""
    home = tmp_path_factory.mktemp("children")
    script = Path(__file__).with_name("store_children.py")
    subprocess.run([sys.executable, script, home], check=True, timeout=300)
    return home


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(children: Path) -> None:
    store = children / "full" / "store"
    message = (children / "full" / "message").read_text()
    assert "\n" not in message
    assert message.startswith(f"data.store={store}: the disk is full: the next case takes ")
    assert message.endswith("data.cache=none")
    assert parts(store) == {}
    assert not list(store.glob("v*/*/.*"))
    fill(store, [large_case(children / "full")])
    assert len(parts(store)) == 2


@pytest.mark.parametrize("moment", ["written", "begun"])
def test_killed_and_gone_on(tmp_path: Path, children: Path, moment: str) -> None:
    """With three of four parts in place only the last one is made, and all are as if nothing had happened."""
    root = children / f"killed_{moment}"
    store = root / "store"
    before = parts(store)
    assert len(before) == 3
    left = list(store.glob("v*/*/.*"))
    assert len(left) == (moment == "written")
    for path in left:
        os.utime(path, (time.time() - 4000,) * 2)  # an hour later
    found = fill(store, two_cases(root))
    after = parts(store)
    assert len(after) == 4
    assert {path: after[path] for path in before} == before
    assert not list(store.glob("v*/*/.*"))
    for one, other in zip(found, fill(tmp_path / "undisturbed", two_cases(root)), strict=True):
        np.testing.assert_array_equal(one.open().data, other.open().data)
        np.testing.assert_array_equal(one.open().label, other.open().label)


def test_two_runs_fill_one_store(children: Path) -> None:
    store = children / "shared"
    before = parts(store)
    assert len(before) == 8
    fill(store, two_cases(children))
    assert parts(store) == before
