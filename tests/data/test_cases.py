"""Reading one case: each fault is one line that names case, file and remedy."""

from dataclasses import replace

import numpy as np
import pytest
from small_files import SHAPE, affine_of, nifti, picture, square

from unetkit.data.cases import read_case
from unetkit.errors import DataError
from unetkit.types import IGNORE, Case, Labels

LABELS = Labels(("a", "b"), ((1,), (2,)))


@pytest.fixture
def case(tmp_path):
    label = np.zeros(SHAPE, np.uint8)
    label[1], label[2] = 1, 2
    image = nifti(tmp_path / "image.nii.gz", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    return Case("p1", (image,), nifti(tmp_path / "label.nii.gz", label))


def test_image_and_encoded_label_share_a_grid(case):
    image, label = read_case(case, LABELS)
    assert image.data.dtype == np.float32
    assert label.data.dtype == np.uint8
    assert label.data.shape == image.data.shape
    np.testing.assert_array_equal(np.unique(label.data), [0, 1, 2])


def test_without_label_or_labels_there_is_an_image_only(case):
    assert read_case(replace(case, label=None), LABELS)[1] is None
    assert read_case(case, None)[1] is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_counted(case, bad):
    data = np.zeros(SHAPE, np.float32)
    data[0, 0, :3] = bad
    nifti(case.images[0], data)
    with pytest.raises(DataError, match=r"case p1: image.nii.gz holds 3 NaN or infinite voxels of 120; replace them"):
        read_case(case, LABELS)


def test_a_label_of_another_shape_is_refused(case):
    nifti(case.label, np.zeros((6, 5, 3), np.uint8))
    with pytest.raises(DataError, match=r"case p1: label and image .* label.nii.gz has shape 6 x 5 x 3 against 6 x 5"):
        read_case(case, LABELS)


@pytest.mark.parametrize(
    ("change", "message"), [((0, 3, 5.0), "origin"), ((0, 0, 2.0), "spacing"), ((0, 1, 0.3), "apart|spacing")]
)
def test_a_label_at_another_place_is_refused(case, change, message):
    affine = affine_of("RAS")
    row, column, value = change
    affine[row, column] = value
    nifti(case.label, np.zeros(SHAPE, np.uint8), affine)
    with pytest.raises(DataError, match=rf"case p1: .*({message})"):
        read_case(case, LABELS)


def test_a_label_stored_in_another_order_is_turned(case):
    _, expected = read_case(case, LABELS)
    label = np.zeros(SHAPE, np.uint8)
    label[1], label[2] = 1, 2
    # The same voxels, written back to front along x.
    turned = affine_of("RAS") @ np.array([[-1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float)
    nifti(case.label, label[::-1].copy(), turned)
    np.testing.assert_array_equal(read_case(case, LABELS)[1].data, expected.data)


def test_the_same_array_under_a_mirrored_header_is_refused(case):
    label = np.zeros(SHAPE, np.uint8)
    mirrored = affine_of("RAS") @ np.diag([-1.0, 1, 1, 1])
    nifti(case.label, label, mirrored)
    with pytest.raises(DataError, match=r"different grids"):
        read_case(case, LABELS)


def test_unknown_values_name_case_and_file(case):
    nifti(case.label, np.full(SHAPE, 9, np.uint8))
    with pytest.raises(DataError, match=r"case p1: label.nii.gz: label values 9 \(120 voxels\) belong to no class"):
        read_case(case, LABELS)


def test_a_case_without_foreground_is_no_fault(case):
    nifti(case.label, np.zeros(SHAPE, np.uint8))
    assert not read_case(case, LABELS)[1].data.any()


def test_outside_the_region_of_interest_nothing_counts(tmp_path):
    image = picture(tmp_path / "a.png", square(200))
    label = picture(tmp_path / "mask.gif", square(255))
    roi = picture(tmp_path / "fov.gif", square(255, dtype=np.uint8))
    case = Case("a", (image,), label, roi=roi)
    encoded = read_case(case, Labels(("vessel",), ((255,),)))[1].data[0]
    assert (encoded[square(1) == 0] == IGNORE).all()
    assert (encoded[square(1) == 1] == 1).all()
    with pytest.raises(DataError, match=r"case a: region of interest and image .* shape 3 x 3 against 16 x 12"):
        read_case(
            replace(case, roi=picture(tmp_path / "b.png", np.ones((3, 3), np.uint8))), Labels(("vessel",), ((255,),))
        )


def test_a_case_without_image_says_so():
    with pytest.raises(DataError, match=r"case x: has no image"):
        read_case(Case("x", ()), LABELS)
