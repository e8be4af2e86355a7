"""What is measured on small data sets written to disk."""

import gzip
import json
import os
import struct
from dataclasses import replace
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from unetkit.data.datasets import open_dataset
from unetkit.errors import DataError
from unetkit.plan import Fingerprint, measure
from unetkit.recipe.schema import DataSection


def write_volume_case(root, name, image, label, affine):
    for folder, array in (("images", image), ("labels", label)):
        (root / folder).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), root / folder / f"{name}.nii.gz")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """What these tests measure stays theirs."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


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
    assert Fingerprint.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_cases_weigh_the_same_whatever_their_foreground(volumes):
    """The lesion is a ninth of the first case's foreground, so its share of all samples is an 18th."""
    section = DataSection(root=str(volumes), classes={"organ": 1, "lesion": 2})
    seen = measure(open_dataset(section), ["a", "b"]).intensities[0]
    assert seen.mean == pytest.approx(200 + 800 / 18, rel=1e-3)
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


def both(folder):
    return open_dataset(DataSection(root=str(folder), classes={"organ": 1, "lesion": 2}, channels=["CT"]))


def test_cases_are_told_in_full(volumes):
    found = measure(both(volumes), ["a", "b"])
    first, second = found.facts
    assert (first.orientation, second.orientation) == ("RAS", "ASL")
    assert (first.voxels, first.components, first.smallest, first.middle) == ((8, 1), (1, 1), (8, 1), (8, 1))
    assert (second.voxels, second.components) == ((8, 0), (1, 0))
    assert first.labelled == pytest.approx(9 / 720)
    image = nib.load(volumes / "images" / "a.nii.gz").get_fdata()
    seen = first.image[0]
    assert (seen.low, seen.high) == (0, 1000)
    assert (seen.mean, seen.std) == pytest.approx((image.mean(), image.std()))
    assert second.foreground[0].std == 0
    # mm3 of a voxel: 1 x 1.5 x 4
    assert found.class_sizes(0) == pytest.approx([0.048, 0.048])
    assert (found.intensities[0].minimum, found.intensities[0].maximum) == (200, 1000)


def test_notes_name_what_stands_out(volumes):
    rng = np.random.default_rng(0)
    for name in "cdefgh":
        size = (30, 12, 6) if name == "h" else (10, 12, 6)
        image, label = rng.integers(150, 250, size).astype(np.int16), np.zeros(size, np.uint8)
        label[3:5, 4:6, 2:4] = name != "c"
        image += 500 * (name == "g")
        write_volume_case(volumes, name, image, label, np.diag([1.0, 1.5, 40.0 if name == "f" else 4.0, 1]))
    flat = np.ones((10, 12, 1), np.uint8)
    write_volume_case(volumes, "i", flat.astype(np.int16) * 200, flat, np.diag([1.0, 1.5, 4.0, 1]))
    section = DataSection(root=str(volumes), classes={"organ": 1, "lesion": 2, "cyst": 3}, channels=["CT"])
    found = measure(open_dataset(section), list("abcdefghi"))
    assert "class 'lesion' is in one case only of 9: a" in found.notes
    assert any(note.startswith("class 'cyst' is in none of the 9 cases") for note in found.notes)
    assert "no foreground in 1 of 9 cases: c" in found.notes
    assert any("different orders: 8 RAS, 1 ASL" in note for note in found.notes)
    odd = {(one.case, one.what): one.why for one in found.odd}
    assert odd["c", "foreground"] == "no voxel of any class"
    assert odd["i", "slices"] == "one slice only"
    assert odd["f", "spacing"] == "1 x 1.5 x 40 mm, against a median of 1 x 1.5 x 4"
    assert ("h", "size") in odd
    assert ("g", "intensity of CT") in odd
    assert ("d", "size") not in odd


def test_measured_cases_are_not_read_again(volumes, tmp_path):
    found = measure(both(volumes), ["a", "b"], home=tmp_path)
    path = volumes / "images" / "a.nii.gz"
    before, whole = path.stat(), path.read_bytes()
    # of the same size and time, so that only a reader can tell
    path.write_bytes(b"x" * len(whole))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert measure(both(volumes), ["a", "b"], home=tmp_path) == found
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    with pytest.raises(DataError, match="1 of 2 cases cannot be used: case a: "):
        measure(both(volumes), ["a", "b"], home=tmp_path)
    # what the labels mean is part of it
    section = DataSection(root=str(volumes), classes={"all": [1, 2]})
    path.write_bytes(whole)
    assert measure(open_dataset(section), ["a", "b"], home=tmp_path).voxels == {"all": 17}


