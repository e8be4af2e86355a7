"""PNG, JPEG, BMP, GIF and TIFF in all their kinds, and arrays of the Synapse preprocessing."""

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from small_files import picture, square

from unetkit.data.volumes import peek_volume, read_volume, write_volume
from unetkit.errors import DataError
from unetkit.types import Volume

RGB = np.random.default_rng(0).integers(0, 255, (16, 12, 3), dtype=np.uint8)
DEEP = (np.arange(192, dtype=np.uint16) * 300).reshape(16, 12)


def read(path, **keys):
    peek, volume = peek_volume(path), read_volume(path, **keys)
    assert peek.shape == volume.shape
    assert keys or peek.channels == volume.channels
    return volume.data


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_colour_comes_as_three_channels(tmp_path, suffix):
    np.testing.assert_array_equal(read(picture(tmp_path / f"a{suffix}", RGB)), np.moveaxis(RGB, -1, 0))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_is_dropped(tmp_path, suffix):
    rgba = np.dstack([RGB, np.full((16, 12), 7, np.uint8)])
    np.testing.assert_array_equal(read(picture(tmp_path / f"a{suffix}", rgba)), np.moveaxis(RGB, -1, 0))


def test_grey_with_alpha_is_grey(tmp_path):
    Image.fromarray(np.dstack([square(9), square(1)]), "LA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png")[0], square(9))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_kept(tmp_path, suffix):
    np.testing.assert_array_equal(read(picture(tmp_path / f"a{suffix}", DEEP))[0], DEEP)


def test_16_bit_colour_keeps_its_lower_bits(tmp_path):
    import cv2

    colour = np.dstack([DEEP, DEEP + 1, DEEP + 2])
    cv2.imwrite(str(tmp_path / "a.png"), colour[..., ::-1])
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.moveaxis(colour, -1, 0))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit_is_bool_for_labels_and_0_to_255_for_images(tmp_path, suffix):
    Image.fromarray(square(255)).convert("1").save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").data[0], square(255))
    mask = read_volume(tmp_path / f"a{suffix}", label=True).data[0]
    np.testing.assert_array_equal(mask > 0, square(1) > 0)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_is_read_and_never_written(tmp_path, suffix):
    assert read(picture(tmp_path / f"a{suffix}", RGB)).shape == (3, 16, 12)
    with pytest.raises(DataError, match=r"changes values or colours; write .png or .tif"):
        write_volume(Volume(square(1)[None], (1.0, 1.0)), tmp_path / f"b{suffix}")


def test_gif_masks_give_their_grey_values(tmp_path):
    picture(tmp_path / "a.gif", square(255))
    assert set(np.unique(read(tmp_path / "a.gif", label=True))) == {0, 255}


def test_a_coloured_palette_only_paints_the_class_numbers(tmp_path):
    painted = Image.fromarray(square(2), "P")
    painted.putpalette([0, 0, 0, 200, 30, 30, 30, 200, 30])
    painted.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png", label=True)[0], square(2))
    assert read_volume(tmp_path / "a.png").data.shape == (3, 16, 12)


def test_a_grey_mask_stored_as_colour_is_one_channel_and_a_coloured_one_is_refused(tmp_path):
    picture(tmp_path / "grey.png", np.dstack([square(255)] * 3))
    np.testing.assert_array_equal(read(tmp_path / "grey.png", label=True)[0], square(255))
    picture(tmp_path / "colour.png", RGB)
    with pytest.raises(DataError, match=r"colour.png: a coloured mask"):
        read_volume(tmp_path / "colour.png", label=True)


def test_lzw_tiff_is_read_whichever_reader_knows_it(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), np.moveaxis(RGB, -1, 0))


def test_a_tiff_that_pillow_refuses_is_read(tmp_path):
    planes = np.random.default_rng(1).normal(size=(3, 16, 12)).astype(np.float64)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    with pytest.raises((OSError, ValueError)):
        np.asarray(Image.open(tmp_path / "a.tif"))
    np.testing.assert_allclose(read(tmp_path / "a.tif"), planes, rtol=1e-6)


