"""Label maps against the truth: every kind of input, pairing by name, and what is refused."""

import csv
import io
import json
import math

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import unetkit
from unetkit.errors import DataError, RecipeError, ShapeError
from unetkit.evaluation import evaluate, evaluate_folders, write_evaluation
from unetkit.recipe.schema import DataSection, EvaluateSection
from unetkit.types import Volume

AFFINE = np.diag([-1.5, 1.0, 3.0, 1.0])


def truth(seed: int = 0) -> np.ndarray:
    """Two boxes, values 1 and 6, in a small volume."""
    label = np.zeros((12, 14, 8), np.uint8)
    label[2:8, 3 + seed : 9 + seed, 1:5] = 1
    label[8:11, 2:6, 4:7] = 6
    return label


def guess(seed: int = 0) -> np.ndarray:
    return np.roll(truth(seed), 1, axis=0)


def save(folder, name, label, affine=AFFINE):
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(label, affine), folder / name)
    return folder / name


@pytest.fixture
def folders(tmp_path):
    for seed in range(3):
        save(tmp_path / "pred", f"case{seed}.nii.gz", guess(seed))
        save(tmp_path / "ref", f"case{seed}.nii.gz", truth(seed))
    return tmp_path / "pred", tmp_path / "ref"


CLASSES = {"liver": 6, "spleen": 1}


def test_arrays_files_volumes_and_folders_agree(folders):
    pred, ref = folders
    as_volumes = [Volume(label[None], (1.5, 1.0, 3.0), AFFINE) for label in (guess(1), truth(1))]
    found = [
        evaluate(guess(1), truth(1), classes=CLASSES, spacing=(1.5, 1.0, 3.0)).rows["case"],
        evaluate(*as_volumes, classes=CLASSES).rows["case"],
        evaluate({"x": guess(1)}, {"x": truth(1)}, classes=CLASSES, spacing=(1.5, 1.0, 3.0)).rows["x"],
        evaluate(pred / "case1.nii.gz", str(ref / "case1.nii.gz"), classes=CLASSES).rows["case1"],
        evaluate(pred, ref, classes=CLASSES).rows["case1"],
        evaluate_folders(pred, ref, data=DataSection(classes=CLASSES), rules=EvaluateSection()).rows["case1"],
    ]
    assert all(scores == found[0] for scores in found)
    assert list(found[0]) == ["liver", "spleen"]
    assert found[0]["spleen"]["dice"] == pytest.approx(2 * 5 * 6 * 4 / (2 * 6 * 6 * 4))
    assert found[0]["spleen"]["hd95"] == pytest.approx(1.5)


def test_classes_are_found_in_the_references(folders):
    assert evaluate(*folders).classes == ("label_1", "label_6")
    assert evaluate(guess(), truth()).classes == ("label_1", "label_6")


def test_other_axis_order_is_the_same_grid(folders):
    """A prediction stored with its first axis reversed is turned, not refused."""
    pred, ref = folders
    flipped = AFFINE.copy()
    flipped[0] = [1.5, 0, 0, -1.5 * 11]
    save(pred, "case0.nii.gz", guess(0)[::-1].copy(), flipped)
    assert evaluate(pred, ref).rows["case0"] == evaluate(guess(0), truth(0), spacing=(1.5, 1, 3)).rows["case"]


def test_pictures_have_pixels(tmp_path):
    mask = np.zeros((20, 24), np.uint8)
    mask[4:12, 5:15] = 255
    for name in ("pred", "ref"):
        (tmp_path / name).mkdir()
        Image.fromarray(mask).save(tmp_path / name / "a.png")
    scored = evaluate(tmp_path / "pred", tmp_path / "ref")
    assert (scored.dice, scored.classes, scored.definitions["unit"]) == (1.0, ("foreground",), "pixels")


