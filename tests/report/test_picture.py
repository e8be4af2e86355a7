"""Which slice is shown, how it is turned, and in which colours."""

import numpy as np
import pytest

from unetkit.data.instances import encode_instances
from unetkit.errors import ShapeError
from unetkit.report import overlay, paint_classes, take_picture
from unetkit.report.figures import panels
from unetkit.report.overlay import CLASS_COLOURS, ERROR_LEGEND, paint_objects, square_pixels
from unetkit.types import IGNORE, Volume


def volume(affine, shape=(6, 8, 10), spacing=None):
    """A volume whose value grows towards the patient's left, back and feet, one voxel a step."""
    world = np.diag(affine[:3, :3]) if affine is not None else np.ones(3)
    index = np.indices(shape).astype(np.float32)
    steps = [i if w > 0 else n - 1 - i for i, w, n in zip(index, world, shape, strict=True)]
    right, front, up = steps
    data = (shape[0] - 1 - right) * 1.0 + (shape[1] - 1 - front) * 20.0 + (shape[2] - 1 - up) * 400.0
    return Volume(data[None], tuple(spacing or np.abs(world)), affine)


def label(shape, at):
    encoded = np.zeros((1, *shape), np.uint8)
    encoded[(0, *at)] = 1
    return encoded


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
def test_axial_slices_are_turned_radiologically(signs):
    """Whatever the order in the file, columns grow to the patient's left and rows to the back."""
    image = volume(np.diag([*signs, 1.0]))
    mark = label(image.shape, (2, 3, 4))
    picture = take_picture(image, mark, np.zeros_like(mark))
    assert picture.image.shape == (8, 6)
    assert (np.diff(picture.image.astype(int), axis=0) >= 0).all()
    assert (np.diff(picture.image.astype(int), axis=1) >= 0).all()
    assert picture.view == "axial slice 5 of 10, the patient's right is on the left"


def test_thick_slices_decide_the_plane():
    image = volume(np.diag([1.0, 4.0, 0.9, 1.0]))
    mark = label(image.shape, (2, 3, 4))
    picture = take_picture(image, mark, mark)
    assert picture.view.startswith("coronal slice 4 of 8")
    assert (picture.image.shape, picture.spacing) == ((10, 6), (0.9, 1.0))
    sagittal = take_picture(volume(np.diag([5.0, 1.0, 1.0, 1.0])), mark, mark)
    assert sagittal.view == "sagittal slice 3 of 6, anterior is on the left"


def test_without_affine_nothing_is_said_of_the_orientation():
    image = Volume(np.zeros((1, 5, 6, 7), np.float32), (3.0, 1.0, 1.0))
    empty = np.zeros((1, 5, 6, 7), np.uint8)
    assert take_picture(image, empty, empty).view == "axis 0 slice 3 of 5, orientation unknown"


def test_the_slice_with_most_foreground_is_shown_and_ignored_voxels_are_none():
    image = volume(np.eye(4))
    ref = np.zeros((1, *image.shape), np.uint8)
    ref[0, :, :, 2] = IGNORE
    ref[0, 1:3, 1:3, 7] = 1
    assert "slice 8 of 10" in take_picture(image, np.zeros_like(ref), ref).view


def test_colour_images_stay_in_colour():
    image = Volume(np.full((3, 4, 5), 9, np.uint8), (1.0, 1.0))
    empty = np.zeros((1, 4, 5), np.uint8)
    picture = take_picture(image, empty, empty)
    assert (picture.image.shape, picture.view) == ((4, 5, 3), "whole image")


def test_errors_have_their_colours():
    grey = np.full((20, 20), 100, np.uint8)
    pred, ref = np.zeros((2, 1, 20, 20), np.uint8)
    pred[0, 2:6, 2:6], ref[0, 2:6, 10:14] = 1, 1
    pred[0, 10:14, 2:6], ref[0, 10:14, 2:6] = 1, 2
    pred[0, 10:16, 10:16] = ref[0, 10:16, 10:16] = 1
    ref[0, 18:] = IGNORE
    painted = overlay(grey, pred, ref)

    def mixed(name, share):
        return np.round((1 - share) * 100 + share * np.array(ERROR_LEGEND[name])).astype(np.uint8).tolist()

    assert painted[4, 4].tolist() == mixed("false positive", 0.7)
    assert painted[4, 12].tolist() == mixed("false negative", 0.7)
    assert painted[12, 4].tolist() == mixed("wrong class", 0.7)
    assert painted[12, 12].tolist() == mixed("agreement", 0.22)
    assert painted[10, 12].tolist() == list(ERROR_LEGEND["agreement"])
    assert painted[8, 8].tolist() == [100, 100, 100]
    assert painted[19, 3].tolist() == [35, 35, 35]


