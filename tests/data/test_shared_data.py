"""The real labelled images: every folder is opened as it is, and read as its own description says."""

import json

import numpy as np
import pytest

from unetkit.data.cases import read_case
from unetkit.data.datasets import open_dataset
from unetkit.data.geometry import orientation
from unetkit.data.splits import make_split
from unetkit.errors import DataError
from unetkit.recipe.schema import DataSection, SplitSection

TRAINABLE = {
    "acdc_scribble": ((6, 2), ("right-ventricle blood", "left-ventricle muscle", "left-ventricle blood")),
    "btcv_abdomen_ct": ((10, 4), None),
    "chaos_t2_mri": ((6, 2), ("liver", "right kidney", "left kidney", "spleen")),
    "cxr_lungs": ((40, 10), ("lung",)),
    "drive": ((18, 6), ("vessel",)),
    "dsb2018_nuclei": ((67, 19), ("foreground",)),
    "isbi2012_em": ((24, 6), ("membrane", "cell interior")),
    "kvasir_seg": ((240, 60), ("polyp",)),
    "mscmr_cardiac": ((7, 2), ("left-ventricle muscle", "left-ventricle blood", "right-ventricle blood")),
    "msd_hippocampus": ((140, 40), ("anterior hippocampus", "posterior hippocampus")),
    "pyradiomics_nrrd": ((2, 0), ("lesion",)),
}
UNFIT = {
    "spine_mr": "channels differ: 1 in most cases, 3 in unf01_multicontrast",
    "stardist_samples": "images of 2 and of 3 axes",
    "synthseg_label_maps": "label maps alone cannot be trained on",
    "totalseg_example": "only one labelled case 'ct_3mm'",
}


def opened(shared_data, name, **keys):
    folder = shared_data / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not among the real labelled images here")
    return open_dataset(DataSection(root=str(folder), **keys))


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_folder_is_read_as_it_describes_itself(shared_data, name):
    dataset = opened(shared_data, name)
    (train, test), classes = TRAINABLE[name]
    split = make_split(dataset, SplitSection())
    assert (len(split.train) + len(split.val), len(split.test)) == (train, test)
    assert classes is None or dataset.labels.classes == classes
    stated = json.loads((shared_data / name / "split.json").read_text())
    assert set(split.test) == set(stated["test"])
    case = dataset.cases[0]
    image, label = read_case(case, dataset.labels)
    assert image.shape == label.shape
    assert image.dims == dataset.dims
    assert image.channels == len(dataset.channels)
    assert 0 < (label.data > 0).mean() <= 1


@pytest.mark.parametrize("name", UNFIT)
def test_a_folder_that_cannot_be_trained_on_says_why(shared_data, name):
    dataset = opened(shared_data, name)
    with pytest.raises(DataError, match=UNFIT[name]):
        make_split(dataset, SplitSection())


def test_the_second_site_is_a_test_of_its_own(shared_data):
    split = make_split(opened(shared_data, "cxr_lungs"), SplitSection())
    assert len(split.extra["test_other_site"]) == 12


def test_time_points_of_a_patient_stay_together(shared_data):
    dataset = opened(shared_data, "acdc_scribble")
    split = make_split(dataset, SplitSection())
    assert len({dataset.case(name).group for name in split.val}) == 1
    assert len(split.val) == 2


def test_outside_the_field_of_view_of_a_fundus_nothing_counts(shared_data):
    dataset = opened(shared_data, "drive", dataset="drive")
    label = read_case(dataset.case("21_training"), dataset.labels)[1].data[0]
    assert (label[0, 0], set(np.unique(label))) == (255, {0, 1, 255})
    inside = label[label != 255]
    assert 0.05 < inside.mean() < 0.2


def test_membranes_can_be_the_only_class(shared_data):
    dataset = opened(shared_data, "isbi2012_em", classes={"membrane": 0})
    label = read_case(dataset.cases[0], dataset.labels)[1].data[0]
    assert 0.1 < label.mean() < 0.4


def test_synapse_classes_over_the_btcv_values(shared_data):
    dataset = opened(shared_data, "btcv_abdomen_ct", dataset="synapse")
    assert dataset.labels.classes[-1] == "stomach"
    assert dataset.channels == ("CT",)
    label = read_case(dataset.case("sabs_24"), dataset.labels)[1].data
    assert set(np.unique(label)) == {0, 1, 3, 4, 5, 6, 7, 8}  # the gallbladder is missing


def test_orientations_of_the_real_files(shared_data):
    seen = {
        orientation(read_case(case, None)[0])
        for name in ("mscmr_cardiac", "pyradiomics_nrrd", "totalseg_example", "chaos_t2_mri")
        for case in opened(shared_data, name).cases[:6]
    }
    assert {"PSR", "LSP", "LPS", "LAS", "RAS"} <= seen


@pytest.mark.parametrize("name", ["drive", "kvasir_seg", "chaos_t2_mri", "btcv_abdomen_ct", "pyradiomics_nrrd"])
def test_without_its_manifest_a_folder_is_paired_by_names(shared_data, name):
    described, bare = opened(shared_data, name), opened(shared_data, name, layout="paired", dataset=None)
    pairs = {(case.images[0].name, case.label.name, case.roi and case.roi.name) for case in described.cases}
    assert {(case.images[0].name, case.label.name, case.roi and case.roi.name) for case in bare.cases} == pairs
