"""What the generated images show: sides, sizes, greys, and that it is quick."""

import importlib.util
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unetkit.data.phantoms import generate
from unetkit.data.phantoms.cells import cells
from unetkit.data.phantoms.fields import smooth_noise
from unetkit.data.phantoms.options import Cells, Shapes, Torso2d, Torso3d, Vessels, read_options
from unetkit.data.phantoms.render import draw_greys, thicken, touching
from unetkit.data.phantoms.sample import Generator, Sample
from unetkit.data.phantoms.shapes import shapes
from unetkit.data.phantoms.torso import LESION, ORGANS, torso2d, torso3d
from unetkit.data.phantoms.vessels import vessels
from unetkit.data.phantoms.write import case_generator
from unetkit.errors import DataError

NUMBER = {name: value for value, name in ORGANS.items()}


def samples(generator: Generator, count: int) -> list[Sample]:
    return [generator.draw(case_generator(0, "train", n)) for n in range(count)]


def centre(label: np.ndarray, organ: str) -> np.ndarray:
    return np.argwhere(label == NUMBER[organ]).mean(axis=0)


def test_smooth_noise_has_unit_deviation_and_no_jumps() -> None:
    noise = smooth_noise(np.random.default_rng(0), (400, 360), 20)
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(1, abs=0.15)
    # 20 pixels from knot to knot: a jump at a knot would be of the order of the deviation
    assert np.abs(np.diff(noise, axis=0)).max() < 0.3
    assert np.abs(np.diff(noise, axis=1)).max() < 0.3


def test_organs_of_a_volume_lie_on_their_sides() -> None:
    for sample in samples(torso3d(read_options("phantom3d", {"size": [48, 48, 48]})), 4):
        label = sample.label
        middle = np.argwhere(label > 0).mean(axis=0)
        # axes point to the right, the front and the head
        assert centre(label, "liver")[0] > middle[0] > centre(label, "spleen")[0]
        assert centre(label, "right kidney")[0] > middle[0] > centre(label, "left kidney")[0]
        assert centre(label, "left kidney")[2] > centre(label, "right kidney")[2]
        assert centre(label, "stomach")[1] > centre(label, "left kidney")[1]
        assert centre(label, "inferior vena cava")[0] > centre(label, "aorta")[0]
        # the tubes run through all slices
        for tube in ("aorta", "inferior vena cava"):
            assert np.isin(NUMBER[tube], label[:, :, 20])
            assert (label == NUMBER[tube]).any(axis=(0, 1)).mean() > 0.8


def test_a_slice_is_seen_from_the_feet() -> None:
    for sample in samples(torso2d(Torso2d(size=(96, 128))), 4):
        assert sample.label.shape == (96, 128)
        assert centre(sample.label, "liver")[1] < centre(sample.label, "spleen")[1]
        assert centre(sample.label, "stomach")[0] < centre(sample.label, "aorta")[0]


def test_an_organ_is_missing_at_the_asked_rate() -> None:
    drawn = samples(torso2d(Torso2d(size=(48, 48), missing=0.3)), 60)
    without = [s for s in drawn if s.facts["missing"] == ["gallbladder"]]
    assert 8 <= len(without) <= 30
    assert all(NUMBER["gallbladder"] not in s.label for s in without)
    assert all(len(np.unique(s.label)) == 9 for s in drawn if s not in without)


def test_a_lesion_lies_in_the_liver() -> None:
    for sample in samples(torso2d(Torso2d(size=(128, 128), lesion=True)), 4):
        pairs = touching(sample.label)
        assert (NUMBER["liver"], LESION) in pairs
        assert (sample.label == LESION).sum() > 20


@pytest.mark.parametrize("contrast", ["fixed", "random"])
def test_tissues_that_touch_differ_in_grey(contrast: str) -> None:
    flat = torso2d(read_options("phantom2d", {"size": [64, 64], "contrast": contrast, "lesion": True}))
    solid = torso3d(read_options("phantom3d", {"size": [32, 32, 32], "contrast": contrast, "channels": 2}))
    assert min(s.facts["grey_distance"] for s in samples(flat, 40) + samples(solid, 8)) >= 0.08