def test_regions_that_overlap_are_judged_one_by_one():
    grey = np.zeros((9, 9), np.uint8)
    ref = np.zeros((2, 9, 9), np.uint8)
    ref[0, 1:8, 1:8] = ref[1, 3:6, 3:6] = 1
    pred = ref.copy()
    pred[1] = 0
    assert (overlay(grey, pred, ref)[4, 4] == np.round(0.7 * np.array(ERROR_LEGEND["false negative"]))).all()
    assert (overlay(grey, ref, ref)[4, 4] == np.round(0.22 * np.array(ERROR_LEGEND["agreement"]))).all()


def test_classes_have_their_colours():
    encoded = np.zeros((1, 12, 12), np.uint8)
    encoded[0, 2:9, 2:9] = 3
    painted = paint_classes(np.zeros((12, 12), np.uint8), encoded)
    assert painted[2, 5].tolist() == list(CLASS_COLOURS[2])
    assert painted[5, 5].tolist() == np.round(0.5 * np.array(CLASS_COLOURS[2])).astype(int).tolist()


def test_panels_are_those_that_say_something():
    image = Volume(np.arange(20, dtype=np.uint8).reshape(1, 4, 5), (1.0, 1.0))
    black = Volume(np.zeros((1, 4, 5), np.uint8), (1.0, 1.0))
    mark = label((4, 5), (1, 2))
    assert list(panels(take_picture(image, mark, mark), ["a"])) == ["image", "agreement and errors"]
    assert list(panels(take_picture(black, mark, mark), ["a"])) == ["agreement and errors"]
    several = panels(take_picture(image, mark, mark), ["a", "b"])
    assert list(several) == ["image", "reference", "prediction", "agreement and errors"]


def test_sizes_that_differ_are_refused():
    with pytest.raises(ShapeError, match="do not fit"):
        overlay(np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 5), np.uint8))


def test_pixels_become_square():
    image = Volume(np.zeros((1, 50, 40, 30), np.float32), (1.0, 1.0, 4.0), np.diag([1.0, 1.0, 4.0, 1.0]))
    empty = np.zeros((1, 50, 40, 30), np.uint8)
    axial = square_pixels(take_picture(image, empty, empty))
    assert axial.image.shape == (400, 500)
    assert axial.pred.shape == (1, 400, 500)
    wide = Volume(np.zeros((1, 3000, 1500), np.uint8), (1.0, 1.0))
    nothing = np.zeros((1, 3000, 1500), np.uint8)
    assert square_pixels(take_picture(wide, nothing, nothing)).image.shape == (1000, 500)


def test_objects_are_told_apart_by_colour_and_outline():
    pred, ref = np.zeros((40, 60), int), np.zeros((40, 60), int)
    ref[5:15, 5:15], ref[5:15, 15:25], ref[25:35, 40:50] = 7, 3, 9
    pred[5:15, 5:15], pred[5:15, 16:25], pred[25:35, 5:15] = 1, 2, 4
    found, truth = paint_objects(np.zeros((40, 60), np.uint8), np.stack((pred, ref)))
    assert not (truth[10, 10] == truth[10, 20]).all()  # two objects that touch
    assert not (truth[10, 13] == truth[10, 14]).all()  # with an outline between them
    assert (found[10, 10] == truth[10, 10]).all()  # and the same colour where they agree
    assert (found[10, 20] == truth[10, 20]).all()
    assert (found[30, 10] == 0).all()  # no fill where nothing agrees
    assert (found[25, 5] == 255).all()
    image = Volume(np.zeros((1, 40, 60), np.uint8), (1.0, 1.0))
    encoded = [encode_instances(array, (), "here") for array in (pred, ref)]
    shown = panels(take_picture(image, *encoded, instances=True), ["cell"])
    assert list(shown) == ["reference objects", "predicted objects", "agreement and errors"]
