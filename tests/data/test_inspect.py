"""What `unetkit inspect` says of a folder."""

import json

import numpy as np
import pytest
from small_files import SHAPE, affine_of, nifti, opened, picture_case, square, volume_case, write_json

from unetkit.data.inspect import inspect_dataset, inspection_table


@pytest.fixture
def volumes(tmp_path):
    for name in ("a", "b", "c"):
        volume_case(tmp_path, name)
    return tmp_path


def test_everything_seen_is_in_the_document(volumes):
    nifti(volumes / "images" / "b.nii.gz", np.full(SHAPE, 7, np.int16), affine_of("LPS"))
    nifti(volumes / "labels" / "b.nii.gz", np.zeros(SHAPE, np.uint8), affine_of("LPS"))
    found = json.loads(json.dumps(inspect_dataset(opened(volumes))))
    assert (found["cases"], found["labelled"], found["dims"], found["layout"]) == (3, 3, 3, "paired")
    assert found["formats"] == {".nii.gz": 6}
    assert found["orientations"] == {"RAS": 2, "LPS": 1}
    assert found["dtypes"] == {"float32": 2, "int16": 1}
    assert found["sizes"]["median"] == list(SHAPE)
    assert found["spacings"]["max"] == [1.5, 1.0, 3.0]
    assert found["intensity"][1] == 7.0
    assert found["label_values"]["2"] == {"voxels": 40, "cases": 2}
    assert found["classes"] == ["label_1", "label_2"]
    assert "no foreground in 1 case: b" in found["notes"]
    assert found["ok"]


def test_bad_cases_are_named_and_the_rest_is_measured(volumes):
    (volumes / "images" / "a.nii.gz").write_bytes((volumes / "images" / "a.nii.gz").read_bytes()[:100])
    nifti(volumes / "labels" / "b.nii.gz", np.ones((6, 5, 3), np.uint8))
    found = inspect_dataset(opened(volumes))
    assert [problem["case"] for problem in found["problems"]] == ["a", "b"]
    assert "a.nii.gz: cannot be read" in found["problems"][0]["message"]
    assert "shape 6 x 5 x 3 against 6 x 5 x 4" in found["problems"][1]["message"]
    assert not found["ok"]
    assert found["label_values"]["1"]["cases"] == 1
    assert "PROBLEM" in inspection_table(found)


def test_the_table_has_a_line_for_each_finding(tmp_path):
    for name in ("a", "b"):
        picture_case(tmp_path, name, square(255))
    cases = {n: {"image": f"images/{n}.png", "label": f"masks/{n}.png", "group": "p"} for n in "ab"}
    write_json(
        tmp_path / "split.json", {"name": "mine", "labels": {"255": "lung"}, "cases": cases, "train": ["a", "b"]}
    )
    table = inspection_table(inspect_dataset(opened(tmp_path)))
    for text in (
        "mine (manifest)",
        "2, 2 with labels, 1 groups",
        "train 2",
        "4 .png",
        "16 x 12",
        "lung",
        "255 (72 vox",
    ):
        assert text in table


def test_progress_counts_to_the_end(volumes):
    seen = []
    inspect_dataset(opened(volumes), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_infinite_voxels_leave_a_document_that_is_json(volumes):
    broken = np.zeros(SHAPE, np.float32)
    broken[0, 0, 0], broken[1, 1, 1] = np.inf, np.nan
    nifti(volumes / "images" / "a.nii.gz", broken)
    json.dumps(inspect_dataset(opened(volumes)), allow_nan=False)
