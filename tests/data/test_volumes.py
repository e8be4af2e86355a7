"""Volumes from NIfTI, NRRD and MetaImage and back, to the bit of the geometry."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from small_files import SHAPE, affine_of, nifti

from unetkit.data.geometry import difference, orientation, stored_like
from unetkit.data.volumes import known_suffixes, peek_volume, read_images, read_volume, write_volume
from unetkit.errors import DataError
from unetkit.types import Case, Volume

ORIENTATIONS = ("RAS", "LAS", "LPS", "LIA", "PSR", "LSP")


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_orientation_and_spacing_are_those_of_the_file(tmp_path, codes):
    volume = read_volume(nifti(tmp_path / "a.nii.gz", np.zeros(SHAPE, np.int16), affine_of(codes)))
    assert orientation(volume) == codes
    assert volume.data.shape == (1, *SHAPE)
    assert volume.spacing == pytest.approx((1.5, 1.0, 3.0))


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_marked_world_point_survives_every_format(tmp_path, codes, suffix):
    affine = affine_of(codes)
    label = np.zeros(SHAPE, np.uint8)
    label[4, 1, 3] = 7
    write_volume(Volume(label[None], (1.5, 1.0, 3.0), affine), tmp_path / f"a{suffix}")
    again = read_volume(tmp_path / f"a{suffix}", label=True)
    voxel = np.argwhere(again.data[0] == 7)[0]
    assert again.affine @ [*voxel, 1] == pytest.approx(affine @ [4, 1, 3, 1], abs=1e-4)
    np.testing.assert_array_equal(again.data[0], label)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_nifti_geometry_is_written_back_bit_for_bit(tmp_path, codes):
    path = tmp_path / "image.nii.gz"
    source = nib.Nifti1Image(np.ones(SHAPE, np.float32), affine_of(codes))
    source.set_qform(affine_of(codes) + np.diag([1e-3, 0, 0, 0]), 1)  # qform and sform may disagree a little
    source.set_sform(affine_of(codes), 4)
    source.header.set_xyzt_units("mm", "sec")
    nib.save(source, path)
    image = read_volume(path)
    label = Volume(np.zeros((1, *SHAPE), np.uint8), image.spacing, image.affine, header=image.header)
    write_volume(label, tmp_path / "label.nii.gz")
    before, after = nib.load(path).header, nib.load(tmp_path / "label.nii.gz").header
    fields = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
    for field in (*fields, "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"):
        np.testing.assert_array_equal(before[field], after[field], err_msg=field)
    assert after.get_data_dtype() == np.uint8


def test_nifti2_and_big_endian_files_are_read_and_written_alike(tmp_path):
    data = np.arange(120, dtype=np.int16).reshape(SHAPE)
    nib.save(nib.Nifti2Image(data, affine_of("LPS")), tmp_path / "two.nii")
    nib.save(nib.Nifti1Image(data, affine_of("LPS"), nib.Nifti1Header(endianness=">")), tmp_path / "big.nii")
    for name in ("two.nii", "big.nii"):
        volume = read_volume(tmp_path / name)
        write_volume(volume, tmp_path / f"again_{name}")
        again = nib.load(tmp_path / f"again_{name}")
        np.testing.assert_array_equal(again.get_fdata(), data)
        np.testing.assert_array_equal(again.affine, volume.affine)
        assert type(again) is type(nib.load(tmp_path / name))


def test_itk_geometry_is_written_back_bit_for_bit(tmp_path):
    image = sitk.GetImageFromArray(np.arange(120, dtype=np.int16).reshape(4, 5, 6))
    image.SetSpacing((0.1 + 0.2, 1 / 3, 7.7))
    image.SetOrigin((1e-7, -123.456789012345, 3.3))
    angle = 0.1
    image.SetDirection((np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, -1))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    stored = sitk.ReadImage(str(tmp_path / "a.mha"))
    write_volume(read_volume(tmp_path / "a.mha"), tmp_path / "b.mha")
    again = sitk.ReadImage(str(tmp_path / "b.mha"))
    assert (again.GetOrigin(), again.GetSpacing(), again.GetDirection()) == (
        stored.GetOrigin(), stored.GetSpacing(), stored.GetDirection()
    )  # fmt: skip
    assert (sitk.GetArrayFromImage(again) == sitk.GetArrayFromImage(image)).all()


def test_itk_and_nibabel_agree_on_where_a_volume_lies(tmp_path):
    nifti(tmp_path / "a.nii.gz", np.arange(120, dtype=np.int16).reshape(SHAPE), affine_of("PSR"))
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / "a.nrrd"))
    one, other = read_volume(tmp_path / "a.nii.gz"), read_volume(tmp_path / "a.nrrd")
    np.testing.assert_allclose(other.affine, one.affine, atol=1e-5)
    np.testing.assert_array_equal(other.data, one.data)


def test_float64_labels_become_whole_numbers(tmp_path):
    label = np.zeros(SHAPE)
    label[1], label[2] = 200.0, 600.0
    read = read_volume(nifti(tmp_path / "a.nii.gz", label), label=True)
    assert read.data.dtype == np.uint16
    assert set(np.unique(read.data)) == {0, 200, 600}


def test_slope_and_intercept_are_applied(tmp_path):
    image = nib.Nifti1Image(np.full(SHAPE, 3, np.int16), np.eye(4))
    image.header.set_slope_inter(2.0, -1000.0)
    nib.save(image, tmp_path / "a.nii")
    # nibabel rescales on saving, so the raw slope is put in by hand.
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([2.0, -1000.0], np.float32).tobytes()
    raw[352:] = np.full(SHAPE, 3, np.int16).tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    volume = read_volume(tmp_path / "a.nii")
    assert volume.data.dtype == np.float32
    assert (volume.data == -994.0).all()


def test_four_axes_are_channels(tmp_path):
    data = np.random.default_rng(0).normal(size=(*SHAPE, 3)).astype(np.float32)
    volume = read_volume(nifti(tmp_path / "a.nii.gz", data))
    np.testing.assert_array_equal(volume.data, np.moveaxis(data, -1, 0))
    assert peek_volume(tmp_path / "a.nii.gz").channels == 3
    write_volume(volume, tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nii.gz").data, volume.data)
    with pytest.raises(DataError, match=r"a.nii.gz: a label map has one channel, this has 3"):
        read_volume(tmp_path / "a.nii.gz", label=True)


def test_channels_of_a_case_are_stacked_in_the_order_of_the_first(tmp_path):
    data = np.arange(120, dtype=np.int16).reshape(SHAPE)
    first = nifti(tmp_path / "t1.nii.gz", data, affine_of("RAS"))
    flipped = nifti(tmp_path / "t2.nii.gz", data[::-1].copy(), affine_of("RAS") @ np.array(
        [[-1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float))  # fmt: skip
    volume = read_images(Case("a", (first, flipped)))
    np.testing.assert_array_equal(volume.data[0], volume.data[1])


def test_channels_on_different_grids_are_refused(tmp_path):
    first = nifti(tmp_path / "t1.nii.gz", np.zeros(SHAPE, np.int16))
    second = nifti(tmp_path / "t2.nii.gz", np.zeros((6, 5, 3), np.int16))
    with pytest.raises(DataError, match=r"case a: channels .* t2.nii.gz has shape 6 x 5 x 3 against 6 x 5 x 4"):
        read_images(Case("a", (first, second)))


def test_turning_keeps_every_voxel_at_its_place():
    label = np.arange(120).reshape(1, *SHAPE)
    volume = Volume(label, (1.5, 1.0, 3.0), affine_of("PSR"))
    turned = stored_like(volume, Volume(np.zeros((1, 4, 6, 5)), (3.0, 1.5, 1.0), affine_of("LIA", (3.0, 1.5, 1.0))))
    assert orientation(turned) == "LIA"
    for value in (0, 17, 119):
        before = volume.affine @ [*np.argwhere(label[0] == value)[0], 1]
        after = turned.affine @ [*np.argwhere(turned.data[0] == value)[0], 1]
        np.testing.assert_allclose(after, before, atol=1e-9)


def test_noise_of_headers_is_tolerated_and_a_shift_is_not():
    volume = Volume(np.zeros((1, *SHAPE)), (1.5, 1.0, 3.0), affine_of("RAS"))
    noisy = Volume(volume.data, volume.spacing, volume.affine + 1e-5)
    moved = affine_of("RAS")
    moved[0, 3] += 1.0
    assert difference(noisy, volume) is None
    assert "origin" in (difference(Volume(volume.data, volume.spacing, moved), volume) or "")
    mirrored = Volume(volume.data, volume.spacing, affine_of("LAS"))
    assert "orientation LAS against RAS" in (difference(mirrored, volume) or "")


def test_spacing_and_affine_are_made_where_there_are_none(tmp_path):
    write_volume(Volume(np.ones((1, *SHAPE), np.uint8), (2.0, 3.0, 4.0)), tmp_path / "a.nii.gz")
    assert read_volume(tmp_path / "a.nii.gz").spacing == (2.0, 3.0, 4.0)
    write_volume(Volume(np.ones((1, *SHAPE), np.uint8), (2.0, 3.0, 4.0)), tmp_path / "a.mha")
    assert read_volume(tmp_path / "a.mha").spacing == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.nii.gz", b"", r"a.nii.gz: is empty \(0 bytes\)"),
        ("a.nii.gz", None, r"a.nii.gz: no such file"),
        ("a.png", b"not a picture", r"a.png: cannot be read"),
        ("a.tif", b"II*\0broken", r"a.tif: cannot be read \(tifffile: .*; Pillow: "),
        ("a.nrrd", b"NRRD0004\n", r"a.nrrd: cannot be read"),
        ("a.npz", b"PK", r"a.npz: cannot be read"),
        ("a.npy.h5", b"x", r"a.npy.h5: cannot be read"),
        ("a.dcm", b"x", r"a.dcm: unknown format '.dcm'; convert it to one of .nii.gz"),
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_bad_files_are_named_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as fault:
        read_volume(tmp_path / name)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_nifti_is_named(tmp_path, share, suffix):
    noise = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    path = nifti(tmp_path / f"cut{suffix}", noise, np.eye(4))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(DataError, match=r"cut.nii(.gz)?: cannot be read \(.+\); the file is damaged, cut off"):
        read_volume(path)


def test_a_plain_nifti_under_a_gz_name_is_read(tmp_path):
    nifti(tmp_path / "a.nii", np.ones(SHAPE, np.uint8))
    (tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    assert read_volume(tmp_path / "a.nii.gz").data.sum() == 120


def test_a_header_that_places_voxels_nowhere_is_refused(tmp_path):
    raw = bytearray(nifti(tmp_path / "a.nii", np.ones(SHAPE, np.uint8)).read_bytes())
    raw[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(DataError, match=r"a.nii: .* affine is singular"):
        read_volume(tmp_path / "a.nii")


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = nifti(tmp_path / "a.nii.gz", np.ones(SHAPE, np.uint8))
    before = path.read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"a.nii.gz: cannot be written \(.*No space left on device"):
        write_volume(read_volume(path), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.nii.gz"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written"):
        write_volume(Volume(np.zeros((1, 2, 2), np.uint8), (1.0, 1.0)), tmp_path / "file" / "a.png")


def test_labels_are_compressed_and_reproducible(tmp_path):
    label = Volume(np.zeros((1, 40, 40, 40), np.uint8), (1.0, 1.0, 1.0), np.eye(4))
    for name in ("a", "b"):
        write_volume(label, tmp_path / f"{name}.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert len(gzip.decompress((tmp_path / "a.nii.gz").read_bytes())) == 352 + 40**3


def test_every_known_suffix_is_peeked_as_it_is_read(tmp_path):
    grey = Volume(np.zeros((1, 6, 5), np.uint8), (1.0, 1.0))
    solid = Volume(np.zeros((1, 6, 5, 4), np.uint8), (1.0, 1.0, 1.0))
    for suffix in known_suffixes:
        written = solid if suffix in (".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".tiff") else grey
        path = tmp_path / f"a{suffix}"
        try:
            write_volume(written, path)
        except DataError:
            continue
        peek, read = peek_volume(path), read_volume(path)
        assert (peek.channels, peek.shape) == (read.channels, read.shape), suffix
