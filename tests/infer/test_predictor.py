"""Every kind of image gives the same labels, in its own geometry; what cannot be used is named in one line."""

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from unetkit.checkpoint import load_checkpoint, save_checkpoint
from unetkit.data.preprocess import Prepared, preprocess
from unetkit.errors import CheckpointError, DataError, RecipeError, ShapeError
from unetkit.infer.device import Compute, check_torch, pick_compute, pick_device
from unetkit.infer.load import load
from unetkit.infer.predictor import Predictor
from unetkit.infer.sliding import sliding_window
from unetkit.types import Labels, Volume

SHAPE = (26, 22, 11)
# axes permuted and one reversed against RAS, with an offset: what a sagittal scan looks like
AFFINE = np.array([[0, 0, 2.0, -7.5], [-1.0, 0, 0, 33.25], [0, 1.0, 0, 11.125], [0, 0, 0, 1]])


@pytest.fixture
def array() -> np.ndarray:
    rng = np.random.default_rng(5)
    coarse = rng.normal(100, 40, (7, 6, 3)).astype(np.float32)
    return coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: SHAPE[0], : SHAPE[1], : SHAPE[2]].copy()


def whole_logits(predictor: Predictor, prepared: Prepared) -> torch.Tensor:
    """What the network says on the prepared grid: [K, *P]."""
    image, outputs = torch.from_numpy(prepared.data), predictor.plan.labels.num_outputs
    return sliding_window(predictor.network, image, predictor.plan.patch_size, outputs, predictor.windows)