def test_forms_of_the_result(folders):
    pred, ref = folders
    empty = np.zeros_like(truth())
    save(ref, "case3.nii.gz", empty)
    save(pred, "case3.nii.gz", empty)
    scored = unetkit.evaluate(pred, ref, classes=CLASSES)
    tree = json.loads(json.dumps(scored.to_json(), allow_nan=False))
    assert tree["dice"] == pytest.approx(scored.dice)
    assert tree["cases"]["case3"]["liver"]["dice"] is None
    assert tree["summary"]["classes"]["liver"]["dice"]["undefined"] == 1
    rows = list(csv.DictReader(io.StringIO(scored.to_csv())))
    assert len(rows) == 4 * 2 * 10
    value = repr(scored.rows["case0"]["liver"]["dice"])
    assert rows[0] == {"case": "case0", "class": "liver", "metric": "dice", "value": value}
    assert {row["value"] for row in rows if row["case"] == "case3" and row["metric"] == "hd95"} == {""}
    table = scored.table().splitlines()
    assert table[0].split()[:3] == ["class", "dice", "iou"]
    assert table[1].split()[0] == "liver"
    assert "mean foreground Dice" in scored.table()
    assert "4 cases" in scored.table()


def test_written_files(folders, tmp_path):
    scored = evaluate(*folders, classes=CLASSES)
    report = write_evaluation(scored, tmp_path / "out")
    assert report == tmp_path / "out" / "report.html"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["dice"] == pytest.approx(scored.dice)
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.png")) == [
        "overlay_best.png",
        "overlay_median.png",
        "overlay_worst.png",
    ]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_evaluation(scored, tmp_path / "file")


def test_rules_are_applied(folders):
    scored = evaluate(*folders, classes=CLASSES, rules=EvaluateSection(spacing="unit", surface="element"))
    assert scored.definitions["unit"] == "voxels"
    assert "area elements" in scored.definitions["hd95"]
    assert math.isfinite(scored.rows["case0"]["liver"]["hd95"])


def test_missing_predictions_are_named(folders):
    pred, ref = folders
    (pred / "case1.nii.gz").unlink()
    with pytest.raises(DataError, match=r"no prediction for case1.nii.gz \(1 of 3 references in "):
        evaluate(pred, ref)
    with pytest.raises(DataError, match=r"no prediction for y \(1 of 2 references\)"):
        evaluate({"x": guess()}, {"x": truth(), "y": truth()})


@pytest.mark.parametrize(
    ("label", "affine", "said"),
    [
        (truth()[:-1], AFFINE, "case case0: .* the prediction has shape 11 x 14 x 8 against 12 x 14 x 8"),
        (truth(), np.diag([-1.5, 1.0, 2.0, 1.0]), "has spacing .* mm"),
        (np.full_like(truth(), 9), AFFINE, "case case0, prediction: label values 9 .* belong to no class"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(folders, label, affine, said):
    pred, ref = folders
    save(pred, "case0.nii.gz", label, affine)
    with pytest.raises(DataError, match=said) as caught:
        evaluate(pred, ref, classes=CLASSES)
    assert "\n" not in str(caught.value)


def test_other_faults_are_one_line_each(folders, tmp_path):
    _, ref = folders
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no label map of a known format"):
        evaluate(tmp_path / "none", ref)
    with pytest.raises(DataError, match=r"none: holds no label map .* name the data set .* with data\.root="):
        evaluate(ref, tmp_path / "none")
    with pytest.raises(DataError, match="no such file"):
        evaluate(tmp_path / "absent.nii.gz", ref / "case0.nii.gz")
    with pytest.raises(RecipeError, match="label value 1 is in both 'a' and 'b'"):
        evaluate(guess(), truth(), classes={"a": 1, "b": 1})
    with pytest.raises(ShapeError, match="this Volume has 2"):
        evaluate(Volume(np.zeros((2, 4, 4), np.uint8), (1.0, 1.0)), truth(), classes=CLASSES)
    with pytest.raises(DataError, match="the references hold 0 label values beside 0"):
        evaluate(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))