def test_greys_keep_their_distance_where_all_tissues_touch() -> None:
    pairs = {(a, b) for a in range(12) for b in range(a + 1, 12)}
    greys, distance = draw_greys(np.random.default_rng(0), dict.fromkeys(range(12), 0.5), pairs, Shapes())
    assert distance >= 0.08
    assert 0 < min(greys.values()) < max(greys.values()) < 1


def test_fixed_contrast_is_easier_than_random() -> None:
    def spread(contrast: str) -> float:
        drawn = samples(torso2d(read_options("phantom2d", {"size": [64, 64], "contrast": contrast})), 12)
        return float(np.std([s.images[0][s.label == NUMBER["liver"]].mean() for s in drawn]))

    assert spread("fixed") < 20 < spread("random")


def test_touching_finds_neighbours_along_each_axis() -> None:
    grid = np.zeros((4, 4, 4), dtype=np.uint8)
    grid[3, 3, 3] = 2
    grid[0, 0, 3] = 5
    assert touching(grid) == {(0, 2), (0, 5)}


def test_thick_slices_average_the_image_and_keep_the_middle_label() -> None:
    image = np.arange(7, dtype=np.float32)[None, None]
    label = np.arange(7, dtype=np.uint8)[None, None]
    thick, cut = thicken(image, label, 3)
    np.testing.assert_array_equal(thick[0, 0], [1, 4])
    np.testing.assert_array_equal(cut[0, 0], [1, 4])


def test_cells_have_numbers_without_gaps_and_touch() -> None:
    generator = cells(Cells(size=(128, 128), touching=1.0))
    drawn = samples(generator, 3)
    for sample in drawn:
        instances = sample.extras["instances"]
        assert np.unique(instances).tolist() == list(range(sample.facts["cells"] + 1))
    assert any((a, b) for s in drawn for a, b in touching(s.extras["instances"]) if a > 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_vessels_cover_eight_to_ten_percent(channels: int) -> None:
    for sample in samples(vessels(read_options("phantom2d", {"family": "vessels", "channels": channels})), 6):
        assert sample.images.shape == (channels, 256, 256)
        assert 0.075 < sample.label.mean() < 0.105
        assert sample.roi is not None
        assert not sample.label[~sample.roi].any()
        assert sample.facts["vessel_share"] == pytest.approx(sample.label.mean(), abs=1e-3)


def test_shapes_fill_the_field_with_many_labels() -> None:
    flat, solid = (samples(shapes(read_options("shapes", {"dims": dims})), 1)[0] for dims in (2, 3))
    assert flat.label.shape == (256, 256)
    assert solid.label.shape == (96, 96, 96)
    assert len(np.unique(flat.label)) >= 8
    assert solid.images.dtype == np.int16


def test_brain_is_refused_without_nilearn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("unetkit.data.phantoms.brain.find_spec", lambda name: None if name == "nilearn" else find(name))
    with pytest.raises(DataError, match=r'nilearn, which is not installed; run: pip install "unetkit\[brain3d\]"'):
        generate("brain3d", {}, 1, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_brain_has_three_tissues_and_an_unwarped_example(tmp_path: Path) -> None:
    if importlib.util.find_spec("nilearn") is None:
        pytest.skip("nilearn (extra brain3d) is not installed")
    folder = generate("brain3d", {"thick_slices": 2}, 1, tmp_path)
    assert "nilearn" not in sys.modules
    image, label = (nib.load(folder / kind / "train_000.nii.gz") for kind in ("images", "labels"))
    assert image.shape == (99, 117, 47)
    assert image.header.get_zooms() == (2, 2, 4)
    values = np.asarray(image.dataobj)
    tissues = np.asarray(label.dataobj)
    means = [values[tissues == n].mean() for n in range(4)]
    assert means == sorted(means)
    assert nib.load(folder / "example" / "image.nii.gz").shape == (197, 233, 189)


def test_generation_is_quick() -> None:
    from time import process_time

    start = process_time()
    samples(torso3d(Torso3d()), 1)
    samples(torso2d(Torso2d()), 2)
    samples(vessels(Vessels()), 2)
    assert process_time() - start < 5
