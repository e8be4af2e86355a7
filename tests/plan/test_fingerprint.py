"""What is measured on small data sets written to disk."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from unetkit.data.datasets import open_dataset
from unetkit.errors import DataError
from unetkit.plan import measure
from unetkit.recipe.schema import DataSection


def write_volume_case(root, name, image, label, affine):
    for folder, array in (("images", image), ("labels", label)):
        (root / folder).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), root / folder / f"{name}.nii.gz")


@pytest.fixture
def volumes(tmp_path):
    """Two cases of one world size, stored in different axis orders; class 2 only in the first; a zero border."""
    image = np.zeros((10, 12, 6), np.int16)
    image[2:8, 3:9, 1:5] = 100
    label = np.zeros(image.shape, np.uint8)
    label[3:5, 4:6, 2:4] = 1
    label[6, 6, 3] = 2
    image[label == 1], image[label == 2] = 200, 1000
    write_volume_case(tmp_path, "a", image, label, np.diag([1.0, 1.5, 4.0, 1]))
    turned = np.array([[0, 0, -1.0, 9], [1.5, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 0, 1]])
    label[label == 2] = 0
    write_volume_case(tmp_path, "b", image.transpose(1, 2, 0)[:, :, ::-1], label.transpose(1, 2, 0)[:, :, ::-1], turned)
    return tmp_path


def test_volumes_are_measured_along_the_body(volumes):
    section = DataSection(root=str(volumes), classes={"organ": 1, "lesion": 2}, channels=["CT"])
    found = measure(open_dataset(section), ["a", "b"])
    assert found.shapes == ((10, 12, 6), (10, 12, 6))
    assert found.spacings == ((1.0, 1.5, 4.0), (1.0, 1.5, 4.0))
    assert found.cropped == ((6, 6, 4), (6, 6, 4))
    assert found.crop_ratio == pytest.approx(144 / 720)
    assert found.voxels == {"organ": 16, "lesion": 1}
    assert (found.placed, found.channels, found.dtypes) == (True, ("CT",), {"int16": 2})
    json.dumps(found.to_json())


def test_cases_weigh_the_same_whatever_their_foreground(volumes):
    """The lesion is a ninth of the first case's foreground, so its share of all samples is an 18th."""
    section = DataSection(root=str(volumes), classes={"organ": 1, "lesion": 2})
    seen = measure(open_dataset(section), ["a", "b"]).intensities[0]
    assert seen.mean == pytest.approx(200 + 800 / 18, rel=0.02)
    assert (seen.low, seen.median, seen.high) == (200, 200, 1000)
    assert measure(open_dataset(section), ["a", "b"]).intensities[0] == seen


def test_pictures(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for n in range(3):
        Image.fromarray(rng.integers(1, 255, (20 + n, 30, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{n}.png")
        mask = np.zeros((20 + n, 30), np.uint8)
        mask[5:9, 5:10] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{n}.png")
    found = measure(open_dataset(DataSection(root=str(tmp_path))), ["0", "2"])
    assert (found.dims, found.placed, found.dtypes) == (2, False, {"uint8": 2})
    assert found.shapes == ((20, 30), (22, 30))
    assert sum(found.voxels.values()) == 40
    assert len(found.intensities) == 3


def test_damaged_cases_are_named_together(volumes):
    whole = (volumes / "images" / "a.nii.gz").read_bytes()
    (volumes / "images" / "a.nii.gz").write_bytes(whole[:-40])
    section = DataSection(root=str(volumes), classes={"organ": 1, "lesion": 2})
    with pytest.raises(DataError, match=r"1 of 2 cases cannot be used: .*a\.nii\.gz: cannot be read") as caught:
        measure(open_dataset(section), ["a", "b"])
    assert "\n" not in str(caught.value)


def test_nothing_labelled(volumes):
    section = DataSection(root=str(volumes), classes={"organ": 7}, strict=False)
    with pytest.raises(DataError, match=r"none of the 2 training cases has a labelled voxel; check data\.classes"):
        measure(open_dataset(section), ["a", "b"])
    with pytest.raises(DataError, match="zero labelled training cases"):
        measure(open_dataset(section), [])