def nifti(array: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(array, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(AFFINE, code=2)
    image.set_qform(AFFINE, code=1)
    return image


def test_a_path_a_nibabel_image_and_a_volume_agree(save_run, array, tmp_path, make_plan):
    predictor = load(save_run(make_plan()), "cpu")
    nib.save(nifti(array), tmp_path / "scan.nii.gz")
    from_path = predictor.predict(str(tmp_path / "scan.nii.gz"))
    from_nib = predictor.predict(nifti(array))
    from_volume = predictor.predict(Volume(array[None], (1.0, 1.0, 2.0), AFFINE))
    assert isinstance(from_path, Volume)
    assert isinstance(from_nib, nib.Nifti1Image)
    assert isinstance(from_volume, Volume)
    labels = from_volume.data[0]
    assert labels.dtype == np.uint8
    assert labels.shape == SHAPE
    assert len(np.unique(labels)) > 1
    assert np.array_equal(from_path.data[0], labels)
    assert np.array_equal(np.asarray(from_nib.dataobj), labels)


def test_a_nibabel_image_of_two_axes_and_an_array_agree(save_run, make_plan_2d):
    plan = make_plan_2d(channels=("grey",), normalization=make_plan_2d().normalization[:1])
    predictor = load(save_run(plan))
    pixels = np.random.default_rng(0).normal(size=(40, 36)).astype(np.float32)
    flat = predictor.predict(nib.Nifti1Image(pixels, np.eye(4)))
    assert flat.shape == (40, 36)
    assert np.array_equal(np.asarray(flat.dataobj), predictor.predict(pixels))
    assert predictor.probabilities(nib.Nifti1Image(pixels, np.eye(4))).shape == (40, 36, 1, 3)


def test_a_nibabel_result_lies_where_the_image_lies_to_the_bit(save_run, array, make_plan):
    image = nifti(array)
    for result in (load(save_run(make_plan())).predict(image), load(save_run(make_plan())).probabilities(image)):
        assert np.array_equal(result.affine, image.affine)
        for key in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units", "quatern_b"):
            assert np.array_equal(result.header[key], image.header[key]), key


def test_an_array_with_spacing_counts_as_ras(save_run, array, make_plan):
    predictor = load(save_run(make_plan()))
    labels = predictor.predict((array, (1.0, 1.0, 2.0)))
    assert isinstance(labels, np.ndarray)
    want = predictor.predict(Volume(array[None], (1.0, 1.0, 2.0), np.diag([1.0, 1.0, 2.0, 1.0])))
    assert np.array_equal(labels, want.data[0])
    with_channel = predictor.predict((array[None], (1.0, 1.0, 2.0)))
    assert np.array_equal(with_channel, labels)


def test_orientation_on_disk_does_not_matter(save_run, array, make_plan):
    """The same world image stored in another axis order gives the same world labels."""
    predictor = load(save_run(make_plan()))
    image = nifti(array)
    canonical = nib.as_closest_canonical(image)
    got = nib.as_closest_canonical(predictor.predict(image))
    assert np.array_equal(np.asarray(got.dataobj), np.asarray(predictor.predict(canonical).dataobj))


def test_probabilities_sum_to_one_and_decide_the_label(save_run, array, make_plan):
    predictor = load(save_run(make_plan()))
    volume = Volume(array[None], (1.0, 1.0, 2.0), AFFINE)
    chances = predictor.probabilities(volume)
    assert chances.data.shape == (3, *SHAPE)
    assert chances.data.dtype == np.float32
    np.testing.assert_allclose(chances.data.sum(0), 1, atol=1e-5)
    labels = predictor.predict(volume)
    assert np.array_equal(chances.data.argmax(0), labels.data[0])


def test_pictures_as_files_and_arrays(save_run, tmp_path, make_plan_2d):
    predictor = load(save_run(make_plan_2d()))
    pixels = np.random.default_rng(0).integers(0, 255, (45, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    labels = predictor.predict(tmp_path / "a.png")
    assert labels.data.shape == (1, 45, 70)
    assert np.array_equal(predictor.predict(pixels), labels.data[0])
    assert np.array_equal(predictor.predict(np.moveaxis(pixels, 2, 0)), labels.data[0])
    assert predictor.probabilities(pixels).shape == (3, 45, 70)


def test_channels_in_separate_files(save_run, array, tmp_path, make_plan):
    plan = make_plan(channels=("T1", "T2"), normalization=make_plan().normalization * 2)
    predictor = load(save_run(plan))
    for name, values in (("t1", array), ("t2", -array)):
        nib.save(nifti(values), tmp_path / f"{name}.nii.gz")
    got = predictor.predict([tmp_path / "t1.nii.gz", tmp_path / "t2.nii.gz"])
    want = predictor.predict(nifti(np.stack([array, -array], -1)))
    assert np.array_equal(got.data[0], np.asarray(want.dataobj))


def test_overlapping_regions_are_painted_in_order(save_run, array, make_plan):
    labels = Labels(("whole", "core"), ((1, 2), (2,)), regions=True)
    predictor = load(save_run(make_plan(labels=labels), data={"regions": True}))
    volume = Volume(array[None], (1.0, 1.0, 2.0), AFFINE)
    chances, painted = predictor.probabilities(volume).data, predictor.predict(volume).data[0]
    assert chances.shape == (2, *SHAPE)
    assert np.array_equal(painted == 2, chances[1] > 0.5)
    assert np.array_equal(painted == 1, (chances[0] > 0.5) & (chances[1] <= 0.5))


@pytest.mark.parametrize("size", [(5, 22, 11), (1, 1, 1), (40, 3, 20)])
def test_images_smaller_than_the_patch(save_run, size, make_plan):
    predictor = load(save_run(make_plan()))
    image = np.random.default_rng(1).normal(size=size).astype(np.float32)
    assert predictor.predict((image, (1.0, 1.0, 2.0))).shape == size


def test_a_2d_network_predicts_volumes_slice_by_slice(save_run, array, make_plan):
    plan = make_plan(patch_size=(16, 16), spacing=None, mirror_axes=(0, 1), batch_size=5)
    predictor = load(save_run(plan, data={"patch_size": [16, 16]}))
    volume = Volume(array[None], (1.0, 1.0, 2.0), np.diag([1.0, 1.0, 2.0, 1.0]))
    logits = whole_logits(predictor, preprocess(volume, None, plan))
    assert logits.shape == (3, 11, 26, 22)
    assert np.array_equal(predictor.predict(volume).data[0].transpose(2, 0, 1), logits.argmax(0).numpy())


def test_labels_restored_by_nearest_neighbour(save_run, array, make_plan):
    plan = make_plan(patch_size=(32, 32), spacing=None, resize=(32, 32), mirror_axes=())
    folder = save_run(plan, data={"patch_size": [32, 32]}, infer={"restore": "labels"})
    volume = Volume(array[None], (1.0, 1.0, 2.0), np.diag([1.0, 1.0, 2.0, 1.0]))
    predictor = load(folder)
    small = whole_logits(predictor, preprocess(volume, None, plan)).argmax(0).numpy()
    index = [np.round(np.arange(n) * 31 / (n - 1)).astype(int) for n in (26, 22)]
    want = small[:, index[0]][:, :, index[1]].transpose(1, 2, 0)
    assert (predictor.predict(volume).data[0] == want).mean() > 0.99
    assert predictor.predict(volume).data.shape == load(folder, restore="logits").predict(volume).data.shape


def test_largest_components_and_mirroring_are_followed(save_run, array, make_plan):
    folder = save_run(make_plan())
    volume = Volume(array[None], (1.0, 1.0, 2.0), AFFINE)
    plain, mirrored = load(folder).probabilities(volume).data, load(folder, mirror=True).probabilities(volume).data
    assert np.abs(plain - mirrored).max() > 1e-3
    kept = load(folder, postprocess=[{"rule": "keep_largest"}]).predict(volume).data[0]
    assert ((kept == load(folder).predict(volume).data[0]) | (kept == 0)).all()


def test_averaged_weights_are_preferred(save_run, array, make_plan):
    folder = save_run(make_plan())
    saved = load_checkpoint(folder)
    noise = {k: torch.zeros_like(v) for k, v in saved.weights.items()}
    volume = Volume(array[None], (1.0, 1.0, 2.0), AFFINE)
    want = load(folder).predict(volume).data
    save_checkpoint(folder / "best.safetensors", type(saved)(**{**vars(saved), "weights": noise, "ema": saved.weights}))
    assert np.array_equal(load(folder).predict(volume).data, want)


def test_fast_formats_of_the_hardware_change_hardly_anything(save_run, make_plan, array):
    tree = {"model": {"name": "plain_unet", "widths": [16, 16], "strides": [1, 2]}}
    exact = load(save_run(make_plan(), **tree), "cpu").probabilities((array, (1.0, 1.0, 2.0)))
    fast = load(save_run(make_plan(), **tree, train={"precision": "auto"}), "cpu")
    assert not any(isinstance(m, torch.nn.InstanceNorm3d) for m in fast.network.modules())
    assert fast.windows.channels_last == fast.compute.channels_last
    assert np.abs(fast.probabilities((array, (1.0, 1.0, 2.0))) - exact).mean() < 0.02


def test_weights_that_are_no_kernels_stay_as_they_are(save_run, make_plan, array, monkeypatch):
    # EGE-UNet multiplies by learned maps of four axes, which have no channels_last form among volumes
    run = save_run(make_plan(patch_size=(32, 32, 32)), model={"name": "egeunet"})
    exact = load(run, "cpu").probabilities((array, (1.0, 1.0, 2.0)))
    fast = Compute(torch.device("cpu"), torch.bfloat16, channels_last=True)
    monkeypatch.setattr("unetkit.infer.predictor.pick_compute", lambda *given: fast)
    predictor = load(run, "cpu")
    assert predictor.windows.channels_last
    assert np.abs(predictor.probabilities((array, (1.0, 1.0, 2.0))) - exact).mean() < 0.1


def test_a_network_in_training_goes_on_training(save_run, array, make_plan):
    predictor = load(save_run(make_plan()))
    predictor.network.train()
    predictor.predict((array, (1.0, 1.0, 2.0)))
    assert predictor.network.training


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (lambda: np.zeros(SHAPE), ShapeError, "a volume needs its spacing; give"),
        (lambda: (np.zeros((4, 4)), (1, 1)), ShapeError, r"the network takes \[X, Y, Z\] or \[1, X, Y, Z\]"),
        (lambda: (np.zeros(SHAPE), (1, 1)), ShapeError, r"spacing \(1.0, 1.0\) for 3 axes"),
        (lambda: (np.zeros(SHAPE), (1, 0, 1)), DataError, "every axis needs a positive number"),
        (lambda: (np.full(SHAPE, np.nan), (1, 1, 1)), DataError, "6292 NaN or infinite voxels"),
        (lambda: (np.zeros((0, 4, 4)), (1, 1, 1)), DataError, "no voxels"),
        (lambda: (np.zeros(SHAPE, complex), (1, 1, 1)), DataError, "voxels of type complex128"),
        (lambda: Volume(np.zeros((2, *SHAPE)), (1, 1, 1), None, "two.nii"), ShapeError, r"two.nii: 2 channel\(s\)"),
        (lambda: Volume(np.zeros((1, 4, 4)), (1, 1)), ShapeError, "the run was trained on 3D images"),
        (lambda: "absent.nii.gz", DataError, "absent.nii.gz: no such file"),
        (lambda: 7, DataError, "cannot predict from int"),
        (lambda: [], DataError, "cannot predict from list"),
    ],
)
def test_images_that_cannot_be_used(save_run, image, error, message, make_plan):
    predictor = load(save_run(make_plan()))
    with pytest.raises(error, match=message) as caught:
        predictor.predict(image())
    assert "\n" not in str(caught.value)


def test_loading_faults(save_run, tmp_path, make_plan):
    folder = save_run(make_plan())
    with pytest.raises(RecipeError, match=r"infer\.overlap=1\.5"):
        load(folder, overlap=1.5)
    with pytest.raises(RecipeError, match=r"infer\.overlapp.*overlap"):
        load(folder, overlapp=0.5)
    with pytest.raises(RecipeError, match="device=gpu: choose auto, cpu"):
        load(folder, "gpu")
    with pytest.raises(RecipeError, match="trained without mirroring"):
        load(save_run(make_plan(mirror_axes=())), mirror=True)
    saved = load_checkpoint(folder)
    other = saved.recipe.model_copy(update={"model": saved.recipe.model.model_copy(update={"widths": [4, 6]})})
    save_checkpoint(tmp_path / "x.safetensors", type(saved)(**{**vars(saved), "recipe": other}))
    with pytest.raises(CheckpointError, match="the weights are of another model"):
        load(tmp_path / "x.safetensors")


def test_precision_follows_recipe_and_hardware(save_run, make_plan):
    cpu = torch.device("cpu")
    assert pick_compute(cpu, "fp32").dtype is torch.float32
    assert pick_compute(cpu).dtype in (torch.float32, torch.bfloat16)
    assert Predictor.from_checkpoint(save_run(make_plan()), "cpu").compute.dtype is torch.float32


def test_devices_and_versions_that_are_refused():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(RecipeError, match="choose auto, cpu, cuda or cuda:N"):
        pick_device("cuda:x")
    with pytest.raises(RecipeError, match="device=cuda:99: not on this machine"):
        pick_device("cuda:99")
    from unetkit.errors import ModelError

    with pytest.raises(ModelError, match=r"torch 2\.9\.1\+cu130: its 3D convolutions in bf16 .*install torch 2\.8"):
        check_torch("2.9.1+cu130")
    check_torch("2.10.0")