def test_an_interrupted_measurement_goes_on(volumes, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(both(volumes), ["a", "b"], threads=1, home=tmp_path, progress=stop)
    assert 1 <= len(list(tmp_path.rglob("*.npz"))) <= 2
    assert not list(tmp_path.rglob("*.part"))
    seen = []
    found = measure(both(volumes), ["a", "b"], home=tmp_path, progress=lambda *told: seen.append(told))
    assert seen == [(1, 2), (2, 2)]
    assert found == measure(both(volumes), ["a", "b"], threads=1, home=tmp_path / "other")


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 1000, None])
def test_damaged_parts_are_measured_anew(volumes, tmp_path, content):
    found = measure(both(volumes), ["a", "b"], home=tmp_path)
    for path in tmp_path.rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:-300] if content is None else content)
    assert measure(both(volumes), ["a", "b"], home=tmp_path) == found
    assert measure(both(volumes), ["a", "b"], home=tmp_path) == found


def test_a_damaged_bit_that_reads_as_a_password_is_damage_too(volumes, tmp_path):
    found = measure(both(volumes), ["a", "b"], home=tmp_path)
    for path in tmp_path.rglob("*.npz"):
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\x01\x02") + 8] |= 1  # flags of the first entry
        path.write_bytes(bytes(content))
    assert measure(both(volumes), ["a", "b"], home=tmp_path) == found


def test_a_cache_that_cannot_be_written_is_only_noted(volumes, tmp_path):
    (tmp_path / "file").write_text("")
    found = measure(both(volumes), ["a", "b"], home=tmp_path / "file")
    assert "could not be kept in" in found.notes[-1]
    assert replace(found, notes=found.notes[:-1]) == measure(both(volumes), ["a", "b"])


def test_a_fingerprint_of_another_version_is_refused(volumes):
    tree = measure(both(volumes), ["a", "b"]).to_json()
    with pytest.raises(DataError, match=r"a fingerprint of version 0, not .*; measure the data set anew"):
        Fingerprint.from_json(tree | {"version": 0})
    with pytest.raises(DataError, match="not a fingerprint of unetkit"):
        Fingerprint.from_json({"version": tree["version"], "cases": []})


def nothing_ok(root):
    return nib.load(root / "images" / "a.nii.gz"), nib.load(root / "labels" / "a.nii.gz")


def with_nan(root):
    image, label = nothing_ok(root)
    data = image.get_fdata().astype(np.float32)
    data[1, 2, 3] = np.nan
    write_volume_case(root, "a", data, np.asarray(label.dataobj), image.affine)


def with_spacing(root, length):
    path = root / "images" / "a.nii.gz"
    image = nib.load(path)
    raw = bytearray(nib.Nifti1Image(np.asarray(image.dataobj), None).to_bytes())
    # pixdim[2] and the codes of qform and sform; nibabel itself would not write such a header
    raw[84:88], raw[252:256] = struct.pack("<f", length), bytes(4)
    path.write_bytes(gzip.compress(bytes(raw)))


def of_other_shape(root):
    image, label = nothing_ok(root)
    write_volume_case(root, "a", np.asarray(image.dataobj), np.asarray(label.dataobj)[:5], image.affine)


def with_unknown_value(root):
    image, label = nothing_ok(root)
    write_volume_case(root, "a", np.asarray(image.dataobj), np.asarray(label.dataobj) * 7, image.affine)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (with_nan, "holds 1 NaN or infinite voxels"),
        (partial(with_spacing, length=0), "spacing 1 x 0 x 1 mm"),
        (partial(with_spacing, length=np.nan), "spacing 1 x nan x 1 mm"),
        (of_other_shape, "different grids"),
        (with_unknown_value, "belong to no class"),
    ],
)
def test_bad_cases_are_named_in_one_line(volumes, spoil, says):
    dataset = both(volumes)
    spoil(volumes)
    with pytest.raises(DataError, match=rf"1 of 2 cases cannot be used: case a: .*({says})") as caught:
        measure(dataset, ["a", "b"])
    assert "\n" not in str(caught.value)


def test_more_channels_than_the_others(volumes):
    dataset = both(volumes)
    image, label = nothing_ok(volumes)
    twice = np.stack([np.asarray(image.dataobj)] * 2, axis=-1)
    write_volume_case(volumes, "a", twice, np.asarray(label.dataobj), image.affine)
    with pytest.raises(DataError, match="case a: 2 channels where the other cases have 1"):
        measure(dataset, ["a", "b"])
    # a header that tells of it stops the whole set before anything is read
    section = DataSection(root=str(volumes), classes={"organ": 1, "lesion": 2})
    with pytest.raises(DataError, match="channels differ"):
        measure(open_dataset(section), ["a", "b"])


def test_regions_and_ignored_voxels(volumes):
    section = DataSection(root=str(volumes), classes={"whole": [1, 2], "core": [2]}, regions=True, channels=["CT"])
    found = measure(open_dataset(section), ["a", "b"])
    assert found.voxels == {"whole": 17, "core": 1}
    assert found.facts[0].components == (2, 1)
    section = DataSection(root=str(volumes), classes={"organ": 1}, ignore=[2], channels=["CT"])
    found = measure(open_dataset(section), ["a", "b"])
    assert found.voxels == {"organ": 16}
    assert found.facts[0].labelled == pytest.approx(8 / 719)
    assert found.intensities[0].high == 200
