"""The second stage of a cascade: its masks as files, arrays or straight from the first stage give the same labels."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from unetkit.cli import main
from unetkit.data.cascade import network_input, one_hot
from unetkit.errors import DataError, RecipeError
from unetkit.infer.cascade import Cascade
from unetkit.infer.folder import predict_files
from unetkit.infer.load import load
from unetkit.infer.predictor import Predictor
from unetkit.types import Labels, Volume

SHAPE = (26, 22, 11)
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])
STAGE = {"previous": True, "configuration": "3d_cascade_fullres"}
REGIONS = Labels(("whole", "core"), ((1, 2), (2,)), regions=True)


@pytest.fixture
def array() -> np.ndarray:
    coarse = np.random.default_rng(5).normal(100, 40, (13, 11, 11)).astype(np.float32)
    return coarse.repeat(2, 0).repeat(2, 1)


@pytest.fixture
def stage() -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    found[3:15, 4:12, 2:7], found[16:24, 10:20, 5:10] = 1, 2
    return found


@pytest.mark.parametrize("labels", [Labels(("organ", "lesion"), ((1,), (2,))), REGIONS])
@pytest.mark.parametrize("patch", [(16, 16, 16), (16, 16)])
def test_the_network_gets_a_channel_per_class_of_the_map_it_is_given(save_run, make_plan, array, stage, labels, patch):
    plan = make_plan(**STAGE, labels=labels, patch_size=patch, mirror_axes=(1,))
    predictor = load(save_run(plan), "cpu", mirror=True)
    seen = []
    predictor.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    volume = Volume(array[None], (1.0, 1.0, 2.0), AFFINE)
    predictor.predict(volume, previous=stage)
    assert {tuple(batch.shape[1:]) for batch in seen} == {(3, *patch)}
    whole, organ, lesion = (torch.cat([batch[:, c].flatten() for batch in seen]) for c in (0, 1, 2))
    assert set(torch.cat((organ, lesion)).unique().tolist()) == {0.0, 1.0}
    assert bool((organ * lesion).any()) == labels.regions
    assert len(whole.unique()) > 2
    # Where the masks lie, moved and mirrored with the image: values of the image identify its voxels.
    prepared = predictor._opened(volume, stage)
    inside = prepared.data[0][prepared.previous[-1] == (1 if labels.regions else 2)]
    assert set(whole[lesion == 1].tolist()) == set(inside.tolist())


def test_the_map_changes_the_prediction_and_its_kind_does_not(save_run, make_plan, array, stage, tmp_path):
    run = save_run(make_plan(**STAGE))
    predictor = load(run, "cpu")
    image = nib.Nifti1Image(array, AFFINE)
    volume = Volume(array[None], (1.0, 1.0, 2.0), AFFINE)
    (tmp_path / "images").mkdir(), (tmp_path / "stage").mkdir()
    nib.save(image, tmp_path / "images" / "a.nii.gz")
    # In another order of axes on disk than the image.
    turned = nib.as_closest_canonical(nib.Nifti1Image(stage, AFFINE))
    nib.save(turned, tmp_path / "stage" / "a.nii.gz")
    expected = predictor.predict(volume, previous=stage).data
    file = tmp_path / "stage" / "a.nii.gz"
    for previous in (turned, file, str(file), Volume(stage[None], (1.0, 1.0, 2.0), AFFINE), (stage, (1.0, 1.0, 2.0))):
        np.testing.assert_array_equal(predictor.predict(volume, previous=previous).data, expected)
    assert (predictor.predict(volume, previous=stage * 0).data != expected).mean() > 0.05
    chances = predictor.probabilities(volume, previous=stage).data
    np.testing.assert_array_equal(chances.argmax(0), expected[0])
    words = [f"run={run}", f"input={tmp_path / 'images'}", f"output={tmp_path / 'out'}", "device=cpu"]
    assert main(["predict", *words, f"previous={tmp_path / 'stage'}"]) == 0
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj), expected[0])


def test_what_is_missing_or_does_not_fit_is_said_in_one_line(save_run, make_plan, array, stage, tmp_path):
    run = save_run(make_plan(**STAGE))
    predictor, volume = load(run, "cpu"), Volume(array[None], (1.0, 1.0, 2.0), AFFINE, "scan")
    with pytest.raises(DataError, match=r"case scan: this network is the second stage .* predict\(image, previous="):
        predictor.predict(volume)
    with pytest.raises(DataError, match=r"case scan: the stage before has shape .* of the image"):
        predictor.predict(volume, previous=stage[1:])
    with pytest.raises(DataError, match=r"label values 3 .* belong to no class"):
        predictor.predict(volume, previous=stage + 1)
    (tmp_path / "images").mkdir(), (tmp_path / "stage").mkdir()
    nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / "images" / "a.nii.gz")
    without = predict_files(predictor, tmp_path / "images", tmp_path / "out")
    assert "give previous=FOLDER" in without["failed"][0]["error"]
    lacking = predict_files(load(run, "cpu", previous=tmp_path / "stage"), tmp_path / "images", tmp_path / "out")
    assert "case a: " in lacking["failed"][0]["error"]
    assert "holds no label map of that name" in lacking["failed"][0]["error"]
    assert not (tmp_path / "out").exists()
    alone = save_run(make_plan())
    with pytest.raises(RecipeError, match=r"sees no earlier stage; drop the key"):
        load(alone, "cpu", previous=tmp_path / "stage")
    with pytest.raises(Exception, match=r"the network sees the image alone; drop it"):
        load(alone, "cpu").predict(volume, previous=stage)


def test_two_stages_in_one_are_the_first_one_s_map_given_to_the_second(save_run, make_plan, array):
    lowres = make_plan(configuration="3d_lowres", spacing=(4.0, 2.0, 2.0))
    first = load(save_run(lowres), "cpu")
    second = load(save_run(make_plan(**STAGE)), "cpu")
    volume = Volume(array[None], (1.0, 1.0, 2.0), AFFINE)
    both = Cascade(first, second)
    assert both.volumes
    found = both.segment(both.prepare(volume, "a"), probabilities=True)
    expected = second.predict(volume, previous=first.predict(volume))
    np.testing.assert_array_equal(found.encoded, expected.data)
    np.testing.assert_array_equal(found.chances, second.probabilities(volume, previous=first.predict(volume)).data)
    with pytest.raises(RecipeError, match=r"3d_lowres\) sees no masks of a first one"):
        Cascade(second, first)
    other = Predictor(second.network, replace(second.plan, channels=("CT",)), second.settings, second.compute)
    with pytest.raises(RecipeError, match=r"organ, lesion from MR, and organ, lesion from CT; give two runs"):
        Cascade(first, other)


def test_windows_beyond_the_border_know_of_no_class(save_run, make_plan, array, stage):
    predictor = load(save_run(make_plan(**STAGE, patch_size=(32, 32, 32))), "cpu")
    seen = []
    predictor.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    volume = Volume(array[None], (1.0, 1.0, 2.0), AFFINE)
    predictor.predict(volume, previous=np.ones_like(stage))
    prepared = predictor._opened(volume, np.ones_like(stage))
    inside = int(np.prod(prepared.data.shape[1:]))
    assert inside < 32**3
    assert int(seen[0][0, 1].sum()) == inside
    whole = network_input(prepared, predictor.plan)
    assert one_hot(whole[None, 1:], 2, False)[0, 0].all()
