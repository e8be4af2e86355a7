"""The Synapse protocol on small made files: raw volumes and prepared slices give a network the same."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from small_files import affine_of, nifti, opened

from unetkit.data.cases import read_case
from unetkit.data.datasets import open_dataset
from unetkit.data.preprocess import preprocess
from unetkit.data.splits import make_split
from unetkit.data.volumes import read_volume
from unetkit.errors import RecipeError
from unetkit.plan import decide, measure
from unetkit.recipe import resolve
from unetkit.registry import model_info

LIVER_RAW, LIVER_PREPARED = 6, 5


def ct(number: int) -> np.ndarray:
    """HU values [i, j, k] from air to bone, unlike in each case."""
    return np.random.default_rng(number).integers(-1000, 1200, (10, 9, 4)).astype(np.int16)


def organ() -> np.ndarray:
    block = np.zeros((10, 9, 4), np.uint8)
    block[2:8, 3:7, 1:3] = 1
    return block


def write_raw(root: Path, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        affine = affine_of("RAS", (0.8, 0.8, 3.0), (10, 9, 4))
        nifti(root / "imagesTr" / f"img{number:04d}.nii.gz", ct(number), affine)
        nifti(root / "labelsTr" / f"label{number:04d}.nii.gz", organ() * np.uint8(LIVER_RAW), affine)


def write_prepared(root: Path, train: tuple[int, ...], test: tuple[int, ...], scaled: bool = True) -> None:
    """As published: clipped to [-125, 275], scaled to 0..1, slices first and the planes in the network's order."""
    (root / "train_npz").mkdir(parents=True)
    (root / "test_vol_h5").mkdir()
    for number in {*train, *test}:
        image = ct(number).astype(np.float32).transpose(2, 1, 0)  # [k, j, i]
        image = (np.clip(image, -125, 275) + 125) / 400 if scaled else image
        label = organ().transpose(2, 1, 0).astype(np.float32) * LIVER_PREPARED
        if number in test:
            with h5py.File(root / "test_vol_h5" / f"case{number:04d}.npy.h5", "w") as file:
                file["image"], file["label"] = image, label
        if number in train:
            for index, (plane, mask) in enumerate(zip(image, label, strict=True)):
                name = f"case{number:04d}_slice{index:03d}.npz"
                np.savez(root / "train_npz" / name, image=plane, label=mask)


def seen_by_the_network(root: Path, recipe_name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    recipe = resolve([f"data.root={root}"], recipe=recipe_name).recipe
    dataset = open_dataset(recipe.data)
    split = make_split(dataset, recipe.data.split)
    assert (split.train, split.val, split.test) == (("case0005", "case0040"), (), ("case0001",))
    plan = decide(measure(dataset, split.train), recipe, model_info(recipe.model.name))
    prepared = [preprocess(*read_case(case, dataset.labels), plan) for case in dataset.cases]
    return {case.id: (p.data, p.label) for case, p in zip(dataset.cases, prepared, strict=True)}


@pytest.mark.parametrize("recipe_name", ["synapse_swin", "synapse_transunet"])
def test_raw_and_prepared_files_give_the_network_the_same(tmp_path, recipe_name):
    write_raw(tmp_path / "raw", (1, 5, 40))
    write_prepared(tmp_path / "prepared", (5, 40), (1,))
    raw, prepared = (seen_by_the_network(tmp_path / name, recipe_name) for name in ("raw", "prepared"))
    for case, (image, label) in raw.items():
        assert image.shape == (1, 4, 224, 224)
        assert (image.min(), image.max()) == (0, 1)
        np.testing.assert_allclose(prepared[case][0], image, atol=1e-6)
        np.testing.assert_array_equal(prepared[case][1], label)
        assert set(np.unique(label)) == {0, LIVER_PREPARED}


def test_prepared_values_are_hu_also_for_prediction_and_what_is_hu_stays(tmp_path):
    write_prepared(tmp_path / "scaled", (5,), (1,))
    write_prepared(tmp_path / "hu", (5,), (1,), scaled=False)
    expected = np.clip(ct(1), -125, 275).transpose(2, 1, 0)[None]
    np.testing.assert_allclose(read_volume(tmp_path / "scaled/test_vol_h5/case0001.npy.h5").data, expected, atol=1e-4)
    label = read_volume(tmp_path / "scaled/test_vol_h5/case0001.npy.h5", label=True)
    assert set(np.unique(label.data)) == {0, LIVER_PREPARED}
    hu = read_volume(tmp_path / "hu/test_vol_h5/case0001.npy.h5").data
    np.testing.assert_array_equal(hu, ct(1).transpose(2, 1, 0)[None])
    assert any("-125 to 275 HU" in note for note in opened(tmp_path / "scaled").notes)


def test_arrays_of_other_names_stay_what_they_are(tmp_path):
    np.savez(tmp_path / "scan.npz", image=np.full((3, 4, 4), 0.5, np.float32))
    assert (read_volume(tmp_path / "scan.npz").data == 0.5).all()


def test_a_case_in_both_folders_is_on_its_published_side(tmp_path):
    write_prepared(tmp_path, (1, 5), (1, 5))
    assert [(case.id, case.split) for case in opened(tmp_path).cases] == [("case0001", "test"), ("case0005", "train")]


def test_a_range_of_another_scale_is_refused(tmp_path):
    for name in ("a", "b"):
        nifti(tmp_path / f"images/{name}.nii.gz", (ct(3) + 1000).astype(np.float32) / 2200)
        nifti(tmp_path / f"labels/{name}.nii.gz", organ())
    recipe = resolve(["data.clip=[-125, 275]", f"data.root={tmp_path}"]).recipe
    fingerprint = measure(open_dataset(recipe.data), ("a", "b"))
    with pytest.raises(RecipeError, match=r"data.clip \[-125, 275\].*hardly differ within that range"):
        decide(fingerprint, recipe, model_info("plain_unet"))
