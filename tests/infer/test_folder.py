"""Folders of images: what is grouped, skipped, refused and left behind."""

import os

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from unetkit.errors import DataError
from unetkit.infer.folder import predict_cases, predict_files
from unetkit.infer.load import load
from unetkit.types import Case

AFFINE = np.array([[-1.0, 0, 0, 5], [0, 1.0, 0, -3], [0, 0, 2.0, 9], [0, 0, 0, 1]])


def scan(path, seed=0, shape=(12, 14, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.random.default_rng(seed).normal(size=shape).astype(np.float32), AFFINE), path)


@pytest.fixture
def predictor(save_run, make_plan):
    return load(save_run(make_plan()))


def test_a_folder_is_predicted_then_skipped(predictor, tmp_path):
    for n in range(3):
        scan(tmp_path / "in" / f"case{n}.nii.gz", n)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    seen = []
    got = predict_files(predictor, tmp_path / "in", tmp_path / "out", progress=lambda n, total: seen.append((n, total)))
    assert got["done"] == [str(tmp_path / "out" / f"case{n}.nii.gz") for n in range(3)]
    assert (got["skipped"], got["failed"], seen) == ([], [], [(1, 3), (2, 3), (3, 3)])
    image, label = (nib.load(tmp_path / place / "case1.nii.gz") for place in ("in", "out"))
    assert np.array_equal(image.affine, label.affine)
    assert label.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(label.dataobj), np.asarray(predictor.predict(image).dataobj))
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "case2.nii.gz").unlink()
    again = predict_files(predictor, tmp_path / "in", tmp_path / "out")
    assert ([len(again[k]) for k in ("done", "skipped", "failed")]) == [1, 2, 0]
    assert (tmp_path / "out" / "case0.nii.gz").stat().st_mtime_ns == before["case0.nii.gz"]
    assert len(predict_files(predictor, tmp_path / "in", tmp_path / "out", overwrite=True)["done"]) == 3
    assert sorted(os.listdir(tmp_path / "out")) == [f"case{n}.nii.gz" for n in range(3)]


def test_what_fails_is_named_and_the_rest_goes_on(predictor, tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    scan(tmp_path / "in" / "c.nii.gz", shape=(12, 14, 6, 2))
    scan(tmp_path / "in" / "d.nii.gz")
    whole = (tmp_path / "in" / "a.nii.gz").read_bytes()
    (tmp_path / "in" / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    got = predict_files(predictor, tmp_path / "in", tmp_path / "out")
    assert len(got["done"]) == 2
    assert [f["case"] for f in got["failed"]] == ["b", "c"]
    assert "cannot be read" in got["failed"][0]["error"]
    assert "2 channel(s), the network takes 1 (MR)" in got["failed"][1]["error"]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.nii.gz", "d.nii.gz"]


def test_channels_named_as_by_nnunet_are_one_case(save_run, make_plan, tmp_path):
    plan = make_plan(channels=("T1", "T2"), normalization=make_plan().normalization * 2)
    predictor = load(save_run(plan))
    for n, name in enumerate(("p1_0000", "p1_0001", "p2_0000", "p2_0001", "odd")):
        scan(tmp_path / "set" / "imagesTs" / f"{name}.nii.gz", n)
    got = predict_files(predictor, tmp_path / "set", tmp_path / "out")
    assert [f["case"] for f in got["failed"]] == ["odd"]
    assert sorted(os.listdir(tmp_path / "out")) == ["p1.nii.gz", "p2.nii.gz"]
    one = predict_files(predictor, tmp_path / "set" / "imagesTs" / "p1_0001.nii.gz", tmp_path / "one")
    assert one["done"] == [str(tmp_path / "one" / "p1.nii.gz")]
    assert (tmp_path / "one" / "p1.nii.gz").read_bytes() == (tmp_path / "out" / "p1.nii.gz").read_bytes()


def test_numbers_that_are_no_channels_stay_in_the_name(predictor, tmp_path):
    for name in ("scan_0001", "scan_0002", "other_0000"):
        scan(tmp_path / "in" / f"{name}.nii.gz")
    predict_files(predictor, tmp_path / "in", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["other.nii.gz", "scan_0001.nii.gz", "scan_0002.nii.gz"]


def test_pictures_become_png_and_probabilities_lie_beside(save_run, make_plan_2d, tmp_path):
    predictor = load(save_run(make_plan_2d()))
    (tmp_path / "in" / "images").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in" / "images" / "a.jpg")
    Image.fromarray(pixels).save(tmp_path / "in" / "images" / "b.bmp")
    predict_files(predictor, tmp_path / "in", tmp_path / "out", probabilities=True)
    names = ["a.png", "a_probabilities.npz", "b.bmp", "b_probabilities.npz"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    label = np.asarray(Image.open(tmp_path / "out" / "b.bmp"))
    chances = np.load(tmp_path / "out" / "b_probabilities.npz")["probabilities"]
    assert chances.dtype == np.float32
    assert np.array_equal(chances.argmax(0), label)
    (tmp_path / "out" / "a_probabilities.npz").unlink()
    assert len(predict_files(predictor, tmp_path / "in", tmp_path / "out", probabilities=True)["done"]) == 1


def test_one_file_to_one_file(predictor, tmp_path):
    scan(tmp_path / "a.nii.gz")
    got = predict_files(predictor, tmp_path / "a.nii.gz", tmp_path / "deep" / "label.nii")
    assert got["done"] == [str(tmp_path / "deep" / "label.nii")]
    with pytest.raises(DataError, match=r"not written as \.npz; use \.nii\.gz"):
        predict_files(predictor, tmp_path / "a.nii.gz", tmp_path / "label.npz")


def test_refused_before_any_work(predictor, tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(DataError, match="no such file or folder"):
        predict_files(predictor, tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no image.*\.nii\.gz"):
        predict_files(predictor, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="would replace the image"):
        predict_files(predictor, tmp_path / "in", tmp_path / "in")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/out: cannot be written \(Not a directory\)"):
        predict_files(predictor, tmp_path / "in", tmp_path / "file" / "out")
    scan(tmp_path / "in" / "a.nii")
    cases = [Case("x", (tmp_path / "in" / name,)) for name in ("a.nii.gz", "a.nii")]
    got = predict_cases(predictor, cases, tmp_path / "both")
    assert [os.path.basename(p) for p in got["done"]] == ["x.nii.gz", "x.nii"]
    with pytest.raises(DataError, match=r"two images .* share it; rename one"):
        predict_cases(predictor, [cases[0], cases[0]], tmp_path / "both")


def test_an_output_that_fails_to_be_written_is_named(predictor, tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "out" / "a.nii.gz").mkdir(parents=True)
    got = predict_files(predictor, tmp_path / "in", tmp_path / "out")
    assert got["done"] == []
    assert "cannot be written" in got["failed"][0]["error"]