def test_pages_of_a_tiff_are_a_volume(tmp_path):
    stack = np.arange(7 * 16 * 12, dtype=np.uint16).reshape(7, 16, 12)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], stack)
    (tmp_path / "a.json").write_text('{"spacing": [2.0, 0.5, 0.5]}')
    assert read_volume(tmp_path / "a.tif").spacing == (2.0, 0.5, 0.5)
    (tmp_path / "a.json").write_text('{"shapes": []}')  # of an annotation tool
    assert read_volume(tmp_path / "a.tif").spacing == (1.0, 1.0, 1.0)
    (tmp_path / "a.json").write_text('{"spacing": [2.0, 0.5]}')
    with pytest.raises(DataError, match=r"a.json: spacing \[2.0, 0.5\]; give 3 positive numbers"):
        read_volume(tmp_path / "a.tif")


def test_channels_of_a_microscope_are_no_slices(tmp_path):
    data = np.arange(4 * 16 * 12, dtype=np.uint16).reshape(4, 16, 12)
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, metadata={"axes": "CYX"})
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), data)
    five = np.zeros((2, 3, 4, 16, 12), np.uint8)
    tifffile.imwrite(tmp_path / "b.tif", five, imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(DataError, match=r"b.tif: axes TZCYX .* split the file"):
        read_volume(tmp_path / "b.tif")


def test_white_as_zero_is_turned(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", square(200), photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], 255 - square(200))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_label_maps_come_back(tmp_path, suffix, dtype):
    write_volume(Volume(square(1, dtype=dtype)[None], (1.0, 1.0)), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read(tmp_path / f"a{suffix}", label=True)[0] > 0, square(1) > 0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_many_labels_are_written_in_16_bits(tmp_path, suffix):
    write_volume(Volume(DEEP.astype(np.int32)[None], (1.0, 1.0)), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read(tmp_path / f"a{suffix}", label=True)[0], DEEP)


def test_a_volume_goes_to_tiff_with_its_spacing_and_not_to_png(tmp_path):
    volume = Volume(np.arange(120, dtype=np.uint8).reshape(1, 6, 5, 4), (2.0, 1.0, 1.0))
    write_volume(volume, tmp_path / "a.tif")
    again = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.data, volume.data)
    assert again.spacing == volume.spacing
    with pytest.raises(DataError, match=r"a.png: .* is no picture"):
        write_volume(volume, tmp_path / "a.png")


@pytest.mark.parametrize(("value", "message"), [(0.5, "whole numbers"), (-1, "-1 to 0"), (70000, "0 to 70000")])
def test_what_a_png_cannot_hold_is_refused(tmp_path, value, message):
    with pytest.raises(DataError, match=message):
        write_volume(Volume(np.array([[[0, value]]]), (1.0, 1.0)), tmp_path / "a.png")


def test_npz_slices_stack_to_a_volume_in_the_order_of_their_numbers(tmp_path):
    for number in (0, 1, 2, 10):
        np.savez(tmp_path / f"case0005_slice{number:03d}.npz", image=np.full((4, 3), float(number)), label=square(1))
    data = read(tmp_path / "case0005_slice*.npz")
    assert data.shape == (1, 4, 4, 3)
    np.testing.assert_allclose(data[0, :, 0, 0], [0, 1, 2, 10])
    assert read_volume(tmp_path / "case0005_slice*.npz", label=True).data.shape == (1, 4, 16, 12)
    with pytest.raises(DataError, match=r"no such slices"):
        read_volume(tmp_path / "case0006_slice*.npz")


def test_h5_volumes_are_read_by_key(tmp_path):
    with h5py.File(tmp_path / "case0001.npy.h5", "w") as file:
        file["image"] = np.zeros((3, 4, 5), np.float32)
    assert read(tmp_path / "case0001.npy.h5").shape == (1, 3, 4, 5)
    with pytest.raises(DataError, match=r"case0001.npy.h5: has no array 'label', only image"):
        read_volume(tmp_path / "case0001.npy.h5", label=True)


def test_an_npz_with_objects_is_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"a.npz: cannot be read"):
        read_volume(tmp_path / "a.npz")
